"""Tables as aligned text."""

from __future__ import annotations

import pytest

from latentmix.inference.tables import aligned


def test_columns_are_aligned() -> None:
    text = aligned(["name", "kind", "nats"], [["EM", "full", "-3.25"], ["a long one", "x", "1"]], left=2)
    assert text.splitlines() == [
        "name        kind   nats",
        "----------  ----  -----",
        "EM          full  -3.25",
        "a long one  x         1",
    ]
    assert aligned(["a", "bb"], [["ccc", "d"]], left=0, rule=False) == "  a  bb\nccc   d"
    assert aligned(["a", "b"], []) == "a  b\n-  -"


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        aligned(["a", "b"], [["c"]])
