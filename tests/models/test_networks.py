from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentmix.models import ConvDecoder, Decoder, MLPDecoder
from latentmix.models.networks import mlp

# Every Decoder: a constructor of `outputs`, with latent_dim=3. Extend with each new class.
DECODERS: dict[str, Callable[[int], Decoder]] = {
    "mlp": lambda outputs: MLPDecoder(latent_dim=3, hidden=(8, 5), shape=(2, 3, 4), outputs=outputs),
    "mlp_linear": lambda outputs: MLPDecoder(latent_dim=3, hidden=(), shape=(7,), outputs=outputs),
    "conv": lambda outputs: ConvDecoder(latent_dim=3, channels=(6, 4), shape=(2, 8, 4), outputs=outputs),
    "conv_hidden": lambda outputs: ConvDecoder(
        latent_dim=3, channels=(4,), shape=(1, 6, 4), hidden=(9, 5), outputs=outputs
    ),
}


@pytest.fixture(params=DECODERS)
def make(request: pytest.FixtureRequest) -> Callable[[int], Decoder]:
    return DECODERS[request.param]


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("batch", [(), (0,), (1,), (5,), (3, 5), (2, 1, 4)])
def test_shape_with_any_left_dimensions(make: Callable[[int], Decoder], batch: tuple[int, ...], outputs: int) -> None:
    decoder = make(outputs)
    assert decoder(torch.randn(*batch, 3)).shape == (*batch, *decoder.shape, outputs)


def test_left_dimensions_are_independent(make: Callable[[int], Decoder]) -> None:
    decoder = make(2).double()
    z = torch.randn(3, 5, 3, dtype=torch.float64)
    apart = torch.stack([torch.stack([decoder(datum) for datum in particle]) for particle in z])
    torch.testing.assert_close(decoder(z), apart)


def test_outputs_are_the_last_dimension_of_decode(make: Callable[[int], Decoder]) -> None:
    decoder, z = make(2), torch.randn(5, 3)
    decoded = decoder.decode(z)
    assert decoded.shape == (5, 2, *decoder.shape)
    for k in range(2):
        assert torch.equal(decoder(z)[..., k], decoded[:, k])


def test_gradient_reaches_every_parameter(make: Callable[[int], Decoder]) -> None:
    decoder = make(2)
    decoder(torch.randn(16, 3)).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_gradient_reaches_the_latent(make: Callable[[int], Decoder]) -> None:
    z = torch.randn(16, 3, requires_grad=True)
    make(1)(z).square().sum().backward()
    assert z.grad is not None
    assert (z.grad.abs().sum(0) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_module(make: Callable[[int], Decoder], dtype: torch.dtype) -> None:
    assert make(1).to(dtype)(torch.randn(4, 3, dtype=dtype)).dtype == dtype


def test_state_dict_round_trip(make: Callable[[int], Decoder]) -> None:
    first, other, z = make(2), make(2), torch.randn(5, 3)
    assert not torch.equal(first(z), other(z))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(first(z), other(z))


def test_repr_names_class_and_layers(make: Callable[[int], Decoder]) -> None:
    decoder = make(1)
    assert repr(decoder).startswith(type(decoder).__name__)
    assert "Linear" in repr(decoder)


def test_wrong_latent_is_refused(make: Callable[[int], Decoder]) -> None:
    with pytest.raises(ValueError, match=r"Expected z with last dimension 3; got shape \(5, 4\)"):
        make(1)(torch.zeros(5, 4))


def test_scalar_latent_is_refused(make: Callable[[int], Decoder]) -> None:
    with pytest.raises(ValueError, match=r"Expected z with last dimension 3; got shape \(\)"):
        make(1)(torch.zeros(()))


BAD_DECODERS: list[tuple[type[Decoder], dict[str, Any], str]] = [
    (MLPDecoder, {"latent_dim": 0, "hidden": (4,), "shape": (2,)}, "Expected latent_dim .*; got 0"),
    (MLPDecoder, {"latent_dim": -1, "hidden": (4,), "shape": (2,)}, "Expected latent_dim .*; got -1"),
    (MLPDecoder, {"latent_dim": 2.0, "hidden": (4,), "shape": (2,)}, "Expected latent_dim .*; got 2.0"),
    (MLPDecoder, {"latent_dim": 2, "hidden": (4, 0), "shape": (2,)}, r"Expected hidden .*; got \(4, 0\)"),
    (MLPDecoder, {"latent_dim": 2, "hidden": (4,), "shape": (0, 2)}, r"Expected shape .*; got \(0, 2\)"),
    (MLPDecoder, {"latent_dim": 2, "hidden": (4,), "shape": (2,), "outputs": 0}, "Expected outputs .*; got 0"),
    (ConvDecoder, {"latent_dim": 2, "channels": (4,), "shape": (8, 8)}, r"\(channels, height, width\)"),
    (ConvDecoder, {"latent_dim": 2, "channels": (), "shape": (1, 8, 8)}, "at least one convolution"),
    (ConvDecoder, {"latent_dim": 2, "channels": (4, 4), "shape": (1, 8, 6)}, "divisible by 4 for 2"),
    (ConvDecoder, {"latent_dim": 2, "channels": (0, 4), "shape": (1, 8, 8)}, r"Expected channels .*\(0, 4\)"),
    (ConvDecoder, {"latent_dim": 2, "channels": (4,), "shape": (0, 8, 8)}, r"Expected shape .*\(0, 8, 8\)"),
    (
        ConvDecoder,
        {"latent_dim": 2, "channels": (4,), "shape": (1, 8, 8), "hidden": (0,)},
        r"Expected hidden .*\(0,\)",
    ),
]


@pytest.mark.parametrize(("kind", "arguments", "message"), BAD_DECODERS)
def test_bad_arguments_are_refused(kind: type[Decoder], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_decoder_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Decoder(2, (3,))  # type: ignore[abstract]


def test_a_new_decoder_fills_one_hook() -> None:
    class Constant(Decoder):
        def decode(self, z: Tensor) -> Tensor:
            return torch.arange(2.0)[:, None, None].expand(len(z), self.outputs, *self.shape)

    values = Constant(latent_dim=3, shape=(2, 2), outputs=2)(torch.zeros(4, 5, 3))
    assert torch.equal(values[..., 0], torch.zeros(4, 5, 2, 2))
    assert torch.equal(values[..., 1], torch.ones(4, 5, 2, 2))


def test_a_decoder_of_another_shape_is_refused() -> None:
    class Flat(Decoder):
        def decode(self, z: Tensor) -> Tensor:
            return torch.zeros(len(z), 4)

    with pytest.raises(ValueError, match=r"Expected decode to give \(1, 2, 2\) for each latent; got \(4,\)"):
        Flat(latent_dim=3, shape=(2, 2))(torch.zeros(5, 3))


def test_mlp_has_a_relu_after_every_layer() -> None:
    layers = list(mlp([3, 5, 2]))
    assert [isinstance(layer, kind) for layer, kind in zip(layers, [nn.Linear, nn.ReLU] * 2, strict=True)] == [True] * 4
    assert [(layer.in_features, layer.out_features) for layer in layers[::2]] == [(3, 5), (5, 2)]
    assert len(mlp([3])) == 0


def test_mlp_decoder_equals_its_formula() -> None:
    decoder = MLPDecoder(latent_dim=2, hidden=(4,), shape=(3,)).double()
    z = torch.randn(6, 2, dtype=torch.float64)
    first, last = decoder.body[0], decoder.out
    hidden = (z @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(decoder(z)[..., 0], hidden @ last.weight.T + last.bias)


@pytest.mark.parametrize(("channels", "shape"), [((4,), (3, 2, 6)), ((8, 4, 2), (1, 16, 24))])
def test_conv_decoder_doubles_up_to_any_image(channels: tuple[int, ...], shape: tuple[int, ...]) -> None:
    decoder = ConvDecoder(latent_dim=2, channels=channels, shape=shape)
    assert decoder(torch.zeros(2, 2)).shape == (2, *shape, 1)
    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in decoder.modules()) == len(channels)
