"""A run, an experiment and data show themselves in a few lines, and as HTML."""

from __future__ import annotations

from pathlib import Path

from latentmix.experiments import Data, Experiment, load_run
from latentmix.experiments.options.command_line import parse_experiment

FINISHED = Path(__file__).parent / "runs" / "earlier_run" / "finished"


def test_a_run_shows_its_figures() -> None:
    run = load_run(FINISHED)
    lines = dict(line.strip().split("  ", 1) for line in repr(run).splitlines()[1:])
    test = run.summary["test"]
    assert lines["test ELBO"].strip() == f"{test['elbo']:.6g}"
    assert lines["prior"].strip() == "MixturePrior"
    accuracies = [run.summary["mixtures"]["em"][labels]["accuracy"] for labels in ("none", "few", "all")]
    assert [float(part.split()[0]) for part in lines["accuracy, EM"].split(", ")] == [
        round(value, 3) for value in accuracies
    ]
    assert len(lines) < 15
    assert f"{test['mse']:.6g}" in run._repr_html_()


def test_data_show_their_shape_and_sizes() -> None:
    data = Data("gmm3d", points=500).load()
    assert "3; 320 train, 80 validation, 100 test" in repr(data)
    assert "10 components, 3 features, full" in repr(data)
    assert "320 x 3, float32" in repr(data.train)
    assert "<th" in data._repr_html_()


def test_an_experiment_shows_its_parts() -> None:
    experiment = Experiment.from_config(parse_experiment("digits", ["--prior", "MixturePrior(10)", "--epochs", "3"]))
    assert "MixturePrior" in repr(experiment)
    assert "3 epochs" in repr(experiment)
    assert len(repr(experiment).splitlines()) < 15
