"""A VAE as one writes it by hand in PyTorch, eager and compiled by `torch.compile`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch._dynamo  # torch.optim imports it at the first step, which is measured
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from latentmix.experiments.benchmarks.svi.cases import LEARNING_RATE, Architecture, Case
from latentmix.experiments.benchmarks.svi.contestants import Turn
from latentmix.inference.isolation import isolated

__all__ = ["Decoder", "Encoder", "Network", "compiled", "eager"]


class Encoder(nn.Module):
    """From images to mean and log-variance of q(z|x).

    Args:
        architecture: The networks.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for few, many, norm in architecture.convolutions:
            layers.append(nn.Conv2d(few, many, kernel_size=4, stride=2, padding=1))
            layers += [nn.BatchNorm2d(many), nn.ReLU()] if norm else [nn.ReLU()]
        channels = [architecture.shape[0], *architecture.encoder_channels][-1]
        widths = [channels * math.prod(architecture.smallest_map), *architecture.encoder_hidden]
        self.body = nn.Sequential(*layers, nn.Flatten(), *_hidden(widths))
        self.loc = nn.Linear(widths[-1], architecture.latent_dim)
        self.log_variance = nn.Linear(widths[-1], architecture.latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two `n x latent_dim` tensors of an `n x shape` tensor."""
        features = self.body(x)
        return self.loc(features), self.log_variance(features)


class Decoder(nn.Sequential):
    """From an `n x latent_dim` tensor to logits of pixels, `n x shape`.

    Args:
        architecture: The networks.
    """

    def __init__(self, architecture: Architecture) -> None:
        widths = [architecture.latent_dim, *architecture.decoder_hidden]
        maps, small = architecture.decoder_channels, architecture.smallest_map
        if not maps:
            last = [nn.Linear(widths[-1], architecture.pixels), nn.Unflatten(1, architecture.shape)]
            super().__init__(*_hidden(widths), *last)
            return
        layers: list[nn.Module] = []
        for few, many in pairwise([*maps, architecture.shape[0]]):
            layers += [nn.ConvTranspose2d(few, many, kernel_size=4, stride=2, padding=1), nn.ReLU()]
        first = [nn.Linear(widths[-1], maps[0] * math.prod(small)), nn.Unflatten(1, (maps[0], *small))]
        super().__init__(*_hidden(widths), *first, *layers[:-1])


class Network(nn.Module):
    """Encoder, decoder and loss, with parameters in the order of those of `ours.networks`, the guide's first.

    Args:
        architecture: The networks.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.encoder = Encoder(architecture)
        self.decoder = Decoder(architecture)

    def forward(self, x: Tensor) -> Tensor:
        """The negative ELBO in nats per datum, with an analytic KL divergence.

        Args:
            x: An `n x shape` tensor of zeros and ones.
        """
        loc, log_variance = self.encoder(x)
        z = loc + (0.5 * log_variance).exp() * torch.randn_like(loc)
        reconstruction = functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()
        return (reconstruction + kl) / len(x)


def _hidden(widths: list[int]) -> list[nn.Module]:
    return [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())]


def eager(case: Case, data: NDArray[np.float32], turn: Turn) -> Mapping[str, Any]:
    """A loop with one fused Adam."""
    return _train(case, data, turn, lambda network: network)


def compiled(case: Case, data: NDArray[np.float32], turn: Turn) -> Mapping[str, Any]:
    """The same loop with the loss, forward and backward, compiled by `torch.compile`."""
    return _train(case, data, turn, torch.compile)


def _train(
    case: Case, data: NDArray[np.float32], turn: Turn, transform: Callable[[Network], Callable[[Tensor], Tensor]]
) -> Mapping[str, Any]:
    if not turn():
        return {}
    with isolated(seed=0):
        network = Network(case.architecture)
        loss_of = transform(network)
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
        x, size = torch.from_numpy(data), case.batch_size
        more = True
        while more:
            total = torch.zeros(())
            order = torch.randperm(len(x))
            for step in range(case.steps):
                loss = loss_of(x[order[step * size : (step + 1) * size]])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += loss.detach()
            mean = float(total) / case.steps
            more = turn()
    return {"loss": mean}
