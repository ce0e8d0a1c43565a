"""Every preset runs for one epoch and writes a complete run folder."""

import json

import pytest
import torch

from latentmix.experiments import load_run
from latentmix.experiments.cli import main
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.options.parts import build_parts
from latentmix.experiments.presets import presets
from latentmix.models import MixturePrior

from tests.experiments.data.celeba_folder import make_celeba

pytestmark = pytest.mark.usefixtures("coarse")

GREY = ["digits", "digits_mlp2", "mnist_conv16", "mnist_conv64", "mnist_mlp2", "mnist_mlp40"]
PRESETS = sorted([*GREY, "celeba", "gmm3d", "natural_patches", "points"])
QUICK = [
    *("--epochs", "1", "--data.source", "digits", "--data.limit", "120", "--data.classes", "1,4,8"),
    *("--data.labels_per_class", "2", "--mixture.draws", "2", "--mixture.n_init", "1", "--mixture.svi.epochs", "3"),
    *("--mixture.posterior.guide", "none"),
]


def parts_of(preset, shape=(1, 28, 28)):
    return build_parts(Experiment.from_config(parse_experiment(preset, [])).parts(shape))


def test_every_preset_is_listed():
    assert sorted(presets()) == PRESETS


@pytest.mark.parametrize("preset", GREY)
def test_preset_of_grey_images_runs(preset, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["run", preset, *QUICK, "--out", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    summary = json.loads((folder / "summary.json").read_text())
    for path in ("test.mse", "test.ssim", "test.elbo", "seconds.train", "parameters"):
        value = summary
        for key in path.split("."):
            value = value[key]
        assert value == pytest.approx(value, nan_ok=False), path
    for inference in ("em", "svi"):
        for budget in ("none", "few", "all"):
            figures = summary["mixtures"][inference][budget]
            for name in ("log_likelihood", "iterations", "seconds", "accuracy", "precision", "recall", "f1"):
                assert figures[name] == pytest.approx(figures[name], nan_ok=False)
            assert set(figures["per_class"]) == {"1", "4", "8"}
    assert (folder / "report.html").stat().st_size > 10_000
    assert {file.name for file in folder.iterdir()} == {
        *("config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "figures", "report.html", "command.json"),
        "pointwise.npz",
    }


BRIEF = ["--epochs", "1", "--mixture.draws", "1", "--mixture.n_init", "1", "--mixture.svi.epochs", "3"]
BRIEF += ["--mixture.posterior.guide", "none"]


def run_of(preset, folder, *options):
    assert main(["run", preset, *BRIEF, *options, "--out", str(folder)]) == 0
    pictures = {file.stem for file in (folder / "figures").iterdir()}
    return json.loads((folder / "summary.json").read_text()), pictures


def test_gmm3d_reports_the_components_that_samples_cover(tmp_path, capsys):
    summary, pictures = run_of("gmm3d", tmp_path / "run", "--data.points", "600")
    coverage = summary["coverage"]
    assert coverage["components"] == len(coverage["covered_components"]) == 10
    assert coverage["covered"] == sum(coverage["covered_components"])
    assert f"{coverage['covered']} of 10 components covered" in capsys.readouterr().out
    assert 0 <= coverage["energy"]["p_value"] <= 1
    assert "ssim" not in summary["test"]
    assert pictures >= {"points_in_space", "points_pairwise", "coverage", "map", "usage"}
    assert "Components covered" in (tmp_path / "run" / "report.html").read_text()


def test_points_are_standardised_flowers_by_default(tmp_path, capsys):
    summary, pictures = run_of("points", tmp_path / "run")
    assert summary["data"]["class_names"] == ["setosa", "versicolor", "virginica"]
    assert summary["data"]["shape"] == [4]
    assert set(summary["mixtures"]["em"]["few"]["per_class"]) == {"setosa", "versicolor", "virginica"}
    assert "points of classes setosa, versicolor, virginica, standardised" in capsys.readouterr().out
    assert pictures >= {"losses", "map", "latents_none", "confusion_few"}


def test_a_mixture_prior_classifies_by_itself(tmp_path, capsys):
    prior = ["--prior", "MixturePrior(10, covariance_type=full)", "--start_prior", "1", "--objective", "TraceEnum_ELBO"]
    summary, _ = run_of("gmm3d", tmp_path / "run", "--data.points", "600", *prior, "--epochs", "2")
    assert "mixture prior" in capsys.readouterr().out
    run = load_run(tmp_path / "run")
    test = Data(**run.config["data"]).load().test
    assert isinstance(run.vae.prior, MixturePrior)
    components = run.vae.prior.responsibilities(run.guide.encode(test.x)).argmax(1)
    classes = torch.tensor(summary["prior"]["component_classes"])[components]
    assert summary["prior"]["accuracy"] == pytest.approx(float((classes == test.labels).double().mean()))
    assert summary["prior"]["accuracy"] > 0.15


def test_natural_patches_are_a_density(tmp_path):
    summary, pictures = run_of("natural_patches", tmp_path / "run", "--data.limit", "64")
    assert summary["data"]["binarize"] == "none"
    assert summary["measure"] == "density"
    assert "bits_per_dimension" not in summary["test"]
    assert pictures >= {"reconstructions", "generated", "interpolation", "map", "usage"}


def test_celeba_in_its_own_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    make_celeba(tmp_path / "data", n=40)
    options = ["--data.root", str(tmp_path / "data"), "--batch_size", "8", "--mixture.n_components", "2"]
    summary, pictures = run_of("celeba", tmp_path / "run", *options)
    assert summary["data"]["source"] == "celeba"
    assert pictures >= {"reconstructions", "generated", "interpolation", "attributes", "map"}
    summary, _ = run_of("celeba", tmp_path / "classes", *options, "--data.attribute", "Blond_Hair", "--data.size", "32")
    assert summary["data"]["classes"] == [0, 1]
    assert summary["mixtures"]["em"]["few"]["accuracy"] >= 0


def test_celeba_is_the_founding_architecture():
    vae, guide = parts_of("celeba", (3, 64, 64))
    last = [part for part in guide.modules() if isinstance(part, torch.nn.Linear)]
    assert [layer.out_features for layer in last] == [2 * 50]
    assert vae.likelihood.var_x == 0.1
    q = guide.posterior(torch.rand(2, 3, 64, 64))
    outputs = last[0](guide.encoder(torch.rand(2, 3, 64, 64)))
    assert outputs.shape == (2, 100)
    assert q.event_shape == (50,)


@pytest.mark.parametrize("preset", ["digits_mlp2", "mnist_mlp2"])
def test_mlp2_is_flat_with_one_layer_each_way(preset):
    vae, guide = parts_of(preset)
    layers = [type(part).__name__ for part in guide.modules() if not list(part.children())]
    assert layers == ["Flatten", "Linear", "ReLU", "Linear", "Linear"]
    layers = [type(part).__name__ for part in vae.decoder.modules() if not list(part.children())]
    assert layers == ["Linear", "ReLU", "Linear"]
    assert vae.latent_dim == 2


def test_conv16_has_16_then_32_filters():
    vae, guide = parts_of("mnist_conv16")
    convolutions = [part for part in guide.modules() if isinstance(part, torch.nn.Conv2d)]
    assert [(part.in_channels, part.out_channels, part.stride) for part in convolutions] == [
        (1, 16, (2, 2)),
        (16, 32, (2, 2)),
    ]
    layers = [type(part).__name__ for part in vae.decoder.modules() if not list(part.children())]
    assert layers == [
        *("Linear", "ReLU", "Linear", "Unflatten"),
        *("ConvTranspose2d", "ReLU", "ConvTranspose2d"),
    ]


def test_conv64_has_647337_parameters():
    vae, guide = parts_of("mnist_conv64")
    counts = {}
    for module in (guide, vae):
        for name, part in module.named_modules():
            if not list(part.children()) and list(part.parameters()):
                counts[f"{type(part).__name__} {name}"] = sum(leaf.numel() for leaf in part.parameters())
    assert list(counts.values()) == [1_088, 131_200, 256, 125_460, 125_460, 131_712, 131_136, 1_025]
    assert sum(counts.values()) == 647_337
