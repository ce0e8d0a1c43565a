"""What the figures share: colours, markers, arrays out of tensors, and saving."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = [
    "FIT_STYLE",
    "INK",
    "MUTED",
    "Array",
    "as_array",
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
    """Colour and marker of each class, distinct without colour vision up to ten classes.

    Colours are those of Okabe and Ito (*Color universal design*, 2008) up to eight classes, and above that
    those of Petroff (*Accessible color sequences for data visualization*, 2021), which repeat after ten.

    Args:
        classes: How many classes there are.
    """
    colours = OKABE_ITO if classes <= len(OKABE_ITO) else PETROFF
    return [(colours[k % len(colours)], MARKERS[(k + k // len(colours)) % len(MARKERS)]) for k in range(classes)]


def as_array(values: ArrayLike | Tensor) -> Array:
    """The values as float64 in a numpy array of the same shape."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches, laid out by constraints and unknown to pyplot."""
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
    """Give axes small, even ticks, no box and a faint grid."""
    for one in [axes] if isinstance(axes, Axes) else axes:
        one.set_facecolor("white")
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(MUTED)
        one.tick_params(labelsize=9.5, colors=MUTED, labelcolor=INK)
        one.xaxis.label.set(fontsize=10, color=INK)
        one.yaxis.label.set(fontsize=10, color=INK)
        one.title.set(fontsize=10.5, color=INK)
        if grid:
            one.grid(True, color="#e3e3e3", linewidth=0.7)
        one.set_axisbelow(True)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure to `path` at 150 dots per inch, making its folder where there is none.

    Args:
        figure: The figure.
        path: The file; its ending says the format.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")
    return path


def check_same_length(**values: Sized) -> None:
    """Refuse sequences of different lengths, by name."""
    lengths = {name: len(value) for name, value in values.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"Expected {' and '.join(lengths)} of one length; got {said}.")
