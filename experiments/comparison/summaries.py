"""Figures, confusion matrices, calibration and curves of a run, from its summary and its records of epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentmix.experiments.comparison.results import Confusion, Curve, Reliability
from latentmix.experiments.options.names import BUDGETS
from latentmix.models.reading import REMEDY

__all__ = [
    "confusions_of",
    "curve_of",
    "figures_of",
    "reliabilities_of",
]


def figures_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a run that a comparison shows, by name.

    Args:
        summary: The contents of `summary.json`.

    Returns:
        Every single finite number among the figures on test data; `accuracy_FIT_BUDGET` and `f1_FIT_BUDGET` of each
        fit and label budget, `accuracy_prior` and `f1_prior` of a mixture prior's components; `ece_FIT_BUDGET` and
        `nll_FIT_BUDGET` of class probabilities averaged over draws of q; `parameters` and `seconds`, of all.
    """
    figures = {name: value for name, value in summary["test"].items() if _is_number(value)}
    for fit, budget, found in _fits(summary):
        for name in ("accuracy", "f1"):
            if _is_number(found.get(name)):
                figures[f"{name}_{fit}_{budget}"] = found[name]
        averaged = found.get("calibration", {}).get("draws", {})
        for name in ("ece", "nll"):
            if _is_number(averaged.get(name)):
                figures[f"{name}_{fit}_{budget}"] = averaged[name]
    for name in ("accuracy", "f1"):
        if _is_number(summary.get("prior", {}).get(name)):
            figures[f"{name}_prior"] = summary["prior"][name]
    figures |= {"parameters": summary["parameters"], "seconds": summary["seconds"]["total"]}
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def confusions_of(name: str, summary: Mapping[str, Any]) -> list[Confusion]:
    """The confusion matrices of a run, one a fit and label budget."""
    classes = _class_names(summary)
    found = []
    for fit, budget, figures in _fits(summary):
        counts = _counts(figures.get("confusion"), len(classes), name)
        if counts is not None:
            found.append(Confusion(name, fit, budget, classes, counts))
    return found


def reliabilities_of(name: str, summary: Mapping[str, Any]) -> list[Reliability]:
    """The calibration of a run, one a fit, label budget and way of averaging."""
    found = []
    for fit, budget, figures in _fits(summary):
        for way, calibrated in figures.get("calibration", {}).items():
            if not isinstance(calibrated, Mapping) or not calibrated.get("bins"):
                continue
            try:
                count, confidence, accuracy = (
                    np.asarray(calibrated["bins"][part], dtype=kind)
                    for part, kind in (("count", np.int64), ("confidence", np.float64), ("accuracy", np.float64))
                )
                if not count.shape == confidence.shape == accuracy.shape or count.ndim != 1:
                    raise ValueError("bins of several lengths")
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"Expected bins of calibration in the summary of {name}; got others: {REMEDY}."
                ) from error
            found.append(Reliability(name, fit, budget, way, count, confidence, accuracy, float(calibrated["ece"])))
    return found


def curve_of(name: str, history: Sequence[Mapping[str, Any]]) -> Curve:
    """The losses of a run by epoch, from the records of `metrics.jsonl`."""
    validation = [math.nan if each.get("validation") is None else each["validation"]["loss"] for each in history]
    return Curve(
        name,
        np.array([each["epoch"] for each in history], dtype=np.int64),
        np.array([each["training"]["loss"] for each in history], dtype=np.float64),
        np.array(validation, dtype=np.float64),
    )


def _fits(summary: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    return [
        (fit, budget, budgets[budget])
        for fit, budgets in summary.get("mixtures", {}).items()
        for budget in BUDGETS
        if budget in budgets
    ]


def _class_names(summary: Mapping[str, Any]) -> tuple[str, ...]:
    data = summary.get("data", {})
    return tuple(map(str, data.get("class_names") or data.get("classes") or ()))


def _counts(values: Any, n_classes: int, name: str) -> Any:
    if values is None:
        return None
    try:
        counts = np.asarray(values, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        counts = np.zeros(0, dtype=np.int64)
    if counts.shape != (n_classes, n_classes):
        raise ValueError(
            f"Expected confusion matrices of {n_classes} classes in the summary of {name}; got others: {REMEDY}."
        )
    return counts


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
