"""Panels of several figures abreast, each with blocks of rows below one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Stack"]


@final
@dataclass(frozen=True)
class Stack:
    """A panel for each of several names and blocks.

    Args:
        names: The names, which lie abreast, in as few lines as `most` allows.
        rows: Number of rows of each block; the blocks lie below one another.
        most: Most names abreast.
    """

    names: Sequence[str]
    rows: Sequence[int]
    most: int = 3

    @property
    def lines(self) -> int:
        """Number of lines of names."""
        return -(-len(self.names) // self.most)

    @property
    def columns(self) -> int:
        """Number of names abreast."""
        return -(-len(self.names) // self.lines)

    def panels(self) -> list[tuple[str, int, int]]:
        """Name, block and column of every panel, in reading order."""
        return [(self.names[place], block, place % self.columns) for _, block, place in self._places()]

    def make(self, figure: Figure) -> list[Axes]:
        """Axes of the panels in a new figure, in reading order."""
        lines, blocks = self.lines, len(self.rows)
        grid = figure.subplots(lines * blocks, self.columns, squeeze=False, height_ratios=[*self.rows] * lines)
        made = [grid[line * blocks + block, place % self.columns] for line, block, place in self._places()]
        for axes in set(grid.flat) - set(made):
            axes.remove()
        return made

    def _places(self) -> list[tuple[int, int, int]]:
        """Line, block and place of the name of every panel, in reading order."""
        return sorted(
            (place // self.columns, block, place) for place in range(len(self.names)) for block in range(len(self.rows))
        )
