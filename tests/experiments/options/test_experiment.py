"""Options become objects, and bad ones are refused in one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from latentmix.experiments.cli import main, sentence
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment, experiment_parser
from latentmix.experiments.options.messages import blaming, one_line
from latentmix.experiments.options.parts import build_parts
from latentmix.experiments.presets import preset_path, presets


def test_list_names_every_preset(capsys):
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(presets())


def test_options_override_a_preset():
    options = ["--encoder.hidden", "64,32", "--data.classes=1,4,8", "--latent_dim", "3", "--optimizer.lr", "0.01"]
    experiment = Experiment.from_config(parse_experiment("digits", options))
    assert experiment.data.classes == [1, 4, 8]
    assert experiment.training.optimizer([__import__("torch").zeros(1)]).param_groups[0]["lr"] == 0.01
    vae, guide = build_parts(experiment.parts((1, 28, 28)))
    assert vae.latent_dim == guide.latent_dim == 3
    assert guide.encoder.features == 32


def test_a_list_of_one_needs_no_brackets():
    experiment = Experiment.from_config(parse_experiment("digits", ["--data.classes", "1", "--encoder.hidden=32"]))
    assert experiment.data.classes == [1]
    assert experiment.config["encoder"]["init_args"]["hidden"] == [32]


def test_a_part_is_swapped_by_its_short_name_or_import_path():
    options = ["--encoder", "ConvEncoder", "--encoder.channels", "4,8", "--objective", "pyro.infer.TraceMeanField_ELBO"]
    experiment = Experiment.from_config(parse_experiment("digits", options))
    assert type(experiment.elbo).__name__ == "TraceMeanField_ELBO"
    assert type(build_parts(experiment.parts((1, 28, 28)))[1].encoder).__name__ == "ConvEncoder"


def test_config_is_complete(tmp_path):
    experiment = Experiment.from_config(parse_experiment("digits", ["--epochs", "7"]))
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(experiment.config))
    again = Experiment.from_config(parse_experiment(str(file), []))
    assert again.config == experiment.config
    assert set(experiment.config["data"]) == set(vars(experiment.data))


def test_a_file_of_options_needs_no_preset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(preset_path("digits").read_text())
    assert experiment_parser() is experiment_parser()
    assert parse_experiment(str(file), []).latent_dim == 10


BAD = {
    "unknown preset": (["run", "digit"], "Expected a preset out of celeba, digits, digits_mlp2"),
    "no preset": (["run"], "Expected PRESET; got none"),
    "unknown command": (["walk"], "Expected a command out of run"),
    "missing file": (["run", "missing.yaml"], "missing.yaml"),
    "unknown option": (["run", "digits", "--epoch", "3"], "got --epoch 3: did you mean --epochs?"),
    "no option like it": (["run", "digits", "--zzz", "3"], "`latentmix run --help` lists them"),
    "unknown nested option": (["run", "digits", "--data.clases", "3"], "--data.clases"),
    "wrong type": (["run", "digits", "--epochs", "many"], "Expected a whole number for --epochs; got 'many'"),
    "not positive": (["run", "digits", "--epochs", "0"], "epochs"),
    "unknown class": (
        ["run", "digits", "--prior", "Nothing"],
        "or the import path of a class of your own; got 'Nothing'",
    ),
    "linked option": (["run", "digits", "--encoder.latent_dim", "3"], "latent_dim follows from the experiment"),
    "unknown argument of a part": (
        ["run", "digits", "--encoder.hiden", "3"],
        "an argument of MLPEncoder (hidden); got 'hiden'",
    ),
    "unknown data": (["run", "digits", "--data.source", "cifar"], "Expected --data.source"),
    "absent class": (["run", "digits", "--data.classes", "1,11"], "11"),
    "budget": (["run", "digits", "--data.labels_per_class", "1000"], "1000"),
    "no data root": (["run", "mnist_mlp2", "--data.root", "nowhere"], "--data.root"),
    "parts that do not fit": (
        [*("run", "digits", "--encoder", "ConvEncoder"), *("--encoder.channels", "4,8,16")],
        "divisible by 8",
    ),
    "part's own refusal": (["run", "digits", "--encoder.hidden", "-5"], "Expected hidden to hold positive integers"),
    "latent_dim": (["run", "digits", "--latent_dim", "0"], "Expected --latent_dim of at least 1"),
    "floor": (["run", "digits", "--mixture.reg_covar", "-1"], "mixture.reg_covar of at least 0"),
    "warmup": (
        ["run", "digits", "--mixture.nuts.warmup", "-1"],
        "Expected warmup of NUTS to be a whole number of at least 0; got -1 (option --mixture.nuts)",
    ),
    "earlier name": (
        ["run", "digits", "--mixture.svi_steps", "5"],
        "Expected --mixture.svi.epochs; got --mix",
    ),
    "rate": (["run", "digits", "--optimizer.lr", "-1"], "Invalid learning rate"),
    "rate of the mixture": (
        [*("run", "digits", "--mixture.svi.optimizer", "Adam", "--mixture.svi.optimizer.lr", "-1")],
        "Expected --mixture.svi.optimizer",
    ),
    "an optimizer with a closure": (["run", "digits", "--optimizer", "LBFGS"], "Expected --optimizer"),
    "particles": (["run", "digits", "--objective.num_particles", "0"], "num_particles of at least 1"),
    "seed": (["run", "digits", "--seed", "-1"], "Expected --seed of at least 0; got -1"),
    "options before the preset": (["run", "--epochs", "3", "digits"], "Expected the preset first"),
    "device": (["run", "digits", "--device", "abacus"], "abacus"),
    "grey pixels": (["run", "digits", "--data.binarize", "none"], "zeros and ones"),
    "no run": (["report", "nowhere"], "nowhere"),
    "no run to evaluate": (["evaluate", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line_before_anything_is_written(case, tmp_path, monkeypatch, capsys):
    words, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LATENTMIX_DATA", raising=False)
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert len(lines[0]) < 330
    assert "Namespace" not in lines[0]
    assert lines[0].startswith("latentmix: ")
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(capsys):
    assert main(["run", "digit", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_pixels_outside_the_unit_interval_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((20, 8, 8), dtype=np.float32)
    images[3, 0, 0] = np.nan
    np.save("images.npy", images)
    assert main(["run", "digits", "--data.source", "images.npy"]) == 2
    assert "nan" in capsys.readouterr().err.lower()
    assert [file.name for file in tmp_path.iterdir()] == ["images.npy"]


def test_fewer_points_than_components_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["run", "digits", "--data.limit", "60", "--data.labels_per_class", "1", "--mixture.n_components", "61"])
        == 2
    )
    assert "61" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_refused_and_unchanged(tmp_path, capsys):
    (tmp_path / "precious").write_text("mine")
    assert main(["run", "digits", "--epochs", "1", "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "precious").read_text() == "mine"


def test_one_line_joins_the_lines_of_a_message():
    assert one_line(ValueError("a\n  b")) == "a b"


@pytest.mark.parametrize("value", [None, [], [1], 3, True], ids=repr)
@pytest.mark.parametrize("group", ["data", "measure"])
def test_groups_of_options_that_are_no_mapping_are_refused(group: str, value: object, tmp_path: Path) -> None:
    values = {**yaml.safe_load(preset_path("digits").read_text()), group: value}
    message = rf"^Expected options of {group} by their names, or a file of them; got {re.escape(repr(value))}\.$"
    with pytest.raises(ValueError, match=message):
        experiment_parser().parse_object(values)
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        parse_experiment(str(file), [])


def test_a_lack_of_memory_is_not_blamed_on_an_option() -> None:
    for error in (MemoryError("Unable to allocate 8 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        with pytest.raises(type(error)), blaming("--data.source"):
            raise error
        assert sentence(error).startswith("Expected memory for what was asked; got no more (")
