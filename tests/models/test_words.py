from __future__ import annotations

import pytest

from latentmix.models.words import plural


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((1, "step"), "1 step"),
        ((0, "step"), "0 steps"),
        ((20_000, "step"), "20,000 steps"),
        ((1, "class", "classes"), "1 class"),
        ((2, "class", "classes"), "2 classes"),
    ],
)
def test_a_number_of_things(words: tuple[int, str], text: str) -> None:
    assert plural(*words) == text
