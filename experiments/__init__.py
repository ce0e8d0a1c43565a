"""What a person runs: data sets, presets, run folders, metrics, plots, reports, the command line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentmix.experiments.options.experiment import Experiment
    from latentmix.experiments.runs.artifacts import Run, load_run
    from latentmix.experiments.runs.pipeline import run_experiment

__all__ = ["Experiment", "Run", "load_run", "run_experiment"]

_HOMES = {
    "Experiment": "options.experiment",
    "Run": "runs.artifacts",
    "load_run": "runs.artifacts",
    "run_experiment": "runs.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that `latentmix --help` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
