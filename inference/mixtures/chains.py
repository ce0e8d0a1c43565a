"""Chains of Pyro's No-U-Turn sampler, in this process or in several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import torch
from pyro.infer import NUTS
from tqdm.auto import tqdm

from latentmix.inference.effects import isolated
from latentmix.inference.mixtures.potential import WhitenedPotential
from latentmix.inference.mixtures.unconstrained import Array

__all__ = ["Chain", "Settings", "one_thread", "run_chains"]

_DENSE = 200


@dataclass(frozen=True)
class Settings:
    """How each chain runs.

    Args:
        draws: Draws after the warmup.
        warmup: Draws that adapt step size and mass matrix.
        target_accept: Acceptance probability that the step size is adapted to.
        max_tree_depth: Most doublings of a trajectory.
        jitter: Standard deviations of the whitened coordinates by which a chain starts away from their origin.
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
    """

    positions: Array
    divergences: int
    step_size: float
    n_gradients: int


def run_chains(
    potentials: Sequence[WhitenedPotential],
    seeds: Sequence[int],
    settings: Settings,
    *,
    processes: int = 1,
    progress: bool = False,
) -> list[Chain]:
    """Run a chain for each potential, from its own seed: the draws are the same however many processes run them."""
    steps = settings.draws + settings.warmup
    pairs = list(zip(potentials, seeds, strict=True))
    with tqdm(total=steps * len(pairs), disable=not progress, desc="NUTS", unit="draw") as bar:
        if processes == 1:
            return [_chain(potential, seed, settings, bar) for potential, seed in pairs]
        jobs = (joblib.delayed(_chain)(potential, seed, settings) for potential, seed in pairs)
        found = []
        for chain in joblib.Parallel(n_jobs=processes, backend="loky", return_as="generator")(jobs):
            found.append(chain)
            bar.update(steps)
        return found


def _chain(potential: WhitenedPotential, seed: int, settings: Settings, bar: Any = None) -> Chain:
    size = len(potential.centre)
    with isolated(seed=seed, validation=False), one_thread():
        position = settings.jitter * torch.randn(size, dtype=torch.float64)
        while not math.isfinite(potential.value_and_gradient(position.numpy())[0]):
            position = position / 2
        kernel = NUTS(
            potential_fn=potential,
            full_mass=size <= _DENSE,
            target_accept_prob=settings.target_accept,
            max_tree_depth=settings.max_tree_depth,
        )
        values = {"position": position}
        kernel.initial_params = values
        kernel.setup(settings.warmup)
        found = np.empty((settings.draws, size))
        for step in range(settings.warmup + settings.draws):
            values = kernel.sample(values)
            if step >= settings.warmup:
                found[step - settings.warmup] = values["position"].numpy()
            if bar is not None:
                bar.update()
        divergences = len(kernel.diagnostics()["divergences"])
        return Chain(potential.unwhitened(found), divergences, float(kernel.step_size), potential.n_gradients)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch inside the block: sums come out the same in any process, and small ones sooner."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
