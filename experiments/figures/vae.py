"""Reconstructions, generated images and training curves of a variational autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.style import (
    Array,
    as_array,
    as_pixels,
    check_same_length,
    clean,
    new_figure,
    note,
    title,
)

__all__ = ["decoded_grid", "generated", "losses", "reconstructions"]

TRAINING, VALIDATION = "#0072B2", "#D55E00"
TERMS = {
    "reconstruction": "Reconstruction: −E log p(x | z)",
    "kl": "KL divergence of q(z | x) from p(z)",
    "loss": "Both together: negative ELBO",
}


def reconstructions(
    originals: ArrayLike | Tensor,
    means: ArrayLike | Tensor,
    *,
    mse: float | None = None,
    ssim: float | None = None,
) -> Figure:
    """Show images above their reconstructions.

    Args:
        originals: An `N x C x H x W` array in [0, 1], with C of 1 or 3; about ten images fill a line.
        means: An `N x C x H x W` array, the likelihood's mean for each of them.
        mse: Mean squared error over the whole split, for the caption.
        ssim: Structural similarity over the whole split, for the caption.
    """
    above, below = as_pixels(originals), as_pixels(means)
    check_same_length(originals=above, means=below)
    count = len(above)
    cell = min(1.0, 9.6 / count)
    figure = new_figure(max(5.0, cell * count + 1.7), 2 * cell + 0.95)
    axes = figure.add_subplot()
    gap = _show(axes, np.concatenate([above, below]), count)
    height = above.shape[1]
    axes.set_yticks([height / 2 - 0.5, height * 1.5 + gap - 0.5], ["original", "reconstruction"])
    axes.tick_params(left=False, labelsize=10.5, labelcolor="#1a1a1a")
    title(figure, "Test images over their reconstructions")
    figures = [f"{name} {value:.4f}" for name, value in (("MSE", mse), ("SSIM", ssim)) if value is not None]
    if figures:
        note(figure, f"Mean over the whole test split: {', '.join(figures)}")
    return figure


def generated(images: ArrayLike | Tensor) -> Figure:
    """Show mean images of draws from the prior.

    Args:
        images: An `N x C x H x W` array in [0, 1], with C of 1 or 3.
    """
    pixels = as_pixels(images)
    columns = len(pixels)
    if columns > 12:
        target = np.sqrt(3.0 * len(pixels))
        columns = min(range(8, 17), key=lambda width: (-len(pixels) % width, abs(width - target)))
    rows = -(-len(pixels) // columns)
    cell = min(0.85, 9.0 / columns)
    figure = new_figure(max(4.5, cell * columns + 0.3), cell * rows + 0.85)
    _show(figure.add_subplot(), pixels, columns)
    title(figure, "Images generated from the prior")
    note(figure, "Each is the mean image at one draw of z")
    return figure


def decoded_grid(images: ArrayLike | Tensor, values: ArrayLike | Tensor) -> Figure:
    """Show decoded images on a grid over a two-dimensional latent.

    Args:
        images: An `n² x C x H x W` array in [0, 1]: image `i * n + j` is decoded at `z1 = values[j]` and
            `z2 = values[i]`.
        values: n ascending coordinates, usually the quantiles `(i + 1/2) / n` of N(0, 1).
    """
    pixels, ticks = as_pixels(images), as_array(values)
    n = len(ticks)
    if len(pixels) != n * n:
        raise ValueError(f"Expected {n * n} images for {n} values on each axis; got {len(pixels)}.")
    upwards = pixels.reshape(n, n, *pixels.shape[1:])[::-1].reshape(pixels.shape)
    figure = new_figure(7.2, 7.6)
    axes = figure.add_subplot()
    gap = _show(axes, upwards, n, gap=1)
    height, width = pixels.shape[1:3]
    stride = -(-n // 8)
    shown = np.arange((n - 1) % stride // 2, n, stride)
    names = [f"{ticks[k]:.2f}".replace("-", "−") for k in shown]
    axes.set_xticks(shown * (width + gap) + width / 2 - 0.5, names)
    axes.set_yticks((n - 1 - shown) * (height + gap) + height / 2 - 0.5, names)
    axes.tick_params(labelsize=9.5, length=3)
    axes.set_xlabel("z₁", fontsize=12)
    axes.set_ylabel("z₂", fontsize=12, rotation=0, labelpad=10)
    title(figure, "The latent plane, decoded")
    note(figure, f"Mean images at {n} × {n} latents, spaced evenly in probability under N(0, 1)")
    return figure


def losses(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the terms of the bound, epoch by epoch, on training and validation data.

    Args:
        history: One mapping per epoch, `dataclasses.asdict` of an `EpochRecord`; terms are in nats per image, and
            those that are NaN throughout are omitted.
    """
    if not history:
        raise ValueError("Expected a history of at least one epoch; got none.")
    epochs = np.array([record["epoch"] for record in history])
    curves = {name: {split: _term(history, split, name) for split in ("training", "validation")} for name in TERMS}
    shown = [name for name in TERMS if any(np.isfinite(curve).any() for curve in curves[name].values())]
    figure = new_figure(max(4.6, 3.7 * len(shown)), 3.5)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        clean(axes)
        for split, colour, line in (("training", TRAINING, "-"), ("validation", VALIDATION, "--")):
            curve = curves[name][split]
            if np.isfinite(curve).any():
                marker = "o" if np.isfinite(curve).sum() == 1 else ""
                label = f"{split}, {curve[np.isfinite(curve)][-1]:.2f} at the end".replace("-", "−")
                axes.plot(epochs, curve, line, color=colour, linewidth=1.8, label=label, marker=marker)
        axes.set_title(TERMS[name])
        axes.legend(fontsize=9.5, frameon=False)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        if len(epochs) < 4:
            axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    panels[0].set_ylabel("nats per image")
    title(figure, "Training, epoch by epoch")
    return figure


def _term(history: Sequence[Mapping[str, Any]], split: str, name: str) -> Array:
    def value(bound: Mapping[str, float] | None) -> float:
        if bound is None:
            return np.nan
        return -bound["log_likelihood"] if name == "reconstruction" else bound[name]

    return np.array([value(record[split]) for record in history], dtype=np.float64)


def _show(axes: Axes, pixels: Array, columns: int, gap: int | None = None) -> int:
    """Tile `N x H x W x 3` pixels into rows of `columns`; returns the gap between tiles, in pixels."""
    count, height, width, _ = pixels.shape
    if gap is None:
        gap = max(1, round(height / 14))
    rows = -(-count // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 4))
    canvas[..., 3] = 0.0
    for k, tile in enumerate(pixels):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = np.insert(tile, 3, 1.0, axis=2)
    axes.imshow(canvas, vmin=0.0, vmax=1.0, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return gap
