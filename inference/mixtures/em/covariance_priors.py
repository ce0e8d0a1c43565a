r"""Priors on covariances for EM, whose M step then finds the posterior mode (MAP).

Each covariance of a structure of matrices has an inverse Wishart prior,
:math:`p(\Sigma) \propto |\Sigma|^{-(\nu + D + 1) / 2} \exp(-\tfrac12 \operatorname{tr} \Psi \Sigma^{-1})`, and each
variance otherwise an inverse gamma, :math:`p(\sigma^2) \propto (\sigma^2)^{-(\nu / 2 + 1)} \exp(-\psi / 2 \sigma^2)`
(Fraley and Raftery, *Bayesian regularization for normal mixture estimation and model-based clustering*, 2007,
https://doi.org/10.1007/s00357-007-0004-5, table 1, with flat priors on the means).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["CovariancePrior"]


@final
@dataclass(frozen=True, repr=False)
class CovariancePrior(Displayed):
    r"""A prior on the covariances of a mixture.

    Args:
        scale: :math:`\Psi`: `D x D` (full, tied), `(D,)` (diag, tied_diag) or a number (spherical), in float64.
        degrees_of_freedom: :math:`\nu`.
        structure: The covariance structure.
        n_features: Number of features `D`.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.covariance_priors import CovariancePrior
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
        >>> mixture = MixtureParameters(torch.ones(1).double(), zeros, ones, covariance_structure("diag"))
        >>> CovariancePrior.of([1.0, 1.0], 3.0, mixture.structure, zeros[0]).log_density(mixture)
        tensor(-2.8379, dtype=torch.float64)
    """

    scale: Tensor
    degrees_of_freedom: float
    structure: CovarianceStructure
    n_features: int

    @classmethod
    def of(
        cls, scale: Any, degrees_of_freedom: float | None, structure: CovarianceStructure, like: Tensor
    ) -> CovariancePrior | None:
        """The prior on covariances of a structure, or `None` where no scale is given.

        Args:
            scale: As above, an array, a tensor or nested lists.
            degrees_of_freedom: By default the number of features.
            structure: The covariance structure.
            like: A `(D,)` tensor on the device of the points.

        Raises:
            ValueError: If the scale has another shape or is not positive definite, the density is improper, or
                degrees of freedom are given without a scale.
        """
        if scale is None:
            if degrees_of_freedom is not None:
                raise ValueError("Expected a covariance_prior beside degrees_of_freedom_prior; got None.")
            return None
        n_features, matrix = len(like), structure.correlated
        shape = structure.single_shape(n_features)
        tensor = as_tensor(scale).detach().to(like.device, torch.float64)
        if tuple(tensor.shape) != shape:
            example = ("0.1", f"numpy.full({n_features}, 0.1)", f"0.1 * numpy.eye({n_features})")[len(shape)]
            raise ValueError(
                f"Expected covariance_prior of shape {shape} for {structure.name} covariances; got "
                f"{tuple(tensor.shape)}: make one such as {example}."
            )
        sound = bool(tensor.isfinite().all())
        sound = sound and (not matrix or torch.allclose(tensor, tensor.mT, atol=1e-8 * float(tensor.abs().max())))
        if not sound or bool((torch.linalg.cholesky_ex(tensor)[1] > 0) if matrix else (tensor <= 0).any()):
            raise ValueError("Expected covariance_prior to be finite and positive definite; got one that is not.")
        freedom = float(n_features) if degrees_of_freedom is None else float(degrees_of_freedom)
        least = n_features - 1.0 if matrix else 0.0
        if not (freedom > least and math.isfinite(freedom)):
            raise ValueError(f"Expected degrees_of_freedom_prior > {least:g}; got {freedom}.")
        return cls(tensor, freedom, structure, n_features)

    def mode(self, counts: Tensor, estimate: Tensor) -> Tensor:
        """Posterior modes of the covariances, of the shape of `estimate`.

        Args:
            counts: `(K,)` counts of the components.
            estimate: Their maximum-likelihood covariances.
        """
        values = self.structure.scale_counts(counts, self.n_features)
        values = values[..., None] if self.structure.correlated else values
        return (values * estimate + self.scale) / (values + self._exponent)

    def log_density(self, parameters: MixtureParameters) -> Tensor:
        """Log-density of the covariances of a mixture, over all components."""
        half, factors = self.degrees_of_freedom / 2, parameters.precisions_cholesky
        if self.structure.correlated:
            traces = ((self.scale @ factors) * factors).sum((-2, -1))
            log_det = -2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            constant = half * self.scale.logdet() - half * self.n_features * math.log(2)
            constant = constant - torch.mvlgamma(self.scale.new_tensor(half), self.n_features)
        else:
            traces, log_det = self.scale * factors.square(), -2 * factors.log()
            constant = half * (self.scale / 2).log() - math.lgamma(half)
        return (constant - (self._exponent * log_det + traces) / 2).sum()

    @property
    def _exponent(self) -> float:
        return self.degrees_of_freedom + (self.n_features + 1 if self.structure.correlated else 2)
