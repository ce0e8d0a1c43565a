"""Runs that are refused, broken or stopped are said so in one sentence, and go on where they can."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentmix.experiments.cli import main
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.pipeline import run_experiment
from latentmix.inference import Callback

QUICK = [
    *("--epochs", "1", "--data.limit", "60", "--data.labels_per_class", "1", "--encoder.hidden", "16"),
    *("--decoder.hidden", "16", "--mixture.n_components", "2", "--mixture.n_init", "1"),
    *("--mixture.posterior.guide", "none"),
    *("--mixture.svi.epochs", "3", "--mixture.max_iter", "10"),
]
OWN = """
import torch
from latentmix.models import Likelihood, Prior
from pyro import distributions as dist


class {name}(Likelihood):
    support = "real"

    def __init__(self, sd: float = 1.0) -> None:
        super().__init__()
        self.sd = sd

    def forward(self, outputs):
        return {distribution}

    def mean(self, outputs):
        return outputs[..., 0]


class Unfinished(Prior):
    def __init__(self, latent_dim: int, width: float = 2.0) -> None:
        raise KeyError("width")

    def forward(self):
        return dist.Normal(0.0, 1.0)


class Abstract(Prior):
    pass
"""


def make_run(folder: Path, *options: str) -> None:
    experiment = Experiment.from_config(parse_experiment("digits_mlp2", [*QUICK, *options]))
    run_experiment(experiment, folder, progress=False, pictures=False, tell=lambda _: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    make_run(folder)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "run")
    return Path("run")


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert "run: " not in out
    (line,) = err.splitlines()
    assert line.startswith("latentmix: Expected ")
    assert len(line) < 500
    return line


def test_the_folder_is_named_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    refusal(["run", "digits_mlp2", *QUICK, "--data.classes", "11", "--out", "empty"], capsys)
    assert not list((tmp_path / "empty").iterdir())
    assert main(["run", "digits_mlp2", *QUICK, "--out", "empty"]) == 0
    out = capsys.readouterr().out
    assert out.index("data: digits") < out.index("run: empty") < out.index("training: ")
    assert (tmp_path / "empty" / "summary.json").is_file()


def test_a_run_that_stops_before_its_first_epoch_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupt(self: Callback, state: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Callback, "on_fit_begin", interrupt)
        assert main(["run", "digits_mlp2", *QUICK, "--out", "run"]) == 130
        assert "`latentmix resume run` finishes it" in capsys.readouterr().err
    assert main(["resume", "run"]) == 0
    assert (tmp_path / "run" / "summary.json").is_file()


def test_a_full_disk_names_the_file_and_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    monkeypatch.chdir(tmp_path)

    def full(self: RunFolder, history: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self.path / "metrics.jsonl"))

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_metrics", full)
        assert main(["run", "digits_mlp2", *QUICK, "--out", "run"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "run/metrics.jsonl; got: No space left on device; once that is mended, `latentmix resume run`" in line
    assert main(["resume", "run"]) == 0


@pytest.mark.parametrize("command", ["evaluate", "report", "sample"])
def test_a_truncated_summary_is_named_with_what_mends_it(
    copied: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    text = (copied / "summary.json").read_text()
    (copied / "summary.json").write_text(text[: len(text) // 2])
    line = refusal([command, "run"], capsys)
    assert "Expected the figures of a finished run in run/summary.json; got no JSON" in line
    assert "`latentmix resume run` writes it anew" in line


def test_options_without_an_effect_are_not_offered(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(["report", "run", "--trust", "helpers"], capsys)
    assert "Expected arguments and options of this command; got --trust" in line
    for option in ("--label", "--columns"):
        assert "Expected a file of points for --label and --columns; got 'run'" in refusal(
            ["select", "run", option, "kind"], capsys
        )


def test_a_schedule_by_minibatches_that_ends_before_the_training_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "digits_mlp2", *QUICK, "--batch_size", "7", "--schedule_steps", "true", "--out", "run"]
    steps = {"false": 9, "true": 8}  # 60 images for training
    for drop_last, count in steps.items():
        scheduler = f"OneCycleLR(max_lr=0.01, total_steps={count - 1})"
        line = refusal([*words, "--drop_last", drop_last, "--scheduler", scheduler], capsys)
        assert f"Expected --scheduler to be a schedule of that optimizer for {count} minibatches; got OneCycle" in line
        assert not Path("run").exists()
    assert main([*words, "--scheduler", f"OneCycleLR(max_lr=0.01, total_steps={steps['false']})"]) == 0


def test_a_long_schedule_is_refused_by_its_number_of_steps(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "digits", "--epochs", "30000", "--scheduler", "OneCycleLR(max_lr=0.01, total_steps=20000)"]
    line = refusal(words, capsys)
    assert "Expected total_steps of OneCycleLR of 30,000 at least, the epochs of the fit; got 20,000 (option" in line


def test_an_experiment_is_rehearsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    rehearsed: list[str] = []
    monkeypatch.setattr(
        "latentmix.experiments.options.experiment._rehearse", lambda *words, **_: rehearsed.append(words[0])
    )
    assert main(["run", "digits_mlp2", *QUICK, "--out", str(tmp_path / "run")]) == 0
    assert rehearsed == ["optimizer"]


def test_a_truncated_summary_is_written_anew(copied: Path, no_pictures: None) -> None:
    whole = json.loads((copied / "summary.json").read_text())
    (copied / "summary.json").write_text("{")
    assert main(["resume", "run"]) == 0
    assert json.loads((copied / "summary.json").read_text())["test"] == whole["test"]


def test_truncated_files_are_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "metrics.jsonl").write_text('{"epoch": 1\n{}\n')
    assert "in line 1 of run/metrics.jsonl; got no JSON" in refusal(["report", "run"], capsys)
    (copied / "config.yaml").write_text("epochs: [1")
    for command in ("evaluate", "resume"):
        if command == "resume":
            (copied / "summary.json").write_text("")
        assert "in run/config.yaml; got a fault in line 2, column 1" in refusal([command, "run"], capsys)


def own_module(folder: Path, module: str, distribution: str) -> str:
    (folder / f"{module}.py").write_text(OWN.format(name="Own", distribution=distribution))
    return f"{module}.Own"


def test_values_outside_an_own_support_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    positive = own_module(tmp_path, "own_positive", "dist.LogNormal(outputs[..., 0], self.sd)")
    line = refusal(["run", "digits_mlp2", *QUICK, "--likelihood", positive, "--out", "run"], capsys)
    assert "Expected values in the support of LogNormal at site 'x', greater than 0; got 0 ... " in line
    negative = own_module(tmp_path, "own_negative", "dist.Normal(outputs[..., 0], outputs[..., 0] * 0 - 1)")
    line = refusal(["run", "digits_mlp2", *QUICK, "--likelihood", negative, "--out", "run"], capsys)
    assert "Expected scale of Normal in its range, greater than 0; got -1" in line
    line = refusal(["run", "digits_mlp2", *QUICK, "--prior", "own_positive.Unfinished", "--out", "run"], capsys)
    assert "Expected other values of --prior; got KeyError: 'width'" in line
    line = refusal(["run", "digits_mlp2", *QUICK, "--prior", "own_positive.Abstract", "--out", "run"], capsys)
    assert "Expected a class that defines forward for --prior; got own_positive.Abstract, which is abstract" in line
    assert not (tmp_path / "run").exists()


def test_an_own_class_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    own = own_module(here, "own_elsewhere", "dist.Normal(outputs[..., 0], self.sd)")
    make_run(here / "run", "--likelihood", own)
    monkeypatch.undo()
    monkeypatch.chdir(there)
    sys.modules.pop("own_elsewhere")
    assert "add --trust own_elsewhere" in refusal(["evaluate", str(here / "run")], capsys)
    line = refusal(["evaluate", str(here / "run"), "--trust", "own_elsewhere"], capsys)
    assert "Expected the module own_elsewhere of own_elsewhere.Own" in line
    assert "to be found; got none: run the command in its folder" in line


def test_spaces_are_allowed_in_lists_of_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Any] = []
    monkeypatch.setattr(
        "latentmix.experiments.runs.selection.choose", lambda *words, **_: seen.append(words[1]) or exit(0)
    )
    np.save("points.npy", np.zeros((10, 2)))
    words = ["--criteria", "bic, icl", "--covariance_types", "full, diag", "--n_components", "1, 3 .. 4"]
    with pytest.raises(SystemExit):
        main(["select", "points.npy", *words])
    assert seen[0].criteria == ("bic", "icl")
    assert seen[0].covariance_types == ("full", "diag")
    assert list(seen[0].n_components) == [1, 3, 4]
