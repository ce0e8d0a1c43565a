from __future__ import annotations

import io
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from latentmix.guides import (
    AmortizedGuide,
    AutoregressiveFlow,
    ConvEncoder,
    DiagonalNormal,
    Encoder,
    Family,
    FullNormal,
    MLPEncoder,
)
from latentmix.models import ConvDecoder

ENCODERS: dict[str, Callable[[], Encoder]] = {
    "mlp": lambda: MLPEncoder(latent_dim=3, hidden=(16,), shape=(1, 8, 8)),
    "conv": lambda: ConvEncoder(latent_dim=3, channels=(4, 6), shape=(1, 8, 8), batch_norm=(False, True)),
}
FAMILIES: dict[str, Callable[[], Family]] = {
    "diagonal_normal": DiagonalNormal,
    "diagonal_normal_softplus": lambda: DiagonalNormal(scale="softplus"),
    "full_normal": FullNormal,
    "autoregressive_flow": lambda: AutoregressiveFlow(transforms=2, hidden=(16,), context=4),
}


@pytest.fixture(params=[(encoder, family) for encoder in ENCODERS for family in FAMILIES], ids=str)
def guide(request: pytest.FixtureRequest) -> AmortizedGuide:
    encoder, family = request.param
    return AmortizedGuide(encoder=ENCODERS[encoder](), family=FAMILIES[family]())


@pytest.fixture
def batch_normalised() -> AmortizedGuide:
    return AmortizedGuide(encoder=ENCODERS["conv"]())


def test_site_z_in_plate_data(guide: AmortizedGuide, binary_images: Tensor) -> None:
    trace = poutine.trace(guide).get_trace(binary_images)
    site = trace.nodes["z"]
    assert site["value"].shape == (40, guide.latent_dim) == (40, 3)
    assert torch.equal(trace.nodes["_RETURN"]["value"], site["value"])
    assert [(frame.name, frame.dim, frame.size) for frame in site["cond_indep_stack"]] == [("data", -1, 40)]
    assert [name for name, node in trace.nodes.items() if node["type"] == "sample"] == ["data", "z"]


def test_batch_of_one(guide: AmortizedGuide, binary_images: Tensor) -> None:
    assert guide(binary_images[:1]).shape == (1, 3)
    assert guide.encode(binary_images[:1]).shape == (1, 3)


def test_particles_on_the_left(guide: AmortizedGuide, binary_images: Tensor) -> None:
    with pyro.plate("particles", 6, dim=-2):
        z = guide(binary_images)
    assert z.shape == (6, 40, 3)
    assert len(z[:, 0].unique(dim=0)) == 6


def test_gradient_reaches_every_parameter(guide: AmortizedGuide, binary_images: Tensor) -> None:
    z = guide(binary_images)
    (z * torch.randn_like(z)).sum().backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_module(guide: AmortizedGuide, binary_images: Tensor, dtype: torch.dtype) -> None:
    guide = guide.to(dtype)
    images = binary_images.to(dtype)
    assert guide(images).dtype == guide.encode(images).dtype == guide.draw(images).dtype == dtype


def test_state_dict_round_trip(guide: AmortizedGuide, binary_images: Tensor) -> None:
    guide(binary_images)
    file = io.BytesIO()
    torch.save(guide.state_dict(), file)
    file.seek(0)
    encoder = next(make() for name, make in ENCODERS.items() if isinstance(guide.encoder, type(make())))
    other = AmortizedGuide(encoder=encoder, family=guide.family)
    assert not torch.equal(other.encode(binary_images), guide.encode(binary_images))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.encode(binary_images), guide.encode(binary_images))


def test_repr(guide: AmortizedGuide) -> None:
    assert repr(guide).startswith("AmortizedGuide")
    assert type(guide.encoder).__name__ in repr(guide)


def test_the_default_family_is_the_diagonal_normal() -> None:
    assert AmortizedGuide(encoder=ENCODERS["mlp"]()).family == DiagonalNormal()


def test_wrong_data_are_refused(guide: AmortizedGuide) -> None:
    for call in (guide, guide.encode, guide.draw, guide.moments, guide.posterior):
        with pytest.raises(ValueError, match=r"Expected x with data of shape \(1, 8, 8\); got \(5, 1, 8, 4\)"):
            call(torch.zeros(5, 1, 8, 4))


@pytest.mark.parametrize("batch_size", [1, 7, 40, 1024])
def test_encode_gives_the_mean_of_q_whatever_the_chunks(
    guide: AmortizedGuide, binary_images: Tensor, batch_size: int
) -> None:
    guide.double()
    images = binary_images.double()
    latents = guide.encode(images, batch_size=batch_size)
    with torch.no_grad():
        torch.testing.assert_close(latents, guide.head.mean(guide.eval().encoder(images)))
    assert not latents.requires_grad


def test_encode_works_with_bytes_and_a_transform(guide: AmortizedGuide, binary_images: Tensor) -> None:
    stored = (binary_images * 255).byte()
    latents = guide.encode(stored, batch_size=16, transform=lambda chunk: chunk.float() / 255)
    assert torch.equal(latents, guide.encode(binary_images, batch_size=16))


@pytest.mark.parametrize("batch_size", [7, 40, 1024])
def test_moments_are_those_of_q_whatever_the_chunks(
    guide: AmortizedGuide, binary_images: Tensor, batch_size: int
) -> None:
    guide.double()
    images = binary_images.double()
    means, covariances = guide.moments(images, batch_size=batch_size)
    assert torch.equal(means, guide.encode(images, batch_size=batch_size))
    assert not covariances.requires_grad
    independent = isinstance(guide.family, DiagonalNormal)
    assert covariances.shape == ((40, 3) if independent else (40, 3, 3))
    if independent:
        with torch.no_grad():
            torch.testing.assert_close(covariances, guide.eval().posterior(images).variance)
    else:
        assert (torch.linalg.eigvalsh(covariances) > 0).all()
    bytes_ = (binary_images * 255).byte()
    again = guide.moments(bytes_, batch_size=batch_size, transform=lambda chunk: chunk.double() / 255)
    torch.testing.assert_close(again, (means, covariances))


def test_draw_is_a_sample_of_q(guide: AmortizedGuide, binary_images: Tensor) -> None:
    """Mean and width of 12,000 standardised draws: false alarm at 5 and 4.6 standard errors below 1e-5."""
    means, covariances = guide.moments(binary_images)
    draws = torch.stack([guide.draw(binary_images, batch_size=16) for _ in range(100)])
    assert draws.shape == (100, 40, 3)
    factor = torch.linalg.cholesky(torch.diag_embed(covariances) if covariances.dim() == 2 else covariances)
    standard = torch.linalg.solve_triangular(factor, (draws - means).unsqueeze(-1), upper=False)
    assert standard.mean().abs() < 5 / standard.numel() ** 0.5
    assert standard.std().item() == pytest.approx(1.0, abs=0.03)


def test_draw_depends_on_its_seed_alone(guide: AmortizedGuide, binary_images: Tensor) -> None:
    first = guide.draw(binary_images, seed=3)
    torch.rand(3)
    assert torch.equal(guide.draw(binary_images, seed=3), first)
    assert not torch.equal(guide.draw(binary_images, seed=4), first)
    assert not torch.equal(guide.draw(binary_images), guide.draw(binary_images))


@pytest.mark.parametrize("method", ["encode", "draw", "moments"])
def test_encode_draw_and_moments_leave_the_module_alone(
    batch_normalised: AmortizedGuide, binary_images: Tensor, method: str
) -> None:
    guide = batch_normalised
    norm = next(part for part in guide.modules() if isinstance(part, nn.BatchNorm2d))
    guide.head.eval()
    modes = [part.training for part in guide.modules()]
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    getattr(guide, method)(binary_images)
    assert [part.training for part in guide.modules()] == modes
    assert norm.training
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())
    assert len(pyro.get_param_store()) == 0
    with pytest.raises(ValueError, match="Expected x"):
        getattr(guide, method)(torch.zeros(5, 1, 8, 4))
    assert [part.training for part in guide.modules()] == modes


def test_two_guides_under_one_parameter_store_are_refused(binary_images: Tensor) -> None:
    first, other = (AmortizedGuide(encoder=ENCODERS["mlp"]()) for _ in range(2))
    first(binary_images)
    with pytest.raises(ValueError, match=r"under 'guide'; got another module's .*: call pyro.clear_param_store\(\)"):
        other(binary_images)
    first(binary_images)
    pyro.clear_param_store()
    other(binary_images)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def leaves(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if not list(part.children()) and not isinstance(part, nn.Sequential)]


def test_mnist_conv64_has_exactly_these_parameters() -> None:
    guide = AmortizedGuide(
        encoder=ConvEncoder(latent_dim=20, channels=(64, 128), shape=(1, 28, 28), batch_norm=(False, True)),
        family=DiagonalNormal(),
    )
    decoder = ConvDecoder(latent_dim=20, channels=(128, 64), shape=(1, 28, 28))
    encoding, heads, decoding = leaves(guide.encoder), leaves(guide.head), leaves(decoder)
    for layers, kinds in (
        (encoding, (nn.Conv2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Flatten)),
        (heads, (nn.Linear, nn.Linear)),
        (decoding, (nn.Linear, nn.Unflatten, nn.ConvTranspose2d, nn.ReLU, nn.ConvTranspose2d)),
    ):
        assert len(layers) == len(kinds)
        assert all(map(isinstance, layers, kinds))
    assert [count(layer) for layer in encoding] == [1_088, 0, 131_200, 256, 0, 0]
    assert [count(layer) for layer in heads] == [125_460, 125_460]
    assert [count(layer) for layer in decoding] == [131_712, 0, 131_136, 0, 1_025]
    assert count(guide) + count(decoder) == 647_337
    for layer in (*encoding, *decoding):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (1, 1))


@pytest.mark.parametrize("action", ["encode", "moments", "draw"])
def test_batch_sizes_below_one_are_refused(guide: AmortizedGuide, binary_images: Tensor, action: str) -> None:
    with pytest.raises(ValueError, match="Expected batch_size to hold positive integers; got 0"):
        getattr(guide, action)(binary_images, batch_size=0)
