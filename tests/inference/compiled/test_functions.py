from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from latentmix.inference.compiled.functions import FAST_FUNCTIONS

POINTS = (0.0, 1e-30, 1e-9, 1e-4, 0.3, 1.0, 3.0, 15.0, 16.7, 20.0, 21.0, 40.0, 88.0, 1e4, 1e30)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "cross entropy at 0": lambda x: functional.binary_cross_entropy_with_logits(
        x, torch.zeros_like(x), reduction="none"
    ),
    "cross entropy at 1": lambda x: functional.binary_cross_entropy_with_logits(
        x, torch.ones_like(x), reduction="none"
    ),
    "softplus": functional.softplus,
    "logsigmoid": functional.logsigmoid,
    "log1p": torch.log1p,
}
SLOW = ("log1p", "softplus.default", "log_sigmoid", "binary_cross_entropy_with_logits")


def traced(function: Callable[..., Any], *inputs: Tensor) -> Any:
    return make_fx(function, decomposition_table=dict(FAST_FUNCTIONS))(*inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_those_of_torch(name: str, dtype: torch.dtype) -> None:
    """The exact values are torch's of numbers in float64; in float64 they are its own, to a few of its roundings."""
    points = torch.tensor(POINTS, dtype=dtype)
    x = torch.cat([points, -points]) if name != "log1p" else torch.cat([points, -points[points < 1]])

    def step(x: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        value = FUNCTIONS[name](x)
        return [value.detach(), torch.autograd.grad(value.sum(), x)[0]]

    graph = traced(step, torch.zeros(len(x), dtype=dtype))
    assert not any(slow in graph.code for slow in SLOW)
    value, gradient = graph(x)
    exact, slope = step(x.double())
    eps = torch.finfo(dtype).eps
    if "cross" in name:  # its error is that of a number about 1
        torch.testing.assert_close(value.double(), exact, rtol=4 * eps, atol=4 * eps)
    else:
        torch.testing.assert_close(value.double(), exact, rtol=4 * eps, atol=0 if dtype == torch.float64 else 1e-36)
    torch.testing.assert_close(gradient.double(), slope, rtol=8 * eps, atol=4 * eps if "cross" in name else 1e-36)


def test_the_edges_of_log1p() -> None:
    x = torch.tensor([-1.0, -2.0, torch.inf, -torch.inf, torch.nan])
    graph = traced(torch.log1p, torch.zeros(5))
    torch.testing.assert_close(graph(x), torch.log1p(x), equal_nan=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.binary_cross_entropy_with_logits(x, torch.ones_like(x)),
        lambda x: functional.binary_cross_entropy_with_logits(x, x.sigmoid(), weight=x, reduction="none"),
        lambda x: functional.softplus(x, beta=2.0),
    ],
)
def test_what_has_no_other_form_stays(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([-3.0, 0.5, 2.0])
    graph = traced(function, torch.zeros(3))
    assert any(slow in graph.code for slow in SLOW)
    torch.testing.assert_close(graph(x), function(x))
