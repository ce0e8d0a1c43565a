"""The prior against the aggregate posterior: where each has mass that the other lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.mixtures import Components, draw_ellipse
from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    BLUE,
    INK,
    RULE,
    VERMILION,
    WIDTH,
    Array,
    as_array,
    check_finite,
    check_same_length,
    clean,
)
from latentmix.models.words import plural

__all__ = ["prior_against_posterior"]

BINS = 50  # along each axis
PAIRS = 2  # most pairs of latents
DRAWN = 400  # most samples that are drawn as dots
MANY = 20  # most components whose ellipses are drawn
LEVELS = (0.9, 0.5)  # fractions of the prior within its contours
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
COLOURS = LinearSegmentedColormap.from_list("prior or posterior", [VERMILION, "#e9dcd6", RULE, "#d3dde4", BLUE], N=9)
PRIOR, POSTERIOR = VERMILION, BLUE


def prior_against_posterior(
    posterior: ArrayLike | Tensor,
    prior: ArrayLike | Tensor,
    *,
    components: Components | None = None,
    kl: ArrayLike | Tensor | None = None,
    caption: str | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw samples of the aggregate posterior over the prior, and where one of the two has mass that the other lacks.

    Where the prior has mass and the aggregate posterior none (a hole), the decoder was not trained, and draws of the
    prior that fall there decode to images unlike the data. One-dimensional latents have a panel with both densities.
    Two-dimensional ones have two: samples, and the share of the posterior in the sum of both densities. Longer ones
    have these for two pairs, of the four latents of greatest KL divergence. The overlap of two densities is the
    integral of the lesser one: 1 if they agree, 0 if they have nothing in common.

    Args:
        posterior: An `N x D` array: samples of q(z | x), of as many data as possible.
        prior: An `M x D` array: samples of the prior.
        components: Components of the prior, if it is a mixture: their 2-sigma ellipses are drawn; of more than
            20, their means.
        kl: D KL divergences of q from the prior, by which latents are chosen; by default the first are taken.
        caption: Text below the figure.
        ax: Axes of the caller's figure to draw into: one for one-dimensional latents, two for each pair otherwise.

    Raises:
        ValueError: If the samples are not `N x D` and `M x D` with N and M of 10 or more, arrays are not finite, or the
            axes are not as many.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import prior_against_posterior
        >>> random = np.random.default_rng(0)
        >>> prior, posterior = random.normal(size=(4000, 2)), random.normal(size=(4000, 2)) * [1.0, 0.3]
        >>> figure = prior_against_posterior(posterior, prior)
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['z₁', 'z₁']
    """
    q, p = (as_array(samples) for samples in (posterior, prior))
    if q.ndim != 2 or p.ndim != 2 or q.shape[1] != p.shape[1] or not q.shape[1] or min(len(q), len(p)) < 10:
        raise ValueError(f"Expected 10 or more samples of shapes N x D and M x D; got {q.shape} and {p.shape}.")
    check_finite(samples_of_the_posterior=q, samples_of_the_prior=p)
    dim = q.shape[1]
    order = np.arange(dim)
    if kl is not None:
        divergences = as_array(kl).ravel()
        check_same_length(kl=divergences, dimensions=order)
        check_finite(kl=divergences)
        order = np.argsort(-divergences, kind="stable")
    if components is not None:
        means, covariances = as_array(components.means), as_array(components.covariances)
        if means.shape[1:] != (dim,) or covariances.shape != (len(means), dim, dim):
            raise ValueError(
                f"Expected components of {plural(dim, 'dimension')}, as the samples; got means of shape {means.shape} "
                f"and covariances of shape {covariances.shape}."
            )
    if dim == 1:
        sheet, overlaps = _densities(q[:, 0], p[:, 0], ax)
    else:
        sheet, overlaps = _planes(q, p, _pairs(order.tolist()), components, ax)
    found, best = (np.array(values) for values in zip(*overlaps, strict=True))
    ends = [f"{end:.0%}" for end in dict.fromkeys((found.min(), found.max()))]
    sheet.title(f"Prior against aggregate posterior: they overlap by {' and '.join(dict.fromkeys(ends))}")
    words = [f"Estimated from {len(q):,} samples of q and {len(p):,} of the prior"]
    words += [f"as many of one and the same distribution would overlap by {best.min():.0%}"]
    words += [f"latents of greatest KL divergence, of {dim}"] if dim > 2 * PAIRS and kl is not None else []
    sheet.note("; ".join([*words, *([caption] if caption else [])]))
    handles: list[Any] = [Patch(facecolor=PRIOR, label="prior alone: holes")]
    handles += [Patch(facecolor=COLOURS(0.5), label="both")] if dim > 1 else [Patch(facecolor=RULE, label="both")]
    handles += [Patch(facecolor=POSTERIOR, label="posterior alone")]
    if dim > 1:
        dots = Line2D([], [], linestyle="", marker="o", color=POSTERIOR, markersize=4, label="samples of q")
        handles += [dots, Line2D([], [], color=PRIOR, linewidth=1.6, label="half and 90% of the prior")]
        if components is not None:
            mark: dict[str, Any] = {"linestyle": "--", "linewidth": 1.0}
            if len(as_array(components.means)) > MANY:
                mark = {"linestyle": "", "marker": "+", "markersize": 6}
            handles += [Line2D([], [], color=INK, label="components of the prior", **mark)]
    sheet.legend(handles)
    return sheet.figure


def _pairs(order: Sequence[int]) -> list[tuple[int, int]]:
    places = list(order[: 2 * PAIRS])
    if len(places) == 3:
        return [(places[0], places[1]), (places[0], places[2])]
    return [tuple(sorted(places[k : k + 2])) for k in range(0, len(places) - 1, 2)]  # type: ignore[misc]


def _planes(
    q: Array, p: Array, pairs: Sequence[tuple[int, int]], components: Components | None, ax: Ax | None
) -> tuple[Sheet, list[tuple[float, float]]]:
    """Two panels for each pair of latents: samples over contours, and the share of the posterior; and overlaps."""
    side = 0.5 * WIDTH - 0.5

    def make(figure: Figure) -> Any:
        return figure.subplots(len(pairs), 2, squeeze=False)

    sheet = Sheet(ax, WIDTH, len(pairs) * (side + 0.45) + 1.45)
    what = ", ".join(f"{part} of z{a + 1} and z{b + 1}" for a, b in pairs for part in ("samples", "shares"))
    panels = sheet.panels(2 * len(pairs), make, what=what)
    overlaps = []
    for row, pair in enumerate(pairs):
        mine, theirs = q[:, pair], p[:, pair]
        edges = [_edges(mine[:, axis], theirs[:, axis]) for axis in (0, 1)]
        of_q, of_p = (_density(samples, edges) for samples in (mine, theirs))
        overlaps.append((float(np.minimum(of_q, of_p).sum()), _overlap_of_equals(mine, theirs, edges)))
        left, right = panels[2 * row : 2 * row + 2]
        for panel in (left, right):
            clean(panel, grid=False)
            panel.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
            panel.set(xlabel=_name(pair[0]), ylabel=_name(pair[1]))
            panel.set_box_aspect(1.0)
        rows = np.linspace(0, len(mine) - 1, min(DRAWN, len(mine))).astype(int)
        left.scatter(mine[rows, 0], mine[rows, 1], s=5, color=POSTERIOR, linewidths=0, alpha=0.5)
        _contours(left, of_p, edges)
        if components is not None:
            _ellipses(left, components, pair)
        left.set_title("Samples of q over the prior")
        _share(right, of_q, of_p, edges)
        right.set_title(f"Which has the mass: overlap {overlaps[-1][0]:.0%}")
    return sheet, overlaps


def _densities(q: Array, p: Array, ax: Ax | None) -> tuple[Sheet, list[tuple[float, float]]]:
    """Both densities of one-dimensional latents in a panel, and their overlap."""
    sheet = Sheet(ax, WIDTH, 4.2)
    (axes,) = sheet.panels(1)
    edges = [_edges(q, p)]
    of_q, of_p = (_density(samples[:, None], edges) for samples in (q, p))
    middle = (edges[0][1:] + edges[0][:-1]) / 2
    width = edges[0][1] - edges[0][0]
    shared = np.minimum(of_q, of_p)
    clean(axes)
    axes.fill_between(middle, 0.0, shared / width, color=RULE, linewidth=0)
    for density, colour in ((of_p, PRIOR), (of_q, POSTERIOR)):
        axes.fill_between(middle, shared / width, density / width, color=colour, alpha=0.35, linewidth=0)
        axes.plot(middle, density / width, color=colour, linewidth=1.8)
    axes.set(xlim=edges[0][[0, -1]], xlabel=_name(0), ylabel="density")
    axes.set_ylim(bottom=0.0)
    return sheet, [(float(shared.sum()), _overlap_of_equals(q[:, None], p[:, None], edges))]


def _edges(q: Array, p: Array) -> Array:
    """Edges of bins that hold all but the outermost of both samples, at most twice as far as the posterior reaches."""
    ends = np.array([np.quantile(samples, [0.002, 0.998]) for samples in (q, p)])
    reach = max(float(ends[0, 1] - ends[0, 0]), 1e-6)
    low, high = max(ends[:, 0].min(), ends[0, 0] - reach), min(ends[:, 1].max(), ends[0, 1] + reach)
    margin = 0.06 * (high - low) or 0.5  # of samples that are all the same
    return np.linspace(low - margin, high + margin, BINS + 1)


def _density(samples: Array, edges: Sequence[Array]) -> Array:
    """Smoothed fractions of the samples in each bin, by half of Silverman's width."""
    from scipy.ndimage import gaussian_filter

    counts, _ = np.histogramdd(samples, bins=list(edges))
    dim = len(edges)
    rule = 0.5 * (4 / (dim + 2) / len(samples)) ** (1 / (dim + 4))
    spreads = np.quantile(samples, 0.84, axis=0) - np.quantile(samples, 0.16, axis=0)
    widths = [
        float(np.clip(rule * spread / 2 / (edge[1] - edge[0]), 1.0, BINS / 12))
        for spread, edge in zip(spreads, edges, strict=True)
    ]
    return np.asarray(gaussian_filter(counts / len(samples), widths, mode="constant"))


def _overlap_of_equals(q: Array, p: Array, edges: Sequence[Array]) -> float:
    """The overlap that is estimated where there is one distribution: of both samples, mixed and parted at random."""
    pooled = np.random.default_rng(0).permutation(np.concatenate([q, p]))
    first, second = (_density(part, edges) for part in (pooled[: len(q)], pooled[len(q) :]))
    return float(np.minimum(first, second).sum())


def _level(density: Array, fraction: float) -> float:
    """The density above which that fraction lies."""
    heights = np.sort(density.ravel())[::-1]
    place = int(np.searchsorted(heights.cumsum(), fraction * heights.sum()))
    return float(heights[min(place, len(heights) - 1)])


def _contours(axes: Axes, density: Array, edges: Sequence[Array]) -> None:
    across, up = ((edge[1:] + edge[:-1]) / 2 for edge in edges)
    levels = [_level(density, fraction) for fraction in LEVELS]
    if 0 < levels[0] < levels[1]:
        axes.contour(across, up, density.T, levels=levels, colors=PRIOR, linewidths=[1.2, 2.0], zorder=2)


def _ellipses(axes: Axes, components: Components, pair: tuple[int, int]) -> None:
    means, covariances = as_array(components.means), as_array(components.covariances)
    if len(means) > MANY:
        axes.plot(*means[:, pair].T, "+", color=INK, markersize=6, zorder=3)
    for mean, covariance in zip(means, covariances, strict=True) if len(means) <= MANY else ():
        draw_ellipse(axes, mean[list(pair)], covariance[np.ix_(pair, pair)], INK, line="--", width=1.1)


def _share(axes: Axes, of_q: Array, of_p: Array, edges: Sequence[Array]) -> None:
    """Shade the share of the posterior in the sum of both densities, fading where both are low."""
    both = of_q + of_p
    share = np.divide(of_q, both, out=np.full_like(both, 0.5), where=both > 0)
    opaque = np.rint(4 * (both / max(_level(both, 0.95), 1e-12)).clip(0.0, 1.0)) / 4  # few colours, small files
    extent = (edges[0][0], edges[0][-1], edges[1][0], edges[1][-1])
    axes.imshow(
        share.T,
        alpha=opaque.T,
        cmap=COLOURS,
        vmin=0.0,
        vmax=1.0,
        origin="lower",
        extent=extent,
        aspect="auto",
        interpolation="nearest",
    )


def _name(dimension: int) -> str:
    return f"z{str(dimension + 1).translate(SUBSCRIPTS)}"
