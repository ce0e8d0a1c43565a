"""The decoder of a page against PyTorch's: run by Node where there is one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from latentmix.experiments.presets import presets
from latentmix.experiments.runs.page_decoder import describe_decoder
from latentmix.models import (
    VAE,
    Bernoulli,
    ContinuousBernoulli,
    ConvDecoder,
    Decoder,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    MLPDecoder,
    StandardNormal,
)

from tests.experiments.runs.preset_decoders import assert_close, preset_vae, spread

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node runs the page's script, and there is none on PATH")
LIKELIHOODS = [
    Bernoulli(),
    ContinuousBernoulli(),
    Gaussian(var_x=0.1),
    Gaussian(var_x="shared"),
    Gaussian(var_x="pixel"),
    Laplace(scale="pixel"),
    DiscretizedLogistic(),
    DiscretizedLogistic(n_mixtures=5),
]


def run_script(decoder: dict[str, Any], latents: Tensor) -> np.ndarray:
    """Values at each latent, by Node."""
    assert NODE is not None
    script = resources.files("latentmix.experiments.runs").joinpath("decoder.js")
    told = json.dumps({"script": str(script), "decoder": decoder, "latents": latents.tolist()})
    runner = Path(__file__).with_name("run_decoder.js")
    done = subprocess.run([NODE, runner], input=told, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout))


def assert_same_images(vae: VAE, latents: Tensor) -> None:
    assert_close(run_script(describe_decoder(vae.decoder, vae.likelihood), latents), vae, latents)


def vae_of(decoder: Decoder, likelihood: Likelihood) -> VAE:
    vae = VAE(decoder, StandardNormal(decoder.latent_dim), likelihood)
    spread(vae.decoder)
    return vae.eval()


@needs_node
@pytest.mark.parametrize("name", presets())
def test_pixels_of_every_preset_are_those_of_pytorch(name: str) -> None:
    vae = preset_vae(name)
    assert_same_images(vae, torch.randn(50, vae.latent_dim))


@needs_node
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_means_of_every_likelihood_are_those_of_pytorch(likelihood: Likelihood) -> None:
    torch.manual_seed(1)
    decoder = MLPDecoder(3, (32,), (3, 4, 4), outputs=likelihood.outputs)
    assert_same_images(vae_of(decoder, likelihood), 2 * torch.randn(50, 3))


@needs_node
def test_outputs_of_convolutions_are_in_the_order_of_the_decoder() -> None:
    torch.manual_seed(2)
    likelihood = DiscretizedLogistic(n_mixtures=2)
    decoder = ConvDecoder(4, (8, 6), (3, 8, 12), hidden=(16,), outputs=likelihood.outputs)
    assert_same_images(vae_of(decoder, likelihood), torch.randn(50, 4))


@needs_node
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalised_decoders_agree_folded_or_not(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    decoder = ConvDecoder(5, (8,), (2, 8, 10))
    decoder.body = nn.Sequential(
        *(nn.BatchNorm1d(5), nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.BatchNorm1d(12, affine=False), nn.BatchNorm1d(12), nn.Linear(12, 5, bias=False), nn.Tanh()),
    )
    decoder.upsample = nn.Sequential(
        *(nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 6, (3, 4), stride=2, padding=(1, 1), output_padding=(1, 0))),
        *(nn.BatchNorm2d(6), nn.LeakyReLU(0.1), nn.Conv2d(6, 4, (3, 5), padding=(2, 2), dilation=(2, 1), bias=False)),
        *(nn.BatchNorm2d(4), nn.Sigmoid(), nn.Conv2d(4, 4, 2, stride=2), nn.ReLU(), nn.BatchNorm2d(4)),
        *(nn.ConvTranspose2d(4, 2, 2, stride=2), nn.Identity(), nn.Flatten(), nn.Unflatten(1, (2, 8, 10))),
    )
    vae = vae_of(decoder.to(dtype), Gaussian())
    kinds = [layer["kind"] for layer in describe_decoder(vae.decoder, vae.likelihood)["layers"]]
    assert kinds.count("scale") == 4  # at the start, after a ReLU (two of them as one), on a reshape, after a ReLU
    assert_same_images(vae, torch.randn(50, 5))


@needs_node
@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_weights_of_any_size_keep_their_precision(size: float) -> None:
    torch.manual_seed(4)
    decoder = MLPDecoder(3, (16,), (1, 4, 4))
    vae = vae_of(decoder, Bernoulli())
    with torch.no_grad():
        first, last = decoder.body[0], decoder.out
        assert isinstance(first, nn.Linear)
        first.weight.mul_(size)
        first.bias.mul_(size)
        last.weight.div_(size)
    assert_same_images(vae, torch.randn(50, 3))


def test_the_weights_are_half_precision_in_base64() -> None:
    torch.manual_seed(5)
    described = describe_decoder(MLPDecoder(2, (8,), (1, 4, 4)), Bernoulli())
    assert json.loads(json.dumps(described)) == described
    layers = [layer for layer in described["layers"] if "weight" in layer]
    lengths = [len(layer["weight"]["data"]) + len(layer["bias"]) for layer in layers]
    assert sum(lengths) == described["bytes"]
    assert lengths[0] == 4 * -(-2 * 16 // 3) + 4 * -(-4 * 8 // 3)


class Own(Decoder):
    def decode(self, z: Tensor) -> Tensor:
        return z[:, :1, None, None].expand(-1, *self.shape)[:, None]


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Sharp(Likelihood):
    support = "unit_interval"

    def forward(self, outputs: Tensor) -> Any:
        return torch.distributions.Uniform(0.0, 1.0).expand(outputs.shape[:-1])

    def mean(self, outputs: Tensor) -> Tensor:
        return (outputs[..., 0] > 0).float()


def changed(*names: str, module: Any = None, hook: bool = False) -> MLPDecoder:
    decoder = MLPDecoder(2, (8,), (1, 4, 4))
    if hook:
        decoder.body[0].register_forward_hook(lambda *_: None)
    for name in names:
        setattr(decoder, name, module)
    return decoder


REFUSED: Sequence[tuple[Decoder, Likelihood, str]] = [
    (Own(2, (1, 4, 4)), Bernoulli(), r"Own, for which it has no JavaScript"),
    (changed("out", module=Doubled(8, 16)), Bernoulli(), r"Doubled, for which it has no JavaScript"),
    (
        changed("out", module=weight_norm(nn.Linear(8, 16))),
        Bernoulli(),
        r"ParametrizedLinear",
    ),
    (changed(hook=True), Bernoulli(), r"Linear as its class defines it .* with hooks or methods of its own"),
    (changed("decode", module=lambda z: z), Bernoulli(), r"MLPDecoder as its class defines it"),
    (changed("body", module=nn.Sequential(nn.Linear(2, 8), nn.GELU())), Bernoulli(), r"got GELU"),
    (changed("body", module=nn.Sequential(nn.Linear(2, 7))), Bernoulli(), r"that follow each other"),
    (changed("out", module=nn.Linear(8, 3)), Bernoulli(), r"as many numbers as its data have"),
    (
        changed("body", module=nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8, track_running_stats=False))),
        Bernoulli(),
        r"BatchNorm1d",
    ),
    (MLPDecoder(2, (8,), (1, 4, 4), outputs=2), Bernoulli(), r"1 output per value, those of Bernoulli; got one of 2"),
    (MLPDecoder(2, (8,), (1, 4, 4)), Sharp(), r"a likelihood of LatentMix .*\.Sharp"),
]


@pytest.mark.parametrize(("decoder", "likelihood", "words"), REFUSED)
def test_what_the_script_does_not_know_is_refused(decoder: Decoder, likelihood: Likelihood, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^Expected .*{words}"):
        describe_decoder(decoder, likelihood)


def test_large_and_broken_weights_are_refused() -> None:
    decoder = MLPDecoder(20, (1000, 1000), (1, 28, 28))
    with pytest.raises(ValueError, match=r"^Expected a decoder of at most 3 MB for the page; got one of 4\.8 MB"):
        describe_decoder(decoder, Bernoulli())
    with torch.no_grad():
        decoder.out.bias[3] = torch.nan
    with pytest.raises(ValueError, match=r"^Expected finite weights of the decoder"):
        describe_decoder(decoder, Bernoulli(), most_bytes=10**7)
