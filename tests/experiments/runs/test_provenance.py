from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.provenance import provenance, record_command


def test_a_run_knows_its_command_its_date_and_its_model(tmp_path: Path) -> None:
    config = Experiment.from_config(parse_experiment("gmm3d", ["--latent_dim", "2"])).config
    folder = RunFolder.create(tmp_path / "run")
    command = ["latentmix", "run", "gmm3d", "--latent_dim", "2"]
    record_command(folder, command)
    known = provenance(folder, config)
    assert known["command"] == command
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(known["date"])).total_seconds()) < 60
    assert known["model"] == {
        "latent_dim": 2,
        "encoder": "MLPEncoder(hidden=[64, 64])",
        "decoder": "MLPDecoder(hidden=[64, 64])",
        "prior": "StandardNormal",
        "likelihood": "Gaussian(var_x=shared, min_var=0.0001)",
        "family": "DiagonalNormal(scale=log_variance)",
        "objective": "Trace_ELBO(num_particles=1)",
    }
    assert json.loads(json.dumps(known)) == known


def test_python_code_has_no_command(tmp_path: Path) -> None:
    config = Experiment.from_config(parse_experiment("digits", [])).config
    folder = RunFolder.create(tmp_path / "run")
    record_command(folder, None)
    assert provenance(folder, config)["command"] is None
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("text", ["[]", '{"comm', "{}", "3"])
def test_a_damaged_command_stops_no_run(tmp_path: Path, text: str) -> None:
    config = Experiment.from_config(parse_experiment("digits", [])).config
    folder = RunFolder.create(tmp_path / "run")
    (folder.path / "command.json").write_text(text)
    assert provenance(folder, config)["command"] is None
