"""Representations of results: bounded in lines and characters, and escaped in HTML."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from latentmix import guides, inference, models
from latentmix.models.display import Displayed, brief

# Fields that are long, in plain dataclasses that no function returns to a user.
INTERNAL = {
    "Evaluation",
    "Layout",
    "NaturalPoint",
    "Problem",
    "Settings",
    "Summary",
    "Chain",
    "Completion",
    "Site",
    "Noise",
    "NormalGuide",
}
LONG = re.compile(r"\b(Tensor|NDArray|Array|Ranks|MixtureParameters|list\[float\])\b")


def is_long(annotation: str) -> bool:
    return LONG.search(annotation) is not None and "Callable" not in annotation


def dataclasses_of(room: ModuleType) -> dict[str, type]:
    """Public dataclasses of all files of a room."""
    walked = pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
    modules = [importlib.import_module(each.name) for each in walked if not each.name.endswith("__main__")]
    public = [getattr(module, name, None) for module in modules for name in getattr(module, "__all__", ())]
    return {kind.__name__: kind for kind in public if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


@pytest.mark.parametrize("room", [models, guides, inference], ids=lambda room: room.__name__)
def test_dataclasses_with_long_fields_are_displayed(room: ModuleType) -> None:
    for name, kind in dataclasses_of(room).items():
        long = [each.name for each in dataclasses.fields(kind) if each.repr and is_long(str(each.type))]
        if long and name not in INTERNAL:
            assert issubclass(kind, Displayed), f"{name}: {long}"
            assert kind.__repr__ is Displayed.__repr__, name


@dataclass(frozen=True, repr=False)
class Result(Displayed):
    weights: torch.Tensor
    losses: list[float]
    name: str = "a <b> & c"
    hidden: torch.Tensor | None = field(default=None, repr=False)


@dataclass(repr=False)
class Named(Displayed):
    result: Result

    def shown(self) -> Mapping[str, Any]:
        return {"result": self.result, "KL(q, p)": 1.5}


def test_a_line_for_each_figure() -> None:
    result = Result(torch.zeros(1000, 20), [3.0, *[2.0] * 20, 1.25])
    assert repr(result).splitlines() == [
        "Result",
        "  weights  1000 x 20, float32",
        "  losses   22 numbers, 3 ... 1.25",
        "  name     a <b> & c",
    ]
    assert repr(Named(result)).splitlines() == ["Named", "  result    Result", "  KL(q, p)  1.5"]


def test_html_has_the_same_figures_escaped() -> None:
    page = Result(torch.ones(2), [1.0])._repr_html_()
    assert "<strong>Result</strong>" in page
    assert "a &lt;b&gt; &amp; c" in page
    assert "[1, 1]" in page
    assert page.count("<tr>") == page.count("</tr>") == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor([[1.0, 0.5], [2.0, 1e-9]]), "[[1, 0.5], [2, 1e-09]]"),
        (np.arange(4), "[0, 1, 2, 3]"),
        (np.zeros((64, 64), dtype=np.float32), "64 x 64, float32"),
        (torch.zeros(0, 3), "0 x 3, float32"),
        (torch.tensor(2.5), "2.5"),
        (torch.tensor([True, False]), "[True, False]"),
        (np.float64(1 / 3), "0.333333"),
        (10**12, "1000000000000"),
        (float("nan"), "nan"),
        (None, "None"),
        (True, "True"),
        ((), "none"),
        (("a", "b"), "a, b"),
        (["x" * 90, "y" * 90], "2 of str"),
        (list(range(100)), "100 numbers, 0 ... 99"),
        ([object()] * 3, "3 of object"),
        ({f"k{place}": 0 for place in range(10)}, "k0, k1, k2, k3, k4, k5, k6, k7 and 2 more"),
        (torch.nn.Sequential(torch.nn.Linear(1, 1)), "Sequential"),
    ],
)
def test_values_take_at_most_a_line(value: object, text: str) -> None:
    assert brief(value) == text
