"""A throw-away criterion, registered by one file, from `select` to its picture and the command line."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from numpy.typing import NDArray

from latentmix.experiments.cli import main
from latentmix.experiments.figures.selection import selection_panels
from latentmix.experiments.runs.selection import Choice, choose
from latentmix.inference.mixtures.analysis import criteria
from latentmix.inference.mixtures.analysis.criteria import Criterion, find_criterion, register_criterion
from latentmix.inference.mixtures.analysis.selection import CRITERIA, Selection, remeasured, select
from latentmix.inference.mixtures.gaussian import GaussianMixture

SOURCE = """
import numpy as np

from latentmix.inference.mixtures.analysis.criteria import Criterion, log_densities, register_criterion


class HannanQuinn(Criterion):
    name, label, lower = "hqc", "HQC", True
    help = "Hannan and Quinn's, in nats times two; lower is better"
    unit, digits = "nats × 2", 2

    def measure(self, evaluation):
        n = len(evaluation.points)
        if evaluation.mixture.n_components == 3:
            raise ValueError("planted")
        deviance = -2 * n * evaluation.log_likelihood
        return {"hqc": np.float32(deviance + 2 * evaluation.n_parameters * np.log(np.log(n)))}


class LowestDensity(Criterion):
    name, label, lower = "lowest", "lowest", False
    help = "log-density of the least likely held-out point; higher is better"
    refits = True

    def measure(self, evaluation):
        x = evaluation.points
        lowest = [log_densities(evaluation.fit(x[train]), x[test]).min() for train, test in evaluation.splits()]
        return {"lowest": np.mean(lowest), "lowest_error": np.std(lowest)}

    def doubts(self, candidate):
        return ("few points",) if candidate.n_components == 1 else ()


register_criterion(HannanQuinn())
register_criterion(LowestDensity())
"""
OWN = ("bic", "lowest", "hqc")


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in a folder of its own on `sys.path`."""
    monkeypatch.setattr(criteria, "_REGISTRY", {name: find_criterion(name) for name in CRITERIA})
    name = "latentmix_own_criteria"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / f"{name}.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)


def points() -> NDArray[np.float64]:
    return np.random.RandomState(0).randn(60, 1) + np.repeat([[-4.0], [4.0]], 30, 0)


def selected(**options: object) -> Selection:
    return select(points(), [1, 2, 3], "full", criteria=OWN, n_init=1, held_out=3, **options)


def test_own_criterion_is_measured_compared_and_tabulated(own_module: str) -> None:
    importlib.import_module(own_module)
    selection = selected()
    assert selection.criteria == ("bic", "hqc", "lowest")
    candidate = selection.best("hqc")
    assert candidate.n_components == 2
    value = -120 * candidate.log_likelihood + 2 * candidate.n_parameters * math.log(math.log(60))
    assert candidate.figure("hqc") == pytest.approx(value, rel=1e-6)
    rows = json.loads(json.dumps(selection.as_rows()))
    assert [row["hqc"] is None for row in rows] == [False, False, True]
    assert rows[1]["lowest_error"] == candidate.figure("lowest_error") > 0
    assert selection.candidates[2].reason == "failed: planted"
    table = selection.table()
    assert f"{value:,.2f}*" in table
    assert "HQC: K = 2, full (lowest)" in table
    assert f"{rows[0]['lowest']:.4f} ± {rows[0]['lowest_error']:.4f}" in table
    assert "! 3 full: failed: planted" in table


def test_own_criterion_is_measured_in_other_processes(own_module: str) -> None:
    importlib.import_module(own_module)
    get_reusable_executor().shutdown()  # workers of earlier tests do not have the module's folder on their path
    assert selected(n_jobs=2).table() == selected().table()


def test_a_better_optimum_keeps_figures_of_refits(own_module: str) -> None:
    importlib.import_module(own_module)
    x = np.random.RandomState(0).uniform(size=(60, 2))
    selection = select(x, 2, "full", criteria=OWN, n_init=1, held_out=3, max_iter=1)
    old, better = selection.candidates[0], GaussianMixture(2, tol=1e-9, max_iter=1000, random_state=0).fit(x)
    (new,) = remeasured(selection, x, better).candidates
    assert new.log_likelihood > old.log_likelihood
    assert new.figure("hqc") < old.figure("hqc")
    for name in ("lowest", "lowest_error"):
        assert new.figure(name) == old.figure(name)


def test_own_criterion_has_a_panel(own_module: str) -> None:
    importlib.import_module(own_module)
    figure = selection_panels(selected())
    assert [axes.get_title() for axes in figure.axes] == [
        "BIC: lower is better",
        "HQC: lower is better",
        "lowest: higher is better",
    ]
    assert [axes.get_ylabel() for axes in figure.axes] == ["above the lowest, nats × 2"] * 2 + [""]
    assert [text.get_text() for text in figure.axes[1].texts] == ["K = 2, full"]
    assert [tuple(line.get_xdata()) for line in figure.axes[1].lines if line.get_marker() == "x"] == [(3,)]
    hollow = [line for line in figure.axes[2].lines if line.get_markerfacecolor() == "white"]
    assert [tuple(line.get_xdata()) for line in hollow] == [(1,)]
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "lowest: 3 folds, bar: one standard error over points; hollow: unreliable lowest; lines" in caption


def test_own_criterion_chooses_the_mixture_of_the_mode_report(own_module: str, tmp_path: Path) -> None:
    importlib.import_module(own_module)
    np.save(tmp_path / "cloud.npy", points())
    settings = Choice((1, 2), ("full",), ("bic", "hqc"), criterion="hqc", starts=1, mode_starts=2)
    lines: list[str] = []
    selection, report = choose(tmp_path / "cloud.npy", settings, tmp_path / "out", lines.append)
    assert report.n_components == selection.best("hqc").n_components == 2
    assert any("K = 2, full: HQC " in line for line in lines)
    written = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert written["settings"]["criteria"] == ["bic", "hqc"]
    assert written["candidates"][1]["hqc"] == selection.candidates[1].figure("hqc")


def test_command_imports_the_module_of_a_criterion(
    own_module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "cloud.npy", points())
    words = ["select", str(tmp_path / "cloud.npy"), "--n_components", "1,2", "--covariance_types", "full"]
    words += ["--starts", "1", "--mode_starts", "2", "--criteria", f"{own_module}.hqc", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "HQC: K = 2, full" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["select", "--help"])
    printed = capsys.readouterr().out
    assert "  hqc                Hannan and Quinn's, in nats times two; lower is better" in printed
    assert "  bic, aic, icl      lower is better, in nats times two\n" in printed
    words[words.index(f"{own_module}.hqc")] = "no_such_module.hqc"
    assert main([*words[:-1], str(tmp_path / "other")]) == 2
    assert "Expected a criterion of a module that can be imported; got 'no_such_module.hqc'" in capsys.readouterr().err


def test_shipped_criteria_remain_the_default(own_module: str) -> None:
    importlib.import_module(own_module)
    assert CRITERIA == ("bic", "aic", "icl", "held_out", "loo", "dirichlet_process")
    assert Choice().criteria == CRITERIA
    assert list(criteria.criteria()) == [*CRITERIA, "hqc", "lowest"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bic", "Expected a new name for a criterion; got 'bic', which is taken"),
        ("seconds", "Expected a new name for a criterion; got 'seconds', which is taken"),
        ("a,b", "Expected an identifier as the name of a criterion; got 'a,b'"),
        ("a.b", r"Expected an identifier as the name of a criterion; got 'a\.b'"),
        (3, "Expected an identifier as the name of a criterion; got 3"),
    ],
)
def test_names_that_are_taken_or_no_identifiers_are_refused(own_module: str, name: str, message: str) -> None:
    importlib.import_module(own_module)
    again = type(find_criterion("hqc"))
    register_criterion(again())
    other = type("Other", (again,), {"name": name})
    with pytest.raises(ValueError, match=message):
        register_criterion(other())
    with pytest.raises(ValueError, match=r"Expected an instance of Criterion; got <class .*HannanQuinn'>"):
        register_criterion(again)


@pytest.mark.parametrize("figure", ["bic", "n_components", "hqc", "held_out"])
def test_a_criterion_leaves_the_figures_of_others(own_module: str, figure: str) -> None:
    importlib.import_module(own_module)
    values = {"name": "held", "measure": lambda *_: {"held": 1.0, figure: 7.0}}
    register_criterion(type("Held", (type(find_criterion("lowest")),), values)())
    candidate = select(points(), 2, "full", criteria=["bic", "held"], n_init=1).candidates[0]
    assert candidate.bic == select(points(), 2, "full", criteria="bic", n_init=1).candidates[0].bic
    assert candidate.n_components == 2
    assert candidate.reason.startswith("failed: Expected figures of held by that name, or as held_error; got")


def test_figures_are_given_by_name_and_models_are_known(own_module: str) -> None:
    importlib.import_module(own_module)
    own = type(find_criterion("lowest"))
    register_criterion(type("Bare", (own,), {"name": "bare", "measure": lambda *_: 3.0})())
    selection = select(points(), 2, "full", criteria="bare", n_init=1)
    with pytest.raises(ValueError, match=r"got none: failed: Expected figures of bare by name; got 3\.0"):
        selection.best("bare")
    with pytest.raises(ValueError, match=r"Expected models of a criterion out of mixture, dirichlet_process; got"):
        register_criterion(type("Other", (own,), {"name": "other", "models": ("flow",)})())


def test_incomplete_criteria_are_refused() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Idle", (Criterion,), {"name": "idle"})()
    unlabelled = type("Unlabelled", (Criterion,), {"name": "unlabelled", "measure": lambda *_: {}})
    with pytest.raises(
        ValueError, match="Expected a criterion with name, label, lower and help; got one without label"
    ):
        register_criterion(unlabelled())
