"""Pareto-smoothed importance weights of a guide's draws, and k-hat, which tells how close the guide is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentmix.inference.diagnostics.convergence import array_statistics

__all__ = ["ImportanceWeights", "importance_weights"]


class ImportanceWeights(NamedTuple):
    """Importance weights of draws.

    Attributes:
        weights: `(S,)` Pareto-smoothed weights that sum to 1.
        k_hat: Shape of the tail of the raw weights. Up to 0.5 the guide is close to the posterior; up to 0.7 weighted
            draws still estimate its expectations; above, neither the guide nor its weighted draws do.
    """

    weights: NDArray[np.float64]
    k_hat: float

    @property
    def effective_size(self) -> float:
        """Number of equally weighted draws of the same precision (Kish)."""
        return float(1 / np.square(self.weights).sum())


def importance_weights(log_p: ArrayLike, log_q: ArrayLike) -> ImportanceWeights:
    """Weigh draws of a guide by Pareto-smoothed importance sampling (Yao et al., *Yes, but did it work?*, 2018).

    Args:
        log_p: `(S,)` log joint densities of the model at the draws, in any shape of `S` numbers, up to a constant.
        log_q: The guide's log densities there, in the same shape.

    Raises:
        ValueError: If the shapes differ, there are fewer than 25 draws, or a density is not finite.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.diagnostics.guides import importance_weights
        >>> x = np.random.default_rng(0).normal(size=2000)
        >>> round(importance_weights(-x**2 / 2, -x**2 / 2).effective_size)  # the posterior itself
        2000
        >>> bool(importance_weights(-x**2 / 18, -x**2 / 2).k_hat > 0.7)  # a guide of a third of its width
        True
    """
    p, q = (np.asarray(values, dtype=np.float64) for values in (log_p, log_q))
    if p.shape != q.shape or p.size < 25:
        raise ValueError(
            f"Expected log densities of at least 25 draws, in one shape; got {p.shape} by the model and {q.shape} by "
            "the guide: take more draws."
        )
    ratios = p.ravel() - q.ravel()
    if not np.isfinite(ratios).all():
        raise ValueError(
            f"Expected finite log densities; got others at {int((~np.isfinite(ratios)).sum())} of {ratios.size} draws: "
            "fit the guide again, with a smaller step size."
        )
    if np.ptp(ratios) < 1e-9 * max(1.0, float(np.abs(p).max())):  # rounding alone: there is no tail to fit
        return ImportanceWeights(np.full(ratios.size, 1 / ratios.size), float("-inf"))
    log_weights, k_hat = array_statistics().psislw(-ratios)
    weights = np.exp(log_weights - np.max(log_weights))
    return ImportanceWeights(weights / weights.sum(), float(k_hat))
