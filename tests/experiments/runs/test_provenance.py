from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment, experiment_parser, plain
from latentmix.experiments.presets import preset_path, presets
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.provenance import describe, provenance, record_command


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


def described(words: list[str], preset: str = "digits") -> str:
    config = plain(experiment_parser(), parse_experiment(preset, words))
    return describe(config["description"], config)


def test_a_description_of_a_preset_names_the_options_that_differ() -> None:
    own = presets()["digits"]
    assert described([]) == own
    assert described(["--name", "mine", "--device", "cpu", "--epochs", "100"]) == own
    words = ["--data.classes", "0", "1", "--prior", "MixturePrior(3)", "--mixture.n_init", "2"]
    assert described(words) == (
        f"The preset digits: {own} Here with prior MixturePrior(n_components=3, covariance_type=diag); "
        "data.classes 0, 1; mixture.n_init 2."
    )
    assert described(["--description", "Zeros and ones.", "--data.classes", "0,1"]) == "Zeros and ones."


def test_options_leave_out_the_description_of_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(preset_path("digits").read_text().replace(presets()["digits"], "All my digits."))
    assert described([], str(file)) == described(["--name", "n"], str(file)) == "All my digits."
    assert described(["--data.classes", "0,1"], str(file)) == ""
    words = ["--device", "cpu", "--data.root", str(tmp_path), "--data.cache", "c", "--data.download", "true"]
    assert described([*words, "--loggers", "TensorBoard"], str(file)) == "All my digits."
    assert described([*words, "--epochs", "2"], str(file)) == ""


def test_options_with_names_of_an_earlier_version_are_compared_under_those_of_today() -> None:
    own, today = presets()["digits"], plain(experiment_parser(), parse_experiment("digits", []))["mixture"]
    earlier = {"svi_steps": today["svi"]["epochs"], "guide": today["svi"]["guide"], "nuts_draws": 0}
    assert describe(own, {"mixture": earlier}) == own
    assert describe(own, {"mixture": {**earlier, "nuts_draws": 7}}).endswith("Here with mixture.nuts.draws 7.")
