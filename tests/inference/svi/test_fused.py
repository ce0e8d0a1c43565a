from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from latentmix.inference.svi.fused import fused_step

MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "Adam": partial(Adam, lr=0.1, fused=True),
    "Adam, options": partial(Adam, lr=0.1, fused=True, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.3, maximize=True),
    "Adam, decoupled": partial(Adam, lr=0.1, fused=True, weight_decay=0.3, decoupled_weight_decay=True),
    "AdamW": partial(AdamW, lr=0.1, fused=True, weight_decay=0.3),
    "Adam, amsgrad": partial(Adam, lr=0.1, fused=True, amsgrad=True),
    "Adam, plain": partial(Adam, lr=0.1),
    "Adam, tensor": lambda leaves: Adam(leaves, lr=torch.tensor(0.1), fused=True),
    "SGD": partial(SGD, lr=0.1, momentum=0.9),
}


def make_leaves(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,), ())
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def train(make: Callable[[Any], Optimizer], fused: bool, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    leaves = make_leaves(dtype)
    optimizer = make([{"params": leaves[:1]}, {"params": leaves[1:], "lr": 0.01}])
    step = fused_step(optimizer) if fused else optimizer.step
    generator = torch.Generator().manual_seed(1)
    for index in range(6):
        for number, leaf in enumerate(leaves):
            gradient = torch.randn(leaf.shape, generator=generator, dtype=dtype)
            leaf.grad = None if (number, index) == (1, 3) else gradient
        step()
        optimizer.param_groups[0]["lr"] *= 0.5
    return leaves, optimizer.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MAKERS)
def test_parameters_and_state_are_those_of_the_optimizer_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    expected, state = train(MAKERS[name], fused=False, dtype=dtype)
    leaves, own = train(MAKERS[name], fused=True, dtype=dtype)
    assert all(torch.equal(leaf, other) for leaf, other in zip(leaves, expected, strict=True))
    assert own["state"].keys() == state["state"].keys()
    for index, values in state["state"].items():
        assert values.keys() == own["state"][index].keys()
        assert all(
            torch.equal(torch.as_tensor(own["state"][index][key]), torch.as_tensor(values[key])) for key in values
        )


def test_the_kernel_runs_without_the_optimizers_python(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    leaves = make_leaves()
    optimizer = Adam(leaves, lr=0.1, fused=True)
    init_group = optimizer._init_group
    monkeypatch.setattr(optimizer, "_init_group", lambda *given: (calls.append(1), init_group(*given))[1])
    step = fused_step(optimizer)
    for _ in range(4):
        for leaf in leaves:
            leaf.grad = torch.ones_like(leaf)
        step()
    assert len(calls) == 1  # the first makes the state
    assert {float(state["step"]) for state in optimizer.state.values()} == {4.0}


def test_hooks_and_other_steps_are_called() -> None:
    leaves = make_leaves()
    optimizer = Adam(leaves, lr=0.1, fused=True)
    step = fused_step(optimizer)
    seen: list[str] = []
    for leaf in leaves:
        leaf.grad = torch.ones_like(leaf)
    step()
    handle = optimizer.register_step_post_hook(lambda *_: seen.append("hook"))
    step()
    handle.remove()
    step()
    assert seen == ["hook"]
    optimizer.step = lambda: seen.append("own")  # type: ignore[method-assign]
    step()
    assert seen == ["hook", "own"]


def test_a_schedule_sees_no_step_out_of_order_and_restored_states_are_used() -> None:
    leaves = make_leaves()
    optimizer = Adam(leaves, lr=0.1, fused=True)
    schedule = StepLR(optimizer, 1, 0.5)
    step = fused_step(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            for leaf in leaves:
                leaf.grad = torch.ones_like(leaf)
            step()
            schedule.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step()
    assert {float(state["step"]) for state in optimizer.state.values()} == {4.0}
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0125)
