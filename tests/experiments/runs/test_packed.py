from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import pytest

from latentmix.experiments.runs.packed import pack, unpack


@pytest.mark.parametrize("dtype", ["<u1", "<i2", "<u2", "<f2", "<f4"])
def test_numbers_come_back(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 200, (7, 3)).astype(dtype)
    text = pack(values, dtype)
    np.testing.assert_array_equal(unpack(text, dtype, (7, 3)), values)
    assert text == pack(values.tolist(), dtype)


@pytest.mark.parametrize(
    "text",
    [None, 3, "", "é", "AAAA", pack([1, 2], "<u2"), pack(range(4), "<u2"), pack(range(3), "<u2")[:-8]],
)
def test_other_texts_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^Expected .*packed numbers of shape \(3,\); got"):
        unpack(text, "<u2", (3,))


def test_a_text_of_enormous_numbers_is_not_unpacked() -> None:
    text = base64.b64encode(zlib.compress(bytes(50_000_000), 9)).decode()
    with pytest.raises(ValueError, match="Expected 6 bytes"):
        unpack(text, "<u2", (3,))
