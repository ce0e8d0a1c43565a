"""Expected log predictive density of a fit's tree, by Pareto-smoothed importance sampling."""

from __future__ import annotations

from typing import Any

import xarray as xr

__all__ = ["pointwise_elpd"]


def pointwise_elpd(tree: xr.DataTree) -> Any:
    """ArviZ's `ELPDData` of leave-one-out cross-validation, pointwise; draws of a guide are weighted by p / q.

    Vehtari, Gelman and Gabry, *Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC*,
    2017; Magnusson et al., *Bayesian leave-one-out cross-validation for large data*, 2019, for draws of a guide. ArviZ
    warns where its `pareto_k` tell that it is unreliable.

    Args:
        tree: A tree with the group `log_likelihood` and, if its attribute `inference` is `svi`, `log_p` and `log_q` in
            `sample_stats`.

    Raises:
        KeyError: If a group or a variable is not there.
    """
    import arviz

    name = next(iter(tree["log_likelihood"].data_vars))
    if tree.attrs.get("inference") == "svi":
        log_p, log_q = (tree["sample_stats"][key] for key in ("log_p", "log_q"))
        return arviz.loo_approximate_posterior(tree, log_p=log_p, log_q=log_q, pointwise=True, var_name=name)
    return arviz.loo(tree, pointwise=True, var_name=name)
