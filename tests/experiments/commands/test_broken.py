"""Some tens of broken configurations, files and pictures: each finishes, or is refused in one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.verify.fuzz.configurations import configuration
from tests.verify.fuzz.files import broken_file
from tests.verify.fuzz.outcomes import outcome_of
from tests.verify.fuzz.pictures import picture

FINISHED = Path(__file__).parents[1] / "runs/earlier_run/finished"
TRAINING = Path(__file__).parents[1] / "runs/earlier_run/interrupted/checkpoints/training.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = shutil.copytree(FINISHED, tmp_path_factory.mktemp("finished") / "run")
    shutil.copy(TRAINING, path / "checkpoints")
    return path


@pytest.mark.parametrize("seed", range(0, 120, 6))
def test_configurations(tmp_path: Path, seed: int) -> None:
    outcome = outcome_of(configuration(tmp_path, seed))
    assert outcome.status == "refused", outcome


@pytest.mark.parametrize("seed", [*range(0, 30, 3), *range(1, 30, 5)])
def test_files(tmp_path: Path, seed: int, run: Path) -> None:
    outcome = outcome_of(broken_file(tmp_path, seed, run))
    assert outcome.right, outcome


@pytest.mark.parametrize("seed", [*range(0, 60, 10), *range(1, 22, 2)])
def test_pictures(tmp_path: Path, seed: int, run: Path) -> None:
    outcome = outcome_of(picture(tmp_path, seed, run))
    assert outcome.right, outcome
