"""Every preset runs for one epoch and leaves a whole run folder."""

import json

import pytest
import torch

from latentmix.experiments.cli import main, parse_experiment
from latentmix.experiments.config import Experiment, build_parts
from latentmix.experiments.presets import presets

PRESETS = ["digits", "digits_mlp2", "mnist_conv16", "mnist_conv64", "mnist_mlp2"]
QUICK = [
    *("--epochs", "1", "--data.source", "digits", "--data.limit", "120", "--data.classes", "1,4,8"),
    *("--data.labels_per_class", "2", "--mixture.draws", "2", "--mixture.n_init", "1", "--mixture.svi_steps", "20"),
]


def parts_of(preset, shape=(1, 28, 28)):
    return build_parts(Experiment.from_config(parse_experiment(preset, [])).parts(shape))


def test_every_preset_is_listed():
    assert sorted(presets()) == PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_runs(preset, tmp_path, capsys):
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
        *("config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "figures", "report.html")
    }


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
