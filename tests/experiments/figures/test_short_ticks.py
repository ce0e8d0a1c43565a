"""Numbers along an axis are short, apart, and tell the places of their ticks."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from latentmix.experiments.figures.short_ticks import APART, short_numbers, short_ticks

RANDOM = np.random.default_rng(0)
WIDTHS = (1e-6, 1e-3, 0.5, 7.0, 2e4)
RANGES = [(centre, width) for centre in (0.0, 0.1234, -3.1, 12.3, -12345.0) for width in WIDTHS]


def value_of(text: str, words: list[str]) -> float:
    """The value that a number tells, in its unit and from its origin."""
    plain = " ".join(words).replace("−", "-")
    unit, origin = (re.search(pattern, plain) for pattern in (r"in (\S+)", r"from (\S+)"))
    return float(text.replace("−", "-")) * float(unit[1] if unit else 1) + float(origin[1] if origin else 0)


@pytest.mark.parametrize(("centre", "width"), RANGES)
def test_numbers_are_short_apart_and_tell_their_places(centre: float, width: float) -> None:
    for shift in RANDOM.uniform(-0.5, 0.5, 10):
        axes = Figure().add_subplot()
        axes.set_xlim(centre + (shift - 0.5) * width, centre + (shift + 0.5) * width)
        words = short_ticks(axes.xaxis)
        ticks, numbers = axes.get_xticks(), [label.get_text() for label in axes.get_xticklabels()]
        assert 1 <= len(ticks) <= 2
        assert np.ptp(ticks) == 0 or np.ptp(ticks) >= APART * width * (1 - 1e-4)
        assert max(map(len, numbers)) <= 6
        assert [value_of(text, words) for text in numbers] == pytest.approx(ticks, abs=2e-3 * width, rel=1e-12)


def test_an_axis_without_numbers_has_ticks() -> None:
    axes = Figure().add_subplot()
    axes.set_xlim(0.0, 1.0)
    short_ticks(axes.xaxis, numbered=False)
    assert len(axes.get_xticks()) == 2
    assert {label.get_text() for label in axes.get_xticklabels()} == {""}


def test_a_range_that_doubles_hardly_resolve_has_a_number() -> None:
    axes = Figure().add_subplot()
    axes.set_xlim(1e8, 1e8 + 1e-6)
    words = short_ticks(axes.xaxis)
    assert len(axes.get_xticks()) >= 1
    assert words[-1].startswith("from 100000000")


def test_a_plain_range_needs_no_words() -> None:
    assert short_numbers([-2.5, 2.5], -3.0, 3.0) == (["−2.5", "2.5"], [])
    assert short_numbers([0.0], -3.0, 3.0) == (["0"], [])
