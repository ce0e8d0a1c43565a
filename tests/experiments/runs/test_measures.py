"""Figures of samples are in the units of the data."""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.runs.measures import measure_samples


def test_standardised_samples_are_compared_in_the_units_of_the_truth() -> None:
    points = Data("gmm3d", points=500, standardise=True).load()
    assert points.truth is not None

    def generate(count: int, *, mean: bool, seed: int) -> Tensor:
        return points.validation.x.repeat(2, 1)[:count]

    figures = measure_samples(SimpleNamespace(generate=generate), points, points.truth, seed=0)  # type: ignore[arg-type]
    assert figures["covered"] == 10
    assert figures["outside"] < 0.05
