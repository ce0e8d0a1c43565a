"""Presets run whole, and what they reach on test images."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.pipeline import run_experiment

from tests.verify.proofs.mixtures import mnist_root
from tests.verify.registry import Figures, proof

CODE = ("models", "guides", "inference", "experiments")


def run(preset: str, *options: str) -> dict[str, Any]:
    """The summary of a run."""
    experiment = Experiment.from_config(parse_experiment(preset, list(options)))
    with tempfile.TemporaryDirectory() as folder:
        return run_experiment(experiment, Path(folder) / "run", progress=False, tell=lambda _: None)


def figures_of(summary: dict[str, Any]) -> dict[str, Any]:
    """What a table would show of a summary."""
    names = ("log_likelihood", "iterations", "seconds", "accuracy", "precision", "recall", "f1")
    mixtures = {
        f"{inference}, {budget}": {name: figures[name] for name in names}
        for inference, budgets in summary["mixtures"].items()
        for budget, figures in budgets.items()
    }
    return {"test": summary["test"], "seconds": summary["seconds"], "mixtures": mixtures}


@proof(*CODE)
def digits_are_told_apart() -> Figures:
    """On the ten digits with 5 labelled images each the mean accuracy of both fits is 0.80 or more."""
    summary = run("digits")
    accuracies = [summary["mixtures"][inference]["few"]["accuracy"] for inference in ("em", "svi")]
    return {"passed": min(accuracies) >= 0.80, **figures_of(summary)}


@proof(*CODE)
def mnist_is_reconstructed() -> Figures:
    """`mnist_conv64` on the digits 1, 4 and 8 reaches a test MSE below 0.0150 and an SSIM above 0.85."""
    summary = run("mnist_conv64", "--data.root", mnist_root(), "--data.classes", "1,4,8")
    passed = summary["test"]["mse"] < 0.0150 and summary["test"]["ssim"] > 0.85
    return {"passed": passed, "parameters": summary["parameters"], **figures_of(summary)}
