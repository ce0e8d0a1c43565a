r"""Leave-one-out cross-validation from one set of posterior draws, by Pareto-smoothed importance sampling (PSIS-LOO).

A point is scored by the posterior predictive density given the others, :math:`\log p(x_i \mid x_{-i})`: the mixture's
density averaged over the posterior, not that of a maximum-likelihood fit. It depends on the priors of the draws;
`select` uses draws of `gibbs`, under weak conjugate priors and about one mode.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentmix.inference.diagnostics.convergence import array_statistics, effective_size, split_r_hat
from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.models.display import Displayed
from latentmix.models.process_state import kept_filters

__all__ = ["LeaveOneOut", "leave_one_out"]

UNRELIABLE = 0.7


@dataclass(frozen=True, repr=False)
class LeaveOneOut(Displayed):
    """Leave-one-out densities of `n` points, with diagnostics.

    Attributes:
        densities: `(n,)` log posterior predictive density of each point given the others, nats, under the priors of
            the draws.
        pareto_k: `(n,)` shapes of the tails of the importance ratios; above 0.7 a point's density is unreliable.
        n_effective: Effective number of parameters.
        r_hat: R-hat of the total log-likelihood over the chains; NaN of a single chain.
        ess: Effective sample size of the total log-likelihood.
    """

    densities: NDArray[np.float64]
    pareto_k: NDArray[np.float64]
    n_effective: float
    r_hat: float
    ess: float

    @property
    def mean(self) -> float:
        """Mean log-density, nats per point."""
        return float(self.densities.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over points."""
        return float(self.densities.std(ddof=1) / math.sqrt(len(self.densities)))

    @property
    def n_unreliable(self) -> int:
        """Number of points with a Pareto k above 0.7."""
        return int((~(self.pareto_k <= UNRELIABLE)).sum())


def leave_one_out(log_likelihood: ArrayLike) -> LeaveOneOut:
    """PSIS-LOO (Vehtari, Gelman and Gabry, *Practical Bayesian model evaluation*, 2017), by ArviZ.

    Args:
        log_likelihood: `n x C x S` log-densities of `n` points at `S` posterior draws of each of `C` chains, under
            any priors.

    Returns:
        Log posterior predictive density of each point given the others, with diagnostics of its reliability.

    Raises:
        ValueError: If the array has another shape, values that are not finite, or fewer than 50 draws.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.mixtures.analysis.psis import leave_one_out
        >>> draws = np.random.RandomState(0).normal(-1.0, 0.1, (20, 4, 100))
        >>> leave_one_out(draws).n_unreliable
        0
    """
    values = as_tensor(log_likelihood).detach().cpu().double().numpy()
    if values.ndim != 3 or values.shape[1] * values.shape[2] < 50 or not np.isfinite(values).all():
        raise ValueError(
            "Expected finite log-densities of shape (points, chains, draws) with at least 50 draws in all; got shape "
            f"{values.shape}{'' if np.isfinite(values).all() else ' with infinity or NaN'}."
        )
    total = values.sum(0)
    ess = float(effective_size(total))
    efficiency = min(ess / total.size, 1.0) if math.isfinite(ess) else 1.0
    with kept_filters():
        warnings.simplefilter("ignore")  # a high k is reported, not warned of
        densities, pareto_k, effective = array_statistics().loo(values, r_eff=efficiency)
    r_hat = float(split_r_hat(total)) if len(total) > 1 else math.nan
    return LeaveOneOut(np.asarray(densities), np.asarray(pareto_k), float(np.sum(effective)), r_hat, ess)
