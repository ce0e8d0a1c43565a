"""What a person runs: data sets, presets, run folders, metrics, plots, reports, the command line."""

from latentmix.experiments.artifacts import Run, load_run
from latentmix.experiments.config import Experiment
from latentmix.experiments.pipeline import run_experiment

__all__ = ["Experiment", "Run", "load_run", "run_experiment"]
