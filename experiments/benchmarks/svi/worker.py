"""The process of a contestant: `python -m latentmix.experiments.benchmarks.svi.worker`, told by a pipe what to run.

The first line of standard input is a JSON object with the contestant's `function`, the `case`, and the id of the
`parent`; every further line `epoch` asks for an epoch, and the end of the input for the end. Answers are lines of JSON
on standard output: `ready`, the `seconds` and `cpu` seconds of an epoch, and at the end a `result` with `memory`, or an
`error`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from functools import partial
from importlib import import_module
from typing import Any, TextIO

from latentmix.experiments.benchmarks.memory import grown
from latentmix.experiments.benchmarks.svi.cases import Case
from latentmix.experiments.benchmarks.svi.contestants import Run, UnavailableError
from latentmix.inference.workers import end_with

__all__ = ["main"]


class Turns:
    """Blocks at each call until an epoch is asked for, and answers first with the times of the one before.

    Args:
        orders: What the parent writes.
        answers: What it reads.
    """

    def __init__(self, orders: TextIO, answers: TextIO) -> None:
        self.orders, self.answers = orders, answers
        self._began: tuple[float, float] | None = None

    def __call__(self) -> bool:
        if self._began is not None:
            seconds, cpu = (now - then for now, then in zip(_clocks(), self._began, strict=True))
            self.answer(seconds=seconds, cpu=cpu)
        more = self.orders.readline().strip() == "epoch"
        self._began = _clocks() if more else None
        return more

    def answer(self, **values: Any) -> None:
        """Write a line of JSON."""
        self.answers.write(json.dumps(values) + "\n")
        self.answers.flush()


def main() -> None:
    """Run one contestant."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    turns = Turns(sys.stdin, answers)
    try:
        order = json.loads(sys.stdin.readline())
        end_with(order["parent"])
        module, _, name = order["function"].partition(":")
        run: Run = getattr(import_module(module), name)
        case = Case(**order["case"])
        data = case.data()
        turns.answer(ready=True)
        result, memory = grown(partial(run, case, data, turns))
        turns.answer(result=dict(result), memory=None if math.isnan(memory) else memory)
    except UnavailableError as error:
        turns.answer(error=str(error))
    except Exception as error:
        traceback.print_exc()
        turns.answer(error=f"failed: {type(error).__name__}: {error}".splitlines()[0])


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
