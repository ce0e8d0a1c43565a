"""The generative half of a variational autoencoder, as a Pyro model."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import final

import pyro
import torch
from torch import Tensor, nn

from latentmix.models.arguments import check_floating
from latentmix.models.likelihoods import Likelihood
from latentmix.models.networks import Decoder
from latentmix.models.pretrained import Part, load_pretrained, save_pretrained
from latentmix.models.priors import Prior
from latentmix.models.process_state import kept_random_state
from latentmix.models.pyro_modules import evaluation_mode, register

__all__ = ["VAE"]


@final
class VAE(nn.Module, Part):
    r"""The model :math:`p(x, z) = p(z)\, p(x \mid f(z))`, one latent per datum.

    `model` is an ordinary Pyro callable with the sites `z` and `x` in a plate `data`; it works with
    `latentmix.inference.fit`, plain `pyro.infer.SVI`, `Predictive` and Pyro's handlers (Kingma and Welling,
    *Auto-Encoding Variational Bayes*, 2014, section 2).

    Args:
        decoder: The network f.
        prior: The distribution p(z).
        likelihood: The distribution p(x given f(z)).

    Raises:
        ValueError: If the parts do not fit: `latent_dim` of decoder and prior, or `outputs` of decoder and likelihood,
            differ.

    Example:
        >>> from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
        >>> decoder = MLPDecoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4))
        >>> vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())
        >>> vae.generate(3).shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(self, decoder: Decoder, prior: Prior, likelihood: Likelihood) -> None:
        super().__init__()
        parts: dict[str, tuple[object, type]] = {
            "decoder": (decoder, Decoder),
            "prior": (prior, Prior),
            "likelihood": (likelihood, Likelihood),
        }
        for name, (part, kind) in parts.items():
            if not isinstance(part, kind):
                hint = f" the class {part.__name__}: make one" if isinstance(part, type) else f" {part!r:.60}"
                raise ValueError(f"Expected a {kind.__name__} for {name}; got{hint}.")
        if not (hasattr(likelihood, "support") and hasattr(likelihood, "measure")):
            raise ValueError(f"Expected {type(likelihood).__name__} to say its support, such as 'real'; got none.")
        if decoder.latent_dim != prior.latent_dim:
            raise ValueError(
                f"Expected decoder and prior of one latent_dim; got {decoder.latent_dim} and {prior.latent_dim}."
            )
        if decoder.outputs != likelihood.outputs:
            raise ValueError(
                f"Expected a decoder with outputs={likelihood.outputs} for {type(likelihood).__name__}; "
                f"got outputs={decoder.outputs}: pass outputs=likelihood.outputs to the decoder."
            )
        self.decoder = decoder
        self.prior = prior
        self.likelihood = likelihood

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        return self.decoder.latent_dim

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return self.decoder.shape

    def with_prior(self, prior: Prior) -> VAE:
        """The VAE with another prior; decoder and likelihood are shared, not copied.

        Args:
            prior: A prior of the same `latent_dim`, of the decoder's dtype and on its device.

        Raises:
            ValueError: If `latent_dim` differs.
        """
        return VAE(decoder=self.decoder, prior=prior, likelihood=self.likelihood)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `vae.safetensors` and `vae.json`, from which `from_pretrained` rebuilds the VAE.

        A user's own parts must keep the arguments of their constructors as attributes of the same names.

        Args:
            folder: The folder; it is made if it does not exist.

        Raises:
            ValueError: If a part does not keep its arguments, or its class is private or local.
        """
        save_pretrained(self, folder, "vae")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VAE:
        """Build the VAE that `save_pretrained` wrote, with its weights; nothing in the files is executed.

        A `VampPrior` has to be bound to its guide afterwards. The modules of a user's own parts have to be imported
        before.

        Args:
            folder: The folder of `save_pretrained`, or a run.

        Raises:
            ValueError: If a file is missing or invalid, or the weights do not fit.

        Example:
            >>> import tempfile
            >>> from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
            >>> decoder = MLPDecoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     VAE(decoder, StandardNormal(2), Bernoulli()).save_pretrained(folder)
            ...     VAE.from_pretrained(folder).latent_dim
            2
        """
        return load_pretrained(folder, "vae", cls)

    def model(self, x: Tensor) -> Tensor:
        """Generate z and observe x.

        Args:
            x: A `batch x shape` tensor.

        Returns:
            x, or a sample where the site is not observed (`poutine.uncondition`).

        Raises:
            ValueError: If the shape of a datum is not the decoder's, or the data are integers or booleans.
        """
        register("vae", self)
        check_floating(x)
        if x.shape[1:] != self.shape:
            raise ValueError(f"Expected x with data of shape {self.shape}; got {tuple(x.shape)}.")
        if pyro.settings.get("validate_distributions_pyro"):
            self.likelihood.check(x)
        with pyro.plate("data", len(x), dim=-1):
            z = self.prior.sample("z")
            likelihood = self.likelihood(self.decoder(z))
            values = len(self.shape) - likelihood.event_dim
            sample: Tensor = pyro.sample("x", likelihood.to_event(values), obs=x)
        return sample

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Mean of the likelihood at z, in evaluation mode.

        Args:
            z: A `batch_shape x latent_dim` tensor.

        Returns:
            A `batch_shape x shape` tensor.
        """
        with evaluation_mode(self):
            return self.likelihood.mean(self.decoder(z))

    @torch.no_grad()
    def generate(self, n: int, *, mean: bool = True, seed: int | None = None) -> Tensor:
        """Data generated from `n` draws of the prior, in evaluation mode.

        Args:
            n: Number of draws.
            mean: Whether to return the likelihood's mean at each draw, rather than a draw from the likelihood.
            seed: Seed of the draws; by default a fresh one. torch's random state is unchanged.

        Returns:
            An `n x shape` tensor.
        """
        with kept_random_state(secrets.randbits(32) if seed is None else seed), evaluation_mode(self):
            outputs = self.decoder(self.prior().sample((n,)))
            return self.likelihood.mean(outputs) if mean else self.likelihood(outputs).sample()
