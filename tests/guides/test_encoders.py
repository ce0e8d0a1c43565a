from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentmix.guides import ConvEncoder, Encoder, MLPEncoder

# Every Encoder. Extend with each new class.
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "mlp": lambda: MLPEncoder(latent_dim=3, hidden=(9, 5), shape=(2, 3, 4)),
    "mlp_vector": lambda: MLPEncoder(latent_dim=3, hidden=(6,), shape=(7,)),
    "conv": lambda: ConvEncoder(latent_dim=3, channels=(4, 6), shape=(2, 8, 4)),
    "conv_batch_norm": lambda: ConvEncoder(
        latent_dim=3, channels=(4, 6), shape=(1, 8, 8), hidden=(9,), batch_norm=(False, True)
    ),
}


@pytest.fixture(params=ENCODERS)
def make(request: pytest.FixtureRequest) -> Callable[[], Encoder]:
    return ENCODERS[request.param]


@pytest.mark.parametrize("batch", [(), (1,), (5,), (3, 5), (2, 1, 4)])
def test_shape_with_any_left_dimensions(make: Callable[[], Encoder], batch: tuple[int, ...]) -> None:
    encoder = make()
    assert encoder(torch.randn(*batch, *encoder.shape)).shape == (*batch, encoder.features)


def test_empty_batches_are_encoded(make: Callable[[], Encoder]) -> None:
    encoder = make().eval()
    assert encoder(torch.randn(0, *encoder.shape)).shape == (0, encoder.features)


def test_left_dimensions_are_independent(make: Callable[[], Encoder]) -> None:
    encoder = make().double().eval()
    x = torch.randn(3, 5, *encoder.shape, dtype=torch.float64)
    apart = torch.stack([torch.stack([encoder(datum) for datum in particle]) for particle in x])
    torch.testing.assert_close(encoder(x), apart)


def test_gradient_reaches_every_parameter(make: Callable[[], Encoder]) -> None:
    encoder = make()
    features = encoder(torch.randn(32, *encoder.shape))
    (features * torch.randn_like(features)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_module(make: Callable[[], Encoder], dtype: torch.dtype) -> None:
    encoder = make().to(dtype)
    assert encoder(torch.randn(4, *encoder.shape, dtype=dtype)).dtype == dtype


def test_state_dict_round_trip(make: Callable[[], Encoder]) -> None:
    first, other = make(), make()
    x = torch.randn(5, *first.shape)
    first(x)  # moves the running means of batch normalisation
    first.eval(), other.eval()
    assert not torch.equal(first(x), other(x))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(first(x), other(x))


def test_repr_names_class_and_layers(make: Callable[[], Encoder]) -> None:
    encoder = make()
    assert repr(encoder).startswith(type(encoder).__name__)
    assert "Flatten" in repr(encoder)


def test_wrong_data_are_refused(make: Callable[[], Encoder]) -> None:
    encoder = make()
    wrong = (*encoder.shape[:-1], encoder.shape[-1] + 1)
    with pytest.raises(ValueError, match=r"Expected x with data of shape \(.*\); got \(5, "):
        encoder(torch.zeros(5, *wrong))
    with pytest.raises(ValueError, match=r"Expected x with data of shape"):
        encoder(torch.zeros(()))


BAD_ENCODERS: list[tuple[type[Encoder], dict[str, Any], str]] = [
    (MLPEncoder, {"latent_dim": 0, "hidden": (4,), "shape": (2,)}, "Expected latent_dim .*; got 0"),
    (MLPEncoder, {"latent_dim": 2, "hidden": (), "shape": (2,)}, "at least one hidden layer"),
    (MLPEncoder, {"latent_dim": 2, "hidden": (0, 4), "shape": (2,)}, r"Expected hidden .*; got \(0, 4\)"),
    (MLPEncoder, {"latent_dim": 2, "hidden": (4, 0), "shape": (2,)}, r"Expected hidden .*; got \(4, 0\)"),
    (MLPEncoder, {"latent_dim": 2, "hidden": (4,), "shape": (-2,)}, r"Expected shape .*; got \(-2,\)"),
    (ConvEncoder, {"latent_dim": 2, "channels": (4,), "shape": (8, 8)}, r"\(channels, height, width\)"),
    (ConvEncoder, {"latent_dim": 2, "channels": (), "shape": (1, 8, 8)}, "at least one convolution"),
    (ConvEncoder, {"latent_dim": 2, "channels": (4, 4), "shape": (1, 6, 8)}, "divisible by 4 for 2"),
    (ConvEncoder, {"latent_dim": 2, "channels": (4, 0), "shape": (1, 8, 8)}, r"Expected channels .*\(4, 0\)"),
    (
        ConvEncoder,
        {"latent_dim": 2, "channels": (4,), "shape": (1, 8, 8), "hidden": (0,)},
        r"Expected hidden .*\(0,\)",
    ),
    (
        ConvEncoder,
        {"latent_dim": 2, "channels": (4, 4), "shape": (1, 8, 8), "batch_norm": (True,)},
        "batch_norm for each of 2 convolutions; got 1 value",
    ),
]


@pytest.mark.parametrize(("kind", "arguments", "message"), BAD_ENCODERS)
def test_bad_arguments_are_refused(kind: type[Encoder], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_bytes_are_refused() -> None:
    encoder = MLPEncoder(latent_dim=2, hidden=(4,), shape=(1, 4, 4))
    with pytest.raises(ValueError, match=r"Expected floating-point data; got torch.uint8: .*ToFloat"):
        encoder(torch.zeros(3, 1, 4, 4, dtype=torch.uint8))


def test_encoder_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Encoder(2, (3,), 4)  # type: ignore[abstract]


def test_a_new_encoder_fills_one_hook() -> None:
    class Totals(Encoder):
        def encode(self, x: Tensor) -> Tensor:
            return x.flatten(1).sum(1, keepdim=True)

    x = torch.randn(4, 5, 2, 3)
    torch.testing.assert_close(Totals(2, (2, 3), features=1)(x)[..., 0], x.sum((-1, -2)))


@pytest.mark.parametrize(
    ("batch_norm", "normalised"),
    [((), []), ((False, False), []), ((True, False), [3]), ((False, True), [5]), ((True, True), [3, 5])],
)
def test_batch_norm_follows_the_convolutions_that_it_names(batch_norm: tuple[bool, ...], normalised: list[int]) -> None:
    encoder = ConvEncoder(latent_dim=2, channels=(3, 5), shape=(1, 8, 8), batch_norm=batch_norm)
    layers = list(encoder.body)
    assert [layer.num_features for layer in layers if isinstance(layer, nn.BatchNorm2d)] == normalised
    for before, after in itertools.pairwise(layers):
        if isinstance(after, nn.BatchNorm2d):
            assert isinstance(before, nn.Conv2d)
            assert before.out_channels == after.num_features
