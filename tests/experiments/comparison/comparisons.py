"""Comparisons without runs: of single runs, of seeds, of a sweep under two measures, and of points without classes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentmix.experiments.comparison.results import (
    ComparedRun,
    Confusion,
    Curve,
    Difference,
    LooRow,
    Pair,
    PairedTest,
    Reliability,
    RunComparison,
    RunGroup,
)
from latentmix.inference.intervals import mcnemar_test, mean_interval, paired_interval

__all__ = ["DENSITY", "MASS", "comparison_of", "points", "seeds", "single", "sweep"]

MASS, DENSITY = "mass on {0, 1}, binarize=dynamic", "density"
CLASSES = ("one", "four", "eight")
LOO = "LOO of the mixtures of a, b is not compared: each is of the run's own latents."


def comparison_of(
    options: Sequence[dict[str, str]],
    seeds: Sequence[int] = (0,),
    *,
    images: bool = True,
    presets: Sequence[str] = (),
    refusals: Sequence[str] = (LOO,),
    loo: bool = False,
) -> RunComparison:
    """A comparison of a group for each set of options, with a run per seed, and random figures."""
    random = np.random.default_rng(0)
    shift = iter(np.linspace(0.0, 3.0, len(options) + 1))
    runs: list[ComparedRun] = []
    groups, curves, confusions, reliabilities = [], [], [], []
    values: dict[str, dict[str, Any]] = {}
    for place, chosen in enumerate(options):
        preset = presets[place] if presets else "digits"
        name = ", ".join([preset, *(f"{option}={value.partition('(')[0]}" for option, value in chosen.items())])
        measure = DENSITY if "Gaussian" in chosen.get("likelihood", "") else MASS
        level = (-280.0 if measure == MASS else 60.0) + float(next(shift))
        values[name] = {
            "elbo": random.normal(level, 0.5, (len(seeds), 50)),
            "squared_error": random.normal(0.02 + 0.001 * place, 0.001, (len(seeds), 50)),
            **({"accuracy_em_few": random.random((len(seeds), 50)) < 0.8} if images else {}),
        }
        members = []
        for row, seed in enumerate(seeds):
            run = f"run-{place}-{seed}"
            figures = {"elbo": float(values[name]["elbo"][row].mean()), "mse": float(0.02 + 0.001 * random.random())}
            if images:
                figures |= {"ssim": 0.8, "accuracy_em_few": float(values[name]["accuracy_em_few"][row].mean())}
                figures |= {"accuracy_em_none": 0.7, "ece_em_few": 0.1}
            figures |= {"parameters": 1234.0, "seconds": 1.5}
            versions = {"python": "3.13.0", "torch": "2.15.0"}
            runs.append(
                ComparedRun(
                    run,
                    Path("runs") / run,
                    preset,
                    seed,
                    0,
                    measure,
                    name,
                    "digest",
                    f"{place}-{seed}",
                    versions,
                    figures,
                )
            )
            members.append(runs[-1])
            losses = -level + 160 * np.exp(-np.arange(1, 7) / 2) + random.normal(size=6)
            curves.append(Curve(run, np.arange(1, 7), losses, losses + 1))
            if images:
                counts = np.diag([10, 20, 30]) + random.integers(0, 3, (3, 3))
                confusions.append(Confusion(run, "em", "few", CLASSES, counts))
                bins = (np.array([10, 40]), np.array([0.4, 0.9]), np.array([0.5, 0.8]))
                reliabilities += [
                    Reliability(run, "em", "few", way, *bins, 0.1) for way in ("plug_in", "draws", "noise")
                ]
        shown = {figure: mean_interval([run.figures[figure] for run in members], 0.9) for figure in members[0].figures}
        groups.append(RunGroup(name, tuple(run.name for run in members), chosen, measure, shown))
    reference = groups[0]
    pairs = [
        Pair(group.name, reference.name, figure, paired_interval(ours, values[reference.name][figure], 0.9))
        for group in groups[1:]
        for figure, ours in values[group.name].items()
        if figure != "elbo" or group.measure == reference.measure
    ]
    tests = [
        PairedTest(
            group.name,
            reference.name,
            "em",
            "few",
            mcnemar_test(values[group.name]["accuracy_em_few"][0], values[reference.name]["accuracy_em_few"][0]),
        )
        for group in groups[1:]
        if images and len(seeds) == 1
    ]
    names = list(dict.fromkeys(option for chosen in options for option in chosen))
    by_group = {group.name: group.options for group in groups}
    differences = [
        Difference(option, {run.name: by_group[run.group].get(option, "None") for run in runs}) for option in names
    ]
    if len(seeds) > 1:
        differences.append(Difference("seed", {run.name: str(run.seed) for run in runs}))
    rows = [
        LooRow(
            run.name,
            "posterior",
            "digest",
            rank,
            -500.0 - 9 * rank,
            30.0,
            -9.0 * rank,
            4.0 * (rank > 0),
            33.0,
            0.5,
            900,
            rank,
        )
        for rank, run in enumerate(runs[:2])
    ]
    return RunComparison(
        runs=tuple(runs),
        differences=tuple(differences),
        groups=tuple(groups),
        reference=reference.name,
        pairs=tuple(pairs),
        mcnemar=tuple(tests),
        loo=tuple(rows) if loo else (),
        curves=tuple(curves),
        confusions=tuple(confusions),
        reliabilities=tuple(reliabilities),
        refusals=() if loo else tuple(refusals),
        versions={"python": "3.13.0", "torch": "2.16.0"},
    )


def single() -> RunComparison:
    """Two single runs of two priors, with LOO."""
    return comparison_of([{"prior": "StandardNormal"}, {"prior": "MixturePrior(10)"}], loo=True)


def seeds() -> RunComparison:
    """Three seeds of two presets."""
    return comparison_of([{}, {}], (0, 1, 2), presets=["digits", "digits_mlp2"])


def sweep() -> RunComparison:
    """Twelve cells under two measures."""
    grid = itertools.product(
        ("StandardNormal", "MixturePrior(n_components=10, covariance_type=diag)"),
        ("Bernoulli", "Gaussian(var_x=0.1, min_var=0.0001)"),
        ("2", "5", "10"),
    )
    return comparison_of([dict(zip(("prior", "likelihood", "latent_dim"), cell, strict=True)) for cell in grid])


def points() -> RunComparison:
    """Two runs on points without classes, one with an option in angle brackets."""
    return comparison_of([{"latent_dim": "1"}, {"latent_dim": "<script>alert(2)</script>"}], images=False)
