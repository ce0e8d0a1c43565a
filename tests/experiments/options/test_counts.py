"""Counts are refused out of their range, by the name of the option."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from latentmix.experiments.cli import main
from latentmix.experiments.commands.select import component_counts
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment, experiment_parser
from latentmix.experiments.reading.limits import check_count

HUGE = 10**19
OTHER = {"data.classes", "data.columns", "data.source", "data.channels"}  # words, or choices of their own


def counts() -> list[str]:
    """The options of an experiment that take whole numbers."""
    actions = {
        action.dest: str(getattr(action, "_typehint", None) or action.type) for action in experiment_parser()._actions
    }
    return [name for name, kind in actions.items() if re.search(r"\bint\b", kind) and name not in OTHER]


def test_every_whole_number_of_an_experiment_has_a_bound() -> None:
    names = counts()
    assert {"epochs", "batch_size", "latent_dim", "data.limit", "mixture.n_init", "mixture.svi.epochs"} <= set(names)
    for name in names:
        with pytest.raises(ValueError, match=rf"^Expected --{name} of at most 2,147,483,647; got {HUGE:,}"):
            Experiment.from_config(parse_experiment("digits", [f"--{name}", str(HUGE)]))


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["evaluate", "run", "--samples"], "--samples"),
        (["sample", "run", "-n"], "-n"),
        (["sample", "run", "--seed"], "--seed"),
        (["ex-post", "run", "--draws"], "--draws"),
        (["ex-post", "run", "--n_components"], "--n_components"),
        (["select", "points.csv", "--draws"], "--draws"),
        (["select", "points.csv", "--n_components"], "--n_components"),
        (["select", "points.csv", "--n-jobs"], "--n-jobs"),
        (["sweep", "digits", "--grid", "epochs=1", "--n-jobs"], "--n-jobs"),
        (["gallery", "--n-jobs"], "--n-jobs"),
        (["bench", "em", "--repeats"], "--repeats"),
        (["bench", "svi", "--turns"], "--turns"),
        (["bench", "all", "--batch_sizes"], "--batch_sizes"),
        (["run", "digits", "--objective.num_particles"], "--objective.num_particles"),
        (["run", "digits", "--print_config", "--epochs"], "--epochs"),
    ],
)
def test_commands_refuse_absurd_counts_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    (tmp_path / "points.csv").touch()
    assert main([*words, str(HUGE)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"latentmix: Expected {option} of ")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "points.csv"}


def test_numbers_of_components_are_bounded_before_they_are_listed() -> None:
    assert component_counts("1..3, 9999..10000") == [1, 2, 3, 9999, 10000]
    with pytest.raises(ValueError, match=r"of at most 10,000; got .1\.\.10001"):
        component_counts("1..10001")


def test_bounds_are_within_the_range() -> None:
    check_count("--epochs", 2**31 - 1)
    with pytest.raises(ValueError, match="Expected --epochs of at least 1; got 0"):
        check_count("--epochs", 0)
