"""Contestants without libraries, which workers find by PYTHONPATH; `LOG` names a file of what they do, a line each."""

import os
import time
from pathlib import Path

from latentmix.experiments.benchmarks.svi.contestants import UnavailableError

FLOOR = {"parameters": 10, "operations": 1000, "bytes": 280, "rate": 1e9, "product": "mm", "memory_rate": 1e9}


def note(text):
    with Path(os.environ["LOG"]).open("a") as file:
        file.write(f"{text}\n")


def trains(case, data, turn):
    note(f"pid {os.getpid()}")
    print("a word of a library")
    done = 0
    while turn():
        done += 1
        note(f"epoch {done}")
    return {"loss": float(data.mean()) + done}


def compiles(case, data, turn):
    cache = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    first = turn()
    if not cache.exists():
        cache.mkdir()
        time.sleep(0.5)
    while first or turn():
        first = False
    return {"loss": 1.0}


def fails(case, data, turn):
    turn()
    raise ValueError("no such thing\nat all")


def fails_later(case, data, turn):
    turn()
    turn()
    raise ValueError("later")


def hangs(case, data, turn):
    note(f"pid {os.getpid()}")
    turn()
    time.sleep(600)


def dies(case, data, turn):
    os.write(2, b"a last word\n")
    os._exit(3)


def is_unavailable(case, data, turn):
    raise UnavailableError("it takes another machine")


def shows_threads(case, data, turn):
    while turn():
        pass
    names = ("OMP_NUM_THREADS", "PJRT_NPROC", "TORCHINDUCTOR_COMPILE_THREADS")
    return {"loss": float(sum(int(os.environ[name]) for name in names))}


def floor(case, data, turn):
    while turn():
        pass
    return FLOOR
