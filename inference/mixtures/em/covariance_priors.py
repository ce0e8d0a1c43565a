r"""Priors on covariances for EM: the M step is then the posterior mode (MAP).

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
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["CovariancePrior"]


@final
@dataclass(frozen=True)
class CovariancePrior:
    r"""A prior on the covariances of a mixture.

    Args:
        scale: :math:`\Psi`: `D x D` (full, tied), `(D,)` (diag) or one number (spherical), in float64.
        degrees_of_freedom: :math:`\nu`.
        structure: What the covariances share.
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
            scale: As above, in any form.
            degrees_of_freedom: By default the number of features.
            structure: What the covariances share.
            like: A `(D,)` tensor on the device of the points.

        Raises:
            ValueError: If the scale has another shape or is not positive definite, the density is improper, or
                degrees of freedom come without a scale.
        """
        if scale is None:
            if degrees_of_freedom is not None:
                raise ValueError("Expected a covariance_prior beside degrees_of_freedom_prior; got None.")
            return None
        n_features, matrix = len(like), structure.name in ("full", "tied")
        shape = (n_features, n_features) if matrix else () if structure.isotropic else (n_features,)
        tensor = as_tensor(scale).detach().to(like.device, torch.float64)
        if tuple(tensor.shape) != shape:
            made = {"diag": f"numpy.full({n_features}, 0.1)", "spherical": "0.1"}.get(structure.name)
            raise ValueError(
                f"Expected covariance_prior of shape {shape} for {structure.name} covariances; got "
                f"{tuple(tensor.shape)}: make one such as {made or f'0.1 * numpy.eye({n_features})'}."
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
        """Covariances of the greatest posterior density, of the shape of `estimate`.

        Args:
            counts: `(K,)` counts of the components.
            estimate: Their likeliest covariances.
        """
        values = counts.sum() if self.structure.name == "tied" else counts
        if self.structure.isotropic:
            values = values * self.n_features
        values = values.reshape(-1, *[1] * (estimate.ndim - 1)) if values.ndim else values
        return (values * estimate + self.scale) / (values + self._exponent)

    def log_density(self, parameters: MixtureParameters) -> Tensor:
        """Log-density of the covariances of a mixture, over all components."""
        half, factors = self.degrees_of_freedom / 2, parameters.precisions_cholesky
        if self.structure.name in ("full", "tied"):
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
        matrix = self.structure.name in ("full", "tied")
        return self.degrees_of_freedom + (self.n_features + 1 if matrix else 2)
