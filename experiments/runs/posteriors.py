"""Figures of the posteriors of a run's mixtures: guides, intervals of accuracy, and estimates side by side."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentmix.experiments.options.names import fit_name
from latentmix.experiments.runs.component_names import by_class, component_names, parameter_name
from latentmix.inference import SVI, GaussianMixture, MixtureSVIResult
from latentmix.inference.diagnostics.guides import importance_weights
from latentmix.inference.mixtures.analysis.estimates import ComparedEstimates, compare_estimates
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.inference.mixtures.svi.guides import class_of, work
from latentmix.models import MixtureParameters

__all__ = ["accuracy_intervals", "affordable", "described_guide", "estimates_figures", "guides_sentence"]

Array = NDArray[np.float64]

DRAWS = 200  # of the posterior, of an interval of accuracy
MOST_QUANTITIES = 1500

# Numbers of all evaluations, see `work`.
MOST_OF_GUIDES = 12_000_000_000
MOST_OF_DENSITIES = 1_000_000_000
FEWER_STEPS, FEWEST_DRAWS = 50, 100


def affordable(svi: SVI, parameters: MixtureParameters, n_points: int) -> tuple[SVI | None, str]:
    """The fit of the best of several guides, cut so that it takes about a minute on one core, and what is cut.

    It depends on sizes alone, so that the same run gives the same posterior. That of many points is close to the normal
    distribution that guides start from: they take fewer steps, or the first alone is fitted, or none. A fit of one
    guide stays as it is.

    Args:
        svi: The fit.
        parameters: The mixture that it starts from.
        n_points: Number of points.

    Returns:
        The fit, `None` if there is to be none; and a clause on what is cut, else empty.
    """
    guides = svi.guide
    if not isinstance(guides, list | tuple) or len(guides) < 2:
        return svi, ""
    size, numbers = parameters.n_parameters(), _numbers(parameters, n_points)
    fewer = min(svi.epochs, FEWER_STEPS)
    cuts: dict[str, dict[str, Any]] = {
        "": {},
        f"{fewer} steps of each guide": {"epochs": fewer},
        f"{class_of(guides[0]).__name__} alone, with {fewer} steps": {"guide": guides[0], "epochs": fewer},
    }
    for cut, options in cuts.items():
        tried = copy.copy(svi).set_params(**options)
        families = tried.guide if isinstance(tried.guide, list | tuple) else (tried.guide,)
        if work(families, size, numbers, tried.epochs) <= MOST_OF_GUIDES:
            return tried, cut and f"{cut}, for there are {n_points:,} points and {size:,} parameters"
    return None, f"{n_points:,} points and {size:,} parameters would take many minutes: ask for one guide"


def described_guide(mixture: GaussianMixture, x: Array) -> dict[str, Any]:
    """The guides that were tried for a posterior, which is used, and how close it is.

    Args:
        mixture: The mixture, fitted by SVI with a density as guide.
        x: The `n x D` points that it was fitted to.
    """
    result = mixture.result_
    assert isinstance(result, MixtureSVIResult)
    posterior = mixture.posterior_
    some = posterior.thinned(max(FEWEST_DRAWS, MOST_OF_DENSITIES // _numbers(result.parameters, len(x))))
    shape = math.nan
    with suppress(ValueError):  # too few draws, or one whose covariance is singular as rounded
        shape = importance_weights(result.log_joint(some, x), some.sample_stats["log_q"]).k_hat
    return {
        "guide": type(result.guide).__name__,
        "bound": result.lower_bound,
        "converged": result.converged,
        "draws": posterior.n_draws,
        "k_hat": _finite(shape),
        "k_hat_draws": some.n_draws,
        "seconds": mixture.seconds_,
        "guides": [
            {
                "guide": tried.guide,
                "bound": _finite(tried.bound),
                "error": _finite(tried.error),
                "seconds": tried.seconds,
                "converged": tried.converged,
                "used": tried.used,
                "note": tried.note,
            }
            for tried in result.guides
        ],
    }


def guides_sentence(figures: Mapping[str, Any]) -> str:
    """The outcome of `described_guide` in a sentence."""
    others = [
        f"{tried['guide']} {tried['bound']:.4f}" if tried["bound"] is not None else f"{tried['guide']} {tried['note']}"
        for tried in figures["guides"]
        if not tried["used"]
    ]
    unsettled = [
        f"{tried['guide']} has not converged: {tried['note']}"
        for tried in figures["guides"]
        if tried["note"] and tried["bound"] is not None
    ]
    beside = f" ({', '.join(others)})" if others else ""
    return "; ".join(
        [
            f"SVI posterior: {figures['guide']}, bound {figures['bound']:.4f} nats per latent{beside}, "
            f"{figures['seconds']:.1f} s",
            *unsettled,
        ]
    )


def accuracy_intervals(
    posterior: MixturePosterior,
    latents: Array,
    labels: NDArray[np.int64],
    component_classes: Mapping[str, Sequence[int]],
) -> dict[str, dict[str, Any]]:
    """Accuracy under draws of the posterior: its median and the 5% and 95% quantiles.

    A datum has the class of the greatest sum of responsibilities, as by `FittedMixture.predict`.

    Args:
        posterior: The draws, at most 200 of which are taken, evenly spaced.
        latents: `N x D` latents of test data.
        labels: Their N classes.
        component_classes: The class of each component by label budget.

    Returns:
        By label budget.
    """
    total = posterior.n_chains * posterior.n_draws
    chosen = np.unique(np.arange(min(DRAWS, total)) * total // min(DRAWS, total))
    x = as_tensor(latents).detach().double()
    known = {budget: np.unique(classes) for budget, classes in component_classes.items()}
    belongs = {budget: np.equal.outer(component_classes[budget], classes) for budget, classes in known.items()}
    accuracies: dict[str, list[float]] = {budget: [] for budget in known}
    for index in chosen:
        drawn = posterior.draw(*divmod(int(index), posterior.n_draws)).responsibilities(x).cpu().numpy()
        for budget, classes in known.items():
            assigned = classes[(drawn @ belongs[budget]).argmax(1)]
            accuracies[budget].append(float((assigned == labels).mean()))
    figures = {}
    for budget, values in accuracies.items():
        low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
        figures[budget] = {"median": float(median), "low": float(low), "high": float(high), "draws": len(chosen)}
    return figures


def estimates_figures(
    fits: Mapping[str, GaussianMixture],
    latents: Array,
    component_classes: Sequence[int],
    classes: Sequence[int],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Weights, means and scales of all fits without labels as plain values, and where they differ most.

    Args:
        fits: The fits, that by EM first, two or more of them.
        latents: `N x D` latents that they are fitted to.
        component_classes: The class of each component of EM's.
        classes: The classes, ascending; empty without labels.
        class_names: Their names.

    Returns:
        `components`, names in the order of their classes; `quantities`, lists of the kind, the component's place in
        that order and the feature, both from 0, each perhaps `None`; `fits`, lists of `point`, `sd`, `low` and `high`
        by fit; `left_out`, the number of quantities beyond 1,500, those that differ least; `differences` and
        `sentence`; `note`, on standard errors.
    """
    n_components = len(next(iter(fits.values())).parameters_.weights)
    order = by_class(component_classes, classes, n_components)
    place = {component: position for position, component in enumerate(order)}
    names = component_names(component_classes, dict(zip(classes, class_names, strict=True)), n_components)
    compared = compare_estimates(fits, latents, names=names)
    pairs = _pairs(compared)
    ranked = [compared.differences(*pair) for pair in pairs]
    most = np.max(ranked, axis=0) if ranked else np.zeros(len(compared.quantities))
    kept = np.sort(np.argsort(-most, kind="stable")[:MOST_QUANTITIES])
    in_order = sorted(kept, key=lambda k: _sorting(compared, int(k), place))
    values = {
        name: {
            part: [float(f"{array[k]:.6g}") for k in in_order]
            for part in ("point", "sd", "low", "high")
            if (array := getattr(estimates, part)) is not None
        }
        for name, estimates in compared.fits.items()
    }
    differences = []
    for pair in pairs:
        index, by = compared.farthest(*pair)
        quantity = compared.quantities[index]
        component = None if quantity.component is None else names[quantity.component]
        differences.append(
            {"fits": list(pair), "kind": quantity.kind, "component": component, "feature": quantity.feature, "by": by}
        )
    return {
        "components": [names[k] for k in order],
        "quantities": [
            [each.kind, None if each.component is None else place[each.component], each.feature]
            for each in (compared.quantities[k] for k in in_order)
        ],
        "fits": values,
        "left_out": len(compared.quantities) - len(kept),
        "differences": differences,
        "sentence": _sentence(differences),
        "note": compared.note,
    }


def _numbers(parameters: MixtureParameters, n_points: int) -> int:
    """Numbers that a density of all points computes with, see `work`."""
    n_components, n_features = parameters.means.shape
    return n_points * n_components * (n_features + 3)


def _pairs(compared: ComparedEstimates) -> list[tuple[str, str]]:
    """EM and each posterior, and two posteriors; that whose standard deviations count is the last."""
    pairs = [(compared.reference, name) for name in compared.posteriors]
    return pairs + ([tuple(compared.posteriors[:2])] if len(compared.posteriors) > 1 else [])  # type: ignore[list-item]


def _sorting(compared: ComparedEstimates, index: int, place: Mapping[int, int]) -> tuple[int, int, int]:
    quantity = compared.quantities[index]
    component = -1 if quantity.component is None else place[quantity.component]
    return (
        ("weight", "mean", "scale").index(quantity.kind),
        component,
        -1 if quantity.feature is None else quantity.feature,
    )


def _sentence(differences: Sequence[Mapping[str, Any]]) -> str:
    clauses: list[str] = []
    for each in differences:
        first, second = (fit_name(name).replace("SVI posterior", "the SVI posterior") for name in each["fits"])
        where = f"the {parameter_name(each['kind'], each['component'], each['feature'])}"
        by = f"{each['by']:.2g}"
        clauses.append(
            f"{first} and {second} in {where}: {by}"
            if clauses
            else f"{first} and {second} differ most in {where}: {by} posterior standard deviations"
        )
    return "; ".join(clauses) + "." if clauses else ""


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
