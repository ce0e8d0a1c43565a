"""Processes of contestants, as their parent sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Event, Timer
from typing import Any, NamedTuple

from latentmix.experiments.benchmarks.svi.cases import Case
from latentmix.experiments.benchmarks.svi.contestants import Contestant

__all__ = ["Epoch", "Worker", "WorkerError"]

LONGEST = 1200.0  # seconds of an answer, be it of a start or an epoch


class WorkerError(RuntimeError):
    """A contestant has failed; the message is the reason, in one line."""


class Epoch(NamedTuple):
    """Times of an epoch, in seconds.

    Attributes:
        seconds: By the clock.
        cpu: Of all threads together.
    """

    seconds: float
    cpu: float


class Worker:
    """The process of one contestant, which waits without using the processor until it is told to run an epoch.

    It is ended where an answer takes more than 20 minutes.

    Args:
        contestant: The contestant.
        case: The comparison.
        threads: Threads of its libraries.
        cache: Folder of inductor's cache.
    """

    def __init__(self, contestant: Contestant, case: Case, threads: int, cache: Path) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed by `end`
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **_variables(threads, cache)},
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which ends it
        )
        self._write(json.dumps({"function": contestant.function, "case": asdict(case), "parent": os.getpid()}))

    def wait(self) -> None:
        """Wait until libraries are imported and data made.

        Raises:
            WorkerError: If that fails.
        """
        self._answer()

    def epoch(self) -> Epoch:
        """Run an epoch.

        Raises:
            WorkerError: If it fails.
        """
        self._write("epoch")
        answer = self._answer()
        return Epoch(answer["seconds"], answer["cpu"])

    def finish(self) -> tuple[dict[str, Any], float | None]:
        """End the training.

        Returns:
            What the contestant returns, and the greatest growth of its resident memory in MiB, `None` if unknown.

        Raises:
            WorkerError: If it fails.
        """
        self._write("end")
        answer = self._answer()
        return answer["result"], answer["memory"]

    def end(self) -> None:
        """End the process, at once and whatever it does."""
        self._kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):  # an order that nobody reads any more
                if stream is not None:
                    stream.close()

    def _kill(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                if hasattr(os, "killpg"):
                    os.killpg(self._process.pid, signal.SIGKILL)
                else:
                    self._process.kill()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # of a process that has ended: its last answer says why
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        line = self._line()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._death()}
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _line(self) -> str:
        """The next line of the process's output; a process without one within `LONGEST` seconds is ended."""
        assert self._process.stdout is not None
        late = Event()

        def end() -> None:
            late.set()
            self._kill()

        timer = Timer(LONGEST, end)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if late.is_set():
            raise WorkerError(f"failed: no answer within {LONGEST:,g} seconds: take fewer --images, or leave it out")
        return line

    def _death(self) -> str:
        """The reason why the process has ended without an answer."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"failed: its process {ended}: {last:.200}"


def _variables(threads: int, cache: Path) -> dict[str, str]:
    """Environment variables: threads of every library, the folder of inductor's cache, and no cache of JAX."""
    names = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "PJRT_NPROC",
        "TORCHINDUCTOR_COMPILE_THREADS",
    )
    return {
        **dict.fromkeys(names, str(threads)),
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "JAX_PLATFORMS": "cpu",
        "PYTHONSAFEPATH": "1",
    }
