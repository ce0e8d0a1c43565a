"""Style of the figures: colours, markers, axes, arrays from tensors, and saving."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sized
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentmix.experiments.figures.dark import with_boxes
from latentmix.models.files import write_atomically

__all__ = [
    "FIT_STYLE",
    "INK",
    "MUTED",
    "Array",
    "as_array",
    "as_pixels",
    "check_same_length",
    "class_styles",
    "clean",
    "new_figure",
    "note",
    "save",
    "title",
]

Array = NDArray[np.float64]

INK = "#1a1a1a"
MUTED = "#595959"
FIT_STYLE = {"EM": ("#0072B2", "o"), "SVI": ("#D55E00", "D")}

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#1a1a1a", "#F0E442")
PETROFF = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")


def class_styles(classes: int) -> list[tuple[str, str]]:
    """Colour and marker of each class, distinguishable without colour vision up to ten classes.

    Colours are those of Okabe and Ito (*Color universal design*, 2008) for up to eight classes, and otherwise those of
    Petroff (*Accessible color sequences for data visualization*, 2021), which repeat after ten.

    Args:
        classes: Number of classes.
    """
    colours = OKABE_ITO if classes <= len(OKABE_ITO) else PETROFF
    return [(colours[k % len(colours)], MARKERS[(k + k // len(colours)) % len(MARKERS)]) for k in range(classes)]


def as_array(values: ArrayLike | Tensor) -> Array:
    """The values as a float64 NumPy array of the same shape."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def as_pixels(images: ArrayLike | Tensor) -> Array:
    """Pixels of an `N x C x H x W` array of images, with C of 1 or 3, as `N x H x W x 3` floats in [0, 1]."""
    pixels = as_array(images)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise ValueError(f"Expected images of shape N x C x H x W with C of 1 or 3; got {pixels.shape}.")
    channels_last = pixels.transpose(0, 2, 3, 1).clip(0.0, 1.0)
    return np.broadcast_to(channels_last, (*channels_last.shape[:3], 3))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches with constrained layout, not managed by pyplot."""
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    return figure


def title(figure: Figure, text: str) -> None:
    """Write a title over the whole figure."""
    figure.suptitle(text, fontsize=12, fontweight="bold", color=INK)


def note(figure: Figure, text: str) -> None:
    """Write a caption under the whole figure."""
    figure.supxlabel(text, fontsize=9.5, color=MUTED)


def clean(axes: Axes | Iterable[Axes], *, grid: bool = True) -> None:
    """Style axes with small ticks, without a box, and with a faint grid."""
    for panel in [axes] if isinstance(axes, Axes) else axes:
        panel.set_facecolor("white")
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(MUTED)
        panel.tick_params(labelsize=9.5, colors=MUTED, labelcolor=INK)
        panel.xaxis.label.set(fontsize=10, color=INK)
        panel.yaxis.label.set(fontsize=10, color=INK)
        panel.title.set(fontsize=10.5, color=INK)
        if grid:
            panel.grid(True, color="#e3e3e3", linewidth=0.7)
        panel.set_axisbelow(True)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure to `path` at 150 dots per inch, in one step, making its folder within another that is there.

    A PNG file notes where it shows images, whose colours `dark_picture` keeps.

    Args:
        figure: The figure.
        path: The file; its suffix determines the format.

    Returns:
        The path.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:] or None, dpi=150, facecolor="white")
    data = picture.getvalue()
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, with_boxes(data, _image_boxes(figure)) if path.suffix == ".png" else data)
    return path


def _image_boxes(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every image with colours of its own, as fractions of a figure that was drawn.

    Transparent rows and columns part the images of one array.
    """
    boxes = []
    for image in figure.findobj(AxesImage):
        pixels = np.asarray(image.get_array()) if isinstance(image, AxesImage) else np.empty(0)
        if pixels.ndim != 3:
            continue
        opaque = pixels[..., 3] > 0 if pixels.shape[2] == 4 else np.ones(pixels.shape[:2], bool)
        extent = image.get_window_extent().transformed(figure.transFigure.inverted())
        rows, columns = (_runs(opaque.any(axis=axis)) for axis in (1, 0))
        for top, bottom in rows:
            for left, right in columns:
                x0, x1 = (extent.x0 + part * extent.width for part in (left, right))
                y0, y1 = (1 - extent.y1 + part * extent.height for part in (top, bottom))
                boxes.append((float(x0), float(y0), float(x1), float(y1)))
    return boxes


def _runs(present: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Start and end of every run of true values, as fractions of the length."""
    steps = np.flatnonzero(np.diff(present.astype(int), prepend=0, append=0)) / len(present)
    return [(float(start), float(end)) for start, end in steps.reshape(-1, 2)]


def check_same_length(**values: Sized) -> None:
    """Refuse sequences of different lengths.

    Raises:
        ValueError: With the length of each, by name.
    """
    lengths = {name: len(value) for name, value in values.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"Expected {' and '.join(lengths)} of one length; got {counts}.")
