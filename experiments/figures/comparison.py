"""EM against SVI: log-likelihood along the iterations, accuracy, and components after alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    FIT_STYLE,
    INK,
    MUTED,
    PAPER,
    SMALL,
    WIDTH,
    Line,
    as_array,
    check_finite,
    check_same_length,
    clean,
    shortened,
    text_width,
)
from latentmix.experiments.options.names import FITS
from latentmix.models.words import plural

__all__ = ["em_against_svi"]

BUDGET_WORDS = {"none": "no label", "few": "few labels", "all": "all labels"}
NAMED = 24  # most components whose names are all written
LEAST_SPAN = 1e-3  # nats, of the axis of log-likelihoods, which are written with four decimals


def em_against_svi(
    traces: Mapping[str, Sequence[float]],
    mixtures: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, ArrayLike | Tensor],
    mean_distances: ArrayLike | Tensor,
    *,
    assigned_alike: float,
    names: Sequence[str] | None = None,
    spread: float = 1.0,
    thing: str = "image",
    ax: Ax | None = None,
) -> Figure:
    """Draw both fits of a mixture from one start: their log-likelihoods, accuracies and components.

    SVI's curve is its best value so far: the trial points of a quasi-Newton method may overshoot.

    Args:
        traces: For `em` and `svi`, the log-likelihood per latent after each iteration, nats.
        mixtures: The `mixtures` of a run's summary: `mixtures[fit][budget]["accuracy"]` for the fits `em` and
            `svi` and the budgets `none`, `few` and `all`, with `accuracy_min` and `accuracy_max` for `few`;
            without accuracies (no labels) their panel is omitted.
        weights: For `em` and `svi`, K weights after Hungarian alignment.
        mean_distances: K distances between the means of aligned components.
        assigned_alike: Fraction of the latents that both fits assign to the same component.
        names: Names of the K components, in the order in which they are drawn; by default they are numbered from 1.
        spread: Unit of the distances, the standard deviation of the latents.
        thing: Word for a datum.
        ax: Three axes of the caller's figure to draw into, for log-likelihoods, weights and distances; of fits with
            accuracies four, the second for these.

    Raises:
        ValueError: If values differ in length or are not finite, or the axes are not as many.

    Example:
        >>> from latentmix.experiments.figures import em_against_svi
        >>> traces = {"em": [-3.0, -2.5, -2.4], "svi": [-3.0, -2.6, -2.4]}
        >>> weights = {"em": [0.5, 0.5], "svi": [0.51, 0.49]}
        >>> em_against_svi(traces, {}, weights, [0.01, 0.02], assigned_alike=0.99).get_suptitle()
        'EM against SVI from one start: 99.0% assigned alike'
    """
    first, second = as_array(weights["em"]), as_array(weights["svi"])
    distances = as_array(mean_distances) / (spread or 1.0)
    labels = [str(k + 1) for k in range(len(first))] if not names else [shortened(name, 18) for name in names]
    check_same_length(weights_of_em=first, weights_of_svi=second, mean_distances=distances, names=labels)
    check_finite(weights=np.concatenate([first, second]), mean_distances=distances)
    accuracies = any("accuracy" in budget for fit in mixtures.values() for budget in fit.values())

    def make(figure: Figure) -> list[Axes]:
        grid = figure.add_gridspec(2, 2)
        places = [grid[0, 0], grid[0, 1]] if accuracies else [grid[0, :]]
        return [figure.add_subplot(place) for place in (*places, grid[1, 0], grid[1, 1])]

    sheet = Sheet(ax, WIDTH, 7.0)
    what = f"log-likelihoods{', accuracies' if accuracies else ''}, weights, distances"
    panels = sheet.panels(4 if accuracies else 3, make, what=what)
    _traces(panels[0], traces)
    if accuracies:
        _accuracy(panels[1], mixtures, thing)
    _weights(panels[-2], labels, {"em": first, "svi": second})
    _distances(panels[-1], labels, distances)
    sheet.title(f"EM against SVI from one start: {assigned_alike:.1%} assigned alike")
    few = any("accuracy_min" in budget for fit in mixtures.values() for budget in fit.values())
    sentences = ["SVI's curve is its best so far, for single steps can overshoot"]
    sentences += ["few labels: mean and range over draws of them"] if few else []
    sheet.note("; ".join(sentences))
    lines: tuple[Line, ...] = ("-", "--")
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=8, linestyle=line, label=name, **_face(name))
        for (name, (colour, marker)), line in zip(
            ((name, FIT_STYLE[name]) for name in FITS.values()), lines, strict=True
        )
    ]
    sheet.legend(handles)
    return sheet.figure


def _face(name: str) -> dict[str, Any]:
    """Hollow marks for EM, so that marks of SVI at the same place are seen."""
    return {"markerfacecolor": PAPER} if name == "EM" else {}


def _traces(axes: Axes, traces: Mapping[str, Sequence[float]]) -> None:
    clean(axes)
    lines = ["iteration"]
    for fit, name in FITS.items():
        colour, marker = FIT_STYLE[name]
        trace = as_array(traces[fit])
        best = np.fmax.accumulate(trace) if fit == "svi" else trace
        width, line = (4.0, "-") if fit == "em" else (1.8, "--")
        axes.plot(np.arange(1, len(best) + 1), best, line, color=colour, linewidth=width)
        axes.plot(len(best), best[-1], marker, color=colour, markersize=8, **_face(name))
        lines.append(f"{name}: {best[-1]:.4f} after {plural(len(best), 'iteration')}".replace("-", "−"))
    longest = max(len(trace) for trace in traces.values())
    if longest > 50:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    low, high = axes.get_ylim()
    if high - low < LEAST_SPAN:  # else rounding errors fill the panel
        middle = (low + high) / 2
        axes.set_ylim(middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set(title="Mean log p(z)", xlabel="\n".join(lines), ylabel="nats per latent")


def _accuracy(axes: Axes, mixtures: Mapping[str, Mapping[str, Any]], thing: str) -> None:
    """Draw a row for each budget and fit, with the numbers beside the panel."""
    clean(axes)
    axes.grid(False, axis="y")
    ends: list[float] = []
    budgets = [budget for budget in BUDGET_WORDS if any("accuracy" in fit.get(budget, {}) for fit in mixtures.values())]
    for shift, (fit, name) in zip((-0.18, 0.18), FITS.items(), strict=True):
        colour, marker = FIT_STYLE[name]
        for row, budget in enumerate(budgets):
            figures = mixtures.get(fit, {}).get(budget, {})
            if "accuracy" not in figures:
                continue
            value = figures["accuracy"]
            low, high = (figures.get(f"accuracy_{end}", value) for end in ("min", "max"))
            ends += [low, value, high]
            axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=1.6, clip_on=False)
            axes.plot(value, row + shift, marker, color=colour, markersize=8, clip_on=False, zorder=3, **_face(name))
            place = axes.annotate(f"{value:.3f}", (1.0, row + shift), (9, 0), textcoords="offset points")
            place.xycoords = axes.get_yaxis_transform()
            place.set(fontsize=SMALL, color=INK, va="center", ha="left", annotation_clip=False)
    low, high = min(ends), max(ends)
    reach = max(high - low, 0.1)
    top = min(1.0, high + 0.15 * reach)
    axes.set(xlim=(max(0.0, min(low - 0.15 * reach, top - reach)), top), ylim=(len(budgets) - 0.5, -0.5))
    axes.set_yticks(range(len(budgets)), [BUDGET_WORDS[budget] for budget in budgets])
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set(title=f"Accuracy on the test {thing}s", xlabel="accuracy")


def _weights(axes: Axes, labels: Sequence[str], weights: Mapping[str, Any]) -> None:
    clean(axes)
    places = np.arange(len(labels))
    axes.vlines(places, weights["em"], weights["svi"], color=MUTED, linewidth=1.2, zorder=1)
    for fit, name in FITS.items():
        colour, marker = FIT_STYLE[name]
        size = 9.0 if fit == "em" else 5.5
        axes.plot(places, weights[fit], marker, color=colour, markersize=size, **_face(name))
    axes.set(title="Weights of aligned components", ylabel="weight", xlim=(-0.6, len(places) - 0.4))
    axes.set_ylim(0.0, 1.15 * max(np.max(weights["em"]), np.max(weights["svi"])))
    _components(axes, labels)


def _distances(axes: Axes, labels: Sequence[str], distances: Any) -> None:
    clean(axes)
    places = np.arange(len(labels))
    axes.vlines(places, 0.0, distances, color=MUTED, linewidth=1.2)
    axes.plot(places, distances, "s", color=MUTED, markersize=6, clip_on=False)
    axes.set(xlim=(-0.6, len(places) - 0.4), ylim=(0.0, max(1.15 * float(np.max(distances)), 0.1)))
    largest = float(np.max(distances))
    reached = f"at most {largest:.2g}" if largest >= 0.001 else "below 0.001"
    axes.set(title=f"Distances of their means\n{reached}", ylabel="in sd of the latents")
    _components(axes, labels)


def _components(axes: Axes, labels: Sequence[str]) -> None:
    """Name the components on the horizontal axis."""
    axes.set_xlabel("component")
    step = -(-len(labels) // NAMED)
    written = labels[::step]
    turned = max(text_width(label, SMALL) for label in written) > 0.8 * (WIDTH / 2 - 0.9) / len(written)
    axes.set_xticks(range(0, len(labels), step), written, rotation=90 if turned else 0)
