"""Points in three dimensions against samples of a model, and the components that the samples cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.mixtures import Components, draw_ellipse
from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    BLUE,
    GREY,
    INK,
    MUTED,
    PAPER,
    SHADE,
    SMALL,
    VERMILION,
    WIDTH,
    Array,
    as_array,
    check_finite,
    check_same_length,
    class_names,
    class_styles,
    clean,
    text_width,
)
from latentmix.models.words import plural

__all__ = ["coverage", "points_in_space", "points_pairwise"]

COVERED, MISSED, OUTSIDE = BLUE, VERMILION, GREY
AXES = ("x₁", "x₂", "x₃")
PAIRS = ((0, 1), (0, 2), (1, 2))


def points_in_space(
    real: ArrayLike | Tensor,
    sampled: ArrayLike | Tensor,
    components_real: ArrayLike | Tensor,
    components_sampled: ArrayLike | Tensor,
    *,
    names: Sequence[str] | None = None,
    caption: str | None = None,
    points: int = 2000,
    ax: Ax | None = None,
) -> Figure:
    """Draw data and samples of a model side by side in space, by component of the true mixture.

    Args:
        real: An `N x 3` array.
        sampled: An `M x 3` array.
        components_real: N components, numbered from 0; -1 for none.
        components_sampled: M components of the same mixture.
        names: Names of the components of the true mixture; by default their numbers from 0.
        caption: Text below the figure, such as a two-sample statistic.
        points: Most points per panel, evenly spaced in the arrays.
        ax: Two axes of the caller's figure to draw into, for data and samples, made with `projection="3d"`.

    Raises:
        ValueError: If arrays have other shapes, values are not finite, or the axes are not as many.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import points_in_space
        >>> x = np.random.default_rng(0).normal(size=(20, 3))
        >>> [axes.get_title() for axes in points_in_space(x, x, [0, 1] * 10, [1, 0] * 10).axes]
        ['Data', 'Samples of the model']
    """
    clouds = _clouds(real, sampled, components_real, components_sampled, points)

    def make(figure: Figure) -> list[Axes]:
        return [figure.add_subplot(1, 2, place, projection="3d") for place in (1, 2)]

    sheet = Sheet(ax, WIDTH, 5.0)
    panels: list[Any] = list(sheet.panels(2, make, what="data, samples", kind="3d"))
    low, high = _window(clouds)
    styles = _styles(clouds, 0 if names is None else len(names))
    for axes, (name, (x, owners)) in zip(panels, clouds.items(), strict=True):
        for component, (colour, marker) in styles.items():
            mine = x[owners == component]
            axes.scatter(mine[:, 0], mine[:, 1], mine[:, 2], s=13, color=colour, marker=marker, linewidths=0, alpha=0.7)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
        axes.set_box_aspect((1, 1, 1), zoom=0.95)
        axes.set(xlabel=AXES[0], ylabel=AXES[1], zlabel=AXES[2])
        axes.set_title(name, fontsize=11, fontweight="bold", color=INK)
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.label.set(fontsize=12, color=INK)
            axis.set_major_locator(MaxNLocator(4))
            axis.set_tick_params(labelsize=SMALL, colors=MUTED, labelcolor=INK)
            axis.set_pane_color(SHADE)
    sheet.title("Data and samples of the model, by component of the true mixture")
    if caption:
        sheet.note(caption)
    _legend(sheet, styles, names)
    return sheet.figure


def points_pairwise(
    real: ArrayLike | Tensor,
    sampled: ArrayLike | Tensor,
    components_real: ArrayLike | Tensor,
    components_sampled: ArrayLike | Tensor,
    mixture: Components,
    *,
    names: Sequence[str] | None = None,
    caption: str | None = None,
    points: int = 2000,
    ax: Ax | None = None,
) -> Figure:
    """Draw data over samples of a model for every pair of three coordinates, with the true components' ellipses.

    Args:
        real: An `N x 3` array.
        sampled: An `M x 3` array.
        components_real: N components, numbered from 0; -1 for none.
        components_sampled: M components of the same mixture.
        names: Names of the components of the true mixture; by default their numbers from 0.
        mixture: Means and covariances of the true components; their 2-sigma ellipses are those of the marginals.
        caption: Text below the figure, such as a two-sample statistic.
        points: Most points per panel, evenly spaced in the arrays.
        ax: Six axes of the caller's figure to draw into: three for data and three for samples, by pairs of
            coordinates.

    Raises:
        ValueError: If arrays have other shapes, values are not finite, or the axes are not as many.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import Components, points_pairwise
        >>> x = np.random.default_rng(0).normal(size=(20, 3))
        >>> truth = Components(np.zeros((1, 3)), np.eye(3)[None])
        >>> len(points_pairwise(x, x, [0] * 20, [0] * 20, truth).axes)
        6
    """
    clouds = _clouds(real, sampled, components_real, components_sampled, points)
    means, covariances = as_array(mixture.means), as_array(mixture.covariances)
    if means.ndim != 2 or means.shape[1] != 3 or covariances.shape != (len(means), 3, 3):
        raise ValueError(
            f"Expected means of shape K x 3 and covariances of shape K x 3 x 3; got {means.shape}, {covariances.shape}."
        )
    highest = int(max(owners.max() for _, owners in clouds.values()))
    if highest >= len(means):
        raise ValueError(f"Expected components below {len(means)}; got {highest}.")
    styles = _styles(clouds, len(means))
    low, high = _window(clouds, means, covariances)
    sheet = Sheet(ax, WIDTH, 6.6)
    what = "data and then samples, by the pairs 12, 13 and 23 of coordinates"
    six = sheet.panels(6, lambda figure: figure.subplots(2, 3), what=what)
    panels = [six[:3], six[3:]]
    for row, (name, (x, owners)) in enumerate(clouds.items()):
        for axes, pair in zip(panels[row], PAIRS, strict=True):
            clean(axes, grid=False)
            across, up = pair
            for component, (colour, marker) in styles.items():
                mine = x[owners == component]
                axes.scatter(mine[:, across], mine[:, up], s=8, color=colour, marker=marker, linewidths=0, alpha=0.6)
            for k, mean in enumerate(means):
                draw_ellipse(axes, mean[list(pair)], covariances[k][np.ix_(pair, pair)], styles[k][0])
            axes.set(xlim=(low[across], high[across]), ylim=(low[up], high[up]))
            axes.set_box_aspect(1.0)
            axes.set_ylabel(AXES[up], fontsize=12, rotation=0, labelpad=6)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            if row:
                axes.set_xlabel(AXES[across], fontsize=12)
        panels[row][1].set_title(name, fontsize=11, fontweight="bold")
    sheet.title("Data and samples of the model, by pairs of coordinates")
    if caption:
        sheet.note(caption)
    _legend(sheet, styles, names, ellipses=True)
    return sheet.figure


def coverage(
    fractions: ArrayLike | Tensor,
    expected: ArrayLike | Tensor,
    covered: ArrayLike | Tensor,
    *,
    names: Sequence[str] | None = None,
    outside: float | None = None,
    caption: str | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw the fraction of a model's samples in each true component beside the expected fraction.

    Args:
        fractions: K fractions of the samples, one per component.
        expected: K fractions of samples from the true mixture.
        covered: Whether each of the K components counts as covered.
        names: Names of the components; by default their numbers from 0.
        outside: Fraction of the samples in no component.
        caption: Text below the figure, such as a two-sample statistic.
        ax: Axes of the caller's figure to draw into.

    Raises:
        ValueError: If there is no component, or the arrays differ in length or are not finite.

    Example:
        >>> from latentmix.experiments.figures import coverage
        >>> coverage([0.5, 0.01], [0.5, 0.5], [True, False]).get_suptitle()
        'The samples cover 1 of 2 components'
    """
    sampled, true, reached = as_array(fractions).ravel(), as_array(expected).ravel(), as_array(covered).ravel() > 0
    check_same_length(fractions=sampled, expected=true, covered=reached)
    if not len(sampled):
        raise ValueError("Expected at least one component; got none.")
    check_finite(fractions=sampled, expected=true)
    count = len(sampled)
    shown = list(class_names(range(count), names).values())
    sheet = Sheet(ax, WIDTH, 4.4)
    (axes,) = sheet.panels(1)
    clean(axes)
    axes.grid(False, axis="x")
    places = np.arange(count)
    for kind, colour, hatch in ((True, COVERED, ""), (False, MISSED, "////")):
        mine = places[reached == kind]
        axes.bar(mine, sampled[mine], 0.62, color=colour, hatch=hatch, edgecolor=PAPER, linewidth=0)
    axes.hlines(true, places - 0.4, places + 0.4, color=INK, linewidth=2.2, zorder=3)
    top = 1.08 * float(max(sampled.max(), true.max(), 1e-9))
    turned = max(text_width(name, SMALL) for name in shown) > 0.8 * (WIDTH - 1.2) / count
    axes.set_xticks(places, shown, rotation=90 if turned else 0)
    axes.tick_params(axis="x", length=0)
    axes.set(xlim=(-0.7, count - 0.3), ylim=(0.0, top), xlabel="component of the true mixture")
    axes.set_ylabel("share of the samples")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if top > 0.06 else 1))
    handles: list[Patch | Line2D] = [Line2D([], [], color=INK, linewidth=2.2, label="under the true mixture")]
    if reached.any():
        handles.append(Patch(facecolor=COVERED, label="samples, covered"))
    if not reached.all():
        missed = Patch(facecolor=MISSED, hatch="////", edgecolor=PAPER, linewidth=0, label="samples, not covered")
        handles.append(missed)
    sheet.title(f"The samples cover {reached.sum()} of {plural(count, 'component')}")
    sentences = [] if outside is None else [f"{outside:.1%} of the samples lie in no component"]
    sentences += [caption] if caption else []
    if sentences:
        sheet.note(". ".join(sentences))
    sheet.legend(handles)
    return sheet.figure


def _clouds(
    real: ArrayLike | Tensor,
    sampled: ArrayLike | Tensor,
    components_real: ArrayLike | Tensor,
    components_sampled: ArrayLike | Tensor,
    points: int,
) -> dict[str, tuple[Array, Array]]:
    """At most `points` points and their components, by the title of their panel."""
    clouds = {}
    for name, values, owners in (
        ("Data", real, components_real),
        ("Samples of the model", sampled, components_sampled),
    ):
        x, k = as_array(values), as_array(owners).ravel()
        if x.ndim != 2 or x.shape[1] != 3 or not len(x):
            raise ValueError(f"Expected points of shape N x 3; got {x.shape} for {name.lower()}.")
        check_same_length(points=x, components=k)
        check_finite(points=x, components=k)
        rows = np.linspace(0, len(x) - 1, min(points, len(x))).astype(int)
        clouds[name] = (x[rows], k[rows])
    return clouds


def _styles(clouds: Mapping[str, tuple[Array, Array]], components: int = 0) -> dict[int, tuple[str, str]]:
    """Colour and marker of each component; grey dots for points in none."""
    owners = np.concatenate([k for _, k in clouds.values()])
    styles = dict(enumerate(class_styles(max(components, int(owners.max()) + 1))))
    return {-1: (OUTSIDE, "."), **styles} if owners.min() < 0 else styles


def _window(
    clouds: Mapping[str, tuple[Array, Array]],
    means: Array | None = None,
    covariances: Array | None = None,
) -> tuple[Array, Array]:
    """Lower and upper corner of one window for all panels: the data, the ellipses, and nearly all samples."""
    (data, _), (samples, _) = clouds.values()
    spread = 0.25 * (data.max(axis=0) - data.min(axis=0))
    ends = [data.min(axis=0), data.max(axis=0)]
    ends += [samples.min(axis=0).clip(min=ends[0] - spread), samples.max(axis=0).clip(max=ends[1] + spread)]
    if means is not None and covariances is not None:
        radii = 2.0 * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
        ends += [(means - radii).min(axis=0), (means + radii).max(axis=0)]
    low, high = np.min(ends, axis=0), np.max(ends, axis=0)
    margin = np.maximum(0.03 * (high - low), 1e-6)
    return low - margin, high + margin


def _legend(
    sheet: Sheet, styles: Mapping[int, tuple[str, str]], names: Sequence[str] | None, *, ellipses: bool = False
) -> None:
    shown = {-1: "none", **class_names(range(max(styles) + 1), names)}
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=7, label=shown[k])
        for k, (colour, marker) in sorted(styles.items(), key=lambda style: (style[0] < 0, style[0]))
    ]
    handles += [Line2D([], [], color=INK, linewidth=1.7, label="2-sigma ellipse")] if ellipses else []
    sheet.legend(handles, "component of the true mixture")
