"""A run on a table: named classes and columns, units of the data, and the table gone."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest

from latentmix.experiments import load_run
from latentmix.experiments.cli import main
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.runs.artifacts import load_tree, save_tree

pytestmark = pytest.mark.usefixtures("coarse")

NAMES = ["length", "width", "height"]
BRIEF = ["--epochs", "2", "--mixture.draws", "1", "--mixture.n_init", "1", "--mixture.svi.epochs", "2"]
BRIEF += ["--mixture.posterior.guide", "AutoNormal", "--mixture.posterior.epochs", "3"]


def table(seed: int = 0) -> pandas.DataFrame:
    random = np.random.default_rng(seed)
    kinds = np.array(["rose", "lily", "iris"])[np.arange(90) % 3]
    points = random.normal(1000 * (np.arange(90) % 3)[:, None], [10, 1, 0.1], (90, 3))
    return pandas.DataFrame(points, columns=NAMES).assign(kind=kinds)


@pytest.fixture(scope="module")
def finished(coarse: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose table is gone."""
    folder = tmp_path_factory.mktemp("runs")
    table().to_csv(folder / "flowers.csv", index=False)
    options = ["--data.source", str(folder / "flowers.csv"), "--data.label", "kind", "--data.classes", "rose,lily"]
    assert main(["run", "points", *BRIEF, *options, "--out", str(folder / "one")]) == 0
    (folder / "flowers.csv").unlink()
    return folder / "one"


def test_names_and_units_are_kept(finished: Path) -> None:
    run = load_run(finished)
    data = run.summary["data"]
    assert (data["classes"], data["class_names"], data["columns"]) == ([1, 2], ["lily", "rose"], NAMES)
    assert 400 < data["standardisation"]["centre"][0] < 600
    for budgets in run.mixtures.values():
        for budget, fitted in budgets.items():
            assert fitted.class_names == ("lily", "rose")
            assert set(run.summary["mixtures"]["em"][budget]["per_class"]) == {"lily", "rose"}


def test_classify_matches_columns_by_name(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = table(1)[:6]
    new.to_csv(tmp_path / "new.csv", index=False)
    new[["height", "kind", "length", "width"]].to_csv(tmp_path / "other.csv", index=False)
    np.save(tmp_path / "new.npy", new[NAMES].to_numpy())
    tables = []
    for name in ("new.csv", "other.csv", "new.npy"):
        assert main(["classify", str(finished), str(tmp_path / name)]) == 0
        rows = list(csv.reader(capsys.readouterr().out.splitlines()))
        assert rows[0] == ["point", "predicted", "class lily", "class rose"]
        assert [row[0] for row in rows[1:]] == [f"{name}:{index}" for index in range(6)]
        assert {row[1] for row in rows[1:]} <= {"lily", "rose"}
        tables.append([row[1:] for row in rows])
    assert tables[0] == tables[1] == tables[2]
    for changed, message in (
        (new.drop(columns="width"), "none named 'width'"),
        (new.assign(weight=1), "got also 'weight'"),
        (new.assign(width=["wide"] * 6), "numbers in column 'width' of"),
        (new.assign(note="new"), "got 'new' in line 2: leave it out of the file."),
    ):
        changed.to_csv(tmp_path / "wrong.csv", index=False)
        assert main(["classify", str(finished), str(tmp_path / "wrong.csv")]) == 2
        assert message in capsys.readouterr().err


def test_limits_name_the_option_of_the_command(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table().to_csv(tmp_path / "new.csv", index=False)
    file = str(tmp_path / "new.csv")
    for words, option in (
        (["classify", str(finished), file, "--max_gib", "1e-6"], "--max_gib"),
        (["select", file, "--max_gib", "1e-6", "--out", str(tmp_path / "out")], "--max_gib"),
        (["evaluate", str(finished), "--data.source", file, "--data.max_gib", "1e-6"], "--data.max_gib"),
    ):
        assert main(words) == 2
        assert re.search(rf"of at most 1e-06 GiB in .*; got .* GiB: allow more by {option}\.$", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_an_absent_fit_and_a_broken_schema_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    np.save(tmp_path / "new.npy", np.zeros((3, 3)))
    summary = json.loads((run / "summary.json").read_text())
    for name, value, message in (
        ("class_names", 3, "Expected a list of words as class_names; got 3"),
        ("class_names", ["lily"], "Expected a class_name of its own for each of 2 classes; got "),
        ("columns", [1, 2, 3], "Expected a list of words as columns; got "),
        ("standardisation", 3, "Expected centre and scale as standardisation; got 3"),
        ("standardisation", {"centre": [0.0] * 3}, "Expected a centre and a scale of each feature; got 3 and 0"),
        ("standardisation", {"centre": [0.0] * 3, "scale": [1.0, 0.0, 1.0]}, "Expected finite centres and scales"),
    ):
        (run / "summary.json").write_text(json.dumps(summary | {"data": {**summary["data"], name: value}}))
        assert main(["classify", str(run), str(tmp_path / "new.npy")]) == 2
        assert message in capsys.readouterr().err
    (run / "summary.json").write_text(json.dumps(summary))
    checkpoint = run / "checkpoints" / "mixtures"
    save_tree(checkpoint, {name: tree for name, tree in load_tree(checkpoint).items() if name != "svi"})
    assert main(["classify", str(run), str(tmp_path / "new.npy"), "--inference", "svi"]) == 2
    assert "Expected a fit of this run, em, posterior; got 'svi'." in capsys.readouterr().err


def test_evaluate_matches_classes_by_name(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = table(2)
    new[new["kind"] == "rose"].to_csv(tmp_path / "roses.csv", index=False)  # alone, rose would be class 0
    words = ["evaluate", str(finished), "--split", "all", "--data.source", str(tmp_path / "roses.csv")]
    assert main([*words, "--data.classes", "null", "--out", str(tmp_path / "out.json")]) == 0
    assert "30 points" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out.json").read_text())["mixtures"]["em"]["few"]
    assert figures["per_class"]["rose"]["support"] == 30
    new.to_csv(tmp_path / "all.csv", index=False)
    assert main([*words[:-1], str(tmp_path / "all.csv"), "--data.classes", "null"]) == 2
    assert "points of the classes [lily, rose] of this run; got classes [iris] too" in capsys.readouterr().err


def test_samples_are_in_the_units_of_the_data(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(finished), "-n", "5"]) == 0
    assert capsys.readouterr().out == "samples.npy\n"
    (tmp_path / "samples.npy").unlink()
    assert main(["sample", str(finished), "-n", "50", "--out", str(tmp_path / "samples.npy")]) == 0
    assert 300 < np.load(tmp_path / "samples.npy")[:, 0].mean() < 700


def test_select_leaves_the_labels_out(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "flowers.csv", index=False)
    words = ["select", str(tmp_path / "flowers.csv"), "--n_components", "1,2", "--covariance_types", "diag"]
    words += ["--criteria", "bic", "--starts", "1", "--mode_starts", "2", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert main([*words, "--label", "kind", "--columns", "width, height"]) == 0
    assert json.loads((tmp_path / "out/selection.json").read_text())["features"] == 2


@pytest.mark.parametrize(
    ("word", "classes"),
    [("setosa,virginica", ["setosa", "virginica"]), ("no,yes", ["no", "yes"]), ("1e3", ["1e3"]), ("1,4", [1, 4])],
)
def test_names_of_classes_are_words(word: str, classes: list[object]) -> None:
    assert parse_experiment("points", ["--data.classes", word]).data.classes == classes
    assert parse_experiment("points", ["--data.columns", "1,on"]).data.columns == ["1", "on"]
    assert parse_experiment("points", ["--data.channels", "1"]).data.channels == 1
