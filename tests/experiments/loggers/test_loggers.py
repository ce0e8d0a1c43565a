"""The contract of every logger, read back from the disk."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from pyro.infer.autoguide import AutoNormal

from latentmix.experiments.loggers import Logger, MLflow, TensorBoard, WandB
from latentmix.inference import Callback, SVIResult, TrainingState, fit

from tests.experiments.loggers.read_back import READERS
from tests.inference.test_isolation import differences, snapshot

KINDS: list[type[Logger]] = [TensorBoard, MLflow, WandB]
FolderOf = Callable[[str], Path]
X = torch.linspace(0.0, 1.0, 20)

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def model(x: torch.Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("data", 20, subsample=x):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def trained(*callbacks: Callback, epochs: int = 3, state: TrainingState | None = None) -> SVIResult:
    options: dict[str, Any] = {"batch_size": 10, "validation": X[:10], "seed": 0, "state": state}
    return fit(model, AutoNormal(model), X, epochs=epochs, callbacks=callbacks, **options)


def read(kind: type[Logger], folder: Path) -> Any:
    return READERS[kind.__name__](folder)


def expected(result: SVIResult) -> dict[str, list[tuple[int, float]]]:
    """Figures of every epoch as they are to be logged."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in result.history:
        for split, bound in (("train", record.training), ("validation", record.validation)):
            assert bound is not None
            curves.setdefault(f"elbo/{split}", []).append((record.epoch, -bound.loss))
            for term, value in asdict(bound).items():
                curves.setdefault(f"{term}/{split}", []).append((record.epoch, value))
        for name in ("learning_rate", "skipped"):
            curves.setdefault(name, []).append((record.epoch, getattr(record, name)))
    return curves


def assert_curves(log: Any, result: SVIResult) -> None:
    curves = expected(result)
    assert set(log.scalars) == {*curves, "seconds"}
    for name, points in curves.items():
        assert [step for step, _ in log.scalars[name]] == [step for step, _ in points], name
        assert [value for _, value in log.scalars[name]] == pytest.approx([value for _, value in points], rel=1e-6)


def test_a_fit_is_logged_epoch_by_epoch_and_changes_nothing(kind: type[Logger], folder_of: FolderOf) -> None:
    folder = folder_of(kind.__name__)
    before, variables = snapshot(), dict(os.environ)
    result = trained(kind(folder))
    assert differences(before, snapshot()) == (
        ["environment"] if kind is WandB and "WANDB_SERVICE" not in variables else []
    )
    changed = {name for name in {*variables, *os.environ} if variables.get(name) != os.environ.get(name)}
    assert changed <= {"WANDB_SERVICE", "PYTEST_CURRENT_TEST"}
    if kind is MLflow:
        import mlflow

        assert mlflow.active_run() is None
        assert mlflow.get_tracking_uri() != f"sqlite:///{folder / 'mlflow.db'}"
    if kind is WandB:
        import wandb

        assert wandb.run is None
    log = read(kind, folder)
    assert log.status == "finished"
    assert log.config["fit"] == {"seed": 0, "data": 20, "batch_size": 10}
    assert_curves(log, result)
    plain = trained()
    assert [record.loss for record in result.history] == [record.loss for record in plain.history]


def test_pictures_latents_and_summary_are_logged(kind: type[Logger], folder_of: FolderOf, tmp_path: Path) -> None:
    folder, figure = folder_of(kind.__name__), Figure(figsize=(1, 1), dpi=20)
    figure.add_subplot().plot([0, 1], color="red")
    file = tmp_path / "own.png"
    figure.savefig(file)
    points = np.random.default_rng(0).normal(size=(5, 3))
    images = (np.arange(5 * 64).reshape(5, 1, 8, 8) % 256).astype(np.uint8)
    with kind(folder) as log:
        log.log_config({"model": {"latent_dim": 3}, "parts": [{"class_path": "A"}], "off": None})
        trained(log)
        log.log_picture("figure", figure)
        log.log_picture("figures/file", file, step=2)
        log.log_latents(points, {"label": ["a\tb", "c", "d", "e", "f"], "predicted": [1, 2, 3, 4, 5]}, images)
        log.log_summary({"test": {"elbo": -3.5, "name": "word"}, "good": True, "epochs": 3})
    found = read(kind, folder)
    assert found.config == {
        "model": {"latent_dim": 3},
        "parts": [{"class_path": "A"}],
        "off": None,
        "fit": {"seed": 0, "data": 20, "batch_size": 10},
    }
    assert found.summary == {"test/elbo": -3.5, "epochs": 3.0}
    assert set(found.pictures) == {"figure", "figures/file"}
    for picture in found.pictures.values():
        assert picture.shape == (20, 20, 3)
        assert (picture[..., 0] > picture[..., 1] + 50).any()
    assert found.words[0] == ["row", "label", "predicted"]
    assert found.words[1] == ["0", "a b", "1"]
    assert found.points == pytest.approx(points, rel=1e-6)
    assert found.thumbnails == 5


def test_a_resumed_fit_continues_its_log(kind: type[Logger], folder_of: FolderOf) -> None:
    folder = folder_of(kind.__name__)
    first = trained(kind(folder), epochs=2)
    saved = TrainingState.from_state_dict(first.state.state_dict())
    result = trained(kind(folder), epochs=4, state=saved)
    log = read(kind, folder)
    assert len(log.ids) == 1
    assert log.status == "finished"
    assert_curves(log, result)


def test_a_process_that_dies_between_log_and_state_leaves_no_gap(kind: type[Logger], folder_of: FolderOf) -> None:
    folder = folder_of(kind.__name__)
    first = trained(kind(folder), epochs=2)
    state = json.loads((folder / "log.json").read_text())
    (folder / "log.json").write_text(json.dumps({**state, "epoch": 1}))
    saved = TrainingState.from_state_dict(first.state.state_dict())
    result = trained(kind(folder), epochs=3, state=saved)
    steps = [step for step, _ in read(kind, folder).scalars["elbo/train"]]
    assert set(steps) == {1, 2, 3}
    if kind is not WandB:  # its file cannot be asked what it holds
        assert_curves(read(kind, folder), result)


def test_a_log_that_cannot_be_continued_costs_no_fit(
    kind: type[Logger], folder_of: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(kind.__name__)
    first = trained(kind(folder), epochs=2)
    saved = TrainingState.from_state_dict(first.state.state_dict())
    moved = folder.rename(tmp_path / "moved")
    if kind is not MLflow:  # whose store would write artifacts where the folder was: it may be a stranger's
        monkeypatch.setattr(kind, "_begin", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match="ends here, and all else goes on: (ValueError: expected artifacts|Zero)"):
        result = trained(kind(moved), epochs=3, state=saved)
    assert len(result.history) == 3
    assert not folder.exists()


def test_another_fit_in_the_folder_is_another_log(kind: type[Logger], folder_of: FolderOf) -> None:
    folder = folder_of(kind.__name__)
    trained(kind(folder), epochs=3)
    result = trained(kind(folder), epochs=2)
    log = read(kind, folder)
    if kind is TensorBoard:  # it shows the last
        assert_curves(log, result)
    else:
        assert len(log.ids) == 2


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("full"), "failed"), (KeyboardInterrupt(), "killed")])
def test_a_fit_that_ends_early_is_marked(
    kind: type[Logger], folder_of: FolderOf, error: BaseException, status: str
) -> None:
    class Breaking(Callback):
        def on_epoch_end(self, state: TrainingState) -> bool | None:
            if state.epoch == 2:
                raise error
            return None

    folder = folder_of(kind.__name__)
    with pytest.raises(type(error)):
        trained(kind(folder), Breaking())
    log = read(kind, folder)
    assert log.status == status
    assert [step for step, _ in log.scalars["elbo/train"]] == [1]


def test_a_log_that_fails_warns_once_and_the_fit_goes_on(
    kind: type[Logger], folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Logger, values: Any, step: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kind, "_scalars", failing)
    log = kind(folder_of(kind.__name__))
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        result = trained(log)
    assert len([each for each in caught if "ends here" in str(each.message)]) == 1
    assert len(result.history) == 3


def test_a_log_that_cannot_be_opened_is_refused(kind: type[Logger], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"Expected a log that .* can open; got \w+Error: "):
        trained(kind(tmp_path / "file"))


def test_a_link_in_the_folder_is_not_followed(kind: type[Logger], folder_of: FolderOf, tmp_path: Path) -> None:
    folder, private = folder_of(kind.__name__), tmp_path / "private"
    private.write_text("mine")
    (folder / "log.json").symlink_to(private)
    if kind is MLflow:
        (folder / "mlflow.db").unlink()
        (folder / "mlflow.db").symlink_to(private)
    with pytest.raises(ValueError, match="the link"):
        trained(kind(folder))
    assert private.read_text() == "mine"


def test_a_library_that_is_not_installed_is_refused(
    kind: type[Logger], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "packages", ("no_such_library",))
    with pytest.raises(ValueError, match=rf"pip install 'latentmix\[{kind.extra}\]'"):
        trained(kind(tmp_path / "log"))
    assert not (tmp_path / "log").exists()


def test_hostile_names_stay_in_the_folder(kind: type[Logger], folder_of: FolderOf, tmp_path: Path) -> None:
    folder, figure = folder_of(kind.__name__), Figure(figsize=(1, 1), dpi=20)
    hostile = "../../../../outside\n<script>"
    before = {path for path in tmp_path.iterdir() if path != folder}
    with kind(folder) as log:
        log.log_config({hostile: hostile, "a" * 9000: "b" * 9000})
        log.begin(hostile, tags={hostile: hostile})
        log.log_scalars({hostile: 1.0, "/": float("nan"), "x" * 500: float("inf")}, step=1)
        log.log_picture(hostile, figure)
        log.log_latents(np.zeros((2, 2)), {hostile: [hostile, "b"]}, name=hostile)
        log.log_summary({hostile: {hostile: 1.0}})
    found = read(kind, folder)
    assert found.status == "finished"
    assert list(found.pictures) == ["outside__script_"]
    assert {path for path in tmp_path.iterdir() if path != folder} == before


def test_two_logs_at_once_are_apart(kind: type[Logger], folder_of: FolderOf) -> None:
    folder = folder_of(kind.__name__)
    other = folder_of(f"second/{kind.__name__}") if kind is not MLflow else folder
    logs = [kind(folder), kind(other)]
    for index, log in enumerate(logs):
        log.begin(f"log {index}")
    for index, log in enumerate(logs):
        log.log_scalars({"value": float(index)}, step=1)
    for log in reversed(logs):
        log.close()
    assert len({json.loads((each / "log.json").read_text())["id"] for each in (folder, other)}) >= 1
    assert threading.active_count() < 20


def test_wrong_latents_and_a_closed_log_are_refused(kind: type[Logger], folder_of: FolderOf) -> None:
    log = kind(folder_of(kind.__name__))
    with pytest.raises(ValueError, match="Expected an open log"):
        log.log_scalars({"a": 1.0}, step=1)
    with log:
        log.begin()
        with pytest.raises(ValueError, match="Expected N x D latents, and as many labels"):
            log.log_latents(np.zeros((3, 2)), {"label": ["a"]})
