"""A run of somebody else's executes nothing that the user does not trust."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from latentmix.experiments import load_run
from latentmix.experiments.cli import main
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.pipeline import run_experiment

QUICK = [
    *("--epochs", "1", "--data.limit", "100", "--data.classes", "1,4", "--data.labels_per_class", "2"),
    *("--encoder.hidden", "8", "--decoder.hidden", "8", "--mixture.draws", "1", "--mixture.n_init", "1"),
    *("--mixture.posterior.guide", "none"),
    *("--mixture.svi.epochs", "3"),
]
HELPERS = """
import pathlib
(pathlib.Path(__file__).parent / "imported").touch()
from latentmix.models import StandardNormal
class P(StandardNormal):
    pass
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a class of its author's, made where that is trusted."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "their_helpers.py").write_text(HELPERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        experiment = Experiment.from_config(parse_experiment("digits_mlp2", [*QUICK, "--prior", "their_helpers.P"]))
        run_experiment(experiment, folder / "run", progress=False, pictures=False, tell=lambda _: None)
    del sys.modules["their_helpers"]
    (folder / "imported").unlink()
    return folder


@pytest.fixture
def stranger(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: the copied run, the module beside it, and one that would shadow Python's own."""
    folder = shutil.copytree(run, tmp_path / "folder")
    (folder / "csv.py").write_text("raise SystemExit('shadowed')")
    np.save(folder / "images.npy", np.zeros((2, 1, 28, 28), np.uint8))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LATENTMIX_CONFIG", str(tmp_path / "mine.yaml"))
    monkeypatch.delitem(sys.modules, "their_helpers", raising=False)
    return folder


COMMANDS = [
    ["classify", "run", "images.npy"],
    ["evaluate", "run"],
    ["sample", "run", "--out", "samples.npy"],
    ["select", "run", "--n_components", "1", "--covariance_types", "diag", "--criteria", "bic", "--out", "selected"],
    ["ex-post", "run", "--n_components", "2", "--forms", "samples", "--test_images", "3", "--samples", "2"],
    ["resume", "run"],
    ["run", "run/config.yaml", "--out", "again"],
    ["sweep", "run/config.yaml", "--grid", "epochs=1", "--out", "again"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_its_modules_are_not_imported(stranger: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    before = list(sys.path)
    assert main(words) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "got their_helpers.P, whose module would run on this computer" in error
    assert "add --trust their_helpers" in error
    assert not (stranger / "imported").exists()
    assert not (stranger / "again").exists()
    assert sys.path == before


@pytest.mark.parametrize("words", COMMANDS[:4], ids=lambda words: words[0])
def test_trusted_modules_are(stranger: Path, words: list[str]) -> None:
    before = list(sys.path)
    assert main([*words, "--trust", "their_helpers"]) == 0
    assert (stranger / "imported").exists()
    assert sys.path == before


def test_the_users_configuration_and_python_allow_modules(
    stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"trust=\('their_helpers',\)"):
        load_run("run")
    (tmp_path / "mine.yaml").write_text("trust: [their_helpers]")
    assert main(["classify", "run", "images.npy"]) == 0
    (tmp_path / "mine.yaml").unlink()
    monkeypatch.delitem(sys.modules, "their_helpers")
    monkeypatch.syspath_prepend(stranger)
    assert type(load_run("run", trust=("their_helpers",)).vae.prior).__name__ == "P"
    assert type(load_run("run").vae.prior).__name__ == "P"  # imported already


def test_a_class_in_the_weights_alone_is_not_imported(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((stranger / "run" / "config.yaml").read_text())
    config["prior"] = {"class_path": "latentmix.models.StandardNormal"}
    (stranger / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["classify", "run", "images.npy"]) == 2
    assert "Expected the class their_helpers.P to be imported" in capsys.readouterr().err
    assert not (stranger / "imported").exists()


@pytest.mark.parametrize("text", ["prior: !!python/name:os.system", "!!python/object/apply:os.system [touch imported]"])
def test_tags_of_yaml_construct_nothing(stranger: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (stranger / "run" / "config.yaml").write_text(text)
    for words in COMMANDS:
        assert main(words) == 2
    assert not (stranger / "imported").exists()


def test_the_working_folder_shadows_no_module(stranger: Path) -> None:
    words = [sys.executable, "-m", "latentmix.experiments", "list"]
    process = subprocess.run(words, capture_output=True, text=True, cwd=stranger, timeout=60, check=False)
    assert process.returncode == 0, process.stderr
    assert "digits_mlp2" in process.stdout


def test_sweeps_write_within_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentmix.experiments.sweeps import sweep as module

    monkeypatch.setattr(
        module, "_earlier", lambda out, base: {"cells": [{"id": "../../x", "status": "done"}], "grid": {}}
    )
    monkeypatch.setattr(module, "rehearse", list)
    monkeypatch.setattr(module, "plan", lambda *_, **__: [module.Cell("../../x", {"epochs": "1"}, {"a": 1})])
    with pytest.raises(ValueError, match="leads out of it"):
        module.sweep("digits_mlp2", QUICK, {"epochs": ["1"]}, tmp_path / "out", tell=lambda _: None)
