"""Two short numbers along an axis, however narrow its range and however far from zero."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axis import Axis

from latentmix.experiments.figures.tableau import inner_ticks, number

__all__ = ["short_numbers", "short_ticks"]

APART = 0.4  # of the range, between two numbers
FAR = 100  # ranges from zero, from where numbers are told from an origin


def short_ticks(axis: Axis, *, numbered: bool = True) -> list[str]:
    """Put two ticks, or one, along an axis, with short numbers.

    Args:
        axis: The axis, with its final range.
        numbered: Whether it has numbers.

    Returns:
        Words for the axis's name, on the unit and on the origin of the numbers, where these shorten them.
    """
    low, high = sorted(axis.get_view_interval())
    ticks: list[float] = []
    for count in (3, 4, 5, 6):
        ticks = inner_ticks(low, high, count)
        if len(ticks) > 1 and ticks[-1] - ticks[0] >= APART * (high - low):
            ticks = [ticks[0], ticks[-1]]
            break
    else:
        ticks = [min(ticks, key=lambda tick: abs(tick - (low + high) / 2), default=(low + high) / 2)]
    numbers, words = short_numbers(ticks, low, high)
    axis.set_ticks(ticks, numbers if numbered else [""] * len(ticks))
    return words


def short_numbers(values: Sequence[float], low: float, high: float) -> tuple[list[str], list[str]]:
    """Numbers of a range in few digits, and in words the unit and the origin that they are told in.

    Args:
        values: The numbers, within the range.
        low: Its lower end.
        high: Its upper end, above the lower one.

    Example:
        >>> from latentmix.experiments.figures.short_ticks import short_numbers
        >>> short_numbers([-0.5, 0.5], -1.0, 1.0)
        (['−0.5', '0.5'], [])
        >>> short_numbers([0.12338, 0.12342], 0.12337, 0.12343)
        (['−2', '2'], ['in 1e−5', 'from 0.1234'])
        >>> short_numbers([12000.0, 13000.0], 11500.0, 13500.0)
        (['1.2', '1.3'], ['in 1e4'])
    """
    order = math.floor(math.log10(high - low))
    far = max(abs(low), abs(high)) > FAR * (high - low)
    origin = round((low + high) / 2, -order) if far else 0.0
    rest = np.asarray(values, dtype=np.float64) - origin
    size = math.floor(math.log10(max(abs(low - origin), abs(high - origin))))
    power = size if size <= -3 or size >= 4 else 0
    scaled = rest / 10.0**power
    exact = 1e-3 * 10.0 ** (order - power)
    digits = next((d for d in range(4) if np.allclose(scaled, np.round(scaled, d), atol=exact)), 4)
    unit = [f"in 1e{power}".replace("-", "−")] if power else []
    start = f"from {number(origin, max(1, -order)).rstrip('0').rstrip('.')}"
    return [number(value, digits) for value in scaled + 0.0], [*unit, *([start] if far else [])]
