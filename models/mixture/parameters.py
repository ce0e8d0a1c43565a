"""The parameters of a Gaussian mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceStructure, covariance_structure

__all__ = ["MixtureParameters"]


@final
@dataclass(frozen=True, repr=False)
class MixtureParameters(Displayed):
    r"""Weights, means and covariances of :math:`p(x) = \sum_k \pi_k \mathcal N(x \mid \mu_k, \Sigma_k)`.

    Args:
        weights: A `(K,)` tensor on the simplex.
        means: A `K x D` tensor.
        covariances: In the stored shape of the structure.
        structure: The covariance structure.
        factors: Upper factors of the precisions in the stored shape, where they are known to more digits than the
            covariances could give.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> diagonal = covariance_structure("diag")
        >>> mixture = MixtureParameters(torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2), diagonal)
        >>> mixture.log_likelihood(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    structure: CovarianceStructure
    factors: Tensor | None = None

    def shown(self) -> dict[str, Any]:
        return {
            "mixture": self._headline(),
            "weights": self.weights,
            "means": self.means,
            "covariances": self.covariances,
        }

    def _headline(self) -> str:
        components, features = self.means.shape
        return f"{components} components, {features} features, {self.structure.name}"

    @classmethod
    def from_scale_tril(
        cls, weights: Tensor, means: Tensor, scale_tril: Tensor, structure: CovarianceStructure | None = None
    ) -> MixtureParameters:
        """A mixture from the lower Cholesky factors of its covariance matrices, without loss of their digits.

        Args:
            weights: A `(K,)` tensor on the simplex.
            means: A `K x D` tensor.
            scale_tril: The factors: `K x D x D`, tied `D x D`.
            structure: Full or tied; by default full.
        """
        structure = structure or covariance_structure("full")
        factors = structure.precisions_cholesky_from_root(scale_tril)
        return cls(weights, means, scale_tril @ scale_tril.mT, structure, factors)

    @classmethod
    def from_precisions_cholesky(
        cls, weights: Tensor, means: Tensor, factors: Tensor, structure: CovarianceStructure
    ) -> MixtureParameters:
        """A mixture from the upper factors of its precisions (stored shape), without loss of their digits."""
        return cls(weights, means, structure.covariances(*structure.factors(factors)), structure, factors)

    def sites(self, covariance_floor: float | Tensor = 0.0) -> dict[str, Tensor]:
        """Values of the sites at which a `MixtureModel` with that floor has this density.

        Variances that do not exceed the floor, in any direction, are set a thousandth of it above the floor.
        """
        floor = torch.as_tensor(covariance_floor, dtype=self.means.dtype, device=self.means.device)
        floor = floor.expand(self.means.shape[1])
        precisions_cholesky = self.precisions_cholesky
        if bool((floor > 0).any()):
            precisions_cholesky = self.structure.precisions_cholesky(
                self.structure.subtract_floor(self.covariances, floor)
            )
        scales, correlation = self.structure.factors(precisions_cholesky)
        tiny = torch.finfo(self.weights.dtype).tiny ** 0.5
        weights = self.weights.clamp_min(tiny)
        values = {"weights": weights / weights.sum(), "means": self.means, "scales": scales}
        return values if correlation is None else values | {"correlation_cholesky": correlation}

    @cached_property
    def precisions_cholesky(self) -> Tensor:
        """Upper factors `U` of the precisions `U U^T`, in the stored shape; NaN where singular."""
        return self.structure.precisions_cholesky(self.covariances) if self.factors is None else self.factors

    @cached_property
    def precisions(self) -> Tensor:
        """Inverses of the covariances, in the stored shape."""
        return self.structure.precisions(self.precisions_cholesky)

    @property
    def scale_tril(self) -> Tensor:
        """Lower Cholesky factors of the covariances, `K x D x D` for every structure."""
        return self.structure.expand(self.structure.scale_tril(self.precisions_cholesky), *self.means.shape)

    @cached_property
    def collinearity(self) -> float:
        """Least standard deviation of a feature given those before it, relative to its own; 1 without correlations.

        NaN where a covariance is singular.
        """
        if not self.structure.correlated:
            return 1.0
        variances = self.covariances.diagonal(dim1=-2, dim2=-1)
        given = self.precisions_cholesky.diagonal(dim1=-2, dim2=-1)
        return float((variances.sqrt() * given).amax().reciprocal())

    @property
    def regular(self) -> bool:
        """Whether the covariances of all components are numerically positive definite."""
        checked = self.collinearity if self.structure.correlated else float(self.precisions_cholesky.sum())
        return math.isfinite(checked) or not bool(self.singular.any())

    @property
    def singular(self) -> Tensor:
        """Whether each component's covariance is not numerically positive definite: `(K,)` booleans."""
        broken = ~self.precisions_cholesky.isfinite()
        if not self.structure.shared:
            return broken.flatten(1).any(1) if broken.ndim > 1 else broken
        return broken.any().expand(len(self.weights))

    def log_joint(self, x: Tensor) -> Tensor:
        """Log of weight times density: `n x K` for `n x D` points."""
        return self.weights.log() + self.structure.log_density(x, self.means, self.precisions_cholesky)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Log-density of `n x D` points: `(n,)`."""
        return self.log_joint(x).logsumexp(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Probabilities of the components given `n x D` points: `n x K`."""
        return self.log_joint(x).softmax(-1)

    @property
    def mean(self) -> Tensor:
        """Mean of the whole mixture: `(D,)`."""
        return self.weights @ self.means / self.weights.sum()

    @property
    def variance(self) -> Tensor:
        """Variance of each feature under the whole mixture: `(D,)`."""
        within = self.expanded_covariances().diagonal(dim1=-2, dim2=-1)
        return self.weights @ (within + (self.means - self.mean).square()) / self.weights.sum()

    def expanded_covariances(self) -> Tensor:
        """Covariances as `K x D x D` matrices, for every structure."""
        return self.structure.expand(self.covariances, *self.means.shape)

    def n_parameters(self) -> int:
        """Number of free parameters."""
        n_components, n_features = self.means.shape
        covariances = self.structure.n_parameters(n_components, n_features)
        return covariances + n_components * n_features + n_components - 1

    def affine(self, scale: Tensor, shift: Tensor) -> MixtureParameters:
        """Parameters of the mixture of `x * scale + shift`; both are `(D,)`.

        Where the structure is isotropic, all values of `scale` must be equal.
        """
        covariances = self.structure.rescale(self.covariances, scale)
        factors = self.structure.rescale_factors(self.precisions_cholesky, scale)
        return MixtureParameters(self.weights, self.means * scale + shift, covariances, self.structure, factors)

    def to(self, like: Tensor) -> MixtureParameters:
        """The parameters in the dtype and on the device of `like`."""
        weights, means, covariances, factors = (
            tensor.detach().to(like)
            for tensor in (self.weights, self.means, self.covariances, self.precisions_cholesky)
        )
        return MixtureParameters(weights, means, covariances, self.structure, factors)

    def permuted(self, order: Tensor) -> MixtureParameters:
        """The components at `(K,)` indices: the same density in another order."""
        shared = self.structure.shared
        covariances, factors = (
            part if shared else part[order] for part in (self.covariances, self.precisions_cholesky)
        )
        return MixtureParameters(self.weights[order], self.means[order], covariances, self.structure, factors)
