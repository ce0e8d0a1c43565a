"""Tables as aligned text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned"]


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, rule: bool = True) -> str:
    """A table as text, with columns two spaces apart.

    Args:
        head: Cells of the first line.
        rows: Cells of the other lines, as many in each.
        left: Number of columns that are flush left; the others are flush right.
        rule: Whether a line of dashes follows the head.

    Example:
        >>> from latentmix.inference.tables import aligned
        >>> print(aligned(["name", "nats"], [["EM", "-3.25"]]))
        name   nats
        ----  -----
        EM    -3.25
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    dashes = [["-" * width for width in widths]] if rule else []

    def text(line: Sequence[str]) -> str:
        cells = [
            word.ljust(width) if column < left else word.rjust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(map(text, [head, *dashes, *rows]))
