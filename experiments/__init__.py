"""Experiments: data sets, presets, run folders, figures, reports, sweeps, benchmarks and the command line.

Imports point one way: presets, benchmarks, reading < data < options < figures < runs < comparison < sweeps < commands <
cli.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentmix.experiments.comparison.compare import compare_runs
    from latentmix.experiments.comparison.page import write_comparison
    from latentmix.experiments.comparison.pictures import comparison_pictures
    from latentmix.experiments.comparison.results import RunComparison
    from latentmix.experiments.data.datasets import Data
    from latentmix.experiments.data.pixels import DynamicBinarization, ToFloat
    from latentmix.experiments.options.experiment import Experiment
    from latentmix.experiments.runs.pipeline import run_experiment
    from latentmix.experiments.runs.run import Run, load_run

__all__ = [
    "Data",
    "DynamicBinarization",
    "Experiment",
    "Run",
    "RunComparison",
    "ToFloat",
    "compare_runs",
    "comparison_pictures",
    "load_run",
    "run_experiment",
    "write_comparison",
]

_HOMES = {
    "Data": "data.datasets",
    "DynamicBinarization": "data.pixels",
    "ToFloat": "data.pixels",
    "Experiment": "options.experiment",
    "Run": "runs.run",
    "RunComparison": "comparison.results",
    "compare_runs": "comparison.compare",
    "comparison_pictures": "comparison.pictures",
    "load_run": "runs.run",
    "run_experiment": "runs.pipeline",
    "write_comparison": "comparison.page",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that `latentmix --help` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
