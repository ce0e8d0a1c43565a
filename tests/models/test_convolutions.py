from __future__ import annotations

import contextlib
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from latentmix.guides import ConvEncoder
from latentmix.models import ConvDecoder, convolutions
from latentmix.models.convolutions import ConvTranspose2d, Flatten, channels_first, channels_last
from latentmix.models.products import Linear

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
    apply = convolutions._Transposed.apply

    def counted(x: Tensor, *given: Any) -> Any:
        seen.append(len(x))
        return apply(x, *given)

    monkeypatch.setattr(convolutions._Transposed, "apply", counted)
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
    twice = torch.autograd.grad(sum(each.pow(2).sum() for each in gradients), leaves, allow_unused=True)
    return [value, *gradients, *(part for part in twice if part is not None)]


@pytest.mark.parametrize("name", [*FEW, *OTHER])
def test_values_and_gradients_are_those_of_the_plain_layer(calls: list[int], name: str) -> None:
    own, plain = pair(**{**FEW, **OTHER}[name])
    x = torch.randn(3, 20, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(outcomes(own, x), outcomes(plain, x), rtol=1e-12, atol=1e-12)
    assert calls == ([3] if name in FEW else [])


@pytest.mark.parametrize("name", ["many outputs", "an image", "groups", "odd kernel"])
def test_values_and_gradients_in_float32(calls: list[int], name: str) -> None:
    own, plain = pair(**{**FEW, **OTHER}[name], dtype=torch.float32)
    x = torch.randn(3, 20, 5, 4)
    for value, expected in zip(outcomes(own, x), outcomes(plain, x), strict=True):
        assert torch.linalg.vector_norm(value - expected) <= 1e-5 * torch.linalg.vector_norm(expected)
    assert calls == ([] if name == "groups" else [3])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_layout_of_values_and_gradients(channels: int) -> None:
    x = torch.randn(2, channels, 6, 5, requires_grad=True)
    last = channels_last(x)
    assert last.stride() == (30 * channels, 1, 5 * channels, channels)
    first = channels_first(last)
    assert first.is_contiguous()
    assert torch.equal(first, x)
    weights = torch.randn(x.shape)
    last.register_hook(lambda gradient: strides.append(gradient.stride()))
    strides: list[tuple[int, ...]] = []
    (first * weights).sum().backward()
    assert strides == [last.stride()]
    assert torch.equal(x.grad, weights)


def test_the_layout_stays_in_other_types_and_places() -> None:
    for x in (torch.zeros(2, 3, 4, 5, dtype=torch.float64), torch.zeros(3, 4, 5), torch.zeros(1, 3, 2, 2).to("meta")):
        assert channels_last(x) is x
        assert channels_first(x) is x
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(torch.vmap(channels_last)(x[:, None]), x[:, None])
    assert torch.equal(torch.func.vmap(Flatten())(x[:, None])[:, 0], x.flatten(1))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12)])
def test_networks_are_those_of_plain_layers_with_one_layout_throughout(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    networks: list[Any] = [ConvEncoder(2, (16, 32), shape, batch_norm=(False, True)), ConvDecoder(2, (32, 16), shape)]
    inputs = [torch.randn(5, *shape), torch.randn(5, 2)]
    mixed: list[str] = []
    for network, given in zip(networks, inputs, strict=True):
        results = []
        for plain in (False, True):
            leaf = given.clone().requires_grad_()
            with (
                mock.patch.object(convolutions, "is_plain", lambda *_, plain=plain: not plain),
                contextlib.nullcontext() if plain else _Layouts(mixed),
            ):
                value = network(leaf)
                gradients = torch.autograd.grad(value.square().sum(), [leaf, *network.parameters()])
            results.append([value, *gradients])
            assert value.is_contiguous()
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-3)
    assert mixed == []


def test_decoded_values_can_be_changed_in_place() -> None:
    decoder, z = ConvDecoder(2, (32, 16), (1, 8, 8)), torch.randn(3, 2)
    (expected,) = torch.autograd.grad(2 * decoder(z).sum(), [decoder.upsample[0].weight])
    (gradient,) = torch.autograd.grad(decoder(z).mul_(2).sum(), [decoder.upsample[0].weight])
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("network", [ConvEncoder(2, (8, 4), (1, 8, 8)), ConvDecoder(2, (32, 16), (1, 8, 8))])
def test_many_gradients_at_once_are_the_single_ones(network: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn((3, 1, 8, 8) if isinstance(network, ConvEncoder) else (3, 2), requires_grad=True)
    value = network(x)
    weights = torch.randn(4, *value.shape)
    (together,) = torch.autograd.grad(value, x, weights, is_grads_batched=True, retain_graph=True)
    alone = [torch.autograd.grad(value, x, weight, retain_graph=True)[0] for weight in weights]
    torch.testing.assert_close(together, torch.stack(alone))


def test_layers_are_traced_symbolically() -> None:
    network = nn.Sequential(ConvTranspose2d(64, 1, 4), Flatten(), Linear(64, 3))
    x = torch.randn(2, 64, 5, 5)
    torch.testing.assert_close(fx.symbolic_trace(network)(x), network(x))


class _Layouts(TorchDispatchMode):
    """Notes operators on maps of several channels in more than one layout."""

    def __init__(self, mixed: list[str]) -> None:
        super().__init__()
        self.mixed = mixed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        maps = [each for each in args if isinstance(each, Tensor) and each.dim() == 4 and each.shape[1] > 3]
        if len({each.stride() for each in maps if each.shape == maps[0].shape}) > 1:
            self.mixed.append(str(func))
        return func(*args, **(kwargs or {}))


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
