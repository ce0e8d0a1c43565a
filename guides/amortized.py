"""The amortized guide q(z given x): one encoder network for the latents of all data."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from latentmix.guides.encoders import Encoder
from latentmix.guides.families import DiagonalNormal, Family
from latentmix.models.arguments import check_positive
from latentmix.models.pretrained import Part, load_pretrained, save_pretrained
from latentmix.models.process_state import kept_random_state
from latentmix.models.pyro_modules import evaluation_mode, register

__all__ = ["AmortizedGuide"]


@final
class AmortizedGuide(nn.Module, Part):
    r"""The guide :math:`q(z \mid x)`, its parameters given by an encoder.

    An ordinary Pyro callable with the site `z` in a plate `data` (Kingma and Welling, *Auto-Encoding
    Variational Bayes*, 2014, equation 9).

    Args:
        encoder: The network body.
        family: The family of q, by default `DiagonalNormal`.

    Raises:
        ValueError: If `family` is not a `Family`.

    Example:
        >>> import torch
        >>> from latentmix.guides import AmortizedGuide, MLPEncoder
        >>> guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4)))
        >>> guide.encode(torch.zeros(3, 1, 4, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self, encoder: Encoder, family: Family | None = None) -> None:
        super().__init__()
        chosen: object = DiagonalNormal() if family is None else family
        if not isinstance(chosen, Family):
            hint = f" the class {chosen.__name__}: make one" if isinstance(chosen, type) else f" {chosen!r:.60}"
            raise ValueError(f"Expected a Family for family; got{hint}.")
        self.encoder = encoder
        self.family = chosen
        self.head = self.family.build(encoder.features, encoder.latent_dim)

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        return self.encoder.latent_dim

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `guide.safetensors` and `guide.json`; see `VAE.save_pretrained`."""
        save_pretrained(self, folder, "guide")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> AmortizedGuide:
        """Build the guide that `save_pretrained` wrote; see `VAE.from_pretrained`."""
        return load_pretrained(folder, "guide", cls)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """The distribution q(z given x): batch shape `batch_shape`, event shape `(latent_dim,)`.

        Args:
            x: A `batch_shape x shape` tensor.
        """
        q: dist.TorchDistribution = self.head(self.encoder(x))
        return q

    def forward(self, x: Tensor) -> Tensor:
        """Sample z for a minibatch.

        Args:
            x: A `batch x shape` tensor.

        Returns:
            The sample of z, a `batch x latent_dim` tensor.
        """
        register("guide", self)
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample("z", self.posterior(x))
        return z

    @torch.no_grad()
    def encode(
        self, x: Tensor, *, batch_size: int = 1024, transform: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Mean of q(z given x), in evaluation mode and in chunks.

        Args:
            x: An `n x shape` tensor.
            batch_size: Data a chunk.
            transform: Applied to each chunk first, such as a conversion from bytes to floats.

        Returns:
            An `n x latent_dim` tensor.
        """
        with evaluation_mode(self):
            return torch.cat([self.head.mean(self.encoder(chunk)) for chunk in _chunks(x, batch_size, transform)])

    @torch.no_grad()
    def moments(
        self, x: Tensor, *, batch_size: int = 1024, transform: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and covariance of q(z given x), in evaluation mode and in chunks.

        Args:
            x: An `n x shape` tensor.
            batch_size: Data a chunk.
            transform: Applied to each chunk first.

        Returns:
            The means, `n x latent_dim`, and the variances, `n x latent_dim`, if the values of z are independent, else
            the covariances, `n x latent_dim x latent_dim`.
        """
        with evaluation_mode(self):
            encoded = (self.encoder(chunk) for chunk in _chunks(x, batch_size, transform))
            parts = [(self.head.mean(features), self.head.covariance(features)) for features in encoded]
        means, covariances = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(covariances)

    @torch.no_grad()
    def draw(
        self,
        x: Tensor,
        *,
        draws: int | None = None,
        batch_size: int = 1024,
        transform: Callable[[Tensor], Tensor] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Samples of q(z given x), by default one per datum, in evaluation mode and in chunks.

        Args:
            x: An `n x shape` tensor.
            draws: Samples per datum.
            batch_size: Data a chunk.
            transform: Applied to each chunk first.
            seed: Seed of the draws; by default a fresh one. torch's random state is unchanged.

        Returns:
            A `draws x n x latent_dim` tensor; without `draws` an `n x latent_dim` tensor.
        """
        check_positive(draws=1 if draws is None else draws)
        shape = () if draws is None else (draws,)
        with evaluation_mode(self), kept_random_state(secrets.randbits(32) if seed is None else seed):
            parts = [self.posterior(chunk).sample(shape) for chunk in _chunks(x, batch_size, transform)]
        return torch.cat(parts, dim=-2)


def _chunks(x: Tensor, batch_size: int, transform: Callable[[Tensor], Tensor] | None) -> Iterator[Tensor]:
    check_positive(batch_size=batch_size)
    return (chunk if transform is None else transform(chunk) for chunk in x.split(batch_size))
