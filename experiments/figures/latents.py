"""Pictures of a latent space: a map by attribute or class, how much each dimension holds, rate against distortion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.style import (
    INK,
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

__all__ = ["latent_map", "latent_usage", "rate_distortion"]

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
        values: n labels, or whether each latent's image has the attribute.
        name: What the values are, such as `class` or `Blond_Hair`.
        names_of_values: What to call each value, in the legend's order; by default the values ascending, and
            `no` and `yes` for booleans.
        explained: Shares of the variance along the axes of `PCA`.
        total: How many latents there are, where n of them are drawn.

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
        found = [int(value) for value in np.unique(targets)]
        binary = np.asarray(values).dtype == np.bool_
        names_of_values = {value: ("no", "yes")[value] if binary else str(value) for value in found}
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
            shares = [""] * 2 if explained is None else [f" ({share:.0%} of the variance)" for share in explained]
            axes.set(xlabel=f"principal component 1{shares[0]}", ylabel=f"principal component 2{shares[1]}")
        else:
            axes.set(xticks=[], yticks=[], xlabel=f"{method}, first axis", ylabel=f"{method}, second axis")
    said = name.replace("_", " ")
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=7, label=names_of_values[value])
        for value, (colour, marker) in styles.items()
    ]
    ncols = -(-len(handles) // 22)
    legend = figure.legend(handles=handles, loc="outside right center", ncols=ncols, fontsize=9.5, frameon=False)
    legend.set_title(said, FontProperties(size=10))
    drawn = f" ({len(targets):,} of {total:,} drawn)" if total is not None and total > len(targets) else ""
    title(figure, f"Latents by {said}{drawn}")
    if any("SNE" in method for method in planes):
        note(figure, "t-SNE keeps neighbourhoods; distances between its groups and its scale mean nothing")
    return figure


def latent_usage(kl_per_dim: ArrayLike | Tensor, active: ArrayLike | Tensor) -> Figure:
    """Draw the KL divergence of each latent dimension in falling order, those in use apart from those that are not.

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
        said = f"not active: {len(idle)}, {divergences[~used].sum():.2f} nats in all"
        handles.append(Patch(facecolor=INACTIVE, edgecolor=MUTED, label=said))
    axes.legend(handles=handles, fontsize=9.5, frameon=False, loc="upper right", ncols=2)
    title(figure, f"{used.sum()} of {count} latent dimensions are active")
    return figure


def rate_distortion(points: Mapping[str, tuple[float, float]], *, measure: str | None = None) -> Figure:
    """Draw models by the rate and the distortion of their bound; on a grey line the ELBO is the same.

    The plane is that of Alemi et al. (*Fixing a broken ELBO*, 2018): rate plus distortion is the negative ELBO.

    Args:
        points: By model, its rate, KL(q(z | x) || p(z)), and its distortion, -E log p(x | z), in nats per datum, all
            of them taken against one measure.
        measure: The measure, for the caption.

    Example:
        >>> from latentmix.experiments.figures import rate_distortion
        >>> figure = rate_distortion({"Bernoulli": (25.0, 80.0), "beta 4": (12.0, 99.0)}, measure="mass on {0, 1}")
        >>> figure.axes[0].get_xlabel()
        'rate: KL(q(z | x) || p(z)), nats'
    """
    places = np.array([as_array(point) for point in points.values()])
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise ValueError(f"Expected a finite rate and distortion for at least one model; got {dict(points)}.")
    figure = new_figure(7.2, 5.2)
    axes = figure.add_subplot()
    clean(axes, grid=False)
    low, high = places.min(axis=0), places.max(axis=0)
    pad = np.maximum(0.14 * (high - low), 0.05 * (high - low).max() or 1.0)
    axes.set(xlim=(low[0] - pad[0], high[0] + pad[0]), ylim=(low[1] - pad[1], high[1] + pad[1]))
    _bounds(axes)
    for (colour, marker), (rate, distortion) in zip(class_styles(len(places)), places, strict=True):
        axes.plot(rate, distortion, marker, color=colour, markersize=9, markeredgecolor="white", zorder=3)
    axes.set(xlabel="rate: KL(q(z | x) || p(z)), nats", ylabel="distortion: −E log p(x | z), nats")
    title(figure, "Rate against distortion")
    against = f"\nMeasure of the likelihood: {measure}" if measure else ""
    note(figure, f"Along a grey line their sum, −ELBO, is the same: lower left is better{against}")
    _label(figure, axes, places, list(points))
    return figure


def _map(
    axes: Axes,
    points: Array,
    targets: Array,
    styles: Mapping[int, tuple[str, str]],
    counts: Mapping[int, int],
) -> None:
    """Draw n points in a square window, the rarest value last."""
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


def _bounds(axes: Axes) -> None:
    """Draw and name lines of equal ELBO over the window."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    reach = right + top - left - bottom
    decade = 10.0 ** np.floor(np.log10(reach))
    step = decade * next(share for share in (0.1, 0.2, 0.5, 1.0, 2.0) if reach <= 9 * share * decade)
    for total in np.arange(np.ceil((left + bottom) / step), (right + top) / step) * step:
        axes.plot([left, right], [total - left, total - right], color="#d4d4d4", linewidth=1.0, zorder=1)
        if bottom < total - right < top:
            where = (right, total - right)
            said = f"{total:g}".replace("-", "−")
            axes.annotate(said, where, xytext=(3, 0), textcoords="offset points", fontsize=9, color=MUTED, va="center")
    axes.annotate("−ELBO", (right, top), xytext=(3, 4), textcoords="offset points", fontsize=9, color=MUTED)


def _label(figure: Figure, axes: Axes, places: Array, names: Sequence[str]) -> None:
    """Write a name beside each place where it meets no other name, place or edge, as far as there is room."""
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    dots = axes.transData.transform(places)
    window = axes.get_window_extent()
    taken: list[tuple[float, float, float, float]] = [(x - 8, y - 8, x + 8, y + 8) for x, y in dots]
    for k, (name, place) in enumerate(zip(names, places, strict=True)):
        best: tuple[float, Annotation, tuple[float, float, float, float]] | None = None
        for reach in (9, 18, 30, 45, 60):
            for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1), (-1, 2), (1, 2)):
                line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 3}
                text = axes.annotate(
                    name,
                    place,
                    xytext=(reach * across, reach * up),
                    textcoords="offset points",
                    arrowprops=line if reach > 9 else None,
                )
                text.set(fontsize=10, color=INK, zorder=4)
                text.set(ha=("right", "center", "left")[across + 1], va=("top", "center", "bottom")[min(up, 1) + 1])
                text.get_window_extent(renderer)  # places the text; its own result has the line in it
                x0, y0, x1, y1 = (float(end) for end in Text.get_window_extent(text, renderer).extents)
                met = 10.0 * sum(_shared((x0, y0, x1, y1), other) for other in taken)
                met += (x1 - x0) * (y1 - y0) - _shared((x0, y0, x1, y1), tuple(window.extents))
                met += 400.0 * _strays((x0, y0, x1, y1), dots, k)
                if best is None or met < best[0] - 1e-6:
                    if best is not None:
                        best[1].remove()
                    best = (met, text, (x0, y0, x1, y1))
                else:
                    text.remove()
        if best is not None:
            taken.append(best[2])


def _strays(box: tuple[float, float, float, float], dots: Array, own: int) -> bool:
    """Whether another dot lies nearer to a box (left, bottom, right, top) than its own."""
    nearest = dots.clip(box[:2], box[2:])
    distances = np.hypot(*(dots - nearest).T)
    return bool(distances.argmin() != own)


def _shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
