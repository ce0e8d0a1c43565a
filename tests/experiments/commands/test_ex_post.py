"""`latentmix ex-post`: gains of mixtures of the training latents as priors, in pairs."""

import json

import pytest
import torch

from latentmix.experiments import load_run
from latentmix.experiments.cli import main
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.pixels import binarize_static
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.ex_post import ExPost, measure_ex_post, table
from latentmix.experiments.runs.pipeline import run_experiment
from latentmix.inference import log_likelihood

QUICK = [
    *("--epochs", "2", "--data.limit", "120", "--data.labels_per_class", "1"),
    *("--mixture.draws", "1", "--mixture.n_init", "1", "--mixture.svi.epochs", "3", "--mixture.max_iter", "20"),
    *("--mixture.posterior.guide", "none"),
]
SMALL = ["--samples", "5", "--images", "100", "--noise_images", "60", "--test_images", "30", "--draws", "2"]


def run(folder, *options, preset="digits_mlp2"):
    experiment = Experiment.from_config(parse_experiment(preset, [*QUICK, *options]))
    run_experiment(experiment, folder, progress=False, pictures=False, tell=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "one")


def test_ex_post_writes_every_prior(finished, tmp_path, capsys):
    out = tmp_path / "gains.json"
    words = ["ex-post", str(finished), "--n_components", "2,3", "--forms", "samples,expected", *SMALL]
    assert main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    results = json.loads(out.read_text())
    assert results["run"] == str(finished)
    assert results["settings"]["n_components"] == [2, 3]
    names = [gain["prior"] for gain in results["gains"]]
    assert names == ["training", *(f"{k} components, {form}" for k in (2, 3) for form in ("samples", "expected"))]
    training, *mixtures = results["gains"]
    assert training["gain"] == training["standard_error"] == 0.0
    for gain in mixtures:
        assert len(gain["log_likelihoods"]) == 2
        difference = torch.tensor(gain["log_likelihoods"]) - torch.tensor(training["log_likelihoods"])
        assert gain["gain"] == pytest.approx(float(difference.mean()), abs=1e-3)
        assert gain["standard_error"] > 0
        assert gain["prior"] in printed
    assert main([*words, "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert json.loads(out.read_text()) == results
    assert main([*words, "--out", str(tmp_path / "nowhere" / "gains.json")]) == 2
    assert "Expected a folder that is there" in capsys.readouterr().err


def test_gains_are_paired(finished):
    """Gains are differences to the prior of training, measured on the same draws."""
    finished = load_run(finished)
    settings = ExPost((2,), forms=("samples",), images=100, test_images=30, samples=5, draws=1, seed=4)
    training, mixture = measure_ex_post(finished, settings)
    test = binarize_static(Data(**finished.config["data"]).load().test.x[:30], 5)
    alone = log_likelihood(finished.vae, finished.guide, test, 5, transform=lambda batch: batch.float() / 255, seed=5)
    assert training.log_likelihoods == pytest.approx([float(alone.mean())], abs=1e-4)
    assert mixture.gain == pytest.approx(mixture.log_likelihoods[0] - training.log_likelihoods[0], abs=1e-4)
    spread = float(alone.std()) / 30**0.5
    assert mixture.standard_error < 0.5 * spread  # unpaired, both spreads would add up
    again = measure_ex_post(finished, settings)
    assert [gain.log_likelihoods for gain in again] == [training.log_likelihoods, mixture.log_likelihoods]
    lines = table([training, mixture]).splitlines()
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n_components", "500"], "at least as many training images as components, 500; got 120"),
        (["--n_components", "0"], "n_components of at least 1; got 0"),
        (["--draws", "0"], "draws of at least 1; got 0"),
        (["--reg_covar", "-1"], "reg_covar of at least 0; got -1"),
        (["--forms", "means"], "samples"),
        (["--n_component", "3"], "--n_components"),
    ],
)
def test_bad_options_are_refused_in_one_line(finished, capsys, options, message):
    assert main(["ex-post", str(finished), *options]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]


def test_another_prior_has_no_noise_aware_form(tmp_path, capsys):
    folder = run(tmp_path / "run", "--prior", "StudentT", "--likelihood", "Gaussian(0.1)", "--epochs", "1")
    words = ["ex-post", str(folder), "--n_components", "2", *SMALL]
    assert main(words) == 2
    assert "take --forms samples,expected" in capsys.readouterr().err
    assert main([*words, "--forms", "samples,expected"]) == 0
    assert "draw 1 of 1" in capsys.readouterr().out  # grey data are taken once
