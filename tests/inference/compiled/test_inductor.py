"""Imports of inductor: completed behind an interrupt, and an obstacle where they fail."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from latentmix.inference.compiled.inductor import compiler_obstacle

INTERRUPTS = """
import _thread
import sys
import time

import torch
from latentmix.inference.compiled.inductor import compiler_obstacle
from latentmix.inference.svi.optimizers import make_optimizer


class Interrupt:
    # Interrupts the main thread when a module is looked for.
    def __init__(self, module):
        self.module = module

    def find_spec(self, name, path=None, target=None):
        if name == self.module:
            self.module = None
            _thread.interrupt_main()
            time.sleep(0.2)


def interrupted(module, call, *arguments):
    sys.meta_path.insert(0, Interrupt(module))
    try:
        call(*arguments)
    except KeyboardInterrupt:
        print("interrupted")


leaves = [torch.zeros(2, requires_grad=True)]
interrupted("torch._dynamo.backends", make_optimizer, torch.optim.Adam, leaves)
interrupted("torch._inductor.ir", compiler_obstacle, torch.device("cpu"))
make_optimizer(torch.optim.Adam, leaves)
import torch._inductor.compile_fx
print(torch._dynamo.utils.__name__, torch._inductor.ir.__name__, compiler_obstacle(torch.device("meta")))
"""


def test_after_an_interrupted_import_the_compiler_is_whole() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTS], capture_output=True, text=True, timeout=120, check=False)
    words = "torch._dynamo.utils torch._inductor.ir inductor compiles for CPU and CUDA; the tensors are on meta"
    assert ended.stdout.splitlines() == ["interrupted", "interrupted", words], ended.stderr


def test_a_failing_import_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*names: str) -> None:
        raise AttributeError("module 'torch._dynamo' has no attribute 'utils'")

    monkeypatch.setattr("latentmix.inference.compiled.inductor.import_whole", fail)
    reason = "inductor cannot be imported: AttributeError: module 'torch._dynamo' has no attribute 'utils'; after an"
    assert str(compiler_obstacle(torch.device("cpu"))).startswith(reason)
