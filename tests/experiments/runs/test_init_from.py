"""Training starts from pre-trained weights that fit, and others are refused by name."""

import shutil

import pytest
import torch
import yaml

from latentmix.experiments.cli import main
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.pipeline import Session, run_experiment

QUICK = [
    *("--epochs", "1", "--data.limit", "60", "--data.labels_per_class", "1", "--encoder.hidden", "[16]"),
    *("--decoder.hidden", "[16]", "--mixture.n_components", "2", "--mixture.n_init", "1"),
    *("--mixture.posterior.guide", "none"),
    *("--mixture.svi.epochs", "3", "--mixture.max_iter", "10"),
]


def session(*options):
    return Session.prepare(Experiment.from_config(parse_experiment("digits_mlp2", [*QUICK, *options])), lambda _: None)


def weights(prepared):
    return {**prepared.vae.state_dict(), **{f"q.{name}": value for name, value in prepared.guide.state_dict().items()}}


def alike(first, second):
    return {name for name in first if torch.equal(first[name], second[name])}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    experiment = Experiment.from_config(parse_experiment("digits_mlp2", [*QUICK, "--seed", "3"]))
    run_experiment(experiment, folder, progress=False, pictures=False, tell=lambda _: None)
    return folder


def test_training_starts_from_all_weights_of_a_run(finished):
    begun, fresh = weights(session("--init_from", str(finished))), weights(session())
    assert alike(begun, weights(session("--init_from", str(finished / "checkpoints")))) == set(begun)
    assert not any("weight" in name for name in alike(begun, fresh))


def test_a_pretrained_vae_needs_no_guide(finished, tmp_path):
    prepared = session("--init_from", str(finished))
    prepared.vae.save_pretrained(tmp_path)
    begun, fresh = weights(session("--init_from", str(tmp_path))), weights(session())
    of_guide = {name for name in begun if name.startswith("q.")}
    assert of_guide <= alike(begun, fresh)
    assert alike(begun, weights(prepared)) >= set(begun) - of_guide


def test_the_configuration_has_the_absolute_path(finished, monkeypatch):
    monkeypatch.chdir(finished.parent)
    config = Experiment.from_config(parse_experiment("digits_mlp2", ["--init_from", finished.name])).config
    assert config["init_from"] == str(finished.resolve())
    again = Experiment.from_config(parse_experiment("digits_mlp2", ["--init_from", config["init_from"]])).config
    assert again == config == yaml.safe_load(yaml.safe_dump(config))


def refusal(words, out, capsys):
    assert main(["run", "digits_mlp2", *QUICK, *words, "--out", str(out)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert not out.exists()
    return errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--decoder.hidden", "[20]"], "with --decoder 'MLPDecoder(hidden=[16])' instead of 'MLPDecoder(hidden=[20])'"),
        (["--encoder.hidden", "[20]"], "with --encoder 'MLPEncoder(hidden=[16])' instead of 'MLPEncoder(hidden=[20])'"),
        (["--likelihood", "Gaussian(shared)"], "with --likelihood 'Bernoulli' instead of 'Gaussian(var_x=shared"),
        (["--prior", "MixturePrior(2)"], "with --prior 'StandardNormal' instead of 'MixturePrior(n_components=2"),
        (["--latent_dim", "3"], "with --latent_dim 2 instead of 3 in"),
    ],
    ids=["decoder", "encoder", "likelihood", "prior", "latent_dim"],
)
def test_weights_of_other_parts_are_refused_by_the_names_of_these(finished, tmp_path, capsys, options, message):
    line = refusal(["--init_from", str(finished), *options], tmp_path / "run", capsys)
    assert message in line
    assert line.endswith("choose the same, or leave --init_from out.")


def test_weights_without_a_description_are_named_with_both_shapes(finished, tmp_path, capsys):
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(finished / "checkpoints" / "vae.safetensors", folder)
    words = ["--init_from", str(folder), "--decoder.hidden", "[20]"]
    assert "'decoder.body.0.bias' of shape (20,); got (16,)" in refusal(words, tmp_path / "run", capsys)


def test_a_folder_without_weights(tmp_path, capsys):
    for place, message in ((tmp_path / "nowhere", "which is not there"), (tmp_path, "Expected vae.safetensors")):
        assert message in refusal(["--init_from", str(place)], tmp_path / "run", capsys)


def test_pickled_weights_are_never_opened(tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(Bomb(), folder / "vae.pt")
    assert "never is" in refusal(["--init_from", str(folder)], tmp_path / "run", capsys)
    shutil.copy(folder / "vae.pt", folder / "vae.safetensors")
    assert "Expected safetensors" in refusal(["--init_from", str(folder)], tmp_path / "run", capsys)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "text", ["[]", '{"init_args": []}', '{"init_args": {"decoder": {"init_args": 5}, "prior": {}}}']
)
def test_weights_beside_an_odd_description_are_named_by_their_shapes(finished, tmp_path, capsys, text):
    shutil.copytree(finished / "checkpoints", tmp_path / "weights")
    (tmp_path / "weights" / "vae.json").write_text(text)
    (tmp_path / "weights" / "guide.json").write_text(text)
    words = ["run", "digits_mlp2", *QUICK, "--latent_dim", "3", "--init_from", str(tmp_path / "weights")]
    assert main([*words, "--out", str(tmp_path / "new")]) == 2
    assert "Expected weights 'decoder.body.0.weight' of shape (16, 3); got (16, 2)" in capsys.readouterr().err


def test_a_link_in_the_place_of_the_guide_is_refused(finished, tmp_path, capsys):
    shutil.copytree(finished / "checkpoints", tmp_path / "weights")
    (tmp_path / "weights" / "guide.safetensors").unlink()
    (tmp_path / "weights" / "guide.safetensors").symlink_to("nowhere")
    words = ["run", "digits_mlp2", *QUICK, "--init_from", str(tmp_path / "weights"), "--out", str(tmp_path / "new")]
    assert main(words) == 2
    assert "guide.safetensors, which is not followed" in capsys.readouterr().err
