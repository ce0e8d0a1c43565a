"""`encode` writes what `Run.latents` gives, of files and of splits of the run's own data."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import xarray
from numpy.typing import NDArray
from PIL import Image

from latentmix.experiments import load_run
from latentmix.experiments.cli import main
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.runs import class_probabilities

pytestmark = pytest.mark.usefixtures("coarse")

BRIEF = ["--epochs", "2", "--mixture.draws", "1", "--mixture.n_init", "1", "--mixture.svi.epochs", "2"]
DIGITS = ["--data.limit", "60", "--data.classes", "1,4,8", "--data.labels_per_class", "2"]
NAMES = ["length", "width", "height"]


@pytest.fixture(scope="module")
def finished(coarse: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert main(["run", "digits_mlp2", *BRIEF, *DIGITS, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def on_points(coarse: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table that is gone."""
    folder = tmp_path_factory.mktemp("points")
    table(0).to_csv(folder / "flowers.csv", index=False)
    options = ["--data.source", str(folder / "flowers.csv"), "--data.label", "kind"]
    assert main(["run", "points", *BRIEF, *options, "--out", str(folder / "run")]) == 0
    (folder / "flowers.csv").unlink()
    return folder / "run"


def table(seed: int) -> pandas.DataFrame:
    kinds = np.array(["rose", "lily"])[np.arange(60) % 2]
    points = np.random.default_rng(seed).normal(1000 * (np.arange(60) % 2)[:, None], [10, 1, 0.1], (60, 3))
    return pandas.DataFrame(points, columns=NAMES).assign(kind=kinds)


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(capsys.readouterr().out.splitlines()))


def column(rows: list[dict[str, str]], prefix: str) -> NDArray[np.float64]:
    names = [name for name in rows[0] if name.startswith(prefix)]
    return np.array([[float(row[name]) for name in names] for row in rows])


def test_the_test_images_of_a_run_in_every_format(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_probabilities, "_CHUNK", 100)
    run = load_run(finished)
    expected = run.latents(run.data.test, draws=4, seed=2)
    words = ["encode", str(finished), "--split", "test", "--draws", "4", "--seed", "2"]
    for name in ("a.npz", "a.csv", "a.nc"):
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"60 images: {tmp_path / name}\n"
        assert main([*words, "--out", str(tmp_path / name)]) == 2
        assert "exists already" in capsys.readouterr().err
    arrays = np.load(tmp_path / "a.npz")
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as dataset:
        dataset.load()
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    for name, variable, prefix in (
        ("mean", "mean", "latent_"),
        ("scale", "scale", "scale_"),
        ("responsibilities", "responsibility", "component "),
        ("probabilities", "probability", "class "),
    ):
        np.testing.assert_array_equal(arrays[name], getattr(expected, name))
        np.testing.assert_array_equal(dataset[variable], getattr(expected, name))
        np.testing.assert_allclose(column(rows, prefix), getattr(expected, name), rtol=1e-6)
    assert expected.draws is not None
    np.testing.assert_array_equal(arrays["draws"], expected.draws)
    np.testing.assert_allclose(column(rows, "draw_2_"), expected.draws[2], rtol=1e-6)
    labels = [str(label) for label in Data(classes=[1, 4, 8], limit=60, seed=0).load().test.labels.tolist()]
    assert arrays["labels"].tolist() == dataset["label"].values.tolist() == [row["label"] for row in rows] == labels
    assert [row["image"] for row in rows] == [f"test:{index}" for index in range(60)]
    assert dataset["index"].values.tolist() == list(range(60))
    assert {*dataset["file"].values.tolist()} == {"test"}
    assert main(["encode", str(finished), "--split", "all"]) == 0
    assert {row["image"].partition(":")[0] for row in printed(capsys)} == {"train", "validation", "test"}


def test_accuracy_that_averaging_costs_is_warned_of(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    calibration = summary["mixtures"]["em"]["few"]["calibration"]
    calibration["plug_in"]["accuracy"], calibration["draws"]["accuracy"] = 0.9, 0.2
    (run / "summary.json").write_text(json.dumps(summary))
    np.save(tmp_path / "images.npy", load_run(finished).data.test.x[:2].numpy())
    capsys.readouterr()
    for command in ("encode", "classify"):
        words = [command, str(run), str(tmp_path / "images.npy")]
        assert main(words) == 0
        assert "with accuracy 0.200; by --average none 0.900" in capsys.readouterr().err
        assert main([*words, "--average", "none"]) == 0
        assert "accuracy" not in capsys.readouterr().err
        assert main([*words, "--inference", "nuts"]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_files_are_encoded_and_classified_as_classify_does(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = load_run(finished).data.test.x[:5].numpy()
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "folder").mkdir()
    for index in (3, 4):
        Image.fromarray(images[index, 0]).save(tmp_path / "folder" / f"{index}.png")
    Image.fromarray(images[0, 0]).save(tmp_path / "one.png")
    files = [str(tmp_path / name) for name in ("images.npy", "folder", "one.png")]
    options = ["--inference", "svi", "--labels", "all", "--average", "noise"]
    assert main(["encode", str(finished), *files, *options]) == 0
    rows = printed(capsys)
    names = [*(f"images.npy:{index}" for index in range(5)), "3.png", "4.png", "one.png"]
    assert [row["image"] for row in rows] == names
    assert "label" not in rows[0]
    np.testing.assert_array_equal(column(rows, "latent_")[[3, 4, 0]], column(rows, "latent_")[[5, 6, 7]])
    assert main(["classify", str(finished), *files, *options]) == 0
    classified = printed(capsys)
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in classified]
    np.testing.assert_allclose(column(rows, "class "), column(classified, "class "), atol=6e-5)
    assert main(["encode", str(finished), *files, "--out", str(tmp_path / "a.nc")]) == 0
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as dataset:
        assert dataset["file"].values.tolist() == [*["images.npy"] * 5, "3.png", "4.png", "one.png"]
        assert dataset["index"].values.tolist() == [0, 1, 2, 3, 4, 0, 0, 0]


def test_points_of_tables_are_matched_and_standardised(
    on_points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = table(1)[:6]
    new[["height", "kind", "length", "width"]].to_csv(tmp_path / "new.csv", index=False)
    assert main(["encode", str(on_points), str(tmp_path / "new.csv")]) == 0
    rows = printed(capsys)
    run = load_run(on_points)
    units = run.summary["data"]["standardisation"]
    points = (new[NAMES].to_numpy() - units["centre"]) / units["scale"]
    np.testing.assert_allclose(column(rows, "latent_"), run.latents(points.astype(np.float32)).mean, rtol=1e-5)
    assert [row["point"] for row in rows] == [f"new.csv:{index}" for index in range(6)]
    assert "class lily" in rows[0]


def test_data_that_are_gone_are_named(on_points: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"flowers\.csv.*no such file; they are the data that the run was trained on"):
        _ = load_run(on_points).data
    assert main(["encode", str(on_points), "--split", "test"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_other_data_are_encoded_by_their_options(
    on_points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(3).to_csv(tmp_path / "other.csv", index=False)
    words = ["encode", str(on_points), "--split", "test", "--data.source", str(tmp_path / "other.csv")]
    assert main(words) == 0
    assert len(printed(capsys)) == 12
    assert main([*words, "--data.lable", "kind"]) == 2
    assert "did you mean --data.label?" in capsys.readouterr().err


def test_a_run_gives_its_data_and_history(finished: Path) -> None:
    run = load_run(finished)
    assert run.data is run.data
    assert run.data.class_names == ("1", "4", "8")
    assert {name: len(split) for name, split in run.data.splits.items()} == {
        name: run.summary["data"][name] for name in ("train", "validation", "test")
    }
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    assert run.history == [json.loads(line) for line in lines]
    assert [record["epoch"] for record in run.history] == [1, 2]


def test_a_run_without_its_records_says_so(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("metrics.jsonl", "figures"))
    with pytest.raises(ValueError, match=r"Expected metrics\.jsonl in the folder of the run; got none in"):
        _ = load_run(tmp_path / "run").history


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Expected files of images or points, or --split; got neither"),
        (["one.png", "--split", "test"], "or --split; got both"),
        (["--split", "tests"], "Expected train, validation, test, all for --split; got 'tests': did you mean test?"),
        (["nothere.npy"], "got nothere.npy, which is missing"),
        (["one.png", "--out", "a.txt"], "Expected a .npz, .csv or .nc file for the latents; got a.txt"),
        (["one.png", "--draws", "0"], "Expected --draws from 1 to 100,000; got 0"),
        (["one.png", "--data.root", "x"], "got --data.root, which goes with --split"),
        (["one.png", "--inference", "nuts"], "Expected a fit of this run, em, svi, posterior; got 'nuts'."),
        (["--split", "test", "--draws", "9", "--max_gib", "1e-6", "--out", "a.nc"], "allow more by --max_gib"),
    ],
)
def test_what_cannot_be_is_refused(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (28, 28)).save("one.png")
    assert main(["encode", str(finished), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_the_lines_of_the_readme_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (block,) = (lines for lines in re.findall(r"```py\n(.*?)```", readme, flags=re.DOTALL) if "run.latents" in lines)
    exec(compile(block.replace("runs/digits", str(finished)), "README.md", "exec"), {})
    assert "xarray.Dataset" in capsys.readouterr().out
