"""Style of the figures: colours, markers, axes, arrays from tensors, and saving."""

from __future__ import annotations

import io
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence, Sized
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.textpath import TextToPath
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentmix.experiments.figures.dark import with_boxes
from latentmix.models.files import write_atomically

__all__ = [
    "BLUE",
    "COLOURS",
    "DPI",
    "FIT_STYLE",
    "GREY",
    "INK",
    "LARGE",
    "LIGHT",
    "MUTED",
    "PAPER",
    "PURPLE",
    "RED",
    "RULE",
    "SHADE",
    "SMALL",
    "VERMILION",
    "WIDTH",
    "Array",
    "Line",
    "as_array",
    "as_pixels",
    "check_finite",
    "check_same_length",
    "class_names",
    "class_styles",
    "clean",
    "fitted",
    "group_styles",
    "joined",
    "legend_below",
    "legend_rows",
    "new_figure",
    "note",
    "plain",
    "rendered",
    "save",
    "settle",
    "shortened",
    "text_width",
    "title",
    "titled",
    "wrapped",
]

Array = NDArray[np.float64]
Line = Literal["-", "--", ":", "-."]

DPI = 150
LIGHT = "light"  # gid of axes that dark variants leave as they are

INK = "#1a1a1a"
MUTED = "#595959"
FIT_STYLE = {
    "EM": ("#0072B2", "o"),
    "SVI": ("#D55E00", "D"),
    "SVI posterior": ("#3c965a", "s"),
    "NUTS": ("#b400ff", "^"),
}

COLOURS = (
    *("#0072b2", "#d55e00", "#3c965a", "#b400ff", "#1e001e"),
    *("#ff2d87", "#1e5a00", "#2d2d96", "#78004b", "#785a5a"),
)
LEAST = 7  # characters of an elided word
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")


def class_styles(classes: int) -> list[tuple[str, str]]:
    """Colour and marker of each class, distinguishable without colour vision up to ten classes.

    Each of the ten colours, which then repeat, has a contrast of 3:1 or more with white paper, and in the dark variant
    of a picture with its page (WCAG 2.2, 1.4.11). Under these bounds the least distance between two of them in OKLab,
    also as seen with protanopia and deuteranopia, was made as large as possible.

    Args:
        classes: Number of classes.
    """
    return [(COLOURS[k % 10], MARKERS[(k + k // 10) % len(MARKERS)]) for k in range(classes)]


def group_styles(groups: int) -> list[tuple[str, str, Line]]:
    """Colour, marker and line of each group of runs: lines change where the ten colours repeat.

    Args:
        groups: Number of groups.
    """
    lines: tuple[Line, ...] = ("-", "--", ":", "-.")
    return [(*style, lines[k // 10 % len(lines)]) for k, style in enumerate(class_styles(groups))]


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
    check_finite(pixels=pixels)
    channels_last = pixels.transpose(0, 2, 3, 1).clip(0.0, 1.0)
    return np.broadcast_to(channels_last, (*channels_last.shape[:3], 3))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches with constrained layout, not managed by pyplot."""
    figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    return figure


def title(figure: Figure, text: str) -> None:
    """Write a title over the whole figure, in as many lines as its width asks for."""
    figure.suptitle(wrapped(text, _room(figure), LARGE, "bold"), fontsize=LARGE, fontweight="bold", color=INK)


def note(figure: Figure, text: str) -> None:
    """Write a caption under the whole figure, in as many lines as its width asks for."""
    figure.supxlabel(wrapped(text, _room(figure), SMALL), fontsize=SMALL, color=MUTED)


def joined(clauses: Iterable[str]) -> str:
    """Clauses as one caption, its first letter a capital."""
    text = "; ".join(clauses)
    return text[:1].upper() + text[1:]


def clean(axes: Axes | Iterable[Axes], *, grid: bool = True) -> None:
    """Style axes with small ticks, without a box, and with a faint grid."""
    for panel in [axes] if isinstance(axes, Axes) else axes:
        panel.set_facecolor(PAPER)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(MUTED)
        panel.tick_params(labelsize=SMALL, colors=MUTED, labelcolor=INK)
        panel.xaxis.label.set(fontsize=SMALL, color=INK)
        panel.yaxis.label.set(fontsize=SMALL, color=INK)
        panel.title.set(fontsize=11, color=INK)
        if grid:
            panel.grid(True, color=RULE, linewidth=0.6)
        panel.set_axisbelow(True)


def settle(figure: Figure) -> None:
    """Lay a figure out as its file is: in two passes, for after one a title may lie over others."""
    for _ in range(2 if figure.stale else 0):
        figure.draw_without_rendering()


def save(figure: Figure, path: Path) -> Path:
    """Write a figure to `path` in one step, making its folder within another that is there.

    Args:
        figure: The figure.
        path: The file; its suffix determines the format.

    Returns:
        The path.
    """
    data = rendered(figure, path.suffix[1:])
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, data)
    return path


def rendered(figure: Figure, format: str) -> bytes:
    """The content of a figure's file, at 150 dots per inch.

    A PNG file notes where it shows images, whose colours `dark_picture` keeps.

    Args:
        figure: The figure; its size is rounded up to whole pixels.
        format: `png`, or another of Matplotlib's; an empty word stands for its default.

    Raises:
        ValueError: If Matplotlib has no such format.
    """
    picture = io.BytesIO()
    width, height = np.ceil(figure.get_size_inches() * DPI - 1e-6) / DPI  # parts of pixels displace images
    figure.set_size_inches(float(width), float(height))
    figure.draw_without_rendering()  # the first pass of two; the other is savefig's
    figure.savefig(picture, format=format or None, dpi=DPI, facecolor="white")
    data = picture.getvalue()
    return with_boxes(data, _image_boxes(figure)) if format == "png" else data


def _image_boxes(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of all that keeps its colours, as fractions of a figure that was drawn.

    That is every image with colours of its own, and axes whose gid is `LIGHT`. Transparent rows and columns part the
    images of one array.
    """
    places = [axes.get_position(original=True) for axes in figure.axes if axes.get_gid() == LIGHT]
    boxes = [(place.x0, 1 - place.y1, place.x1, 1 - place.y0) for place in places]
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


def check_finite(**values: Array) -> None:
    """Refuse arrays with NaN or infinite values.

    Raises:
        ValueError: With the name of the array.
    """
    for name, array in values.items():
        if not np.isfinite(array).all():
            count = int(np.size(array) - np.isfinite(array).sum())
            raise ValueError(
                f"Expected finite {name.replace('_', ' ')}; got {count:,} NaN or infinite: leave them out."
            )


PAPER = "white"
BLUE, VERMILION, PURPLE, RED = "#0072B2", "#D55E00", "#7b3294", "#a01800"
GREY, RULE, SHADE = "#8a8a8a", "#dedede", "#ececec"  # points without a class, lines, areas

WIDTH = 7.6  # inches; wider figures cannot be read on a narrow screen
SMALL, LARGE = 10.0, 13.0  # points


def class_names(classes: Sequence[int], names: Sequence[str] | None = None, *, length: int = 18) -> dict[int, str]:
    """The name of each class for a picture, shortened to about `length` characters; by default its number.

    Raises:
        ValueError: If there are not as many names as classes.
    """
    labels = [str(label) for label in classes] if names is None else names
    check_same_length(classes=classes, names=labels)
    return {label: plain(shortened(name, length)) for label, name in zip(classes, labels, strict=True)}


def plain(name: str) -> str:
    """A name whose dollars Matplotlib shows, and does not read as formulas; such a name stays as it is."""
    return re.sub(r"(?<!\\)\$", r"\\$", name)


def shortened(label: str, length: int = 26) -> str:
    """A label, its middle elided if it is long."""
    half = (length - 1) // 2
    return label if len(label) <= length else f"{label[:half]}…{label[-half:]}"


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width of the longest line of a text, in inches."""
    return max(_line_width(line, size, weight) for line in text.split("\n"))


@lru_cache(4096)
def _line_width(line: str, size: float, weight: str) -> float:
    font = FontProperties(size=size, weight=weight)
    return float(TextToPath().get_text_width_height_descent(line, font, ismath=False)[0]) / 72


def wrapped(text: str, width: float, size: float, weight: str = "normal") -> str:
    """A text broken between words into the fewest lines of at most `width` inches, of about one length.

    Its own lines are kept.
    """
    return "\n".join(line for part in text.split("\n") for line in _lines(part.split(" "), width, size, weight))


def fitted(text: str, width: float, lines: int, size: float = SMALL, weight: str = "normal") -> str:
    """A text broken into at most so many lines of at most `width` inches, its words or itself elided if need be."""
    words = text.split(" ")

    def of_words(length: int) -> str:
        return wrapped(" ".join(shortened(word, length) for word in words), width, size, weight)

    def of_length(length: int) -> str:
        return wrapped(shortened(of_words(LEAST).replace("\n", " "), length), width, size, weight)

    def exceeds(part: str) -> bool:
        return part.count("\n") >= lines or text_width(part, size, weight) > width

    def longest(broken: Callable[[int], str], most: int) -> str:
        """The least elided text that fits, or the most elided one."""

        def too_long(length: int) -> bool:
            return exceeds(broken(length + 1))

        return broken(max(bisect_left(range(most), True, lo=LEAST, hi=most, key=too_long), LEAST))

    part = longest(of_words, max(map(len, words)))
    return longest(of_length, len(text)) if exceeds(part) else part


def titled(name: str, figures: str, width: float, lines: int = 3, size: float = 11.0) -> str:
    """A name and the figures of a panel: in one line if it is at most `width` inches long, else below one another."""
    text = f"{name}: {figures}"
    return text if text_width(text, size) <= width else f"{fitted(name, width, lines, size)}\n{figures}"


def _lines(words: list[str], width: float, size: float, weight: str) -> list[str]:
    lines = _filled(words, width, size, weight)
    for narrower in np.linspace(0.95, 0.5, 10) * width if len(lines) > 1 else ():
        shorter = _filled(words, float(narrower), size, weight)
        if len(shorter) > len(lines):
            break
        lines = shorter
    return lines


def _filled(words: list[str], width: float, size: float, weight: str) -> list[str]:
    lines = [words[0]]
    for word in words[1:]:
        longer = f"{lines[-1]} {word}"
        lines[-1:] = [longer] if text_width(longer, size, weight) <= width else [lines[-1], word]
    return lines


def _room(figure: Figure) -> float:
    """Width for texts over or under the whole figure, in inches."""
    return float(figure.get_size_inches()[0]) - 0.3


def legend_rows(handles: Sequence[Artist], room: float) -> int:
    """Lines of a legend in columns of one width each, the fewest that `room` inches of width allow."""
    widths = [text_width(str(handle.get_label()), SMALL) + 0.65 for handle in handles]
    return next(
        rows
        for rows in range(1, len(handles) + 1)
        if rows == len(handles) or sum(max(widths[k : k + rows]) for k in range(0, len(widths), rows)) <= room
    )


def legend_below(figure: Figure, handles: Sequence[Artist], heading: str | None = None) -> None:
    """Write one legend under the panels and over the caption, in as few lines as its width allows.

    The layout reserves its height. Call it after `note`.
    """
    rows = legend_rows(handles, _room(figure))
    height = float(figure.get_size_inches()[1])
    lines = figure.get_supxlabel().count("\n") + 1 if figure.get_supxlabel() else 0
    reserved = (0.21 * (rows + (heading is not None)) + 0.12) / height
    figure.legend(
        handles=handles,
        title=heading,
        loc="lower center",
        bbox_to_anchor=(0.5, (0.08 + 0.17 * lines) / height),
        ncols=-(-len(handles) // rows),
        fontsize=SMALL,
        title_fontsize=SMALL,
        labelcolor=INK,
        frameon=False,
        columnspacing=1.2,
        handlelength=2.4,
        handletextpad=0.4,
        borderaxespad=0.0,
    )
    figure.get_layout_engine().set(rect=(0.0, reserved, 1.0, 1.0 - reserved))  # type: ignore[union-attr, call-arg]
