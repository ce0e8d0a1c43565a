from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from latentmix.inference import fit
from latentmix.inference.svi.fused import AreFinite, OptimizerStep, flush_denormals

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


def train(
    make: Callable[[Any], Optimizer], fused: bool, dtype: torch.dtype = torch.float32, *, complete: bool = False
) -> tuple[Any, Any]:
    leaves = make_leaves(dtype)
    optimizer = make([{"params": leaves[:1]}, {"params": leaves[1:], "lr": 0.01}])
    step = OptimizerStep(optimizer) if fused else optimizer.step
    generator = torch.Generator().manual_seed(1)
    for index in range(6):
        for number, leaf in enumerate(leaves):
            gradient = torch.randn(leaf.shape, generator=generator, dtype=dtype)
            leaf.grad = None if (number, index) == (1, 3) and not complete else gradient
        if complete and fused:
            step(whole=True)
        else:
            step()
        optimizer.param_groups[0]["lr"] *= 0.5
    return leaves, optimizer.state_dict()


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MAKERS)
def test_parameters_and_state_are_those_of_the_optimizer_bit_for_bit(
    name: str, dtype: torch.dtype, complete: bool
) -> None:
    expected, state = train(MAKERS[name], fused=False, dtype=dtype, complete=complete)
    leaves, own = train(MAKERS[name], fused=True, dtype=dtype, complete=complete)
    assert all(torch.equal(leaf, other) for leaf, other in zip(leaves, expected, strict=True))
    assert own["state"].keys() == state["state"].keys()
    for index, values in state["state"].items():
        assert values.keys() == own["state"][index].keys()
        assert all(
            torch.equal(torch.as_tensor(own["state"][index][key]), torch.as_tensor(values[key])) for key in values
        )


def test_leaves_that_had_no_gradient_at_the_last_look_are_updated() -> None:
    leaves, expected = make_leaves(), make_leaves()
    optimizer, other = Adam(leaves, lr=0.1, fused=True), Adam(expected, lr=0.1, fused=True)
    step, are_finite = OptimizerStep(optimizer), AreFinite()
    for index in range(6):
        for chosen in (leaves, expected):
            for number, leaf in enumerate(chosen):
                leaf.grad = None if number == 2 and index in (0, 1) else torch.full_like(leaf, index + 1.0)
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        assert are_finite(gradients, whole=index > 1)
        step(whole=index > 1)
        other.step()
    assert all(torch.equal(*pair) for pair in zip(leaves, expected, strict=True))


def test_the_kernel_runs_without_the_optimizers_python(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    leaves = make_leaves()
    optimizer = Adam(leaves, lr=0.1, fused=True)
    init_group = optimizer._init_group
    monkeypatch.setattr(optimizer, "_init_group", lambda *given: (calls.append(1), init_group(*given))[1])
    step = OptimizerStep(optimizer)
    for _ in range(4):
        for leaf in leaves:
            leaf.grad = torch.ones_like(leaf)
        step()
    assert len(calls) == 1  # the first makes the state
    assert {float(state["step"]) for state in optimizer.state.values()} == {4.0}


def test_hooks_and_other_steps_are_called() -> None:
    leaves = make_leaves()
    optimizer = Adam(leaves, lr=0.1, fused=True)
    step = OptimizerStep(optimizer)
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
    step = OptimizerStep(optimizer)
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


def test_the_counts_of_steps_survive_saving_loading_and_copies() -> None:
    leaves, others = make_leaves(), make_leaves()
    optimizer, other = Adam(leaves, lr=0.1, fused=True), Adam(others, lr=0.1, fused=True)
    step, later = OptimizerStep(optimizer), OptimizerStep(other)

    def take(chosen: list[Tensor], function: Callable[[], None]) -> None:
        for leaf in chosen:
            leaf.grad = torch.ones_like(leaf)
        function()

    for _ in range(3):
        take(leaves, step)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take(others, later)
    take(others, other.step)
    take(others, later)
    assert {float(state["step"]) for state in optimizer.state.values()} == {3.0}
    assert {float(state["step"]) for state in other.state.values()} == {6.0}
    for _ in range(3):
        take(leaves, optimizer.step)
    for leaf, same in zip(leaves, others, strict=True):
        assert optimizer.state[leaf]["step"] == other.state[same]["step"]
        assert torch.equal(optimizer.state[leaf]["exp_avg"], other.state[same]["exp_avg"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [1.0, 0.0, -math.inf, math.inf, math.nan, "largest", "smallest"])
def test_one_value_that_is_not_finite_is_found_and_no_other_value_changes(value: float | str, dtype: Any) -> None:
    limits = torch.finfo(dtype)
    number = {"largest": limits.max, "smallest": limits.tiny * limits.eps}.get(str(value), value)
    gradients = [
        torch.full((300,), 0.3, dtype=dtype),
        torch.full((4, 5), number, dtype=dtype),
        torch.ones((), dtype=dtype),
    ]
    before = [gradient.clone() for gradient in gradients]
    are_finite = AreFinite()
    for whole in (False, True, True, True):
        assert are_finite(gradients, whole=whole) == math.isfinite(float(number))
        assert all(torch.equal(*pair) for pair in zip(gradients, before, strict=True) if pair[0].isfinite().all())
    assert are_finite([torch.ones(3, dtype=dtype) for _ in range(3)], whole=True)


@pytest.mark.parametrize(
    "gradient",
    [torch.ones(3, 4).T, torch.ones(1).expand(4), torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.cfloat)],
)
def test_gradients_of_other_layouts_and_types_are_checked_one_by_one(gradient: Tensor) -> None:
    are_finite = AreFinite()
    for _ in range(3):
        assert are_finite([torch.ones(2), gradient], whole=True)
        assert not are_finite([torch.full((2,), math.nan), gradient], whole=True)
    assert are_finite([], whole=True)


@pytest.mark.parametrize("name", ["Adam", "Adam, plain", "SGD", "Adam, amsgrad"])
def test_denormal_means_become_zero_and_others_stay(name: str) -> None:
    leaf = torch.zeros(5, requires_grad=True)
    optimizer = MAKERS[name]([leaf])
    leaf.grad = torch.ones(5)
    optimizer.step()
    (state,) = optimizer.state.values()
    mean = state["momentum_buffer" if name == "SGD" else "exp_avg"]
    tiny = torch.finfo(torch.float32).tiny
    mean.copy_(torch.tensor([tiny / 2, -tiny / 2, tiny, torch.nan, -1.0]))
    variance = state["exp_avg_sq"].clone() if "exp_avg_sq" in state else None
    flush_denormals(optimizer)
    torch.testing.assert_close(mean, torch.tensor([0.0, 0.0, tiny, torch.nan, -1.0]), rtol=0, atol=0, equal_nan=True)
    assert variance is None or torch.equal(state["exp_avg_sq"], variance)


def test_denormal_means_in_float16_stay() -> None:
    """Its smallest normal number is 6e-5, and gradients may be smaller."""
    leaf = torch.zeros(2, dtype=torch.float16, requires_grad=True)
    optimizer = SGD([leaf], lr=0.1, momentum=0.9)
    leaf.grad = torch.tensor([1e-5, 1.0], dtype=torch.float16)
    optimizer.step()
    flush_denormals(optimizer)
    assert torch.equal(optimizer.state[leaf]["momentum_buffer"], leaf.grad)


def test_a_unit_that_is_never_active_again_leaves_no_denormal_numbers() -> None:
    """Arithmetic with them is slow, and without a flush they stay for ever."""
    data = torch.ones(1200, 1)

    def model(x: Tensor) -> None:
        pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(2)).sum(), 1.0).expand(x.shape).to_event(2), obs=x)

    def loss(model: Any, guide: Any, x: Tensor) -> Tensor:
        loc = pyro.param("loc", torch.zeros(2))
        return ((loc - 1.0).square() * torch.tensor([1.0, float(loc.detach()[0] < 0.02)])).sum()

    result = fit(model, lambda x: None, data, epochs=1, batch_size=1, objective=loss, seed=0, compile=False)
    (state,) = result.state.optimizer.state.values()
    assert float(state["exp_avg"][1]) == 0.0
    assert float(state["exp_avg_sq"][1]) > 0.0
