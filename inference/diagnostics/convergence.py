"""R-hat and effective sample sizes of Markov chains, by ArviZ."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentmix.models.process_state import kept_filters

__all__ = ["array_statistics", "effective_size", "split_r_hat"]

Array = NDArray[np.float64]


def split_r_hat(values: Array) -> Array:
    """Rank-normalised split R-hat (Vehtari et al., *Rank-normalization, folding, and localization*, 2021).

    Args:
        values: `chain x draw x ...` values of quantities; a single chain is compared by its halves.

    Returns:
        R-hat of each quantity; NaN where it is constant, or there are fewer than four draws.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.diagnostics.convergence import split_r_hat
        >>> chains = np.random.default_rng(0).normal(size=(4, 500, 2)) + [[[0.0, 0.0]], [[0.0, 3.0]]] * 2
        >>> (split_r_hat(chains) < 1.05).tolist()
        [True, False]
    """
    if len(values) == 1:
        half = values.shape[1] // 2
        values = np.concatenate([values[:, :half], values[:, half : 2 * half]])
    with np.errstate(all="ignore"), kept_filters():
        return np.asarray(array_statistics().rhat(values, chain_axis=0, draw_axis=1), dtype=np.float64)


def effective_size(values: Array, kind: Literal["bulk", "tail"] = "bulk") -> Array:
    """Effective sample size (Vehtari et al., 2021).

    Args:
        values: `chain x draw x ...` values of quantities.
        kind: "bulk", of the mean of each quantity, or "tail", of its 5% and 95% quantiles.

    Returns:
        The size for each quantity; NaN where there are fewer than four draws.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.diagnostics.convergence import effective_size
        >>> bool(1500 < effective_size(np.random.default_rng(0).normal(size=(4, 500))) < 2500)
        True
    """
    options: dict[str, Any] = {"prob": (0.05, 0.95)} if kind == "tail" else {}
    with np.errstate(all="ignore"), kept_filters():
        size = array_statistics().ess(values, chain_axis=0, draw_axis=1, method=kind, **options)
    return np.asarray(size, dtype=np.float64)


def array_statistics() -> Any:
    """ArviZ's statistics of arrays, imported on the first call: that takes two seconds."""
    from arviz_stats.base.array import array_stats

    return array_stats
