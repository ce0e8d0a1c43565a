r"""Conjugate priors of Gaussian mixtures and their variational posteriors, from the sufficient statistics of EM.

Weights follow a symmetric Dirichlet distribution, or the sticks :math:`v_k \sim \mathrm{Beta}(1, \gamma)` of a
Dirichlet process; precisions a Wishart distribution with :math:`\mathbb E \Lambda_k = \nu_k W_k`, and
:math:`\mu_k \mid \Lambda_k \sim \mathcal N(m_k, (\beta_k \Lambda_k)^{-1})`. With
:math:`\Sigma_k = (\nu_k W_k)^{-1}` the expected log of weight times density is
:math:`\log \mathcal N(x \mid m_k, \Sigma_k)` plus a constant, so the E step is that of a mixture with other weights.

Bishop, *Pattern Recognition and Machine Learning* (2006), section 10.2; Blei and Jordan, *Variational inference for
Dirichlet process mixtures* (2006), https://doi.org/10.1214/06-BA104. Covariances with a structure follow
scikit-learn's conventions: `diag` and `spherical` take the expected log-determinant of the full Wishart, and the one
covariance of `tied` has the mean of the components' degrees of freedom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["ConjugatePrior", "VariationalPosterior", "WeightPrior", "digammas", "lgammas", "log_beta", "log_det"]

WeightPrior = Literal["dirichlet_process", "dirichlet_distribution"]


@final
@dataclass(frozen=True, repr=False)
class ConjugatePrior(Displayed):
    """Dirichlet, Gaussian and Wishart prior of a mixture of `D` features.

    Args:
        weight_prior: "dirichlet_process" or "dirichlet_distribution".
        weight_concentration: Of the process, or of every component.
        mean: `(D,)` centre of the components' means, in float64.
        mean_precision: Number of points that the centre counts for.
        degrees_of_freedom: Of the Wishart distribution, above `D - 1`.
        covariance: Its inverse scale: `D x D` (full, tied), `(D,)` (diag) or a number (spherical).
        structure: The covariance structure.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.conjugate import ConjugatePrior
        >>> from latentmix.inference.mixtures.em.statistics import SufficientStatistics
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> ones, diagonal = torch.ones(1).double(), covariance_structure("diag")
        >>> prior = ConjugatePrior("dirichlet_distribution", 1.0, 0 * ones, 1.0, 1.0, ones, diagonal)
        >>> x = torch.tensor([[1.0], [2.0], [3.0]]).double()
        >>> prior.posterior(SufficientStatistics.of(x, torch.ones(3, 1).double(), x[:1], diagonal)).means
        tensor([[1.5000]], dtype=torch.float64)
    """

    weight_prior: WeightPrior
    weight_concentration: float
    mean: Tensor
    mean_precision: float
    degrees_of_freedom: float
    covariance: Tensor
    structure: CovarianceStructure

    def posterior(self, statistics: SufficientStatistics, reg_covar: float = 0.0) -> VariationalPosterior:
        """The M step (Bishop, equations 10.58 to 10.63; Blei and Jordan, equations 18 and 19).

        Args:
            statistics: Of the data under responsibilities.
            reg_covar: Variance added to every component's covariance before the prior.
        """
        structure = self.structure
        counts = statistics.counts + 10 * torch.finfo(statistics.counts.dtype).eps
        size = (len(counts), len(self.mean))
        shift = statistics.sums / counts[:, None]
        within = structure.estimate(counts, statistics.scatter, shift)
        within = structure.regularize(within, reg_covar)
        precision = self.mean_precision + counts
        offset = statistics.centres + shift - self.mean
        own = self.covariance.expand(structure.covariance_shape(*size))
        scatter = (
            structure.pool(torch.ones_like(counts), own)
            + structure.pool(counts, within)
            + structure.scatter((counts * self.mean_precision / precision)[None], offset[None])
        )
        degrees = self.degrees_of_freedom + counts
        return VariationalPosterior(
            weight_prior=self.weight_prior,
            weight_concentration=self._concentration(counts),
            mean_precision=precision,
            means=self.mean + offset * (counts / precision)[:, None],
            degrees_of_freedom=degrees.mean().expand(size[0]) if structure.shared else degrees,
            covariances=structure.estimate(degrees, scatter, torch.zeros_like(offset)),
            structure=structure,
        )

    def _concentration(self, counts: Tensor) -> Tensor:
        if self.weight_prior == "dirichlet_distribution":
            return self.weight_concentration + counts
        beyond = counts.flip(0).cumsum(0).flip(0)[1:]
        return torch.stack([1 + counts, self.weight_concentration + torch.cat([beyond, counts.new_zeros(1)])])


@final
@dataclass(frozen=True, repr=False)
class VariationalPosterior(Displayed):
    """Factorised posterior of a mixture of `K` components and `D` features, in float64.

    Args:
        weight_prior: "dirichlet_process" or "dirichlet_distribution".
        weight_concentration: `(K,)` of a Dirichlet distribution, or `2 x K` of Beta distributions of sticks.
        mean_precision: `(K,)` numbers of points that the means count for.
        means: `K x D`.
        degrees_of_freedom: `(K,)`.
        covariances: Inverses of the expected precisions, in the stored shape.
        structure: The covariance structure.
        factors: Upper factors of the expected precisions, as `MixtureParameters` has them.
    """

    weight_prior: WeightPrior
    weight_concentration: Tensor
    mean_precision: Tensor
    means: Tensor
    degrees_of_freedom: Tensor
    covariances: Tensor
    structure: CovarianceStructure
    factors: Tensor | None = None

    @cached_property
    def weights(self) -> Tensor:
        """Expected weights, `(K,)`, scaled to sum to 1 for a process."""
        a = self.weight_concentration
        if self.weight_prior == "dirichlet_distribution":
            return a / a.sum()
        rest = torch.cat([a.new_ones(1), (a[1] / a.sum(0)).cumprod(0)[:-1]])
        weights = a[0] / a.sum(0) * rest
        return weights / weights.sum()

    @cached_property
    def expected_log_weights(self) -> Tensor:
        """Expected logs of the weights, `(K,)` (Bishop, equation 10.66; Blei and Jordan, equation 22)."""
        a = self.weight_concentration
        if self.weight_prior == "dirichlet_distribution":
            return a.digamma() - a.sum().digamma()
        taken, left = a.digamma() - a.sum(0).digamma()
        return taken + torch.cat([a.new_zeros(1), left.cumsum(0)[:-1]])

    @cached_property
    def parameters(self) -> MixtureParameters:
        """The mixture of the expected weights, means and precisions."""
        return MixtureParameters(self.weights, self.means, self.covariances, self.structure, self.factors)

    @cached_property
    def log_scale(self) -> float:
        """Expected log of weight times density less `effective.log_joint`, in nats."""
        return float(self._log_weights.logsumexp(0))

    @cached_property
    def effective(self) -> MixtureParameters:
        """The mixture whose E step is that of this posterior.

        Its log of weight times density is the expected one (Bishop, equation 10.46) less `log_scale`. Weights that
        underflow are 0, and such components have no responsibilities.
        """
        factors = self.parameters.precisions_cholesky
        return MixtureParameters(self._log_weights.softmax(0), self.means, self.covariances, self.structure, factors)

    @property
    def _log_weights(self) -> Tensor:
        n_features = self.means.shape[1]
        constant = digammas(self.degrees_of_freedom, n_features) + n_features * (
            math.log(2) - self.degrees_of_freedom.log() - 1 / self.mean_precision
        )
        return self.expected_log_weights + constant / 2

    def to(self, device: torch.device) -> VariationalPosterior:
        """The posterior on a device."""
        if self.means.device == device:
            return self
        names = ("weight_concentration", "mean_precision", "means", "degrees_of_freedom", "covariances")
        factors = None if self.factors is None else self.factors.to(device)
        return replace(self, factors=factors, **{name: getattr(self, name).to(device) for name in names})

    def lower_bound(self, entropy: Tensor) -> float:
        """The evidence bound after an M step without its constants, in nats, as in scikit-learn.

        Args:
            entropy: Entropy of the responsibilities of the M step.
        """
        n_features, degrees = self.means.shape[1], self.degrees_of_freedom
        log_volume = log_det(self.parameters) - n_features / 2 * degrees.log()
        wishart = degrees * (log_volume + n_features / 2 * math.log(2)) + lgammas(degrees, n_features)
        weights = log_beta(self.weight_concentration)
        return float(entropy + wishart.sum() + weights - n_features / 2 * self.mean_precision.log().sum())


def log_det(parameters: MixtureParameters) -> Tensor:
    """Half the log-determinants of the precisions: `(K,)`."""
    n_components, n_features = parameters.means.shape
    return parameters.structure.half_log_det(parameters.precisions_cholesky, n_features).expand(n_components)


def digammas(degrees: Tensor, dimension: int) -> Tensor:
    """The derivative of `lgammas` by half the degrees of freedom: `(K,)` for `(K,)`."""
    return _halves(degrees, dimension).digamma().sum(1)


def lgammas(degrees: Tensor, dimension: int) -> Tensor:
    """Multivariate log-gammas of half the degrees of freedom, less a constant: `(K,)` for `(K,)`."""
    return _halves(degrees, dimension).lgamma().sum(1)


def _halves(degrees: Tensor, dimension: int) -> Tensor:
    return (degrees[:, None] - torch.arange(dimension).to(degrees)) / 2


def log_beta(concentration: Tensor) -> Tensor:
    """Log-normaliser of Dirichlet distributions along the first dimension, summed over the others."""
    return concentration.lgamma().sum() - concentration.sum(0).lgamma().sum()
