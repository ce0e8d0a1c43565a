"""Importance-weighted estimates of log p(x), the log-likelihood of held-out data under a VAE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from latentmix.guides import AmortizedGuide
from latentmix.inference.batches import Transform, as_batch, transformed
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.em.density import Densities
from latentmix.models import VAE
from latentmix.models.priors import Prior
from latentmix.models.process_state import seed_generators
from latentmix.models.pyro_modules import evaluation_mode

__all__ = ["log_likelihood", "log_likelihoods"]


def log_likelihood(
    vae: VAE,
    guide: AmortizedGuide,
    x: Tensor,
    samples: int = 5000,
    *,
    batch_size: int = 64,
    chunk: int = 2048,
    transform: Transform | None = None,
    seed: int = 0,
) -> Tensor:
    r"""Estimate :math:`\log p(x)` of each datum by importance sampling from q,
    :math:`\log \frac1S \sum_s p(x, z_s) / q(z_s \mid x)`.

    In expectation it is a lower bound that increases with the samples and tends to :math:`\log p(x)` (Burda et al.,
    *Importance Weighted Autoencoders*, 2016, equations 8 and 9). Weights are accumulated in float64, so that memory
    does not grow with `samples`. All runs in evaluation mode and without side effects.

    Args:
        vae: The model; the prior's own density is used, even where `model` enumerates its components.
        guide: The guide q, of any family.
        x: An `n x shape` tensor.
        samples: Latents per datum, `S`.
        batch_size: Data that are encoded together.
        chunk: Most latents that are decoded together; it determines the memory.
        transform: Applied to every batch of data, such as a binarisation.
        seed: Seed of the draws. Draws of `transform`, and the first latents, do not depend on `samples`.

    Returns:
        An `n` tensor, float64, in nats.

    Raises:
        ValueError: If there are no data, they lie outside the likelihood's support, or a size is not positive.

    Example:
        >>> import torch
        >>> from latentmix.guides import AmortizedGuide, MLPEncoder
        >>> from latentmix.inference import log_likelihood
        >>> from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
        >>> decoder = MLPDecoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4))
        >>> vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())
        >>> guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4)))
        >>> log_likelihood(vae, guide, torch.zeros(3, 1, 4, 4), samples=10).shape
        torch.Size([3])
    """
    estimates = log_likelihoods(
        vae,
        guide,
        x,
        {"prior": vae.prior},
        samples,
        batch_size=batch_size,
        chunk=chunk,
        transform=transform,
        seed=seed,
    )
    return estimates["prior"]


def log_likelihoods(
    vae: VAE,
    guide: AmortizedGuide,
    x: Tensor,
    priors: Mapping[str, Prior],
    samples: int = 5000,
    *,
    batch_size: int = 64,
    chunk: int = 2048,
    transform: Transform | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Estimate log p(x) under several priors with the same latents, which are encoded and decoded once.

    Equal to `log_likelihood` of the VAE with each of the priors.

    Args:
        vae: The model; its decoder and likelihood are used.
        guide: The guide q.
        x: An `n x shape` tensor.
        priors: Priors by name.
        samples: Latents per datum.
        batch_size: Data that are encoded together.
        chunk: Most latents that are decoded together.
        transform: Applied to every batch of data.
        seed: Seed of the draws.

    Returns:
        Estimates by the name of the prior, each an `n` tensor, float64, in nats.

    Raises:
        ValueError: As `log_likelihood`; or if there is no prior, or a prior has another `latent_dim`.

    Example:
        >>> import torch
        >>> from latentmix.guides import AmortizedGuide, MLPEncoder
        >>> from latentmix.inference import log_likelihoods
        >>> from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
        >>> decoder = MLPDecoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4))
        >>> vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())
        >>> guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4)))
        >>> priors = {"normal": StandardNormal(2)}
        >>> log_likelihoods(vae, guide, torch.zeros(3, 1, 4, 4), priors, samples=10)["normal"].shape
        torch.Size([3])
    """
    (data,) = as_batch(x)
    if min(samples, batch_size, chunk) < 1:
        raise ValueError(
            f"Expected samples, batch_size and chunk of at least 1; got {samples}, {batch_size} and {chunk}."
        )
    if not priors:
        raise ValueError("Expected at least one prior; got none.")
    for name, prior in priors.items():
        if prior.latent_dim != vae.latent_dim:
            raise ValueError(f"Expected priors of latent_dim {vae.latent_dim}; got {prior.latent_dim} for {name!r}.")
    totals: list[Tensor] = []
    with (
        isolated(seed=seed, validation=False),
        evaluation_mode(vae, guide, *priors.values()),
        torch.no_grad(),
    ):
        densities = Densities([prior() for prior in priors.values()])
        for batch in seeded_batches(data, min(batch_size, chunk), transform, seed):
            vae.likelihood.check(batch)
            total = torch.full((len(priors), len(batch)), -torch.inf, dtype=torch.float64, device=batch.device)
            for log_weights in _log_weights(vae, guide, batch, densities, samples, chunk):
                total = torch.logaddexp(total, log_weights.logsumexp(1))
            totals.append(total)
        estimates = torch.cat(totals, dim=1) - torch.tensor(samples, dtype=torch.float64).log()
    return dict(zip(priors, estimates, strict=True))


def seeded_batches(x: Tensor, batch_size: int, transform: Transform | None, seed: int) -> Iterator[Tensor]:
    """Batches of data after `transform`; before each all generators are seeded, by a sequence that `seed` determines.

    Args:
        x: An `n x shape` tensor.
        batch_size: Data a batch.
        transform: Applied to every batch.
        seed: Seed of the sequence.
    """
    starts = range(0, len(x), batch_size)
    seeds = torch.randint(2**31, (len(starts),), generator=torch.Generator().manual_seed(seed))
    for start, own in zip(starts, seeds.tolist(), strict=True):
        seed_generators(own)
        (batch,) = transformed((x[start : start + batch_size],), transform)
        yield batch


def _log_weights(
    vae: VAE,
    guide: AmortizedGuide,
    x: Tensor,
    priors: Densities,
    samples: int,
    chunk: int,
) -> Iterator[Tensor]:
    """Logarithms of p(x, z) / q(z given x): `priors x s x batch` tensors in float64, `samples` latents in all."""
    q = guide.posterior(x)
    step = chunk // len(x)
    for start in range(0, samples, step):
        z = q.sample(torch.Size([step]))  # always whole chunks, as torch's draws depend on their number
        log_q, z = q.log_prob(z)[: samples - start], z[: samples - start]
        yield log_density(vae, x, z) - log_q.double() + priors(z)


def log_density(vae: VAE, x: Tensor, z: Tensor) -> Tensor:
    """Log-density of data given latents, summed over the values of a datum, as float64.

    Args:
        vae: The model.
        x: A `batch x shape` tensor.
        z: An `s x batch x latent_dim` tensor.

    Returns:
        An `s x batch` tensor.
    """
    density = vae.likelihood(vae.decoder(z)).log_prob(x)
    return density.reshape(*z.shape[:-1], -1).sum(-1).double()
