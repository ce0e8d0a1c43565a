"""The axes of a picture: those of a new figure, or of a figure that the caller has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast, final

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.experiments.figures.style import (
    INK,
    PAPER,
    legend_below,
    new_figure,
    note,
    title,
    wrapped,
)

__all__ = ["WITHIN", "Ax", "Sheet"]

type Ax = Axes | Iterable[Axes]
"""Axes of the caller's figure: one for a picture of one panel, else one for each panel, in reading order."""

WITHIN = 8.0  # points, of legends within axes
KINDS = {"rectilinear": "", "3d": " with projection='3d'"}


@final
class Sheet:
    """The panels of a picture, and the texts around them.

    In a new figure, title, caption and legend stand around all panels. Of a figure that the caller has, nothing but the
    given axes is changed: the title is that of the axes if there is one panel without a title of its own, the legend
    stands within the first panel, and the caption and titles over several panels are omitted.

    Args:
        ax: Axes of the caller's; by default a new figure is made.
        width: Width of the new figure, in inches.
        height: Its height.

    Attributes:
        figure: The figure.
        own: Whether it is new.
        given: The axes that the caller gave.
    """

    def __init__(self, ax: Ax | None, width: float, height: float) -> None:
        self.own = ax is None
        self.given = [] if ax is None else _flat(ax)
        self._panels = self.given
        self.figure = new_figure(width, height) if ax is None else _root(self.given)

    def panels(
        self, count: int, make: Callable[[Figure], Any] | None = None, *, what: str = "", kind: str = "rectilinear"
    ) -> list[Axes]:
        """The panels: made in a new figure, or those that were given.

        Args:
            count: Their number.
            make: Makes them in the new figure, an array of axes; by default in a row.
            what: Names of the panels in their order, for the message.
            kind: Their projection.

        Raises:
            ValueError: If other axes were given.
        """
        if self.own:
            self._panels = _flat(self.figure.subplots(1, count) if make is None else make(self.figure))
            return self._panels
        names = f" ({what})" if what else ""
        if len(self._panels) != count:
            several = "one for its panel" if count == 1 else f"{count}, one for each panel"
            raise ValueError(
                f"Expected axes for the whole picture, {several}{names}; got {len(self._panels)}: "
                f"`plt.subplots(1, {count})` makes as many."
            )
        if any(panel.name != kind for panel in self._panels):
            names = ", ".join(dict.fromkeys(panel.name for panel in self._panels))
            raise ValueError(f"Expected axes{KINDS[kind] or ' without a projection'}; got {names}.")
        return self._panels

    def title(self, text: str) -> None:
        """Write the title of the picture."""
        if self.own:
            title(self.figure, text)
        elif len(self._panels) == 1 and not self._panels[0].get_title():
            self._panels[0].set_title(wrapped(text, self.size(self._panels[0])[0], 11), fontsize=11, color=INK)

    def note(self, text: str) -> None:
        """Write its caption."""
        if self.own:
            note(self.figure, text)

    def legend(self, handles: Sequence[Artist], heading: str | None = None) -> None:
        """Draw its legend. Call it after `note`."""
        if self.own:
            legend_below(self.figure, handles, heading)
        elif handles:
            legend = self._panels[0].legend(
                handles=list(handles),
                title=heading,
                fontsize=WITHIN,
                title_fontsize=WITHIN,
                labelcolor=INK,
                framealpha=0.7,
            )
            legend.get_frame().set(facecolor=PAPER, linewidth=0)

    def size(self, panel: Axes) -> tuple[float, float]:
        """Width and height of a panel as it now lies, in inches."""
        owner: Any = panel.get_figure(root=False)
        across, up = np.asarray(panel.get_position(original=True).size) * owner.bbox.size / self.figure.dpi
        return float(across), float(up)


def _flat(ax: Ax) -> list[Axes]:
    panels = [ax] if isinstance(ax, Axes) else list(np.asarray(ax, dtype=object).ravel())
    wrong = next((panel for panel in panels if not isinstance(panel, Axes)), None)
    if wrong is not None or not panels:
        kind = type(wrong).__name__ if panels else "none"
        raise ValueError(f"Expected Matplotlib axes for ax, one or one for each panel; got {kind}.")
    return panels


def _root(panels: Sequence[Axes]) -> Figure:
    figures = [panel.get_figure(root=True) for panel in panels]
    if any(figure is None or figure is not figures[0] for figure in figures):
        raise ValueError("Expected axes of one figure; got axes of several, or ones that were removed.")
    return cast(Figure, figures[0])
