"""Small finished runs to compare: two configurations of two seeds each, and others that differ from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.pipeline import run_experiment

QUICK = [
    *("--epochs", "2", "--data.limit", "120", "--data.classes", "1,4,8", "--data.labels_per_class", "2"),
    *("--encoder.hidden", "8", "--decoder.hidden", "8", "--mixture.draws", "1", "--mixture.n_init", "1"),
    *("--mixture.svi.epochs", "3", "--mixture.posterior.guide", "none", "--measure.samples", "5"),
    *("--measure.images", "40"),
]
POSTERIOR = ["--mixture.posterior.guide", "AutoNormal", "--mixture.posterior.epochs", "5"]
RUNS = {
    "narrow-0": ["--seed", "0"],
    "narrow-1": ["--seed", "1"],
    "wide-0": ["--seed", "0", "--decoder.hidden", "16"],
    "wide-1": ["--seed", "1", "--decoder.hidden", "16"],
    "gaussian": ["--likelihood", "Gaussian"],
    "mixture": ["--prior", "MixturePrior(3)", "--objective", "TraceEnum_ELBO", "--measure.samples", "0"],
    "other-data": ["--data.classes", "0,1,4"],
    "full": POSTERIOR,
    "diag": [*POSTERIOR, "--mixture.covariance_type", "diag"],
}


def made(folder: Path, name: str, words: list[str], preset: str = "digits_mlp2") -> Path:
    """The folder of a run without pictures, trained there unless it is there."""
    path = folder / name
    if not path.exists():
        config = parse_experiment(preset, words)
        config.name = preset
        run_experiment(Experiment.from_config(config), path, progress=False, pictures=False, tell=lambda _: None)
    return path


class Runs(dict[str, Path]):
    """Folders of runs by name, trained on first access."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Path:
        self[name] = made(self.folder, name, [*QUICK, *RUNS[name]])
        return self[name]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on points without labels of its own."""
    words = ["--epochs", "1", "--mixture.svi.epochs", "3", "--mixture.posterior.guide", "none", "--mixture.n_init", "1"]
    return made(tmp_path_factory.mktemp("points"), "points", words, "points")
