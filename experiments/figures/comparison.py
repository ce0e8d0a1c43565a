"""EM against SVI: log-likelihood along the iterations, accuracy, and components after alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.style import (
    FIT_STYLE,
    MUTED,
    as_array,
    check_same_length,
    clean,
    new_figure,
    title,
)
from latentmix.experiments.options.names import FITS

__all__ = ["em_against_svi"]

BUDGET_WORDS = {"none": "no label", "few": "few labels\n(mean, min–max)", "all": "all labels"}


def em_against_svi(
    traces: Mapping[str, Sequence[float]],
    mixtures: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, ArrayLike | Tensor],
    mean_distances: ArrayLike | Tensor,
    *,
    assigned_alike: float,
    names: Sequence[int] | None = None,
) -> Figure:
    """Draw both fits of a mixture from one start: their log-likelihoods, accuracies and components.

    Args:
        traces: For `em` and `svi`, the log-likelihood per latent after each iteration, nats.
        mixtures: The `mixtures` of a run's summary: `mixtures[fit][budget]["accuracy"]` for the fits `em` and
            `svi` and the budgets `none`, `few` and `all`, with `accuracy_min` and `accuracy_max` for `few`;
            without accuracies (no labels) their panel is omitted.
        weights: For `em` and `svi`, K weights after Hungarian alignment.
        mean_distances: K distances between the means of aligned components.
        assigned_alike: Fraction of the latents that both fits assign to the same component.
        names: Names of the components, the class of each; by default they are numbered from 1.
    """
    first, second, distances = as_array(weights["em"]), as_array(weights["svi"]), as_array(mean_distances)
    labels = np.arange(1, len(first) + 1) if not names else np.asarray(names)
    check_same_length(weights_of_em=first, weights_of_svi=second, mean_distances=distances, names=labels)
    order = np.argsort(labels, kind="stable")
    accuracies = any("accuracy" in budget for fit in mixtures.values() for budget in fit.values())

    figure = new_figure(13.0 if accuracies else 9.5, 4.4)
    grid = figure.add_gridspec(2, 3 if accuracies else 2, width_ratios=[1.15, 0.85, 1.1][: 3 if accuracies else 2])
    _traces(figure.add_subplot(grid[:, 0]), traces)
    if accuracies:
        _accuracy(figure.add_subplot(grid[:, 1]), mixtures)
    upper = figure.add_subplot(grid[0, -1])
    lower = figure.add_subplot(grid[1, -1], sharex=upper)
    _components(upper, lower, {"em": first[order], "svi": second[order]}, distances[order])
    lower.set_xticks(range(len(labels)), [str(name) for name in labels[order]])
    lower.set_xlabel("component" if not names else "component, by the class it stands for")
    title(figure, f"EM against SVI from one start: {assigned_alike:.1%} of the latents are assigned alike")
    return figure


def _traces(axes: Axes, traces: Mapping[str, Sequence[float]]) -> None:
    clean(axes)
    for fit, name in FITS.items():
        colour, marker = FIT_STYLE[name]
        trace = as_array(traces[fit])
        width, line = (4.0, "-") if fit == "em" else (1.6, "--")
        axes.plot(np.arange(1, len(trace) + 1), trace, line, color=colour, linewidth=width, alpha=0.9)
        label = f"{name} ends at {trace[-1]:.4f} after {len(trace):,} iterations".replace("-", "−")
        axes.plot(len(trace), trace[-1], marker, color=colour, markersize=7, label=label)
    axes.set_xscale("log")
    axes.set(title="Log-likelihood along the iterations", xlabel="iteration", ylabel="nats per latent")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - 0.2 * (top - bottom), top)
    axes.legend(fontsize=9.5, frameon=False, loc="lower right", handlelength=1.0)


def _accuracy(axes: Axes, mixtures: Mapping[str, Mapping[str, Any]]) -> None:
    clean(axes)
    ends = []
    for shift, (fit, name) in zip((-0.16, 0.16), FITS.items(), strict=True):
        colour, marker = FIT_STYLE[name]
        for k, budget in enumerate(BUDGET_WORDS):
            figures = mixtures.get(fit, {}).get(budget, {})
            if "accuracy" not in figures:
                continue
            value = figures["accuracy"]
            low, high = (figures.get(f"accuracy_{end}", value) for end in ("min", "max"))
            ends += [low, high]
            axes.errorbar(
                k + shift,
                value,
                yerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                fmt=marker,
                color=colour,
                markersize=8,
                capsize=4,
            )
            axes.annotate(
                f"{value:.3f}",
                (k + shift, high),
                xytext=(8 if shift < 0 else -8, 8),
                textcoords="offset points",
                ha="right" if shift < 0 else "left",
                fontsize=9.5,
                color=colour,
            )
    low, high = min(ends), max(ends)
    span = max(high - low, 0.04)
    axes.set_xticks(range(3), BUDGET_WORDS.values())
    axes.set(xlim=(-0.6, 2.6), ylim=(low - 0.12 * span, high + 0.32 * span))
    axes.set_yticks([tick for tick in axes.get_yticks() if low - 0.12 * span <= tick <= 1.0])
    axes.set(title="Accuracy on the test images", ylabel="accuracy")
    handles = [
        Line2D([], [], linestyle="", color=colour, marker=marker, markersize=8, label=name)
        for name, (colour, marker) in FIT_STYLE.items()
    ]
    axes.legend(handles=handles, fontsize=9.5, frameon=False, loc="upper center", ncols=2)


def _components(upper: Axes, lower: Axes, weights: Mapping[str, Any], distances: Any) -> None:
    clean((upper, lower))
    places = np.arange(len(distances))
    upper.vlines(places, weights["em"], weights["svi"], color=MUTED, linewidth=1.2, zorder=1)
    for fit, name in FITS.items():
        colour, marker = FIT_STYLE[name]
        size, face = (9.0, "white") if fit == "em" else (5.5, colour)
        upper.plot(places, weights[fit], marker, color=colour, markersize=size, markerfacecolor=face, label=name)
    upper.set(title="Components after alignment", ylabel="weight")
    upper.tick_params(labelbottom=False)
    upper.set_ylim(0.0, 1.35 * max(np.max(weights["em"]), np.max(weights["svi"])))
    upper.legend(fontsize=9.5, frameon=False, loc="upper right", ncols=2)
    lower.vlines(places, 0.0, distances, color=MUTED, linewidth=1.2)
    lower.plot(places, distances, "s", color=MUTED, markersize=6, clip_on=False)
    lower.set(xlim=(-0.6, len(places) - 0.4), ylim=(0.0, max(1.2 * float(np.max(distances)), 1e-9)))
    lower.set(ylabel="distance of\nthe means")
