"""Latent spaces: a map by attribute or class, and the KL divergence of each dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.style import (
    MUTED,
    Array,
    as_array,
    check_same_length,
    class_styles,
    clean,
    new_figure,
    note,
    title,
)

__all__ = ["latent_map", "latent_usage"]

ACTIVE, INACTIVE = "#0072B2", "#ececec"


def latent_map(
    projections: Mapping[str, ArrayLike | Tensor],
    values: ArrayLike | Tensor,
    *,
    name: str,
    names_of_values: Mapping[int, str] | None = None,
    explained: Sequence[float] | None = None,
    total: int | None = None,
) -> Figure:
    """Draw projected latents by class or by an attribute, one panel per projection.

    Args:
        projections: By method (`PCA`, `t-SNE`), an `n x 2` array of the same latents.
        values: n labels, or booleans for an attribute of each latent's image.
        name: Name of the values, such as `class` or `Blond_Hair`.
        names_of_values: Name of each value, in the order of the legend; by default the values ascending, and `no` and
            `yes` for booleans.
        explained: Fractions of the variance along the axes of `PCA`.
        total: Number of latents of which n are drawn.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import latent_map
        >>> plane = np.random.default_rng(0).normal(size=(50, 2))
        >>> figure = latent_map({"PCA": plane}, plane[:, 0] > 0, name="Smiling", explained=(0.4, 0.2))
        >>> figure.axes[0].get_xlabel()
        'principal component 1 (40% of the variance)'
    """
    targets = as_array(values).ravel()
    planes = {method: as_array(points) for method, points in projections.items()}
    if not planes:
        raise ValueError("Expected at least one projection; got none.")
    for method, points in planes.items():
        if points.shape != (len(targets), 2) or not len(targets):
            raise ValueError(f"Expected points of shape {len(targets)} x 2 for {method}; got {points.shape}.")
    if names_of_values is None:
        present = [int(value) for value in np.unique(targets)]
        binary = np.asarray(values).dtype == np.bool_
        names_of_values = {value: ("no", "yes")[value] if binary else str(value) for value in present}
    unknown = sorted(set(targets.astype(int)) - set(names_of_values))
    if unknown:
        raise ValueError(f"Expected a name for every value of {name}; got none for {', '.join(map(str, unknown))}.")
    styles = dict(zip(names_of_values, class_styles(len(names_of_values)), strict=True))
    counts = {value: int(np.sum(targets == value)) for value in styles}

    figure = new_figure(5.0 * len(planes) + 1.4, 5.3)
    panels = figure.subplots(1, len(planes), squeeze=False)[0]
    for axes, (method, points) in zip(panels, planes.items(), strict=True):
        clean(axes, grid=False)
        _map(axes, points, targets, styles, counts)
        axes.set_title(method, fontsize=11, fontweight="bold")
        if method == "PCA":
            parts = [""] * 2 if explained is None else [f" ({part:.0%} of the variance)" for part in explained]
            axes.set(xlabel=f"principal component 1{parts[0]}", ylabel=f"principal component 2{parts[1]}")
        else:
            axes.set(xticks=[], yticks=[], xlabel=f"{method}, first axis", ylabel=f"{method}, second axis")
    readable = name.replace("_", " ")
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=7, label=names_of_values[value])
        for value, (colour, marker) in styles.items()
    ]
    ncols = -(-len(handles) // 22)
    legend = figure.legend(handles=handles, loc="outside right center", ncols=ncols, fontsize=9.5, frameon=False)
    legend.set_title(readable, FontProperties(size=10))
    drawn = f" ({len(targets):,} of {total:,} drawn)" if total is not None and total > len(targets) else ""
    title(figure, f"Latents by {readable}{drawn}")
    if any("SNE" in method for method in planes):
        note(figure, "t-SNE keeps neighbourhoods; distances between its groups and its scale mean nothing")
    return figure


def latent_usage(kl_per_dim: ArrayLike | Tensor, active: ArrayLike | Tensor) -> Figure:
    """Draw the KL divergence of each latent dimension in descending order, with inactive dimensions shaded.

    Args:
        kl_per_dim: D mean KL divergences, nats.
        active: Whether each of the D dimensions is active (Burda et al., *Importance weighted autoencoders*, 2016).

    Example:
        >>> from latentmix.experiments.figures import latent_usage
        >>> latent_usage([0.01, 2.0, 1.0], [False, True, True]).get_suptitle()
        '2 of 3 latent dimensions are active'
    """
    divergences, used = as_array(kl_per_dim).ravel(), as_array(active).ravel() > 0
    check_same_length(kl_per_dim=divergences, active=used)
    if not len(divergences):
        raise ValueError("Expected at least one latent dimension; got none.")
    order = np.argsort(-divergences, kind="stable")
    count = len(order)
    figure = new_figure(float(np.clip(0.24 * count + 1.5, 6.0, 11.0)), 3.7)
    axes = figure.add_subplot()
    clean(axes)
    axes.grid(False, axis="x")
    top = 1.25 * max(float(divergences.max()), 1e-9)
    idle = np.flatnonzero(~used[order])
    axes.bar(idle + 1, top, 1.0, color=INACTIVE, zorder=0)
    axes.bar(range(1, count + 1), divergences[order], 0.8, color=np.where(used[order], ACTIVE, MUTED))
    if count <= 40:
        axes.set_xticks(range(1, count + 1), [str(dimension + 1) for dimension in order])
        axes.tick_params(axis="x", length=0)
    axes.set(xlim=(0.2, count + 0.8), ylim=(min(0.0, 1.1 * float(divergences.min())), top))
    axes.set_xlabel("latent dimension, in falling order" if count <= 40 else "rank of the latent dimension")
    axes.set_ylabel("KL divergence, nats")
    handles = [Patch(facecolor=ACTIVE, label=f"active: {used.sum()}, {divergences[used].sum():.2f} nats in all")]
    if len(idle):
        inactive = f"not active: {len(idle)}, {divergences[~used].sum():.2f} nats in all"
        handles.append(Patch(facecolor=INACTIVE, edgecolor=MUTED, label=inactive))
    axes.legend(handles=handles, fontsize=9.5, frameon=False, loc="upper right", ncols=2)
    title(figure, f"{used.sum()} of {count} latent dimensions are active")
    return figure


def _map(
    axes: Axes,
    points: Array,
    targets: Array,
    styles: Mapping[int, tuple[str, str]],
    counts: Mapping[int, int],
) -> None:
    """Draw n points in a square window, the least frequent value last."""
    size = float(np.clip(18_000 / len(points), 9, 26))
    for value in sorted(styles, key=lambda value: -counts[value]):
        colour, marker = styles[value]
        x, y = points[targets == value].T
        axes.scatter(x, y, s=size, color=colour, marker=marker, linewidths=0, alpha=0.75)
    low, high = points.min(axis=0), points.max(axis=0)
    half = np.maximum(0.54 * (high - low), 1e-6)
    centre = (low + high) / 2.0
    axes.set(xlim=(centre[0] - half[0], centre[0] + half[0]), ylim=(centre[1] - half[1], centre[1] + half[1]))
    axes.set_box_aspect(1.0)
