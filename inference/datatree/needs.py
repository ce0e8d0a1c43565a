"""Needs of ArviZ's functions: groups and variables of a tree, and a sentence where one is not there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

__all__ = ["obstacle"]


def obstacle(tree: xr.DataTree, function: str) -> str | None:
    """The reason, in one sentence, that a function of ArviZ does not apply to a tree; None if it does.

    Args:
        tree: A tree of `from_pyro` or `from_pyro_svi`.
        function: The function's name, such as "plot_rank"; those that this module does not know apply.

    Example:
        >>> import torch
        >>> from latentmix.inference.datatree import Draws, from_pyro, obstacle
        >>> print(obstacle(from_pyro(Draws({"x": torch.zeros(1, 4)})), "plot_rank"))
        Expected two chains or more for plot_rank; got one: sample more chains.
        >>> obstacle(from_pyro(Draws({"x": torch.zeros(2, 4)})), "plot_rank")
    """
    svi = tree.attrs.get("inference") in ("svi", "em_sandwich")  # independent draws of a normal distribution
    for check in _CHECKS.get(function, ()):
        reason = check(tree, function, svi)
        if reason is not None:
            return reason
    taken = _DIMENSIONS.get(function)
    if taken is not None and "posterior" in tree and taken in tree["posterior"].dims:
        return (
            f"Expected no dimension named {taken!r} for {function}, which uses the name itself: rename it by "
            f"renamed(tree, {taken}=...)."
        )
    return None


_Check = Callable[[xr.DataTree, str, bool], str | None]

_DIMENSIONS = {"psense_summary": "component", "plot_forest": "column"}


def _origin(tree: xr.DataTree) -> str:
    return "SVI" if tree.attrs.get("inference") == "svi" else "an estimate's covariance"


def _chains(tree: xr.DataTree, function: str, svi: bool) -> str | None:
    if tree["posterior"].sizes["chain"] > 1:
        return None
    remedy = f"draws by {_origin(tree)} are independent, and their ranks say nothing" if svi else "sample more chains"
    return f"Expected two chains or more for {function}; got one: {remedy}."


def _energy(tree: xr.DataTree, function: str, svi: bool) -> str | None:
    if "sample_stats" in tree and "energy" in tree["sample_stats"]:
        return None
    remedy = f"draws by {_origin(tree)} have none" if svi else "sample by RecordingNUTS or RecordingHMC"
    return f"Expected the energy of every draw for {function}; got none: {remedy}."


def _sampled(tree: xr.DataTree, function: str, svi: bool) -> str | None:
    if not svi:
        return None
    return f"Expected draws of the posterior for {function}; got draws of a guide: use loo_approximate_posterior."


def _varying(tree: xr.DataTree, function: str, svi: bool) -> str | None:
    """Importance ratios that are equal at all draws, as where a mask excludes a datum, have no tail."""
    for name, values in {} if svi else tree["log_likelihood"].data_vars.items():
        draws = values.transpose("chain", "draw", ...).to_numpy()
        equal = np.fmax.reduce(draws, (0, 1)) == np.fmin.reduce(draws, (0, 1))
        if equal.any() and draws.shape[0] * draws.shape[1] > 1:
            return (
                f"Expected a log likelihood that varies with the draw at every datum for {function}; got the same at "
                f"every draw for {int(equal.sum())} of {equal.size} data of {name}, as a mask gives: leave these data "
                "out of log_likelihood."
            )
    return None


def _density(statistic: str, whose: str) -> _Check:
    def check(tree: xr.DataTree, function: str, svi: bool) -> str | None:
        if "sample_stats" in tree and statistic in tree["sample_stats"]:
            return None
        reason = tree.attrs.get(f"{statistic}_omitted", "only draws of a guide have it.")
        return f"Expected the {whose} log density of every draw for {function}; got none: {reason}"

    return check


def _group(group: str, remedy: str) -> _Check:
    def check(tree: xr.DataTree, function: str, svi: bool) -> str | None:
        if group in tree:
            return None
        return f"Expected the group {group} for {function}; got none: {tree.attrs.get(f'{group}_omitted', remedy)}"

    return check


def _scalar(tree: xr.DataTree, function: str, svi: bool) -> str | None:
    for name, density in tree["log_likelihood"].data_vars.items():
        data = tree["observed_data"].get(str(name)) if "observed_data" in tree else None
        extra = (
            [] if data is None else [str(dim) for dim in data.dims if dim not in density.dims and data.sizes[dim] > 1]
        )
        if extra:
            return (
                f"Expected one value per term of the log likelihood for {function}; got {name!r} with the dimension "
                f"{extra[0]!r} too: take one of its values, as by isel({extra[0]}=0), in observed_data and in "
                "posterior_predictive."
            )
    return None


def _same_draws(tree: xr.DataTree, function: str, svi: bool) -> str | None:
    given, drawn = (tree[group].sizes["draw"] for group in ("log_likelihood", "posterior_predictive"))
    if given == drawn:
        return None
    return (
        f"Expected posterior_predictive of the draws of log_likelihood for {function}; got {drawn} "
        f"draw{'s' * (drawn > 1)} for {given}: take these of the log likelihood, by "
        "sel(draw=tree.posterior_predictive.draw)."
    )


_LIKELIHOOD = _group("log_likelihood", "convert with log_likelihood=True.")
_PRIOR = _group("prior", "pass draws of the prior by prior=.")
_PREDICTIVE = _group("posterior_predictive", "pass draws of Predictive by posterior_predictive=.")
_OBSERVED = _group("observed_data", "convert with the model and its data.")


def _by_guide(check: _Check) -> _Check:
    """A check of draws of a guide alone."""
    return lambda tree, function, svi: check(tree, function, svi) if svi else None


_DENSITIES = (_density("log_p", "model's"), _density("log_q", "guide's"))

_CHECKS: dict[str, tuple[_Check, ...]] = {
    "plot_rank": (_chains,),
    "plot_energy": (_energy,),
    "loo": (_LIKELIHOOD, _sampled, _varying),
    "compare": (_LIKELIHOOD, _sampled, _varying),
    "plot_loo_pit": (_LIKELIHOOD, _PREDICTIVE, _OBSERVED, _sampled, _scalar, _same_draws, _varying),
    "loo_approximate_posterior": (_LIKELIHOOD, *_DENSITIES),
    "plot_khat": (_LIKELIHOOD, *map(_by_guide, _DENSITIES), _varying),
    "psense_summary": (_LIKELIHOOD, _group("log_prior", "a latent depends on a variable that is summed out.")),
    "plot_ppc_dist": (_PREDICTIVE,),
    "plot_ppc_pit": (_PREDICTIVE, _OBSERVED),
    "plot_prior_posterior": (_PRIOR,),
}
