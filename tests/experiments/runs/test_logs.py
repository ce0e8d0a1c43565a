"""Loggers of a run: what is logged, how a run ends, and one log that continues."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentmix.experiments.cli import main
from latentmix.experiments.loggers import TensorBoard
from latentmix.experiments.runs import pipeline
from latentmix.experiments.runs.artifacts import RunFolder

from tests.experiments.loggers.offline import keep_offline
from tests.experiments.loggers.read_back import READERS
from tests.experiments.runs.test_stages import QUICK


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take seconds to make."""
    with pytest.MonkeyPatch.context() as patch:
        keep_offline(patch, tmp_path_factory.mktemp("caches"))
        from mlflow.tracking import MlflowClient

        file = tmp_path_factory.mktemp("store") / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{file}")
    return file


@pytest.fixture(autouse=True)
def one_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Libraries that send nothing, and one small picture in the place of those that take long."""
    keep_offline(monkeypatch, tmp_path_factory.mktemp("caches"))
    monkeypatch.chdir(tmp_path)

    def draw(folder: Path, *_: Any, **__: Any) -> Iterator[Path]:
        Image.new("RGB", (4, 4), "red").save(folder / "one.png")
        yield folder / "one.png"

    monkeypatch.setattr(pipeline, "draw_vae", draw)
    monkeypatch.setattr(pipeline, "draw_mixtures", lambda *_, **__: ())


def logs_of(folder: Path, store: Path) -> dict[str, Any]:
    """The log of each kind; MLflow's store lies where the environment says."""
    places = {"TensorBoard": folder / "tensorboard", "MLflow": store.parent, "WandB": folder / "wandb"}
    return {kind: READERS[kind](place) for kind, place in places.items()}


def assert_complete(folder: Path, logs: dict[str, Any]) -> None:
    """Every log holds the whole run once."""
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    for kind, log in logs.items():
        assert len(log.ids) == 1, kind
        assert log.status == "finished", kind
        assert log.config["epochs"] == 2
        assert log.config["decoder"]["init_args"]["hidden"] == [8]
        assert log.tags["run"] == str(folder.absolute())
        assert log.tags["seed"] == "0"
        assert log.tags["version/torch"] == summary["versions"]["torch"]
        for split in ("training", "validation"):
            for name, key in (("elbo", "loss"), ("log_likelihood", "log_likelihood"), ("kl", "kl")):
                sign = -1 if name == "elbo" else 1
                found = log.scalars[f"{name}/{'train' if split == 'training' else split}"]
                assert [step for step, _ in found] == [1, 2], kind
                assert [value for _, value in found] == pytest.approx(
                    [sign * record[split][key] for record in history], rel=1e-5
                )
        assert [value for _, value in log.scalars["learning_rate"]] == pytest.approx([1e-3, 1e-3])
        assert len(log.scalars["seconds"]) == 2
        assert log.summary["test/elbo"] == pytest.approx(summary["test"]["elbo"], rel=1e-5)
        assert log.summary["mixtures/em/few/accuracy"] == pytest.approx(summary["mixtures"]["em"]["few"]["accuracy"])
        assert list(log.pictures) == ["figures/one"]
        assert (log.pictures["figures/one"][0, 0] == [255, 0, 0]).all()
        n = summary["data"]["test"]
        assert log.points.shape == (n, 2)
        assert log.thumbnails == n
        assert log.words[0] == ["row", "label", "predicted"]
        assert {row[1] for row in log.words[1:]} == {"1", "4"}
        agreement = np.mean([row[1] == row[2] for row in log.words[1:]])
        assert agreement == pytest.approx(summary["mixtures"]["em"]["few"]["accuracy"])


def test_a_run_is_logged_and_one_that_was_interrupted_continues_its_log(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Path(shutil.copy(store, tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    folder = tmp_path / "run"
    save = RunFolder.save_training

    def interrupted(self: RunFolder, state: Any) -> None:
        save(self, state)
        if state.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_training", interrupted)
        words = ["run", "digits_mlp2", *QUICK, "--loggers", "tensorboard,mlflow,wandb", "--out", str(folder)]
        assert main(words) == 130
    for kind, log in logs_of(folder, database).items():
        assert log.status == "killed", kind
        assert [step for step, _ in log.scalars["elbo/train"]] == [1], kind

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "draw_vae", full)
        assert main(["resume", str(folder)]) != 0
    for kind, log in logs_of(folder, database).items():
        assert log.status == "failed", kind
    assert main(["resume", str(folder)]) == 0
    assert_complete(folder, logs_of(folder, database))


def test_a_log_that_fails_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def failing(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorBoard, "_scalars", failing)
    folder = tmp_path / "run"
    assert main(["run", "digits_mlp2", *QUICK, "--loggers", "TensorBoard", "--out", str(folder)]) == 0
    assert (folder / "report.html").exists()
    assert capsys.readouterr().err.count("The log by TensorBoard ends here, and all else goes on") == 1


def test_a_library_that_is_not_installed_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(TensorBoard, "packages", ("no_such_library",))
    words = ["run", "digits_mlp2", *QUICK, "--loggers", "TensorBoard", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "pip install 'latentmix[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
