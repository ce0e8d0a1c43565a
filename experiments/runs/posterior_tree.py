"""Posteriors of a run's mixtures as one tree for ArviZ, of bounded size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from latentmix.experiments.runs.mixture_draws import kept_draws
from latentmix.inference import GaussianMixture, MixturePosterior, MixtureSVIResult, to_datatree

if TYPE_CHECKING:
    from latentmix.experiments.runs.mixtures import FittedMixture

__all__ = ["FORMAT", "MOST_BYTES", "fit_node", "fits_with_draws", "run_tree"]

FORMAT = 1  # raised when earlier versions can no longer read a tree
MOST_BYTES = 10_000_000

_OVERHEAD = 500_000  # names, attributes and coordinates
_PRIOR_DRAWS = 500
_OPTIONAL = ("prior", "log_likelihood", "covariances", "posterior_predictive")
_SINGLE = {"/posterior": "covariances", "/log_likelihood": "x", "/posterior_predictive": "x"}  # in float32
_FEWEST = 20  # draws that data are drawn under


def run_tree(
    mixtures: Mapping[str, Mapping[str, FittedMixture]], latents: NDArray[np.float64] | None = None
) -> xr.DataTree:
    """The posteriors of a run's fits in one tree: that of NUTS, else that of SVI, at its root.

    Other fits are the nodes `fit_svi`, `fit_posterior`, ..., each a tree for ArviZ by itself, with the groups of
    `to_datatree`; ArviZ would take a node of the plain name `posterior` for the group. Their draws are the
    evenly spaced ones that the run keeps of its mixtures. The tree takes at most 10 MB: groups that do not fit are left
    out, and the attribute `left_out` names them. `covariances`, `log_likelihood` and `posterior_predictive` are in
    float32, there are no prior draws of `covariances`, and data may be drawn under some of the draws alone.

    Args:
        mixtures: Fitted mixtures by inference and label budget.
        latents: The `N x D` latents that they were fitted to, for the groups that need them.

    Raises:
        ValueError: If no fit has draws.
    """
    fits = fits_with_draws(mixtures)
    if not fits:
        raise ValueError(
            "Expected a run with draws of a mixture's posterior; got one whose fits are points alone: run it again "
            "with --mixture.posterior.guide best, the default, or with --mixture.nuts.draws 500."
        )
    plans = _plans({name: fitted.mixture.posterior_ for name, fitted in fits.items()}, latents)
    first, *others = (_fit_tree(name, fitted, plans[name], latents) for name, fitted in fits.items())
    groups = {node.path: node.to_dataset(inherit=False) for node in first.subtree}
    for name, tree in zip(list(fits)[1:], others, strict=True):
        groups |= {f"/{fit_node(name)}{node.path.rstrip('/')}": node.to_dataset(inherit=False) for node in tree.subtree}
    whole = xr.DataTree.from_dict(groups)
    whole.attrs |= {"latentmix_format": FORMAT, "fits": ", ".join(fits)}
    return whole


def fit_node(name: str) -> str:
    """The node of a tree of `run_tree` with a fit that is not at its root.

    Example:
        >>> from latentmix.experiments.runs.posterior_tree import fit_node
        >>> fit_node("posterior")
        'fit_posterior'
    """
    return f"fit_{name}"


def fits_with_draws(mixtures: Mapping[str, Mapping[str, FittedMixture]]) -> dict[str, FittedMixture]:
    """Fits without labels that have draws, those of NUTS first, then the posterior by SVI."""
    found = {}
    for name, budgets in mixtures.items():
        fitted = budgets.get("none")
        if fitted is not None and getattr(fitted.mixture, "posterior_", None) is not None:
            found[name] = fitted
    order = sorted(found, key=lambda name: (found[name].mixture.posterior_.inference != "nuts", name != "posterior"))
    return {name: found[name] for name in order}


@dataclass
class _Plan:
    """Kept parts of a fit: draws of each chain, and optional groups."""

    draws: int
    predictive: int = 0
    parts: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def _plans(posteriors: Mapping[str, MixturePosterior], latents: NDArray[np.float64] | None) -> dict[str, _Plan]:
    """Draws and parts of each fit that fit into the file, the parts of the first fit first."""
    left = MOST_BYTES - _OVERHEAD
    plans = {}
    for index, (name, posterior) in enumerate(posteriors.items()):
        share = left // (len(posteriors) - index) if index else left // 2
        draws = kept_draws(posterior).n_draws
        while draws > 1 and _bytes(posterior, draws, latents, "draws") > share:
            draws //= 2
        left -= _bytes(posterior, draws, latents, "draws")
        plans[name] = _Plan(draws)
    for part in _OPTIONAL:
        for name, posterior in posteriors.items():
            plan = plans[name]
            size, fits = _bytes(posterior, plan.draws, latents, part), True
            if part == "posterior_predictive" and size:
                plan.predictive = min(plan.draws, plan.draws * left // size)
                fits = "log_likelihood" in plan.parts and plan.predictive >= min(_FEWEST, plan.draws)
                size = max(1, _bytes(posterior, plan.predictive, latents, part))
            if size <= left and fits:
                left -= size
                plan.parts.append(part)
            elif size:
                plan.left_out.append(part)
    return plans


def _bytes(posterior: MixturePosterior, draws: int, latents: NDArray[np.float64] | None, part: str) -> int:
    """Bytes of a part of a tree."""
    n_components, n_features = posterior.sites["means"].shape[-2:]
    points = 0 if latents is None else len(latents)
    total = posterior.n_chains * draws
    numbers = n_components * (1 + n_features) + posterior.sites["scales"][0, 0].numel()
    match part:
        case "draws":
            return 8 * total * (numbers + len(posterior.sample_stats) + 5)
        case "covariances":
            structure = posterior.structure
            whole = math.prod(structure.covariance_shape(n_components, n_features))
            return 4 * total * whole if structure.correlated and n_features > 1 else 0
        case "prior":
            return 8 * _PRIOR_DRAWS * numbers
        case "log_likelihood":
            return 4 * total * points + 8 * points * n_features
        case _:
            return 4 * total * points * n_features


def _fit_tree(name: str, fitted: FittedMixture, plan: _Plan, latents: NDArray[np.float64] | None) -> xr.DataTree:
    mixture: GaussianMixture = fitted.mixture
    result = getattr(mixture, "result_", None)
    with_points = "log_likelihood" in plan.parts and latents is not None
    tree = to_datatree(mixture, X=latents if with_points else None, draws=plan.draws)
    groups = {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
    if with_points and "posterior_predictive" in plan.parts:
        some = mixture.posterior_.thinned(plan.draws).thinned(plan.predictive)
        drawn = to_datatree(some, X=latents, posterior_predictive=True)["posterior_predictive"].to_dataset()
        drawn = drawn.assign_coords(draw=np.arange(plan.predictive) * plan.draws // plan.predictive)
        groups["/posterior_predictive"] = drawn
    elif latents is not None and isinstance(result, MixtureSVIResult):
        log_p = result.log_joint(mixture.posterior_.thinned(plan.draws), latents)
        groups["/sample_stats"] = groups["/sample_stats"].assign(log_p=(("chain", "draw"), log_p.cpu().numpy()))
        groups["/"].attrs.pop("log_p_omitted", None)
    attrs: dict[str, Any] = {"fit": name}
    if plan.left_out:
        attrs["left_out"] = f"{', '.join(plan.left_out)}: a run's tree takes at most {MOST_BYTES / 1e6:.0f} MB"
    if not with_points:
        attrs["log_likelihood_omitted"] = (
            f"to_datatree(run.mixtures[{name!r}]['none'].mixture, X=latents) makes it, of the training latents, by "
            "default run.latents(run.data.train).mean."
        )
    if fitted.classes:
        classes: Sequence[str] = [fitted.class_names[fitted.classes.index(label)] for label in fitted.component_classes]
        attrs["component_classes"] = ", ".join(classes)
    if "prior" not in plan.parts:
        groups.pop("/prior", None)
    for path, dataset in groups.items():
        if "covariances" in dataset and ("covariances" not in plan.parts or path == "/prior"):
            dataset = dataset.drop_vars(["covariances", "other_feature"])
        name = _SINGLE.get(path, "")
        if name in dataset:
            dataset[name] = dataset[name].astype(np.float32)
        dataset.attrs.pop("created_at", None)  # the same run gives the same file
        groups[path] = dataset
    groups["/"] = groups["/"].assign_attrs(attrs)
    groups = {path: groups[path] for path in sorted(groups, key=lambda path: path in ("/prior", "/observed_data"))}
    return xr.DataTree.from_dict(groups)
