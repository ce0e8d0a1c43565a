"""Intervals over seeds and of paired differences cover what they claim, and McNemar's test alarms no more often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from latentmix.inference import mcnemar_test, mean_interval, paired_interval

from tests.verify.registry import Figures, proof

LEVEL = 0.9
FALSE_ALARM = 0.01
SEEDS = (2, 3, 5, 10)
IMAGES = (100, 1000)

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int], tuple[Array, Array, float]]


def nats(rng: np.random.Generator, seeds: int, images: int) -> tuple[Array, Array, float]:
    """ELBOs of two groups of runs on the same images, and the true difference of their expectations.

    An image has its own difficulty, and its own gain from the second configuration; a run has its own luck, of which
    the first configuration has thrice the second's; the rest is noise of a run on an image.
    """
    difficulty = 30.0 * rng.standard_t(5, images)
    gain = 2.0 + 3.0 * rng.standard_normal(images)
    first = -100.0 + difficulty + 1.5 * rng.standard_normal((seeds, 1)) + 2.0 * rng.standard_normal((seeds, images))
    second = -100.0 + difficulty + gain + 0.5 * rng.standard_normal((seeds, 1))
    return first, second + 2.0 * rng.standard_normal((seeds, images)), -2.0


def correct(rng: np.random.Generator, seeds: int, images: int) -> tuple[Array, Array, float]:
    """Whether each of two groups of runs, of one distribution, classifies the same images rightly."""
    difficulty = 2.0 + 2.0 * rng.standard_normal(images)

    def group() -> Array:
        luck = 0.4 * rng.standard_normal((seeds, 1))
        return (rng.random((seeds, images)) < 1 / (1 + np.exp(-difficulty - luck))).astype(np.float64)

    return group(), group(), 0.0


DRAWS: dict[str, Draw] = {"nats": nats, "correct": correct}


def covered_means(repetitions: int, seeds: int, rng: np.random.Generator) -> int:
    """How many of so many t intervals over seeds cover the expectation of a figure."""
    intervals = [mean_interval(-250.0 + 3.0 * rng.standard_normal(seeds), LEVEL) for _ in range(repetitions)]
    return sum(bool(interval.low <= -250.0 <= interval.high) for interval in intervals)


def covered_pairs(
    draw: Draw, repetitions: int, seeds: int, images: int, rng: np.random.Generator, *, pooled: bool = True
) -> int:
    """How many of so many paired intervals cover the true difference.

    Args:
        draw: Draws figures of two groups of runs, and gives their true difference.
        repetitions: Number of intervals.
        seeds: Runs of each group.
        images: Test images.
        rng: Generator.
        pooled: Whether the variance over seeds counts; else the means over runs are taken for single runs.
    """
    covered = 0
    for _ in range(repetitions):
        first, second, truth = draw(rng, seeds, images)
        interval = (
            paired_interval(first, second, LEVEL) if pooled else paired_interval(first.mean(0), second.mean(0), LEVEL)
        )
        covered += bool(interval.low <= truth <= interval.high)
    return covered


def covered_runs(repetitions: int, images: int, rng: np.random.Generator) -> int:
    """How many intervals of two single runs cover the difference of these two runs on new images."""
    covered = 0
    for _ in range(repetitions):
        luck = 1.5 * rng.standard_normal()
        difficulty, gain = 30.0 * rng.standard_t(5, images), 3.0 * rng.standard_normal(images)
        interval = paired_interval(difficulty + luck + gain, difficulty, LEVEL)
        covered += bool(interval.low <= luck <= interval.high)
    return covered


def mcnemar_alarms(repetitions: int, images: int, rng: np.random.Generator) -> int:
    """How often McNemar's test of two classifiers of one accuracy has a p-value of 1 - LEVEL or less."""
    alarms = 0
    for _ in range(repetitions):
        easy = rng.random(images) < 0.7
        first, second = (easy | (rng.random(images) < 0.5) for _ in range(2))
        alarms += bool(mcnemar_test(first, second).p_value <= 1 - LEVEL)
    return alarms


def check(repetitions: int, seed: int = 0) -> dict[str, Any]:
    """Rates of all checks, and those that lie below what is claimed by more than chance.

    All bounds together have a false alarm of `FALSE_ALARM`: each is a binomial quantile of its share. Intervals over
    seeds and of single runs are exact, and bounded on both sides; those over seeds and images may cover more, and
    McNemar's exact test may alarm less.
    """
    rng = np.random.default_rng(seed)
    exact = {f"mean, {seeds} seeds": covered_means(repetitions, seeds, rng) for seeds in SEEDS}
    exact |= {f"two runs, {images} images": covered_runs(repetitions, images, rng) for images in IMAGES}
    at_least = {
        f"{name}, {seeds} seeds, {images} images": covered_pairs(draw, repetitions, seeds, images, rng)
        for name, draw in DRAWS.items()
        for seeds in SEEDS
        for images in IMAGES
    }
    alarms = {f"McNemar, {images} images": mcnemar_alarms(repetitions, images, rng) for images in IMAGES}
    share = FALSE_ALARM / (2 * len(exact) + len(at_least) + len(alarms))
    low, high = binom.ppf(share, repetitions, LEVEL), binom.isf(share, repetitions, LEVEL)
    most = binom.isf(share, repetitions, 1 - LEVEL)
    naive = covered_pairs(nats, repetitions, 3, 1000, rng, pooled=False)
    wrong = [name for name, count in exact.items() if not low <= count <= high]
    wrong += [name for name, count in at_least.items() if count < low]
    wrong += [name for name, count in alarms.items() if count > most]
    return {
        "passed": not wrong and bool(naive < low),
        "wrong": wrong,
        "covered": {name: count / repetitions for name, count in {**exact, **at_least}.items()},
        "bounds": [float(low / repetitions), float(high / repetitions)],
        "alarms": {name: count / repetitions for name, count in alarms.items()},
        "most alarms": float(most / repetitions),
        "covered without the variance over seeds": naive / repetitions,
    }


@proof()
def intervals_cover() -> Figures:
    """Intervals of 90% over seeds, of paired differences, and McNemar's test hold on 200 simulated comparisons each.

    Numbers of seeds are 2, 3, 5 and 10, of test images 100 and 1000; all bounds together have a false alarm of 1%. An
    interval that leaves the variance over seeds out fails the same bound.
    """
    return check(200)
