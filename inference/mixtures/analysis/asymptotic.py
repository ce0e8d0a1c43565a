r"""Draws of the asymptotic normal distribution of a maximum-likelihood estimate.

The estimate :math:`\hat\theta` has the sandwich covariance :math:`C` of `standard_errors`. In the unconstrained
coordinates :math:`u(\theta)`, log-ratios of the weights to the last one, means, and logarithms of variances or Cholesky
factors with the logarithm of their diagonal, it is by the delta method
:math:`\mathcal N(u(\hat\theta), J C J^\top)` with :math:`J = \partial u / \partial \theta`; every draw of it is a
mixture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentmix.inference.mixtures.analysis.information import Layout
from latentmix.inference.mixtures.analysis.standard_errors import standard_errors
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["asymptotic_draws"]


@torch.inference_mode(False)
def asymptotic_draws(
    mixture: GaussianMixture | MixtureParameters,
    x: Any,
    draws: int = 1000,
    *,
    sample_weight: Any = None,
    seed: int = 0,
) -> MixturePosterior:
    """Draw from the asymptotic normal distribution of a maximum-likelihood estimate, with its sandwich covariance.

    They tell how the estimate varies from one data set to another, around one optimum; they are no posterior.

    Args:
        mixture: A mixture that was fitted by EM, well converged (`tol=1e-6` or less).
        x: The `n x D` points that it was fitted to.
        draws: Number of draws.
        sample_weight: `(n,)` weights of the points, as `standard_errors` takes them.
        seed: Seed of the draws.

    Returns:
        The draws, one chain of them.

    Raises:
        ValueError: If there is no draw, or as `standard_errors`.

    Warns:
        ConvergenceWarning: As `standard_errors`.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.mixtures.analysis.asymptotic import asymptotic_draws
        >>> from latentmix.inference.mixtures.gaussian import GaussianMixture
        >>> x = np.random.RandomState(0).randn(400, 1) + np.repeat([[-3.0], [3.0]], 200, 0)
        >>> mixture = GaussianMixture(2, tol=1e-8, random_state=0).fit(x)
        >>> asymptotic_draws(mixture, x, 50).sites["means"].shape
        torch.Size([1, 50, 2, 1])
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"Expected draws >= 1; got {draws!r}.")
    estimate = mixture if isinstance(mixture, MixtureParameters) else mixture.parameters_
    estimate = estimate.to(torch.empty(0, dtype=torch.float64))
    covariance = torch.as_tensor(standard_errors(mixture, x, sample_weight=sample_weight).covariance).cpu().double()
    layout = Layout.of(estimate)
    free = layout.free(estimate)
    jacobian: Tensor = torch.func.jacrev(lambda values: _unconstrained(layout, values))(free)
    spread, axes = torch.linalg.eigh(jacobian @ covariance @ jacobian.mT)
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal((draws, len(free))))
    positions = _unconstrained(layout, free) + (noise * spread.clamp_min(0.0).sqrt()) @ axes.mT
    sites = {name: values[None] for name, values in _sites(layout, positions).items()}
    return MixturePosterior(sites, layout.structure, positions.new_zeros(layout.n_features), "em_sandwich")


def _unconstrained(layout: Layout, free: Tensor) -> Tensor:
    """Unconstrained values, `(p,)`, of the free parameters."""
    changes, means, covariances = layout.natural(free)
    weights = torch.cat([changes[:-1], 1 + changes[-1:]])
    logs = weights.log()
    if layout.structure.correlated:
        rows, columns = layout.places
        factors = torch.linalg.cholesky(covariances)[..., rows, columns]
        spread = torch.where(rows == columns, factors.abs().clamp_min(1e-300).log(), factors)
    else:
        spread = covariances.log()
    return torch.cat([logs[:-1] - logs[-1], means.flatten(), spread.flatten()])


def _sites(layout: Layout, positions: Tensor) -> dict[str, Tensor]:
    """Sites of a `MixtureModel` at `draws x p` unconstrained values."""
    k, d, structure = layout.n_components, layout.n_features, layout.structure
    ratios, means, spread = positions.split([k - 1, k * d, positions.shape[1] - (k - 1) - k * d], 1)
    weights = torch.cat([ratios, ratios.new_zeros(len(ratios), 1)], 1).softmax(1)
    sites = {"weights": weights, "means": means.reshape(-1, k, d)}
    if not structure.correlated:
        return sites | {"scales": (spread / 2).exp().reshape(-1, *structure.scale_shape(k, d))}
    rows, columns = layout.places
    shape = structure.covariance_shape(k, d)
    lower = spread.reshape(len(spread), *shape[:-2], len(rows))
    factors = lower.new_zeros(len(spread), *shape)
    factors[..., rows, columns] = torch.where(rows == columns, lower.exp(), lower)
    scales = factors.norm(dim=-1)
    sites["scales"] = scales
    if d > 1:
        sites["correlation_cholesky"] = factors / scales[..., None]
    return sites
