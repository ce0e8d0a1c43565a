"""Runs of presets within proofs, and the files that their results depend on."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.pipeline import run_experiment

from tests.verify.registry import ROOT, Unavailable

PARTS = ("models", "guides")  # their classes are chosen by name
WITHOUT = ("experiments/benchmarks", "experiments/commands", "experiments/figures")


def preset(*names: str) -> list[str]:
    """The files of presets."""
    return [f"experiments/presets/{name}.yaml" for name in names]


def mnist_root() -> str:
    """The folder that holds MNIST.

    Raises:
        Unavailable: If there is none.
    """
    for root in (os.environ.get("LATENTMIX_DATA"), str(ROOT.parent / "shared" / "data")):
        if root and (Path(root) / "MNIST").is_dir():
            return root
    raise Unavailable("MNIST is neither in LATENTMIX_DATA nor in ../shared/data")


def summary_of(name: str, *options: str) -> dict[str, Any]:
    """The summary of a run of a preset, without pictures."""
    experiment = Experiment.from_config(parse_experiment(name, list(options)))
    with tempfile.TemporaryDirectory() as folder:
        return run_experiment(experiment, Path(folder) / "run", progress=False, pictures=False, tell=lambda _: None)
