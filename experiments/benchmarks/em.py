"""Speed and memory of EM beside other libraries: in one process, from one start, for equally many iterations."""

from __future__ import annotations

import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from latentmix.experiments.benchmarks.libraries import OURS, Fit, contestants
from latentmix.experiments.benchmarks.memory import grown
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.em.density import log_joint
from latentmix.models.mixture.covariances import CovarianceType, covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.process_state import kept_warnings
from latentmix.models.words import plural

__all__ = ["SIZES", "Contestant", "EMSpeed", "em_speed", "table"]

_LEAST_SECONDS = 0.02  # of one measurement

SIZES = ((60_000, 20, 10), (200_000, 10, 50), (1_000_000, 8, 10))


@dataclass(frozen=True)
class Contestant:
    """Figures of one library.

    Attributes:
        seconds: Time per iteration, without the start.
        ratio: `seconds` in units of ours.
        memory: Greatest growth of resident memory during a fit, in MiB; NaN if the system does not report it.
        log_likelihood: Mean log-likelihood of the data after all iterations, nats per datum.
    """

    seconds: float
    ratio: float
    memory: float
    log_likelihood: float


@dataclass(frozen=True)
class EMSpeed:
    """EM on one set of points.

    Attributes:
        size: Points, features and components.
        covariance_type: Structure of the covariances.
        dtype: Type of the points.
        threads: Threads of every library.
        load: Load average of the last minute before the comparison.
        turns: Number of measurements of each library.
        contestants: Figures by library.
        missing: Reasons why libraries were not measured, by library.
    """

    size: tuple[int, int, int]
    covariance_type: CovarianceType
    dtype: str
    threads: int
    load: float
    turns: int
    contestants: dict[str, Contestant]
    missing: dict[str, str]


def em_speed(
    *,
    sizes: Sequence[tuple[int, int, int]] = SIZES,
    covariance_types: Sequence[CovarianceType] = ("full",),
    iterations: int = 5,
    repeats: int = 3,
    seconds: float = 20.0,
    dtype: str = "float64",
    threads: int | None = None,
    report: Callable[[str], None] | None = None,
) -> Iterator[EMSpeed]:
    """Measure EM without a floor on the covariances, from points as means and the data's own variances.

    The time per iteration is the median difference between a fit of `iterations + 1` iterations and one of a single
    iteration, one after the other, divided by `iterations`. The libraries take turns; fits of less than 20 ms are
    repeated within a turn, and their median counts. scikit-learn's array API mode needs SCIPY_ARRAY_API=1
    in the environment before SciPy is imported.

    Args:
        sizes: Points, features and components of each comparison.
        covariance_types: Structures of the covariances.
        iterations: Timed iterations.
        repeats: Fewest measurements of each library, after one fit whose memory is measured.
        seconds: Least time of each comparison, because medians of a few short fits are noisy.
        dtype: "float64" or "float32".
        threads: Threads of every library; by default those of torch.
        report: Called with a line on each step.

    Returns:
        One comparison per size and covariance type, measured as they are asked for.

    Raises:
        ValueError: If a number is below one, there are fewer points than components, or the dtype or covariance type
            is unknown.
    """
    counts = [*(number for size in sizes for number in size), iterations, repeats, 1 if threads is None else threads]
    if min(counts) < 1:
        raise ValueError(f"Expected --sizes, --iterations, --repeats and --threads of at least 1; got {min(counts)}.")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"Expected --seconds finite and not negative; got {seconds}.")
    if dtype not in ("float64", "float32"):
        raise ValueError(f"Expected --dtype float64 or float32; got {dtype!r}.")
    for covariance_type in covariance_types:
        covariance_structure(covariance_type)
    for count, _, n_components in sizes:
        if count < n_components:
            raise ValueError(f"Expected as many points as components at least; got {count} for {n_components}.")
    number = torch.get_num_threads() if threads is None else threads
    return _rows(sizes, covariance_types, iterations, repeats, seconds, dtype, number, report)


def table(row: EMSpeed) -> str:
    """A comparison in lines of text."""
    count, n_features, n_components = row.size
    lines = [
        f"{count:,} x {n_features}, {plural(n_components, 'component')}, {row.covariance_type}, {row.dtype}, "
        f"{plural(row.threads, 'thread')}, load {row.load:.1f}, {plural(row.turns, 'turn')}",
        f"{'':26}{'s/iteration':>12}{'ratio':>8}{'MiB':>8}  mean log p(x)",
    ]
    lines += [
        f"  {name:24}{library.seconds:12.6f}{library.ratio:8.2f}{library.memory:8.0f}  {library.log_likelihood:.14g}"
        for name, library in row.contestants.items()
    ]
    return "\n".join([*lines, *(f"  {name}: {reason}" for name, reason in row.missing.items())])


def _rows(
    sizes: Sequence[tuple[int, int, int]],
    covariance_types: Sequence[CovarianceType],
    iterations: int,
    repeats: int,
    seconds: float,
    dtype: str,
    number: int,
    report: Callable[[str], None] | None,
) -> Iterator[EMSpeed]:
    done, total = 0, len(sizes) * len(covariance_types)
    for size in sizes:
        x = _points(*size).astype(dtype)
        for covariance_type in covariance_types:
            done += 1
            named = f"[{done}/{total}] {size[0]:,} x {size[1]}, {plural(size[2], 'component')}, {covariance_type}"

            def tell(step: str, named: str = named) -> None:
                if report is not None:
                    report(f"{named}: {step}")

            with _quiet(number):
                comparison = _compare(x, size, covariance_type, iterations, repeats, seconds, number, tell)
            yield comparison


def _compare(
    x: NDArray[Any],
    size: tuple[int, int, int],
    covariance_type: CovarianceType,
    iterations: int,
    repeats: int,
    least: float,
    threads: int,
    tell: Callable[[str], None],
) -> EMSpeed:
    load = os.getloadavg()[0]
    start = _start(x, size[2], covariance_type)
    fits, missing = contestants(start.structure)
    memory: dict[str, float] = {}
    log_likelihoods: dict[str, float] = {}
    for name in list(fits):
        tell(f"memory of {name}")
        try:
            fits[name](x, start, 1)  # imports and set-up are not measured
            fitted, memory[name] = grown(partial(fits[name], x, start, iterations + 1))
        except Exception as error:
            if name == OURS:
                raise
            missing[name] = f"failed: {error}".splitlines()[0]
            del fits[name]
            continue
        log_likelihoods[name] = _log_likelihood(x, fitted)
    seconds: dict[tuple[str, int], list[float]] = {}
    turn, began = 0, time.perf_counter()
    while turn < repeats or time.perf_counter() - began < least:
        turn += 1
        tell(f"times of all, turn {turn} ({repeats} at least)")
        for name, fit in fits.items():
            for number in (1, iterations + 1):
                seconds.setdefault((name, number), []).append(_seconds(fit, x, start, number))
    medians = {}
    for name in fits:
        first, full = seconds[name, 1], seconds[name, iterations + 1]
        difference = statistics.median(more - one for one, more in zip(first, full, strict=True))
        medians[name] = difference / iterations if difference > 0 else statistics.median(full) / (iterations + 1)
    figures = {
        name: Contestant(median, median / medians[OURS], memory[name], log_likelihoods[name])
        for name, median in medians.items()
    }
    return EMSpeed(size, covariance_type, str(x.dtype), threads, load, turn, figures, missing)


def _points(count: int, n_features: int, n_components: int) -> NDArray[np.float64]:
    """Overlapping clusters of different shapes."""
    random = np.random.default_rng(0)
    means = 3 * random.standard_normal((n_components, n_features))
    factors = np.eye(n_features) + 0.3 * random.standard_normal((n_components, n_features, n_features)) / n_features
    chosen = random.integers(n_components, size=count)
    x = random.standard_normal((count, n_features))
    for k in range(n_components):
        rows = chosen == k
        x[rows] = x[rows] @ factors[k].T + means[k]
    return x


def _start(x: NDArray[Any], n_components: int, covariance_type: CovarianceType) -> MixtureParameters:
    """Points of the data as means, and the variances of the data."""
    structure = covariance_structure(covariance_type)
    rows = np.random.default_rng(1).choice(len(x), n_components, replace=False)
    means = torch.from_numpy(x[rows]).double()
    variance = torch.from_numpy(x.var(0, dtype=np.float64))
    shape = structure.covariance_shape(*means.shape)
    covariances = structure.regularize(torch.zeros(shape, dtype=torch.float64), variance)
    weights = torch.full((n_components,), 1 / n_components, dtype=torch.float64)
    return MixtureParameters(weights, means, covariances, structure)


def _log_likelihood(x: NDArray[Any], parameters: MixtureParameters) -> float:
    weights = parameters.weights / parameters.weights.sum()
    parameters = MixtureParameters(weights, parameters.means, parameters.covariances, parameters.structure)
    parts: list[Tensor] = [log_joint(part, parameters).logsumexp(1).sum() for part in torch.from_numpy(x).split(10_000)]
    return float(torch.stack(parts).sum() / len(x))


def _seconds(fit: Fit, x: NDArray[Any], start: MixtureParameters, iterations: int) -> float:
    taken: list[float] = []
    while sum(taken) < _LEAST_SECONDS:
        begin = time.perf_counter()
        fit(x, start, iterations)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """A block with that many threads in every library and without warnings; the state of the process is restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with isolated(seed=0), threadpool_limits(threads), kept_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)
