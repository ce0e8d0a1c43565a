"""Statistics of a VAE's latent: rate and distortion, active units, aggregate posterior and prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from latentmix.guides import AmortizedGuide
from latentmix.inference.batches import Transform, as_batch
from latentmix.inference.importance import log_density, seeded_batches
from latentmix.inference.isolation import isolated
from latentmix.inference.objectives.divergences import kl_per_dimension
from latentmix.models import VAE
from latentmix.models.display import Displayed
from latentmix.models.pyro_modules import evaluation_mode

__all__ = ["LatentStatistics", "latent_statistics"]


@dataclass(frozen=True, repr=False)
class LatentStatistics(Displayed):
    """Means over data, in nats per datum unless stated otherwise; tensors are float64.

    Attributes:
        rate: Expected divergence KL(q(z given x), p(z)) (Alemi et al., *Fixing a Broken ELBO*, 2018, section 2), in
            closed form where there is one, else from the samples.
        distortion: Expected negative log-likelihood, -E log p(x given z), from the samples.
        kl_per_dimension: The rate by dimension, `(D,)`; None where prior or guide is not a product of Normals.
        mean_variances: Variance over the data of the mean of q, `(D,)`.
        active: Whether the variance of a dimension's mean exceeds the threshold, `(D,)` (Burda et al., *Importance
            Weighted Autoencoders*, 2016, section 5.2).
        mutual_information: Estimate of the mutual information I(x; z) over the data of the aggregate.
        marginal_kl: Estimate of the divergence of the aggregate posterior from the prior.
        aggregate_mean: Mean of one sample of q per datum, `(D,)`.
        aggregate_covariance: Covariance of these samples, `(D, D)`.
        aggregate_size: Number of data in the estimated aggregate.
    """

    rate: float
    distortion: float
    kl_per_dimension: Tensor | None
    mean_variances: Tensor
    active: Tensor
    mutual_information: float
    marginal_kl: float
    aggregate_mean: Tensor
    aggregate_covariance: Tensor
    aggregate_size: int

    def shown(self) -> dict[str, Any]:
        return {
            "ELBO": f"{self.elbo:.6g} nats, minus rate and distortion",
            "rate": f"{self.rate:.6g} nats, KL(q(z|x), p(z))",
            "distortion": f"{self.distortion:.6g} nats, -E_q log p(x|z)",
            "active units": f"{self.active_units} of {len(self.active)}",
            "mutual information": f"{self.mutual_information:.6g} nats, of {self.aggregate_size:,} data",
            "marginal KL": f"{self.marginal_kl:.6g} nats, of the aggregate posterior from the prior",
        }

    @property
    def elbo(self) -> float:
        """The bound at beta = 1, `-(rate + distortion)`."""
        return -(self.rate + self.distortion)

    @property
    def active_units(self) -> int:
        """Number of active dimensions."""
        return int(self.active.sum())


def latent_statistics(
    vae: VAE,
    guide: AmortizedGuide,
    x: Tensor,
    *,
    samples: int = 1,
    batch_size: int = 1024,
    aggregate: int = 1000,
    threshold: float = 0.01,
    transform: Transform | None = None,
    seed: int = 0,
) -> LatentStatistics:
    r"""Measure rate, distortion and the use of the latent, in evaluation mode and without side effects.

    The aggregate posterior :math:`q(z) = \frac1M \sum_j q(z \mid x_j)` of `M` data, drawn without replacement, splits
    their rate into :math:`I(x; z) + \mathrm{KL}(q(z) \,\|\, p(z))` (Hoffman and Johnson, *ELBO surgery*, 2016,
    section 2). Both parts are means over one sample of q per datum of the subset, and unbiased for it. The information
    is at most :math:`\log M`: with a rate near that bound the estimate does not hold for all data.

    Args:
        vae: The model.
        guide: The guide.
        x: An `n x shape` tensor.
        samples: Latents per datum, for the distortion and a rate without a closed form.
        batch_size: Data a batch.
        aggregate: Most data in the aggregate posterior, `M`; the cost grows with its square.
        threshold: Variance above which a dimension is active.
        transform: Applied to every batch.
        seed: Seed of the draws.

    Raises:
        ValueError: If there are no data, they lie outside the likelihood's support, or a size is not positive.

    Example:
        >>> import torch
        >>> from latentmix.guides import AmortizedGuide, MLPEncoder
        >>> from latentmix.inference import latent_statistics
        >>> from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
        >>> decoder = MLPDecoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4))
        >>> vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())
        >>> guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4)))
        >>> statistics = latent_statistics(vae, guide, torch.zeros(5, 1, 4, 4))
        >>> statistics.active_units, statistics.kl_per_dimension.shape
        (0, torch.Size([2]))
    """
    (data,) = as_batch(x)
    if min(samples, batch_size, aggregate) < 1:
        raise ValueError(
            f"Expected samples, batch_size and aggregate of at least 1; got {samples}, {batch_size} and {aggregate}."
        )
    means, latents, rates, distortions, divergences = [], [], [], [], []
    subset = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:aggregate].sort().values
    chosen = []
    with isolated(seed=seed, validation=False), evaluation_mode(vae, guide), torch.no_grad():
        p = vae.prior()
        for number, batch in enumerate(seeded_batches(data, batch_size, transform, seed)):
            vae.likelihood.check(batch)
            features = guide.encoder(batch)
            q = guide.head(features)
            z = q.sample(torch.Size([samples]))
            means.append(guide.head.mean(features).double())
            latents.append(z[0])
            distortions.append(-log_density(vae, batch, z).mean(0))
            kl = kl_per_dimension(q, p)
            if kl is not None:
                divergences.append(kl.double())
            rates.append(_rate(q, p, z))
            here = subset[(subset >= number * batch_size) & (subset < (number + 1) * batch_size)] - number * batch_size
            chosen.append(features[here.to(features.device)])
        subset = subset.to(latents[0].device)
        drawn = torch.cat(latents)
        information, marginal = _aggregate(guide.head(torch.cat(chosen)), p, drawn[subset])
    by_dimension = torch.cat(divergences).mean(0) if divergences else None
    variances = torch.cat(means).var(0, correction=0)
    return LatentStatistics(
        rate=float(torch.cat(rates).mean()) if by_dimension is None else float(by_dimension.sum()),
        distortion=float(torch.cat(distortions).mean()),
        kl_per_dimension=by_dimension,
        mean_variances=variances,
        active=variances > threshold,
        mutual_information=information,
        marginal_kl=marginal,
        aggregate_mean=drawn.double().mean(0),
        aggregate_covariance=torch.atleast_2d(drawn.double().mT.cov(correction=0)),
        aggregate_size=len(subset),
    )


def _rate(q: TorchDistribution, p: TorchDistribution, z: Tensor) -> Tensor:
    """KL(q, p) of each datum, `(batch,)`: in closed form, else the mean over `s x batch x D` samples."""
    try:
        return kl_divergence(q, p).double()
    except NotImplementedError:
        return (q.log_prob(z).double() - p.log_prob(z)).mean(0)


def _aggregate(q: TorchDistribution, p: TorchDistribution, z: Tensor) -> tuple[float, float]:
    """Mutual information and marginal divergence of `M` posteriors and one sample of each, `M x D`."""
    rows = max(1, 2**22 // z.numel())
    mixture = torch.cat([q.log_prob(part[:, None]).double().logsumexp(1) for part in z.split(rows)]) - math.log(len(z))
    information = (q.log_prob(z).double() - mixture).mean()
    return float(information), float((mixture - p.log_prob(z)).mean())
