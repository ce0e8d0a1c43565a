"""Numbers in messages: one of a thing is no plural, and endings are added by `plural` alone."""

from __future__ import annotations

import ast
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from latentmix.experiments import figures
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.inference import fit
from latentmix.inference.objectives.weighted import Weighted

from tests.verify.dependencies import ROOMS

ROOT = Path(__file__).parents[1]
ELSEWHERE = "inference/datatree/"  # imports nothing of LatentMix outside itself


def endings(path: Path) -> list[int]:
    """Lines in which a condition chooses the ending of a plural."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts: list[ast.expr] = []
        if isinstance(node, ast.IfExp):
            parts = [node.body, node.orelse]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            parts = [node.left, node.right]
        lines += [part.lineno for part in parts if isinstance(part, ast.Constant) and part.value in ("s", "es", "ies")]
    return lines


def test_endings_are_chosen_in_one_place() -> None:
    files = {path.relative_to(ROOT).as_posix(): path for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    found = {name: lines for name, path in files.items() if not name.startswith(ELSEWHERE) and (lines := endings(path))}
    assert not found


def model(x: Tensor) -> None:
    with pyro.plate("data", 20, subsample=x):
        pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0), obs=x)


def guide(x: Tensor) -> None:
    pass


def test_a_fit_of_one_number_and_one_epoch() -> None:
    objective = Weighted(pyro.infer.Trace_ELBO(), warmup=3.0)
    with pytest.warns(UserWarning, match="within the 1 epoch of the fit; got one of 3"):
        result = fit(model, guide, torch.zeros(20), epochs=1, batch_size=20, seed=0, objective=objective)
    assert result.shown()["parameters"] == result.state.shown()["parameters"] == "1 number in 1 tensor"


def test_an_experiment_of_one_epoch() -> None:
    experiment = Experiment.from_config(parse_experiment("digits", ["--epochs", "1"]))
    assert "1 epoch, " in repr(experiment)


def test_one_active_latent() -> None:
    figure = figures.latent_usage([2.0, 0.0], [True, False])
    assert "1 of 2 latent dimensions is active" in "".join(text.get_text() for text in figure.findobj(plt.Text))
    plt.close(figure)
