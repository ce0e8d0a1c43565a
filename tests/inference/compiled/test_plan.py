from __future__ import annotations

from typing import Any

import pytest
import torch

from latentmix.inference.compiled import plan
from latentmix.inference.compiled.plan import compile_plan

SIZES: dict[str, Any] = {"length": 1000, "batch_size": 64, "drop_last": False, "device": torch.device("cpu")}


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "compiler_obstacle", lambda device: None)


@pytest.mark.parametrize(
    ("compile", "epochs", "lengths", "reason"),
    [
        (False, 10**6, set(), "compile=False"),
        (True, 1, {64}, "but for 1 incomplete minibatch"),
        (True, 2, {64}, "but for 2 incomplete minibatches"),
        (True, 20_000, {64, 40}, None),
        ("auto", 1000, set(), "16,000 steps are fewer than the 20,000 from which compilation pays"),
        (
            "auto",
            1333,
            set(),
            "19,995 steps with whole minibatches are fewer than the 20,000 from which compilation pays",
        ),
        ("auto", 1334, {64}, "but for 1,334 incomplete minibatches"),
        ("auto", 20_000, {64, 40}, None),
    ],
)
def test_lengths_and_reason(compile: Any, epochs: int, lengths: set[int], reason: str | None) -> None:
    found = compile_plan(compile, epochs=epochs, **SIZES)
    assert found.lengths == lengths
    assert found.reason == reason


def test_without_an_incomplete_minibatch_all_are_compiled() -> None:
    for change in ({"drop_last": True}, {"length": 640}, {"length": 64}):
        found = compile_plan(True, epochs=3, **{**SIZES, **change})
        assert (found.lengths, found.reason) == ({64}, None)


def test_what_auto_leaves_alone_is_compiled_on_request() -> None:
    options: dict[str, Any] = {**SIZES, "epochs": 10**5, "device": torch.device("meta")}
    assert compile_plan("auto", **options).reason == (
        "from how many steps on compilation pays has not been measured on meta"
    )
    assert compile_plan(True, **options).lengths


def test_without_a_compiler_auto_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "compiler_obstacle", lambda device: "no compiler")
    assert compile_plan("auto", epochs=10**5, **SIZES) == plan.CompilePlan(frozenset(), "no compiler")


@pytest.mark.parametrize("word", ["yes", 1, None, 0])
def test_other_values_are_refused(word: Any) -> None:
    with pytest.raises(ValueError, match='Expected compile to be True, False or "auto"; got'):
        compile_plan(word, epochs=1, **SIZES)
