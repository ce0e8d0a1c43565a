"""Gain in log-likelihood by a mixture of training latents as the prior of a finished VAE."""

from __future__ import annotations

import tempfile
from pathlib import Path

from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.ex_post import ExPost, as_json, measure_ex_post
from latentmix.experiments.runs.pipeline import run_experiment
from latentmix.experiments.runs.run import load_run

from tests.verify.registry import Figures, proof
from tests.verify.runs import PARTS, WITHOUT, mnist_root, preset

OPTIONS = ("--epochs", "12", "--mixture.draws", "1", "--mixture.n_init", "1", "--mixture.svi.epochs", "10")


@proof(*PARTS, *preset("mnist_mlp40"), "experiments/commands/ex_post.py", without=WITHOUT)
def ex_post_priors_gain_on_mnist() -> Figures:
    """A mixture of 10, 50 or 100 Gaussians, fitted to one sample of q for each of 48,000 training images, raises the
    log-likelihood of MNIST's test images, in three binarisations, over N(0, I), without further training."""
    options = ["--data.root", mnist_root(), *OPTIONS, "--mixture.max_iter", "50"]
    experiment = Experiment.from_config(parse_experiment("mnist_mlp40", options))
    settings = ExPost(forms=("samples",), images=48_000, samples=100, max_iter=40)
    with tempfile.TemporaryDirectory() as folder:
        run_experiment(experiment, Path(folder) / "run", progress=False, pictures=False, tell=lambda _: None)
        gains = measure_ex_post(load_run(Path(folder) / "run"), settings)
    mixtures = [gain for gain in gains if gain.n_components]
    return {"passed": all(gain.gain > 3 * gain.standard_error for gain in mixtures), **as_json(gains, settings)}
