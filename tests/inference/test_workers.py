"""Workers end with the process that has started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import os, sys, time
from latentmix.inference.workers import end_with
parent = os.getpid()
child = os.fork()
if child == 0:
    end_with(parent)
    end_with(parent)
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ends_with_a_killed_parent(ending: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert is_running(worker)
    parent.send_signal(ending)
    parent.wait(timeout=10)
    for _ in range(100):
        if not is_running(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker goes on")


def is_running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


POOL = """
import os, sys, time
import joblib
from latentmix.inference.workers import tied

def busy(number):
    print(os.getpid(), flush=True)
    time.sleep(60)

joblib.Parallel(n_jobs=2)(joblib.delayed(tied(busy))(number) for number in range(2))
"""


def test_workers_of_a_pool_end_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", POOL], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait(timeout=10)
    left = workers
    for _ in range(100):
        left = [worker for worker in left if is_running(worker)]
        if not left:
            return
        time.sleep(0.1)
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    pytest.fail("workers go on")
