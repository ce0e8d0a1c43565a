"""Latent spaces: a map by attribute or class, and the KL divergence of each dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    BLUE,
    MUTED,
    SHADE,
    WIDTH,
    Array,
    as_array,
    check_finite,
    check_same_length,
    class_names,
    class_styles,
    clean,
)
from latentmix.models.words import plural

__all__ = ["latent_map", "latent_usage"]

ACTIVE, INACTIVE = BLUE, SHADE
NUMBERED = 20  # most dimensions whose numbers are written below their bars


def latent_map(
    projections: ArrayLike | Tensor | Mapping[str, ArrayLike | Tensor],
    values: ArrayLike | Tensor,
    *,
    name: str = "class",
    classes: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    axes: tuple[str, str] | None = None,
    total: int | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw projected latents by class or by an attribute, one panel per projection.

    Args:
        projections: By method (`PCA`, `t-SNE`, or `z` for the latents themselves), an `n x 2` array of the same
            latents; or one array, of the latents themselves.
        values: n labels, or booleans for an attribute of each latent's image.
        name: Name of the values, such as `class` or `Blond_Hair`.
        classes: The values that occur, in the order of the legend; by default ascending.
        names: Their names; by default their numbers, and `no` and `yes` for booleans.
        axes: Names of the axes of the first projection, as `Plane.names`.
        total: Number of latents of which n are drawn.
        ax: Axes of the caller's figure to draw into, one for each projection.

    Raises:
        ValueError: If the arrays have other shapes or values that are not finite, a value is not among the classes, or
            the axes are not as many.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import latent_map
        >>> plane = np.random.default_rng(0).normal(size=(50, 2))
        >>> figure = latent_map({"z": plane}, plane[:, 0] > 0, name="Smiling", axes=("z₁", "z₂"))
        >>> figure.axes[0].get_xlabel()
        'z₁'
    """
    targets = as_array(values).ravel()
    if not isinstance(projections, Mapping):
        projections = {"z": projections}
    planes = {method: as_array(points) for method, points in projections.items()}
    if not planes:
        raise ValueError("Expected at least one projection; got none.")
    for method, points in planes.items():
        if points.shape != (len(targets), 2) or not len(targets):
            raise ValueError(f"Expected points of shape {len(targets)} x 2 for {method}; got {points.shape}.")
        check_finite(**{f"points of {method}": points})
    if classes is None:
        classes = [int(value) for value in np.unique(targets)]
        if np.asarray(values).dtype == np.bool_ and names is None:
            names = [("no", "yes")[value] for value in classes]
    shown = class_names(classes, names)
    unknown = sorted(set(targets.astype(int)) - set(classes))
    if unknown:
        raise ValueError(
            f"Expected every value of {name} among the classes; got {', '.join(map(str, unknown))} beside."
        )
    styles = dict(zip(classes, class_styles(len(classes)), strict=True))
    counts = {value: int(np.sum(targets == value)) for value in styles}

    sheet = Sheet(ax, WIDTH, 0.94 * WIDTH / max(len(planes), 1.3) + 1.5)
    panels = sheet.panels(len(planes), what=", ".join(planes))
    for place, (panel, (method, points)) in enumerate(zip(panels, planes.items(), strict=True)):
        clean(panel, grid=False)
        _map(panel, points, targets, styles, counts)
        if len(planes) > 1:
            panel.set_title(method, fontsize=11, fontweight="bold")
        if place == 0 and axes is not None:
            panel.set(xlabel=axes[0].replace(" (", "\n("), ylabel=axes[1].replace(" (", "\n("))
        elif "SNE" in method:
            panel.set(xticks=[], yticks=[], xlabel=f"{method}, first axis", ylabel=f"{method}, second axis")
    readable = name.replace("_", " ")
    drawn = f" ({len(targets):,} of {total:,} drawn)" if total is not None and total > len(targets) else ""
    sheet.title(f"Latents by {readable}{drawn}")
    if any("SNE" in method for method in planes):
        sheet.note("t-SNE keeps neighbourhoods; distances between its groups and its scale mean nothing")
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=7, label=shown[value])
        for value, (colour, marker) in styles.items()
    ]
    sheet.legend(handles, readable)
    return sheet.figure


def latent_usage(kl_per_dim: ArrayLike | Tensor, active: ArrayLike | Tensor, *, ax: Ax | None = None) -> Figure:
    """Draw the KL divergence of each latent dimension in descending order, with inactive dimensions shaded.

    Args:
        kl_per_dim: D mean KL divergences, nats.
        active: Whether each of the D dimensions is active (Burda et al., *Importance weighted autoencoders*, 2016).
        ax: Axes of the caller's figure to draw into.

    Raises:
        ValueError: If there is no dimension, or the arrays differ in length or are not finite.

    Example:
        >>> from latentmix.experiments.figures import latent_usage
        >>> latent_usage([0.01, 2.0, 1.0], [False, True, True]).get_suptitle()
        '2 of 3 latent dimensions are active'
    """
    divergences, used = as_array(kl_per_dim).ravel(), as_array(active).ravel() > 0
    check_same_length(kl_per_dim=divergences, active=used)
    if not len(divergences):
        raise ValueError("Expected at least one latent dimension; got none.")
    check_finite(kl_per_dim=divergences)
    order = np.argsort(-divergences, kind="stable")
    count = len(order)
    sheet = Sheet(ax, WIDTH, 4.2)
    (axes,) = sheet.panels(1)
    clean(axes)
    axes.grid(False, axis="x")
    top = 1.06 * max(float(divergences.max()), 1e-9)
    idle = np.flatnonzero(~used[order])
    axes.bar(idle + 1, top, 1.0, color=INACTIVE, zorder=0)
    axes.bar(range(1, count + 1), divergences[order], 0.8, color=np.where(used[order], ACTIVE, MUTED))
    if count <= NUMBERED:
        axes.set_xticks(range(1, count + 1), [str(dimension + 1) for dimension in order])
        axes.tick_params(axis="x", length=0)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    sides = max(0.0, (6 - count) / 2)  # few bars stay narrow
    axes.set(xlim=(0.4 - sides, count + 0.6 + sides), ylim=(min(0.0, 1.1 * float(divergences.min())), top))
    axes.set_xlabel("latent dimension, in falling order" if count <= NUMBERED else "rank of the latent dimension")
    axes.set_ylabel("KL divergence, nats")
    handles = [Patch(facecolor=ACTIVE, label=f"active: {used.sum()}, {divergences[used].sum():.2f} nats in all")]
    if len(idle):
        inactive = f"not active: {len(idle)}, {divergences[~used].sum():.2f} nats in all"
        handles.append(Patch(facecolor=INACTIVE, edgecolor=MUTED, label=inactive))
    sheet.legend(handles)
    sheet.title(f"{used.sum()} of {plural(count, 'latent dimension')} {'is' if used.sum() == 1 else 'are'} active")
    return sheet.figure


def _map(
    axes: Axes,
    points: Array,
    targets: Array,
    styles: Mapping[int, tuple[str, str]],
    counts: Mapping[int, int],
) -> None:
    """Draw n points in a square window of one scale, the least frequent value last."""
    size = float(np.clip(18_000 / len(points), 9, 26))
    for value in sorted(styles, key=lambda value: -counts[value]):
        colour, marker = styles[value]
        x, y = points[targets == value].T
        axes.scatter(x, y, s=size, color=colour, marker=marker, linewidths=0, alpha=0.75)
    low, high = points.min(axis=0), points.max(axis=0)
    half = max(0.54 * float((high - low).max()), 1e-6)
    centre = (low + high) / 2.0
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half))
    axes.set_box_aspect(1.0)
