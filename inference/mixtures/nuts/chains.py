"""Chains of Pyro's No-U-Turn sampler, in this process or in several."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.ops.integrator import velocity_verlet
from tqdm.auto import tqdm

from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.potential.potential import WhitenedPotential
from latentmix.inference.mixtures.potential.unconstrained import Array
from latentmix.inference.workers import tied

__all__ = ["Chain", "Settings", "leapfrog_seconds", "one_thread", "run_chains"]

# Pyro's first window of 25 draws cannot estimate a larger dense mass matrix: it shrinks the rest of it towards a
# thousandth of the variance in whitened coordinates, and trees grow to their greatest depth.
_DENSE = 12
_POLL = 0.5


@dataclass(frozen=True)
class Settings:
    """Settings of each chain.

    Args:
        draws: Draws after the warmup.
        warmup: Draws in which step size and mass matrix adapt.
        target_accept: Acceptance probability targeted by the adaptation of the step size.
        max_tree_depth: Greatest number of doublings of a trajectory.
        jitter: Standard deviation of a chain's start about the origin of the whitened coordinates.
    """

    draws: int
    warmup: int
    target_accept: float
    max_tree_depth: int
    jitter: float


@dataclass(frozen=True)
class Chain:
    """One chain after its warmup.

    Attributes:
        positions: `draws x size` unconstrained values.
        divergences: Draws in which the integrator diverged.
        step_size: After the warmup, in whitened coordinates.
        n_gradients: Evaluations of the gradient.
        cut: Number of draws whose trajectory was cut at the greatest depth.
        statistics: Of each draw, `(draws,)`, see `RecordingNUTS`; densities and energies are those of the whitened
            coordinates.
    """

    positions: Array
    divergences: int
    step_size: float
    n_gradients: int
    cut: int
    statistics: dict[str, NDArray[Any]]


def run_chains(
    potentials: Sequence[WhitenedPotential],
    seeds: Sequence[int],
    settings: Settings,
    *,
    processes: int = 1,
    progress: bool = False,
) -> list[Chain]:
    """Run one chain for each potential and seed; the draws do not depend on the number of processes."""
    steps = settings.draws + settings.warmup
    pairs = list(zip(potentials, seeds, strict=True))
    with tqdm(total=steps * len(pairs), disable=not progress, desc="NUTS", unit=" draws") as bar:
        if processes == 1:
            return [_chain(potential, seed, settings, bar.update) for potential, seed in pairs]
        import joblib

        with _counted(bar, len(pairs)) as counters:
            chain = joblib.delayed(tied(_chain))
            jobs = (chain(*pair, settings, count) for pair, count in zip(pairs, counters, strict=True))
            return list(joblib.Parallel(n_jobs=processes, backend="loky")(jobs))


def leapfrog_seconds(potential: WhitenedPotential, steps: int = 10) -> float:
    """Seconds of a leapfrog step from the centre, the minimum of several."""
    timed = WhitenedPotential(potential.potential, potential.centre, potential.basis)
    at = {"position": torch.zeros(len(potential.centre), dtype=torch.float64)}
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        velocity_verlet(at, at, timed, lambda momentum: momentum, 0.1)
        taken.append(time.perf_counter() - began)
    return min(taken)


class _Counter:
    """Counts the draws of a chain in a file that the waiting process reads."""

    def __init__(self, path: str, place: int) -> None:
        self.path, self.place = path, place

    def __call__(self) -> None:
        counts = np.memmap(self.path, dtype=np.int64, mode="r+")
        counts[self.place] += 1


@contextmanager
def _counted(bar: Any, chains: int) -> Iterator[list[_Counter | None]]:
    """Counters of chains in other processes, by which the progress bar advances; `None` if it is disabled."""
    if bar.disable:
        yield [None] * chains
        return
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "draws")
        counts = np.memmap(path, dtype=np.int64, mode="w+", shape=(chains,))
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(_POLL):
                bar.update(int(counts.sum()) - bar.n)

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield [_Counter(path, place) for place in range(chains)]
        finally:
            ended.set()
            follower.join()
            bar.update(int(counts.sum()) - bar.n)


def _chain(
    potential: WhitenedPotential, seed: int, settings: Settings, count: Callable[[], object] | None = None
) -> Chain:
    from latentmix.inference.datatree.recording import STATISTICS, RecordingNUTS

    size = len(potential.centre)
    with isolated(seed=seed, validation=False), one_thread():
        position = settings.jitter * torch.randn(size, dtype=torch.float64)
        while not math.isfinite(potential.value_and_gradient(position.numpy())[0]):
            position = position / 2
        kernel = RecordingNUTS(  # type: ignore[no-untyped-call]
            potential_fn=potential,
            full_mass=size <= _DENSE,
            target_accept_prob=settings.target_accept,
            max_tree_depth=settings.max_tree_depth,
        )
        values = {"position": position}
        kernel.initial_params = values
        kernel.setup(settings.warmup)
        drawn = np.empty((settings.draws, size))
        cut, longest = 0, 2**settings.max_tree_depth - 1
        for step in range(settings.warmup + settings.draws):
            before = potential.n_gradients
            values = kernel.sample(values)
            if step >= settings.warmup:
                drawn[step - settings.warmup] = values["position"].numpy()
                cut += potential.n_gradients - before >= longest
            if count is not None:
                count()
        diagnostics = kernel.diagnostics()
        return Chain(
            positions=potential.unwhitened(drawn),
            divergences=len(diagnostics["divergences"]),
            step_size=float(kernel.step_size),
            n_gradients=potential.n_gradients,
            cut=cut,
            statistics=diagnostics[STATISTICS]["sample_stats"],
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Restrict torch to one thread in the block: results agree between processes, and small sums are faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
