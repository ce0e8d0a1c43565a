"""Runs that are killed at many moments, resumed, and compared with one that was not.

    python -m tests.verify.killed_runs SHARE SHARES    # every SHARES-th of the trials, from the SHARE-th on

prints a JSON list with an outcome of each. A process of its own forks every run, so that modules are imported once, and
no thread of an earlier computation is lost by a fork. In the runs clocks stand still: all files must have equal bytes.
"""

from __future__ import annotations

import datetime
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

RUN = [
    *("run", "digits_mlp2", "--epochs", "3", "--data.limit", "200", "--data.classes", "1,4,8", "--out", "run"),
    *("--mixture.n_init", "2", "--mixture.draws", "2", "--mixture.svi.epochs", "30"),
]
RESUME = ["resume", "run"]
FILES = (
    *("metrics.jsonl", "training-odd.safetensors", "training-even.safetensors", "vae.safetensors", "guide.json"),
    *("mixtures.safetensors", "pointwise.npz", "summary.json", "losses.png", "em_against_svi.png", "report.html"),
)
DEADLINE = 600.0


@dataclass(frozen=True)
class Trial:
    """A run, the moment at which it is killed, and what happens before it is resumed.

    Args:
        kind: What is tried.
        moment: The share of a run's time after which it is killed, or the file that it is writing.
        when: Of a file, the moment within its writing: half of it on the disk, all of it, or in its place.
        again: The share of the time of a resumed run after which that is killed too.
    """

    kind: str
    moment: float | str
    when: str = ""
    again: float | None = None


def trials(seed: int = 0) -> list[Trial]:
    """Sixty trials: eighteen at random moments, and the others at those that are hardest."""
    draw = random.Random(seed)
    aimed = [Trial("aimed", name, when) for name in FILES for when in ("half", "beside", "placed")]
    broken = [Trial("broken state", f"training-{name}.safetensors", "placed") for name in ("odd", "even", "odd")]
    deleted = [Trial("deleted remains", name, "half") for name in ("training-even.safetensors", "report.html")]
    resumed = [Trial("resumed twice", draw.uniform(0.0, 0.9), again=draw.uniform(0.0, 0.9)) for _ in range(4)]
    chance = [Trial("random", draw.uniform(0.0, 1.0)) for _ in range(60 - len([*aimed, *broken, *deleted, *resumed]))]
    return [*aimed, *broken, *deleted, *resumed, *chance]


def main() -> None:
    """Try a share of the trials, and print the outcomes."""
    share, shares = map(int, sys.argv[1:])
    import torch

    from latentmix.experiments.cli import find_commands
    from latentmix.experiments.options.command_line import parse_experiment
    from latentmix.experiments.runs import pipeline  # noqa: F401

    torch.set_num_threads(1)
    find_commands()
    parse_experiment(RUN[1], [])  # imports what a run does
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "whole").mkdir()
        process = start(RUN, root / "whole")
        began = begun(root / "whole", process)
        assert ended(process) == 0, (root / "whole" / "log").read_text()
        duration, whole = time.monotonic() - began, contents(root / "whole")
        outcomes = []
        for number, trial in enumerate(trials()):
            if number % shares == share:
                place = root / str(number)
                place.mkdir()
                try:
                    outcome = attempt(trial, place, duration, whole)
                except Exception as error:
                    outcome = {"whole": False, "finished before": False, "differ": [], "log": f"{error!r:.2000}"}
                outcomes.append({"trial": vars(trial), **outcome})
                print(json.dumps(outcomes[-1]), file=sys.stderr, flush=True)
    print(json.dumps(outcomes))


def attempt(trial: Trial, place: Path, duration: float, whole: dict[str, bytes]) -> dict[str, Any]:
    """Kill a run, resume it, and compare its files with those of a whole one."""
    kill(RUN, trial.moment, trial.when, place, duration)
    before = {path.name: path for path in place.rglob("*") if path.is_file()}
    if trial.kind == "broken state":
        state = before[str(trial.moment)]
        os.truncate(state, state.stat().st_size // 2)
    if trial.kind == "deleted remains":
        for path in place.rglob("*.part"):
            path.unlink()
    if trial.again is not None:
        kill(RESUME, trial.again, "", place, duration)
    code = ended(start(RESUME, place))
    log = (place / "log").read_text()
    finished_before = code == 2 and "which is finished" in log
    files = contents(place)
    differing = sorted(name for name in {*whole, *files} if whole.get(name) != files.get(name))
    told = trial.kind != "broken state" or "It is left out, and the epoch that it ended is repeated." in log
    passed = (code == 0 or finished_before) and not differing and told
    return {
        "whole": passed,
        "finished before": finished_before,
        "differ": differing,
        "log": "" if passed else log[-2000:],
    }


def kill(words: list[str], moment: float | str, when: str, place: Path, duration: float) -> None:
    """Start a command, and kill it at a moment of its own or of its time."""
    if isinstance(moment, str):
        process = start(words, place, lambda: aim(moment, when))
        assert ended(process) == -signal.SIGKILL, f"{moment} was not written: {(place / 'log').read_text()}"
        return
    process = start(words, place)
    time.sleep(max(0.0, begun(place, process) + moment * duration - time.monotonic()))
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    ended(process)


def start(words: list[str], place: Path, before: Callable[[], None] | None = None) -> int:
    """Fork a process that runs a command in a folder, its words written to `log` there."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.chdir(place)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        stop_clocks()
        if before is not None:
            before()
        from latentmix.experiments.cli import main as command

        code = command(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def stop_clocks() -> None:
    """Let every duration be nothing, and every date the same."""
    time.perf_counter = lambda: 0.0

    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Stopped:
            return cls(2000, 1, 1, tzinfo=tz)

    for name, module in list(sys.modules.items()):
        if name.startswith("latentmix.") and getattr(module, "datetime", None) is datetime.datetime:
            module.datetime = Stopped  # type: ignore[attr-defined]


def aim(name: str, when: str) -> None:
    """Let the process kill itself while it writes a file of that name."""
    sync, replace = os.fsync, os.replace

    def die() -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def dying_sync(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if when != "placed" and name in path:
            if when == "half":
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            die()
        sync(handle)

    def dying_replace(source: Any, target: Any) -> None:
        replace(source, target)
        if when == "placed" and Path(target).name == name:
            die()

    os.fsync, os.replace = dying_sync, dying_replace  # type: ignore[assignment]


def begun(place: Path, process: int) -> float:
    """Wait until the run has its folder, or has ended; the time then."""
    deadline = time.monotonic() + DEADLINE
    while not (place / "run" / "config.yaml").exists() and time.monotonic() < deadline:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.01)
    return time.monotonic()


def ended(process: int) -> int:
    """The exit code of a process, or the number of the signal that ended it, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def contents(place: Path) -> dict[str, bytes]:
    """The bytes of all files of a run, by their path, without the name of its place."""
    run = place / "run"
    return {
        path.relative_to(run).as_posix(): path.read_bytes().replace(str(place).encode(), b"PLACE")
        for path in run.rglob("*")
        if path.is_file()
    }


if __name__ == "__main__":
    main()
