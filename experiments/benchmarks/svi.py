"""Speed of SVI beside Pyro and hand-written PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim.optim import PyroOptim
from torch import Tensor, nn
from torch.nn import functional

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import fit
from latentmix.inference.isolation import isolated
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

__all__ = ["SVISpeed", "svi_speed"]

SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class SVISpeed:
    """Seconds per epoch of one perceptron VAE (784-400-50), medians over alternating epochs.

    Attributes:
        batch_size: Images per step.
        pytorch: A hand-written loop, eager, with one fused Adam.
        fit: `latentmix.inference.fit`.
        pyro: `pyro.infer.SVI.step` with Pyro's Adam.
        ratio: `fit` in units of `pytorch`.
    """

    batch_size: int
    pytorch: float
    fit: float
    pyro: float
    ratio: float


def svi_speed(
    *, images: int = 20_000, repeats: int = 3, batch_sizes: tuple[int, ...] = (64, 256)
) -> Iterator[SVISpeed]:
    """Measure SVI on random binary images.

    Args:
        images: Images per epoch.
        repeats: Timed epochs of each, after one warm-up epoch.
        batch_sizes: Images per step, one measurement each.

    Yields:
        One row per batch size.
    """
    with isolated(seed=0):
        data = (torch.rand(images, *SHAPE) > 0.7).float()
        for size in batch_sizes:
            contestants = {"pytorch": _pytorch(), "fit": _fit(), "pyro": _pyro()}
            seconds: dict[str, list[float]] = {name: [] for name in contestants}
            for repeat in range(repeats + 1):
                for name, epoch in contestants.items():
                    start = time.perf_counter()
                    epoch(data, size)
                    if repeat:
                        seconds[name].append(time.perf_counter() - start)
            medians = {name: statistics.median(values) for name, values in seconds.items()}
            yield SVISpeed(size, **medians, ratio=medians["fit"] / medians["pytorch"])


def _networks() -> tuple[VAE, AmortizedGuide]:
    decoder = MLPDecoder(latent_dim=50, hidden=(400,), shape=SHAPE)
    encoder = MLPEncoder(latent_dim=50, hidden=(400,), shape=SHAPE)
    return VAE(decoder, StandardNormal(50), Bernoulli()), AmortizedGuide(encoder)


def _fit() -> Callable[[Tensor, int], None]:
    vae, guide = _networks()

    def epoch(data: Tensor, size: int) -> None:
        fit(vae.model, guide, data, epochs=1, batch_size=size, seed=0)

    return epoch


def _pyro() -> Callable[[Tensor, int], None]:
    vae, guide = _networks()
    svi = SVI(vae.model, guide, PyroOptim(torch.optim.Adam, {"lr": 1e-3}), Trace_ELBO())
    store = pyro.get_param_store().get_state()

    def epoch(data: Tensor, size: int) -> None:
        with pyro.get_param_store().scope(store):
            for rows in torch.randperm(len(data)).split(size):
                svi.step(data[rows])

    return epoch


def _pytorch() -> Callable[[Tensor, int], None]:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU())
    loc, log_variance = nn.Linear(400, 50), nn.Linear(400, 50)
    decoder = nn.Sequential(nn.Linear(50, 400), nn.ReLU(), nn.Linear(400, 784))
    optimizer = torch.optim.Adam(nn.ModuleList([encoder, loc, log_variance, decoder]).parameters(), lr=1e-3, fused=True)

    def epoch(data: Tensor, size: int) -> None:
        for rows in torch.randperm(len(data)).split(size):
            x = data[rows]
            features = encoder(x)
            mean, log_var = loc(features), log_variance(features)
            z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
            logits = decoder(z)
            reconstruction = functional.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="sum")
            kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
            optimizer.zero_grad(set_to_none=True)
            ((reconstruction + kl) / len(x)).backward()
            optimizer.step()

    return epoch
