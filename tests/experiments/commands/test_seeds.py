"""`latentmix run --seeds`: runs that differ by their seed alone, as a sweep over it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from latentmix.experiments.cli import main
from latentmix.experiments.runs.pipeline import Session
from latentmix.experiments.runs.run import load_run

from tests.experiments.sweeps.test_sweep import QUICK

pytestmark = pytest.mark.usefixtures("coarse", "no_pictures")


def test_seeds_give_runs_a_table_and_a_folder_and_are_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "seeds"
    words = ["run", "digits_mlp2", *QUICK, "--seed", "4", "--out", str(out), "--seeds"]
    assert main([*words, "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(out)
    saved = json.loads((out / "sweep.json").read_text())
    folders = [out / "cells" / cell["id"] for cell in saved["cells"]]
    configs = [load_run(folder).config for folder in folders]
    assert [config.pop("seed") for config in configs] == [4, 5]
    assert configs[0] == configs[1]
    assert all((folder / "report.html").is_file() for folder in folders)
    assert {"learning_curves.png", "sweep.png", "sweep.md", "sweep.csv"} <= {path.name for path in out.iterdir()}
    elbos = [json.loads((folder / "summary.json").read_text())["test"]["elbo"] for folder in folders]
    low, high = stats.t.interval(0.9, 1, np.mean(elbos), stats.sem(elbos))
    line = next(line for line in printed.splitlines() if line.startswith("ELBO"))
    numbers = [f"{value:,.2f}" for value in (np.mean(elbos), low, high, min(elbos), max(elbos))]
    assert re.split(r"\s{2,}", line)[1:] == [numbers[0], f"{numbers[1]} to {numbers[2]}", *numbers[3:]]

    trained = []
    train = Session.train
    monkeypatch.setattr(Session, "train", lambda self, *a, **k: trained.append(self) or train(self, *a, **k))
    assert main([*words, "3"]) == 0
    assert [session.experiment.training.seed for session in trained] == [6]
    assert main([*words, "3"]) == 0
    assert len(trained) == 1
    capsys.readouterr()
    assert main(["sweep", "digits_mlp2", *QUICK, "--grid", "seed=4,5", "--seed", "4", "--out", str(out)]) == 0
    assert len(trained) == 1


def test_an_interrupted_run_of_seeds_says_how_it_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "seeds"
    train = Session.train

    def interrupted(self: Session, *args: object, **options: object) -> object:
        if self.experiment.training.seed == 1:
            raise KeyboardInterrupt
        return train(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "train", interrupted)
    words = ["run", "digits_mlp2", *QUICK, "--seeds", "2", "--out", str(out)]
    assert main(words) == 130
    error = capsys.readouterr().err
    assert f"1 of 2 cells is finished: the same command with --out {out} continues" in error
    monkeypatch.setattr(Session, "train", train)
    assert main(words) == 0


def test_a_seed_that_fails_makes_the_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Session.train

    def failing(self: Session, *args: object, **options: object) -> object:
        if self.experiment.training.seed == 1:
            raise RuntimeError("no")
        return train(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "train", failing)
    assert main(["run", "digits_mlp2", *QUICK, "--seeds", "2", "--out", str(tmp_path / "seeds")]) == 1
    assert "RuntimeError: no" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "digits", "--seeds", "0"], "Expected --seeds from 2 to 1,000, "),
        (["run", "digits", "--seeds", "-3"], "got -3."),
        (["run", "digits", "--seeds", "1"], "got 1."),
        (["run", "digits", "--seeds", "100000000"], "got 100000000."),
        (["run", "digits", "--seeds", "2.5"], "Expected a whole number for --seeds; got '2.5'"),
        (["run", "digits", "--seeds"], "Expected a value after --seeds; got none"),
        (["run", "digits", "--seeds", "2", "--print_config"], "one of --seeds and --print_config"),
        (["run", "digits", "--n-jobs", "2"], "Expected --seeds N with --n-jobs"),
        (["run", "digits", "--seeds", "2", "--n-jobs", "0"], "--n-jobs"),
        (["run", "digits", "--seeds", "2", "--epochs", "0"], "--epochs"),
        (["run", "digits", "--seeds", "2", "--seed", "-1"], "--seed"),
        (["run", "digits", "--seeds", "2", "--out", "."], "Expected a new folder or that of a sweep"),
        (["sweep", "digits", "--seeds", "1"], "Expected --seeds from 2 to 1,000, "),
        (["sweep", "digits", "--grid", "seed=0,1", "--seeds", "2"], "Expected one of --seeds and --grid seed="),
        (["sweep", "digits"], "Expected at least one --grid"),
    ],
)
def test_what_is_no_number_of_seeds_is_refused(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").touch()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
