"""Runs of an earlier version, written before packages moved and the options of mixtures changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentmix.experiments import load_run
from latentmix.experiments.cli import main

pytestmark = pytest.mark.usefixtures("coarse")

EARLIER = Path(__file__).parent / "earlier_run"


def figures(node: Any) -> Any:
    """Nested figures without times and versions."""
    if isinstance(node, dict):
        return {key: figures(value) for key, value in node.items() if "seconds" not in key and key != "versions"}
    return [figures(value) for value in node] if isinstance(node, list) else node


def assert_close(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key, value in first.items():
            assert_close(value, second[key], f"{where}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for index, value in enumerate(first):
            assert_close(value, second[index], f"{where}[{index}]")
    elif isinstance(first, float):
        assert first == pytest.approx(second, rel=1e-4, abs=1e-6), where
    else:
        assert first == second, where


def test_finished_run_loads() -> None:
    run = load_run(EARLIER / "finished")
    assert {name: set(budgets) for name, budgets in run.mixtures.items()} == {
        "em": {"none", "few", "all"},
        "svi": {"none", "few", "all"},
        "nuts": {"none", "all"},
    }
    for budgets in run.mixtures.values():
        for fitted in budgets.values():
            assert fitted.mixture.n_components == 3
            assert fitted.mixture.means_.shape == (3, 2)


def test_finished_run_is_evaluated(tmp_path: Path) -> None:
    out = tmp_path / "evaluate.json"
    assert main(["evaluate", str(EARLIER / "finished"), "--out", str(out)]) == 0
    result, expected = (json.loads(file.read_text()) for file in (out, EARLIER / "evaluate.json"))
    result.pop("run"), expected.pop("run")
    result["data"] = {name: result["data"][name] for name in expected["data"]}  # options that came later are left out
    assert_close(figures(result), figures(expected))


def test_finished_run_classifies(tmp_path: Path) -> None:
    out = tmp_path / "classify.csv"
    words = ["classify", str(EARLIER / "finished"), str(EARLIER / "images.npy"), "--average", "none"]
    assert main([*words, "--out", str(out)]) == 0
    rows = [line.split(",") for line in out.read_text().splitlines()]
    expected = [line.split(",") for line in (EARLIER / "classify.csv").read_text().splitlines()]
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    np.testing.assert_allclose(
        np.array([row[2:] for row in rows[1:]], float), np.array([row[2:] for row in expected[1:]], float), atol=2e-4
    )


def test_interrupted_run_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "interrupted"
    shutil.copytree(EARLIER / "interrupted", path)
    assert main(["resume", str(path)]) == 0
    expected = EARLIER / "resumed"
    for first, second in zip(lines(path / "metrics.jsonl"), lines(expected / "metrics.jsonl"), strict=True):
        assert first.pop("skipped") == 0  # not in records of earlier versions
        assert_close(figures(first), figures(second))
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (path, expected))
    assert_close(first["test"], second["test"])
    for inference, budgets in second["mixtures"].items():
        for budget, measured in budgets.items():
            likelihood = first["mixtures"][inference][budget]["log_likelihood"]
            assert likelihood == pytest.approx(measured["log_likelihood"], abs=0.01)


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]
