"""Untyped arguments of constructors are read as Python literals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyro.infer
import pytest
import torch
import yaml
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from torch.optim import Optimizer

from latentmix.experiments.cli import main
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.options.grids import cells_of, parse_grid, words_of
from latentmix.experiments.options.parts import build_parts
from latentmix.experiments.presets import preset_path
from latentmix.inference import fit

NAMES = [
    name
    for name in pyro.infer.__all__
    if isinstance(kind := getattr(pyro.infer, name), type) and issubclass(kind, ELBO) and kind is not ELBO
    if name != "Trace_MMD"
]


def elbo_of(*words: str) -> Any:
    experiment = Experiment.from_config(parse_experiment("digits_mlp2", list(words)))
    return experiment.elbo


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_number_is_an_integer_for_every_elbo_in_every_form(name: str, tmp_path: Path) -> None:
    call = elbo_of("--objective", f"{name}(num_particles=2, max_plate_nesting=1, vectorize_particles=False)")
    options = elbo_of(
        *("--objective", name, "--objective.max_plate_nesting", "1", "--objective.num_particles", "2"),
        *("--objective.vectorize_particles", "false"),
    )
    file = tmp_path / "mine.yaml"
    arguments = {"num_particles": 2, "max_plate_nesting": 1, "vectorize_particles": False}
    preset = yaml.safe_load(preset_path("digits_mlp2").read_text())
    file.write_text(yaml.safe_dump({**preset, "objective": {"class_path": name, "init_args": arguments}}))
    experiment = Experiment.from_config(parse_experiment(str(file), []))
    stored = json.dumps(experiment.config["objective"])
    again = Experiment.from_config(parse_experiment("digits_mlp2", ["--objective", stored]))
    for elbo in (call, options, experiment.elbo, again.elbo):
        assert type(elbo) is getattr(pyro.infer, name)
        assert (elbo.max_plate_nesting, elbo.num_particles, elbo.vectorize_particles) == (1, 2, False)
        assert type(elbo.max_plate_nesting) is type(elbo.num_particles) is int


def test_infinity_fractions_and_none_are_unchanged() -> None:
    assert elbo_of("--objective", "Trace_ELBO(max_plate_nesting=inf)").max_plate_nesting == math.inf
    assert elbo_of("--objective.max_plate_nesting", "inf").max_plate_nesting == math.inf
    assert elbo_of("--objective", "RenyiELBO(alpha=0.5, num_particles=3)").alpha == 0.5
    assert elbo_of("--objective", "RenyiELBO(2, 3)").alpha == 2
    assert elbo_of("--objective", "ReweightedWakeSleep(num_sleep_particles=None)").num_sleep_particles == 2
    assert elbo_of("--objective", "Trace_ELBO(tail_adaptive_beta=-0.5)").tail_adaptive_beta == -0.5
    assert elbo_of("--objective", "Trace_ELBO(retain_graph=True)").retain_graph is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Trace_ELBO(num_particles=two)", "Expected num_particles of Trace_ELBO to be a number; got 'two'"),
        ("Trace_ELBO(num_particles=1.5)", "Expected a whole number as --objective.num_particles of at least 1"),
        ("TraceEnum_ELBO(max_plate_nesting=1.5)", "Expected a whole number as --objective.max_plate_nesting"),
        ("TraceEnum_ELBO(max_plate_nesting=-1)", "Expected a whole number as --objective.max_plate_nesting"),
        ("ReweightedWakeSleep(num_sleep_particles=2.5)", "a whole number as --objective.num_sleep_particles"),
        ("ReweightedWakeSleep(num_particles=1)", "Expected other arguments of ReweightedWakeSleep"),
        ("Trace_ELBO(vectorize_particles=maybe)", "vectorize_particles of Trace_ELBO to be true or false; got 'maybe'"),
        ("Trace_MMD", "got pyro.infer.Trace_MMD, whose 'kernel' has none: call it from Python"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_in_one_line(
    text: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "digits_mlp2", "--objective", text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


class Counted(Trace_ELBO):
    """A user's own, whose argument goes through keywords."""

    def __init__(self, width=1.0, **options) -> None:  # type: ignore[no-untyped-def]
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.width = width


def test_untyped_arguments_of_a_users_own_class_are_literals() -> None:
    elbo = elbo_of("--objective", f"{__name__}.Counted(width=2, max_plate_nesting=1)")
    assert (elbo.width, elbo.max_plate_nesting) == (2, 1)
    assert type(elbo.width) is type(elbo.max_plate_nesting) is int


@pytest.mark.parametrize(
    ("words", "group"),
    [
        (["--optimizer", "Adam(lr=1, betas=(0.5, 0.9))"], {"lr": 1.0, "betas": [0.5, 0.9]}),
        (["--optimizer", "Adam(1e-2, [0.5, 0.9])"], {"lr": 0.01, "betas": [0.5, 0.9]}),
        (["--optimizer", "Adam", "--optimizer.betas", "(0.5, 0.9)"], {"betas": [0.5, 0.9]}),
        (["--optimizer", "Rprop(etas=(0.5, 1.2), step_sizes=(1e-6, 50))"], {"step_sizes": [1e-6, 50.0]}),
        (["--optimizer", "Adafactor(eps=(None, 1e-3))"], {"eps": [None, 1e-3]}),
    ],
)
def test_tuples_and_none_of_optimizers(words: list[str], group: dict[str, Any]) -> None:
    experiment = Experiment.from_config(parse_experiment("digits_mlp2", words))
    optimizer: Optimizer = experiment.training.optimizer([torch.zeros(1)])
    for name, value in group.items():
        value_of_group = optimizer.param_groups[0][name]
        assert (list(value_of_group) if isinstance(value_of_group, tuple) else value_of_group) == value


def train(*words: str) -> list[float]:
    experiment = Experiment.from_config(parse_experiment("digits_mlp2", list(words)))
    torch.manual_seed(0)
    vae, guide = build_parts(experiment.parts((1, 4, 4)))
    images = torch.bernoulli(torch.full((20, 1, 4, 4), 0.4))
    return fit(vae.model, guide, images, epochs=2, batch_size=8, objective=experiment.objective, seed=0).losses


def test_the_components_of_a_prior_are_enumerated() -> None:
    prior = ("--prior", "MixturePrior(3)", "--objective")
    losses = train(*prior, "TraceEnum_ELBO(max_plate_nesting=1)")
    assert losses == train(*prior, "TraceEnum_ELBO")
    assert train(*prior, "TraceTMC_ELBO(max_plate_nesting=1)") == pytest.approx(losses, abs=0.5)


def test_particles_are_vectorised_over_the_plate_of_the_data() -> None:
    vectorised = (
        "--prior",
        "MixturePrior(3)",
        "--objective",
        "TraceEnum_ELBO(num_particles=2, vectorize_particles=True)",
    )
    assert all(map(math.isfinite, train(*vectorised)))


def test_a_grid_varies_untyped_arguments() -> None:
    grid = parse_grid(
        [
            "objective=TraceEnum_ELBO(max_plate_nesting=1),TraceGraph_ELBO(max_plate_nesting=1)",
            "objective.num_particles=2,3",
            "optimizer.betas=(0.5, 0.9),(0.9, 0.99)",
        ]
    )
    elbos = [elbo_of("--optimizer", "Adam", *words_of(cell)) for cell in cells_of(grid)]
    assert [type(elbo).__name__[:9] for elbo in elbos] == ["TraceEnum"] * 4 + ["TraceGrap"] * 4
    assert [elbo.num_particles for elbo in elbos] == [2, 2, 3, 3] * 2
    assert all(type(elbo.max_plate_nesting) is int for elbo in elbos)
