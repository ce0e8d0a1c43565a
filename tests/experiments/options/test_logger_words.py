"""Loggers in words and in files, and the addresses that a file may not choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from latentmix.experiments.loggers import MLflow, TensorBoard, WandB
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment, experiment_parser
from latentmix.experiments.presets import preset_path
from latentmix.experiments.runs.artifacts import RunFolder

STRANGE = "http://stranger.example"


def loggers(*words: str, file: str = "digits") -> list[Any]:
    return list(Experiment.from_config(parse_experiment(file, list(words))).training.loggers)


@pytest.mark.parametrize(
    "words",
    [
        ["--loggers", "TensorBoard,MLflow"],
        ["--loggers", "tensorboard, mlflow"],
        ["--loggers", "tensorboard", "mlflow"],
        ["--loggers=[TensorBoard,MLflow]"],
        ["--loggers", "TensorBoard(),latentmix.experiments.loggers.MLflow"],
        ["--loggers", '[{"class_path": "TensorBoard"}, {"class_path": "MLflow"}]'],
    ],
)
def test_loggers_are_typed_in_several_ways(words: list[str]) -> None:
    assert [type(logger) for logger in loggers(*words)] == [TensorBoard, MLflow]


@pytest.mark.parametrize("words", [[], ["--loggers", "null"], ["--loggers", "[]"], ["--loggers", "None"]])
def test_there_are_none_by_default(words: list[str]) -> None:
    assert loggers(*words) == []


def test_arguments_reach_the_loggers_and_the_configuration_gives_them_again() -> None:
    words = ["--loggers", "MLflow(tracking_uri=sqlite:///own.db, experiment='own, two'),WandB(project=p)"]
    experiment = Experiment.from_config(parse_experiment("digits", words))
    again = Experiment.from_config(experiment_parser().parse_object(experiment.config))
    for first, second in (experiment.training.loggers, again.training.loggers):
        assert isinstance(first, MLflow)
        assert (first.tracking_uri, first.experiment) == ("sqlite:///own.db", "own, two")
        assert isinstance(second, WandB)
        assert second.project == "p"
    assert again.config == experiment.config


@pytest.mark.parametrize(
    ("name", "argument", "variable"),
    [("MLflow", "tracking_uri", "MLFLOW_TRACKING_URI"), ("WandB", "entity", "WANDB_ENTITY")],
)
def test_an_address_in_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, argument: str, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    typed = Experiment.from_config(parse_experiment("digits", ["--loggers", f"{name}({argument}={STRANGE})"]))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(typed.config))
    refusal = f"Expected {argument} of a logger as you type it.*got '{STRANGE}' in {file}"
    with pytest.raises(ValueError, match=refusal):
        parse_experiment(str(file), [])
    with pytest.raises(ValueError, match=refusal):
        RunFolder(tmp_path).load_experiment()
    assert loggers("--loggers", "TensorBoard", file=str(file))
    assert loggers("--loggers", f"{name}({argument}={STRANGE})", file=str(file))
    monkeypatch.setenv(variable, STRANGE)
    assert len(loggers(file=str(file))) == 1
    assert RunFolder(tmp_path).load_experiment().training.loggers


OWN = """
from latentmix.experiments.loggers import Logger

class Counting(Logger):
    name = "Counting"
    counted = 0

    def __init__(self, folder=None, *, start: int = 0):
        super().__init__(folder)
        Counting.counted = start

    def _begin(self, title, tags, id):
        return "own"

    def _config(self, config, flat): ...
    def _picture(self, name, image, step): ...
    def _latents(self, name, latents, step): ...
    def _summary(self, summary, figures): ...
    def _close(self, status): ...

    def _scalars(self, values, step):
        Counting.counted += 1
"""


def test_a_logger_of_ones_own_is_typed_and_trusted_as_a_part_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_logger.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text("loggers: [own_logger.Counting]\n" + preset_path("digits").read_text())
    with pytest.raises(ValueError, match=r"own_logger\.Counting, whose module would run on this computer"):
        loggers(file=str(file))
    (log,) = loggers("--loggers", "own_logger.Counting(start=5)")
    log.begin()
    log.log_scalars({"a": 1.0}, step=1)
    assert (log.counted, log.opened) == (6, True)
    assert [type(each).__name__ for each in loggers(file=str(file))] == ["Counting"]  # it is imported by now


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        ("tensorbord", "Expected .* for --loggers"),
        ([{"class_path": "os.system"}], "whose module would run|Expected classes of LatentMix"),
        ([{"class_path": "latentmix.experiments.loggers.base.Logger"}], "which is abstract"),
        ([{"class_path": "TensorBoard", "init_args": {"floder": "x"}}], "argument of TensorBoard"),
        ([{"class_path": "latentmix.models.StandardNormal"}], "for --loggers"),
        ({"class_path": "TensorBoard"}, "Expected a list of classes for --loggers"),
        ([3], "for --loggers"),
        (7, "for --loggers"),
    ],
    ids=str,
)
def test_wrong_loggers_in_a_file_are_refused(tmp_path: Path, value: Any, refusal: str) -> None:
    file = tmp_path / "own.yaml"
    config = Experiment.from_config(parse_experiment("digits", [])).config
    file.write_text(yaml.safe_dump({**config, "loggers": value}))
    with pytest.raises(ValueError, match=refusal):
        loggers(file=str(file))
