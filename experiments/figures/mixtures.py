"""Mixtures over a VAE's latents: their components, and confusion matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.style import (
    INK,
    MUTED,
    Array,
    as_array,
    class_styles,
    clean,
    new_figure,
    title,
)

__all__ = ["Components", "confusion_matrices", "latent_scatter"]


@final
@dataclass(frozen=True)
class Components:
    """The components of a fitted mixture.

    Args:
        means: A `K x D` array.
        covariances: A `K x D x D` array.
        classes: The class of each component; `None` or empty without classes.
    """

    means: ArrayLike | Tensor
    covariances: ArrayLike | Tensor
    classes: Sequence[int] | None = None


def latent_scatter(
    latents: ArrayLike | Tensor,
    labels: ArrayLike | Tensor | None,
    mixtures: Mapping[str, Components],
    classes: Sequence[int],
    *,
    heading: str = "Latents and the components of the mixtures",
    points: int = 2500,
) -> Figure:
    """Draw latents by class under the 2-sigma ellipses and means of one or more mixtures, side by side.

    Above two dimensions latents, means and covariances are projected together on the first two principal
    components of the latents.

    Args:
        latents: An `N x D` array with D of at least 2.
        labels: N labels out of `classes`; `None` without labels.
        mixtures: Components by the name of the fit.
        classes: The labels that occur.
        heading: Title of the figure.
        points: Most latents to draw, evenly spaced in the N.
    """
    data = as_array(latents)
    if data.ndim != 2 or data.shape[1] < 2:
        raise ValueError(f"Expected latents of shape N x D with D >= 2; got {data.shape}.")
    origin, plane, names = _plane(data)
    projected = (data - origin) @ plane
    rows = np.linspace(0, len(data) - 1, min(points, len(data))).astype(int)
    drawn = projected[rows]
    targets = None if labels is None else as_array(labels)[rows]
    styles = dict(zip(classes, class_styles(len(classes)), strict=True))

    projections = {
        name: ((as_array(c.means) - origin) @ plane, plane.T @ as_array(c.covariances) @ plane)
        for name, c in mixtures.items()
    }
    low, high = _window(drawn, projections.values())
    aspect = float((high[1] - low[1]) / (high[0] - low[0]))
    width = 5.2 if len(mixtures) > 1 else 7.4
    figure = new_figure(width * len(mixtures) + 0.8, width * aspect + 1.6)
    panels = figure.subplots(1, len(mixtures), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (name, components) in zip(panels, mixtures.items(), strict=True):
        clean(axes, grid=False)
        _points(axes, drawn, targets, styles)
        _ellipses(axes, *projections[name], components.classes or None, styles)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.set_box_aspect(aspect)
        axes.set(title=name, xlabel=names[0])
        axes.title.set(fontsize=11, fontweight="bold")
        axes.xaxis.label.set_fontsize(12 if data.shape[1] == 2 else 10)
    panels[0].yaxis.label.set_fontsize(12 if data.shape[1] == 2 else 10)
    panels[0].set_ylabel(names[1])
    _legend(figure, styles if targets is not None else {}, any(c.classes for c in mixtures.values()))
    details = [f"{data.shape[1]} dimensions projected on 2"] if data.shape[1] > 2 else []
    details += [f"{len(rows):,} of {len(data):,} drawn"] if len(rows) < len(data) else []
    title(figure, f"{heading} ({', '.join(details)})" if details else heading)
    return figure


def confusion_matrices(
    matrices: Mapping[str, ArrayLike | Tensor],
    classes: Sequence[int],
    *,
    titles: Mapping[str, str] | None = None,
    heading: str = "Test images by true class and by the class of their component",
) -> Figure:
    """Draw confusion matrices side by side: counts as numbers, fractions of the true class as colour.

    Args:
        matrices: `K x K` counts by the name of the fit, true classes in rows.
        classes: The K classes.
        titles: Title of each panel by the name of the fit; by default the name and the accuracy.
        heading: Title of the figure.
    """
    count = len(classes)
    cell = max(0.42, 2.4 / count)
    figure = new_figure(len(matrices) * (cell * count + 0.75) + 0.9, cell * count + 1.4)
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (name, values) in zip(panels, matrices.items(), strict=True):
        matrix = as_array(values)
        if matrix.shape != (count, count):
            raise ValueError(f"Expected a {count} x {count} confusion matrix for {name}; got {matrix.shape}.")
        totals = matrix.sum(axis=1, keepdims=True)
        fractions = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
        image = axes.imshow(fractions, cmap="Blues", vmin=0.0, vmax=1.0)
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if fractions[row, column] > 0.55 else INK
            number = axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", color=colour)
            number.set_fontsize(9 if count > 5 else 11)
        accuracy = np.trace(matrix) / max(matrix.sum(), 1.0)
        axes.set_title((titles or {}).get(name, f"{name}: accuracy {accuracy:.3f}"), fontsize=11, color=INK)
        axes.set_xticks(range(count), [str(c) for c in classes])
        axes.set_yticks(range(count), [str(c) for c in classes])
        axes.tick_params(labelsize=10, length=0, labelcolor=INK)
        axes.set_xlabel("class of the component", fontsize=10, color=INK)
        axes.spines[:].set_color(MUTED)
    panels[0].set_ylabel("true class", fontsize=10, color=INK)
    bar = figure.colorbar(image, cax=panels[-1].inset_axes((1.04, 0.0, 0.045, 1.0)), ticks=[0.0, 0.5, 1.0])
    bar.ax.set_yticklabels(["0%", "50%", "100%"], fontsize=9.5)
    bar.set_label("share of the true class", fontsize=10, color=INK)
    bar.outline.set_visible(False)
    title(figure, heading)
    return figure


def _plane(data: Array) -> tuple[Array, Array, tuple[str, str]]:
    """Origin (D), directions (D x 2) and names of the two axes of the figure."""
    if data.shape[1] == 2:
        return np.zeros(2), np.eye(2), ("z₁", "z₂")
    origin = data.mean(axis=0)
    _, scales, directions = np.linalg.svd(data - origin, full_matrices=False)
    explained = scales**2 / np.sum(scales**2)
    first, second = (f"principal component {k + 1} ({explained[k]:.0%} of the variance)" for k in range(2))
    return origin, directions[:2].T, (first, second)


def _window(drawn: Array, components: Iterable[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Lower and upper corner of the window: all points, and ellipses up to a limit."""
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    reach = 0.25 * (high - low).max()
    ends = [low, high]
    for means, covariances in components:
        radii = 2.0 * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
        ends.append((means - radii).min(axis=0).clip(min=low - reach))
        ends.append((means + radii).max(axis=0).clip(max=high + reach))
    low, high = np.min(ends, axis=0), np.max(ends, axis=0)
    half = 0.53 * (high - low)
    half = np.maximum(half, [half[1], 0.6 * half[0]]).clip(1e-6)
    centre = (low + high) / 2.0
    return centre - half, centre + half


def _points(axes: Axes, drawn: Array, targets: Array | None, styles: Mapping[int, tuple[str, str]]) -> None:
    size = float(np.clip(18_000 / len(drawn), 7, 24))
    if targets is None:
        axes.scatter(drawn[:, 0], drawn[:, 1], s=size, color="#9a9a9a", linewidths=0)
        return
    for label, (colour, marker) in styles.items():
        x, y = drawn[targets == label].T
        axes.scatter(x, y, s=size, color=colour, marker=marker, linewidths=0, alpha=0.75)


def _ellipses(
    axes: Axes,
    means: Array,
    covariances: Array,
    classes: Sequence[int] | None,
    styles: Mapping[int, tuple[str, str]],
) -> None:
    """Draw `K x 2` means and the 2-sigma ellipses of `K x 2 x 2` covariances."""
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        scales, directions = np.linalg.eigh(covariance)
        width, height = 4.0 * np.sqrt(scales.clip(0.0))
        angle = float(np.degrees(np.arctan2(directions[1, 0], directions[0, 0])))
        colour = INK if classes is None else styles[classes[k]][0]
        ellipse = Ellipse((mean[0], mean[1]), width, height, angle=angle, facecolor="none", zorder=3)
        ellipse.set(edgecolor=colour, linewidth=1.8)
        ellipse.set_path_effects([withStroke(linewidth=2.8, foreground="white", alpha=0.6)])
        axes.add_patch(ellipse)
        if classes is None:
            axes.plot(*mean, "P", color=INK, markersize=9, markeredgecolor="white", zorder=4)
            continue
        name = axes.text(mean[0], mean[1], str(classes[k]), ha="center", va="center", fontsize=10, zorder=4)
        name.set(fontweight="bold", color=INK)
        name.set_bbox({"boxstyle": "circle,pad=0.22", "facecolor": "white", "edgecolor": colour, "lw": 1.8})


def _legend(figure: Figure, styles: Mapping[int, tuple[str, str]], named: bool) -> None:
    handles = [Line2D([], [], linestyle="", label="class:")] if styles else []
    handles += [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=7, label=str(label))
        for label, (colour, marker) in styles.items()
    ]
    handles.append(Line2D([], [], color=INK, linewidth=2, label="2-sigma ellipse"))
    mean = Line2D([], [], linestyle="", color=INK, marker="P", markersize=9, label="mean")
    if named:
        mean.set(marker="o", markerfacecolor="white", markersize=11, label="mean, with the component's class")
    handles.append(mean)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 13),
        fontsize=9.5,
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.4,
    )
