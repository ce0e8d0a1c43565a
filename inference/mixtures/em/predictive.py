r"""The posterior predictive density of a Bayesian Gaussian mixture: a mixture of Student-t distributions.

Under :math:`\Lambda_k \sim \mathcal W(W_k, \nu_k)` and :math:`\mu_k \mid \Lambda_k \sim \mathcal N(m_k, (\beta_k
\Lambda_k)^{-1})` a point of component k has location :math:`m_k`, :math:`\nu_k + 1 - D` degrees of freedom and the
scale matrix :math:`\frac{1 + \beta_k}{\beta_k} \frac{W_k^{-1}}{\nu_k + 1 - D}` (Bishop, *Pattern Recognition and
Machine Learning*, 2006, equations 10.81 and 10.82). The Wishart distributions of each covariance structure are those of
`evidence_lower_bound`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.completion import Completion, completions
from latentmix.inference.mixtures.em.conjugate import VariationalPosterior, log_det

__all__ = ["log_predictive"]


@torch.no_grad()
def log_predictive(x: Tensor, posterior: VariationalPosterior, weights: Tensor) -> Tensor:
    """Log of weight times predictive density of points under each component: `n x K` in float64.

    Args:
        x: `n x D` points; entries that are NaN are marginalised.
        posterior: The posterior of `K` components.
        weights: `(K,)` expected weights.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.conjugate import VariationalPosterior
        >>> from latentmix.inference.mixtures.em.predictive import log_predictive
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> ones, diagonal = torch.ones(1).double(), covariance_structure("diag")
        >>> posterior = VariationalPosterior(
        ...     "dirichlet_distribution", ones, ones, 0 * ones[:, None], ones, ones[:, None] / 2, diagonal
        ... )
        >>> log_predictive(torch.zeros(1, 1), posterior, ones).exp()  # a Cauchy distribution: 1 / pi
        tensor([[0.3183]], dtype=torch.float64)
    """
    parameters, n_features = posterior.parameters, x.shape[1]
    structure, factors = parameters.structure, parameters.precisions_cholesky
    multiple = len(weights) if structure.shared else n_features if structure.isotropic else 1
    spread = multiple * posterior.degrees_of_freedom
    degrees = spread + 1 - n_features if structure.correlated else spread
    wide = (1 + 1 / posterior.mean_precision) * spread / degrees

    joint = torch.empty(len(x), len(weights), dtype=torch.float64, device=x.device)
    for block in completions(x.double(), parameters):
        observed = block.observed[block.pattern]
        if structure.correlated:
            white = (block.deviations.transpose(0, 1) @ factors).transpose(0, 1)
        else:
            white = block.deviations * structure.by_component(factors)
        if not structure.correlated and not structure.isotropic:
            each = _student(white.square(), observed.new_ones(1), degrees[:, None], wide[:, None]) + factors.log()
            joint[block.rows] = (observed[:, None] * each).sum(2)
        else:
            density = _student(white.square().sum(2), observed.sum(1, keepdim=True), degrees, wide)
            joint[block.rows] = density + _log_det_of_observed(block, posterior)
    return joint + weights.log()


def _student(squares: Tensor, dimension: Tensor, degrees: Tensor, wide: Tensor) -> Tensor:
    """Log-densities of a Student-t distribution without the determinant of the precision in `squares`."""
    constant = ((degrees + dimension) / 2).lgamma() - (degrees / 2).lgamma()
    constant = constant - dimension / 2 * (math.log(math.pi) + (degrees * wide).log())
    return constant - (degrees + dimension) / 2 * (squares / (degrees * wide)).log1p()


def _log_det_of_observed(block: Completion, posterior: VariationalPosterior) -> Tensor:
    """Half the log-determinants of the precisions of each point's observed entries: `b x K`."""
    if posterior.structure.isotropic:
        return block.observed.sum(1)[block.pattern, None] * posterior.parameters.precisions_cholesky.log()
    missing = block.covariances + block.observed.diag_embed()[:, None]
    return (log_det(posterior.parameters) + torch.linalg.slogdet(missing).logabsdet / 2)[block.pattern]
