"""Representations of results: a few lines of text, and a table in notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Displayed", "brief"]

_WIDTH = 100
_FEW = 12
_NAMED = 8


class Displayed:
    """An object that shows a name and figures, a line each; tensors and long sequences are described, not listed.

    A dataclass takes this representation with `@dataclass(repr=False)`. It shows its fields, or what it gives as
    `shown`.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from latentmix.models.display import Displayed
        >>> @dataclass(repr=False)
        ... class Result(Displayed):
        ...     losses: list[float]
        ...     weights: torch.Tensor
        >>> Result([3.0] * 19 + [1.5], torch.zeros(64, 10))
        Result
          losses   20 numbers, 3 ... 1.5
          weights  64 x 10, float32
    """

    def shown(self) -> Mapping[str, Any]:
        """Figures by their names; words as they are, other values by `brief`."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.repr}  # type: ignore[arg-type]

    def _headline(self) -> str:
        """The object in a line, among the figures of another."""
        return type(self).__name__

    def _lines(self) -> dict[str, str]:
        return {name: brief(value) for name, value in self.shown().items()}

    def __repr__(self) -> str:
        lines = self._lines()
        width = max(map(len, lines), default=0)
        return "\n".join([type(self).__name__, *(f"  {name:{width}}  {text}" for name, text in lines.items())])

    def _repr_html_(self) -> str:
        cell = '<t{0} style="text-align: left; vertical-align: top">{1}</t{0}>'
        rows = "".join(
            f"<tr>{cell.format('h', html.escape(name))}{cell.format('d', html.escape(text))}</tr>"
            for name, text in self._lines().items()
        )
        return f"<div><strong>{html.escape(type(self).__name__)}</strong><table><tbody>{rows}</tbody></table></div>"


def brief(value: Any) -> str:
    """A value in at most a line: numbers to six digits, few of them in full, of many the shape or the ends.

    Example:
        >>> import torch
        >>> from latentmix.models.display import brief
        >>> brief(2 / 3), brief((1, 2.5)), brief(torch.zeros(1797, 64)), brief({"em": 1, "svi": 2})
        ('0.666667', '1, 2.5', '1797 x 64, float32', 'em, svi')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        return _array(value)
    if isinstance(value, bool | Integral) or value is None:
        return str(value)
    if isinstance(value, Real):
        return f"{float(value):.6g}"
    if isinstance(value, Mapping):
        names = [str(name) for name in value]
        return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    if isinstance(value, Sequence):
        return _sequence(value)
    if isinstance(value, Displayed):
        return value._headline()
    text = repr(value)
    return text if len(text) <= _WIDTH and "\n" not in text else type(value).__name__


def _array(value: Tensor | np.ndarray[Any, Any]) -> str:
    count = value.numel() if isinstance(value, Tensor) else value.size
    if 0 < count <= _FEW:
        values = (value.detach().cpu() if isinstance(value, Tensor) else value).tolist()
        return _nested(values)
    shape = " x ".join(map(str, value.shape)) or "none"
    return f"{shape}, {str(value.dtype).removeprefix('torch.')}"


def _nested(values: Any) -> str:
    if isinstance(values, list):
        return f"[{', '.join(map(_nested, values))}]"
    return f"{values:.4g}" if isinstance(values, float) else str(values)


def _sequence(values: Sequence[Any]) -> str:
    numeric = all(isinstance(item, Real) for item in values)
    text = ", ".join(map(brief, values))
    if len(values) <= _FEW and (numeric or (len(text) <= _WIDTH and all(isinstance(item, str) for item in values))):
        return text or "none"
    if numeric:
        return f"{len(values)} numbers, {brief(values[0])} ... {brief(values[-1])}"
    return f"{len(values)} of {type(values[0]).__name__}"
