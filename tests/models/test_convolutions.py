from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from latentmix.models import ConvDecoder, convolutions
from latentmix.models.convolutions import ConvTranspose2d

FEW: dict[str, dict[str, Any]] = {
    "an image": {"kernel_size": 4, "stride": 2, "padding": 1},
    "no bias": {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    "odd kernel": {"kernel_size": 3, "stride": 2},
    "two sides": {"kernel_size": (2, 5), "stride": (2, 3), "padding": (0, 2)},
    "overlapping": {"kernel_size": 4, "stride": 1, "padding": 3},
}
OTHER: dict[str, dict[str, Any]] = {
    "many outputs": {"out_channels": 3, "kernel_size": 4},
    "groups": {"kernel_size": 2, "groups": 2, "out_channels": 2},
    "dilation": {"kernel_size": 2, "dilation": 2},
    "output padding": {"kernel_size": 4, "stride": 2, "output_padding": 1},
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that products convolve."""
    seen: list[int] = []
    apply = convolutions._ByProducts.apply

    def counted(x: Tensor, *given: Any) -> Any:
        seen.append(len(x))
        return apply(x, *given)

    monkeypatch.setattr(convolutions._ByProducts, "apply", counted)
    return seen


def pair(**options: Any) -> tuple[ConvTranspose2d, nn.ConvTranspose2d]:
    torch.manual_seed(0)
    arguments = {"in_channels": 20, "out_channels": 1, "dtype": torch.float64, **options}
    own, plain = ConvTranspose2d(**arguments), nn.ConvTranspose2d(**arguments)
    plain.load_state_dict(own.state_dict())
    return own, plain


def outcomes(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Value, gradients, and gradients of a gradient."""
    given = x.clone().requires_grad_()
    leaves = [given, *layer.parameters()]
    value = layer(given)
    gradients = torch.autograd.grad(value.pow(3).sum(), leaves, create_graph=True)
    twice = torch.autograd.grad(gradients[0].pow(2).sum(), leaves, allow_unused=True)
    return [value, *gradients, *(part for part in twice if part is not None)]


@pytest.mark.parametrize("name", [*FEW, *OTHER])
def test_values_and_gradients_are_those_of_the_plain_layer(calls: list[int], name: str) -> None:
    own, plain = pair(**{**FEW, **OTHER}[name])
    x = torch.randn(3, 20, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(outcomes(own, x), outcomes(plain, x), rtol=1e-12, atol=1e-12)
    assert calls == ([3] if name in FEW else [])


def test_transformations_and_other_inputs_take_the_plain_way(calls: list[int]) -> None:
    own, plain = pair(**FEW["an image"])
    x = torch.randn(3, 20, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(own)(x[:, None]), plain(x)[:, None])
    torch.testing.assert_close(torch.func.jacrev(own)(x), torch.func.jacrev(plain)(x))
    torch.testing.assert_close(own(x[0]), plain(x[0]))
    torch.testing.assert_close(own(x, output_size=[11, 9]), plain(x, output_size=[11, 9]))
    assert own(x[:0]).shape == (0, 1, 10, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert own.float()(x.float()).dtype == torch.bfloat16
    assert calls == []


def test_a_frozen_layer_has_no_gradient_of_its_own(calls: list[int]) -> None:
    own, plain = pair(**FEW["an image"])
    own.requires_grad_(False)
    x = torch.randn(3, 20, 5, 4, dtype=torch.float64, requires_grad=True)
    own(x).square().sum().backward()
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
    torch.testing.assert_close(x.grad, expected)
    assert own.weight.grad is None
    assert calls == [3]


def test_a_trace_has_the_products(calls: list[int]) -> None:
    own, _ = pair(**FEW["an image"])

    def step(x: Tensor) -> Tensor:
        return torch.autograd.grad(own(x).square().sum(), own.weight)[0]

    x = torch.randn(3, 20, 5, 4, dtype=torch.float64)
    graph = make_fx(step)(x)
    assert "col2im" in graph.code
    torch.testing.assert_close(graph(x + 1), step(x + 1))


def test_decoders_have_such_layers() -> None:
    decoder = ConvDecoder(2, (16, 8), (1, 8, 8))
    layers = [layer for layer in decoder.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert len(layers) == 2
    assert all(type(layer) is ConvTranspose2d for layer in layers)
