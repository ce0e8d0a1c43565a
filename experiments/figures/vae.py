"""Reconstructions, generated images and training curves of a variational autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    BLUE,
    INK,
    MUTED,
    SMALL,
    VERMILION,
    WIDTH,
    Array,
    Line,
    as_array,
    as_pixels,
    check_finite,
    check_same_length,
    clean,
)

__all__ = ["decoded_grid", "generated", "losses", "reconstructions"]

LINE = 0.2  # inches, of a line of small text
SPLITS: dict[str, tuple[str, Line]] = {"training": (BLUE, "-"), "validation": (VERMILION, "--")}
TERMS = {
    "reconstruction": "Reconstruction\n−E$_q$ log p(x|z)",
    "kl": "KL divergence\nof q(z | x) from p(z)",
    "loss": "Negative ELBO\nboth together",
}


def reconstructions(
    originals: ArrayLike | Tensor,
    means: ArrayLike | Tensor,
    *,
    mse: float | None = None,
    ssim: float | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Show images above their reconstructions.

    Args:
        originals: An `N x C x H x W` array in [0, 1], with C of 1 or 3; about ten images fill a line.
        means: An `N x C x H x W` array, the likelihood's mean for each of them.
        mse: Mean squared error over the whole split, for the caption.
        ssim: Structural similarity over the whole split, for the caption.
        ax: Axes of the caller's figure to draw into.

    Raises:
        ValueError: If the arrays are no images, or differ in number or size.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import reconstructions
        >>> images = np.random.default_rng(0).uniform(size=(8, 1, 4, 4))
        >>> reconstructions(images, images.round(), mse=0.01).get_supxlabel()
        'Mean over the whole test split: MSE 0.0100'
    """
    above, below = as_pixels(originals), as_pixels(means)
    check_same_length(originals=above, means=below)
    if above.shape != below.shape:
        raise ValueError(f"Expected images of one size; got {above.shape[1:3]} and {below.shape[1:3]} pixels.")
    count, (height, width) = len(above), above.shape[1:3]
    narrowest = LINE * width / height  # for flat images, of which a row needs the height of its name
    most = max(1, min(8, int((WIDTH - 1.5) / narrowest)))
    columns = -(-count // -(-count // most))
    bands = -(-count // columns)
    cell = min(max(1.0, narrowest), (WIDTH - 1.5) / columns)
    sheet = Sheet(ax, max(5.0, cell * columns + 1.5), bands * 2 * cell * height / width + 0.95)
    blank = np.ones((bands * columns - count, *above.shape[1:]))
    paired = (np.concatenate([each, blank]).reshape(bands, columns, *each.shape[1:]) for each in (above, below))
    (axes,) = sheet.panels(1)
    gap = _show(axes, np.stack(list(paired), axis=1).reshape(-1, *above.shape[1:]), columns)
    axes.set_yticks([row * (height + gap) + height / 2 - 0.5 for row in range(2 * bands)])
    axes.set_yticklabels(["original", "reconstruction"] * bands)
    axes.tick_params(left=False, labelsize=SMALL, labelcolor=INK)
    sheet.title("Test images over their reconstructions")
    figures = [f"{name} {value:.4f}" for name, value in (("MSE", mse), ("SSIM", ssim)) if value is not None]
    if figures:
        sheet.note(f"Mean over the whole test split: {', '.join(figures)}".replace("-", "−"))
    return sheet.figure


def generated(images: ArrayLike | Tensor, *, ax: Ax | None = None) -> Figure:
    """Show mean images of draws from the prior.

    Args:
        images: An `N x C x H x W` array in [0, 1], with C of 1 or 3.
        ax: Axes of the caller's figure to draw into.

    Raises:
        ValueError: If the array holds no images.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import generated
        >>> generated(np.random.default_rng(0).uniform(size=(20, 3, 8, 8))).get_suptitle()
        'Images generated from the prior'
    """
    pixels = as_pixels(images)
    columns = len(pixels)
    if columns > 8:
        target = np.sqrt(1.5 * len(pixels))
        columns = min(range(5, 11), key=lambda width: (-len(pixels) % width, abs(width - target)))
    rows = -(-len(pixels) // columns)
    cell = min(1.0, (WIDTH - 0.3) / columns)
    sheet = Sheet(ax, max(4.5, cell * columns + 0.3), cell * rows * pixels.shape[1] / pixels.shape[2] + 0.85)
    _show(sheet.panels(1)[0], pixels, columns)
    sheet.title("Images generated from the prior")
    sheet.note("Each is the mean image at one draw of z")
    return sheet.figure


def decoded_grid(
    images: ArrayLike | Tensor,
    first: ArrayLike | Tensor,
    second: ArrayLike | Tensor,
    *,
    covered: float | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Show decoded images on a grid over a two-dimensional latent.

    Args:
        images: An `nm x C x H x W` array in [0, 1]: image `i * m + j` is decoded at `z1 = first[j]` and
            `z2 = second[i]`.
        first: m ascending coordinates.
        second: n ascending coordinates.
        covered: Fraction of the latents between the first and the last coordinate of each axis, for the caption.
        ax: Axes of the caller's figure to draw into.

    Raises:
        ValueError: If the images are not as many as the coordinates ask for, or values are not finite.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import decoded_grid
        >>> images = np.random.default_rng(0).uniform(size=(6, 1, 8, 8))
        >>> decoded_grid(images, [-1.0, 0.0, 1.0], [0.0, 1.0]).axes[0].get_xlabel()
        'z₁'
    """
    pixels, across, up = as_pixels(images), as_array(first), as_array(second)
    check_finite(first=across, second=up)
    m, n = len(across), len(up)
    if len(pixels) != n * m:
        raise ValueError(f"Expected {n * m} images for {m} and {n} values of z1 and z2; got {len(pixels)}.")
    upwards = pixels.reshape(n, m, *pixels.shape[1:])[::-1].reshape(pixels.shape)
    height, width = pixels.shape[1:3]
    sheet = Sheet(ax, WIDTH, (WIDTH - 1.0) * n * height / (m * width) + 1.4)
    (axes,) = sheet.panels(1)
    gap = _show(axes, upwards, m, gap=1)
    named = [(k, f"{value:.2f}".replace("-", "−")) for k, value in enumerate(across)]
    shown = named[(m - 1) % -(-m // 6) // 2 :: -(-m // 6)]
    axes.set_xticks([k * (width + gap) + width / 2 - 0.5 for k, _ in shown], [text for _, text in shown])
    named = [(n - 1 - k, f"{value:.2f}".replace("-", "−")) for k, value in enumerate(up)]
    shown = named[(n - 1) % -(-n // 8) // 2 :: -(-n // 8)]
    axes.set_yticks([k * (height + gap) + height / 2 - 0.5 for k, _ in shown], [text for _, text in shown])
    axes.tick_params(labelsize=SMALL, length=3, labelcolor=INK)
    axes.set_xlabel("z₁", fontsize=12, color=INK)
    axes.set_ylabel("z₂", fontsize=12, rotation=0, labelpad=10, color=INK)
    sheet.title("The latent plane, decoded")
    spread = "" if covered is None else f", over {covered:.0%} of the samples of q(z | x) on each axis"
    sheet.note(f"Mean images at {m} × {n} evenly spaced latents{spread}")
    return sheet.figure


def losses(
    history: Sequence[Mapping[str, Any]] | Mapping[str, ArrayLike | Tensor],
    *,
    thing: str = "image",
    ax: Ax | None = None,
) -> Figure:
    r"""Draw the terms of the bound, epoch by epoch, on training and validation data.

    The epoch of the lowest validation loss is marked.

    Args:
        history: One mapping per epoch, `dataclasses.asdict` of an `EpochRecord`; terms are in nats per datum, and
            those that are NaN throughout are omitted. Or the arrays of negative ELBOs, one value per epoch, of
            `training` and perhaps `validation`.
        thing: Word for a datum.
        ax: Axes of the caller's figure to draw into, one for each term that is drawn.

    Raises:
        ValueError: If there is no epoch, arrays differ in length, or the axes are not as many.

    Example:
        >>> from latentmix.experiments.figures import losses
        >>> figure = losses({"training": [150.0, 120.0, 110.0], "validation": [140.0, 125.0, 126.0]})
        >>> figure.axes[0].get_xlabel().split("\n")
        ['epoch', 'training ends at 110.00', 'validation ends at 126.00']
    """
    if isinstance(history, Mapping):
        history = _records(history)
    if not history:
        raise ValueError("Expected a history of at least one epoch; got none.")
    epochs = np.array([record["epoch"] for record in history])
    curves = {name: {split: _term(history, split, name) for split in SPLITS} for name in TERMS}
    shown = [name for name in TERMS if any(np.isfinite(curve).any() for curve in curves[name].values())]
    if not shown:
        raise ValueError("Expected finite losses of at least one epoch; got NaN throughout.")
    validated = curves["loss"]["validation"]
    best = int(epochs[np.nanargmin(validated)]) if np.isfinite(validated).any() else None
    sheet = Sheet(ax, WIDTH, 3.9)
    panels = sheet.panels(len(shown), what=", ".join(shown))
    for axes, name in zip(panels, shown, strict=True):
        clean(axes)
        ends = ["epoch"]
        for split, (colour, line) in SPLITS.items():
            curve = curves[name][split]
            if np.isfinite(curve).any():
                marker = "o" if np.isfinite(curve).sum() == 1 else ""
                axes.plot(epochs, curve, line, color=colour, linewidth=1.8, marker=marker)
                ends.append(f"{split} ends at {_rounded(curve[np.isfinite(curve)][-1])}")
        if best is not None:
            axes.axvline(best, color=MUTED, linestyle=":", linewidth=1.4)
        axes.set_title(TERMS[name])
        axes.set_xlabel("\n".join(ends))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        if len(epochs) < 4:
            axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    panels[0].set_ylabel(f"nats per {thing}")
    sheet.title("Training, epoch by epoch")
    handles = [
        Line2D([], [], color=colour, linestyle=line, linewidth=1.8, label=split)
        for split, (colour, line) in SPLITS.items()
        if any(np.isfinite(curves[name][split]).any() for name in shown)
    ]
    if best is not None:
        mark = f"lowest validation loss: epoch {best}"
        handles.append(Line2D([], [], color=MUTED, linestyle=":", linewidth=1.4, label=mark))
    sheet.legend(handles)
    return sheet.figure


def _records(curves: Mapping[str, ArrayLike | Tensor]) -> list[dict[str, Any]]:
    """One record per epoch, of losses alone."""
    if not {"training"} <= set(curves) <= set(SPLITS):
        raise ValueError(f"Expected losses of training, and perhaps of validation; got those of {', '.join(curves)}.")
    arrays = {split: as_array(values).ravel() for split, values in curves.items()}
    check_same_length(**arrays)
    terms = dict.fromkeys(("log_likelihood", "kl"), np.nan)
    return [
        {
            "epoch": epoch,
            **{split: None if split not in arrays else {**terms, "loss": arrays[split][epoch - 1]} for split in SPLITS},
        }
        for epoch in range(1, len(arrays["training"]) + 1)
    ]


def _rounded(value: float) -> str:
    """A number of at most two decimals, and of fewer if it is of thousands."""
    decimals = 2 if abs(value) < 999.995 else 1 if abs(value) < 9999.95 else 0
    return f"{value:,.{decimals}f}".replace("-", "−")


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
