"""HMC and NUTS that record the statistics of every draw: energy, step size, acceptance, divergence and number of
steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.infer import HMC, NUTS
from torch import Tensor

__all__ = ["STATISTICS", "RecordingHMC", "RecordingNUTS"]

STATISTICS = "sample_stats"
"""Key of the record in the kernel's `diagnostics()`, and so in `MCMC.diagnostics()`."""

_Row = dict[str, float | int | bool]


class _Transition:
    """One transition: the energy at its start, and what its trajectory passed through."""

    def __init__(self, step_size: float, start: dict[str, Tensor], energy: Tensor) -> None:
        self.step_size = float(step_size)
        self.start = start
        self.energy = energy
        self.steps = 0
        self.acceptance: Tensor | float = 0.0
        self.diverging = False

    def acceptance_rate(self) -> float:
        """Acceptance probability, averaged over the points of the trajectory."""
        return float(self.acceptance)


class _Tree(_Transition):
    """A transition of NUTS: the depth of its tree, and the energies of the leaves, by the identity of their
    position.
    """

    depth = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.energies: dict[int, Tensor] = {}

    def acceptance_rate(self) -> float:
        return super().acceptance_rate() / self.steps


class _Trajectory(_Transition):
    """A transition of HMC: the energy at its end, computed from the second kinetic energy that HMC asks for."""

    asked = 0
    proposal: Tensor | None = None


class _Recording:
    """Records each transition of the kernel that it is mixed into, by methods that the kernel calls in between.

    Nothing random is drawn and nothing of the kernel's is changed, so that a seed gives the same draws with and
    without.
    """

    _kind: type[_Transition]

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        self._rows: list[_Row] = []
        self._warmup_draws: dict[str, list[Tensor]] = {}
        self._transition: _Transition | None = None
        super().setup(warmup_steps, *args, **kwargs)  # type: ignore[misc]

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        warmup = self._t < self._warmup_steps  # type: ignore[attr-defined]
        self._forget()
        draw: dict[str, Tensor] = super().sample(params)  # type: ignore[misc]
        if self._transition is not None:
            self._rows.append(self._row(self._transition))
        if warmup:
            for name in getattr(self, "save_params", sorted(draw)):
                self._warmup_draws.setdefault(name, []).append(draw[name].detach())
        return draw

    def _sample_r(self, name: str) -> tuple[dict[Any, Tensor], dict[Any, Tensor]]:
        r, r_unscaled = super()._sample_r(name)  # type: ignore[misc]
        if name.startswith("r_t="):  # the momentum of a transition; others belong to the search for a step size
            energy = self._potential_energy_last + self._kinetic_energy(r_unscaled)  # type: ignore[attr-defined]
            self._transition = self._kind(self.step_size, self._z_last, energy.detach())  # type: ignore[attr-defined]
        return r, r_unscaled

    def _row(self, transition: Any) -> _Row:
        return {
            "lp": -float(self._potential_energy_last),  # type: ignore[attr-defined]
            "energy": float(self._final_energy(transition)),
            "step_size": transition.step_size,
            "acceptance_rate": transition.acceptance_rate(),
            "diverging": transition.diverging,
            "n_steps": transition.steps,
        }

    def _forget(self) -> None:
        self._transition = None

    def _final_energy(self, transition: Any) -> Tensor:
        raise NotImplementedError

    def diagnostics(self) -> dict[str, Any]:
        diagnostics: dict[str, Any] = super().diagnostics()  # type: ignore[misc]
        warmup: int = self._warmup_steps  # type: ignore[attr-defined]
        record = {
            "sample_stats": _columns(self._rows[warmup:]),
            "warmup_sample_stats": _columns(self._rows[:warmup]),
            "warmup_draws": {name: torch.stack(draws).cpu().numpy() for name, draws in self._warmup_draws.items()},
        }
        return {**diagnostics, STATISTICS: record}

    def cleanup(self) -> None:
        super().cleanup()  # type: ignore[misc]
        self._rows, self._warmup_draws, self._transition = [], {}, None


def _columns(rows: list[_Row]) -> dict[str, NDArray[Any]]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}


class RecordingNUTS(_Recording, NUTS):
    """Pyro's NUTS, with the statistics of every draw recorded; a drop-in that gives the same draws for the same seed.

    `from_pyro` puts the record into the groups `sample_stats` and `warmup_sample_stats`, and the draws of the warmup
    into `warmup_posterior`. Per draw:

    | name | quantity |
    |---|---|
    | `lp` | log density of the draw in unconstrained coordinates, minus the potential energy |
    | `energy` | Hamiltonian at the point that the trajectory selected, with its momentum |
    | `tree_depth` | doublings of the trajectory that were completed; `reached_max_tree_depth` if as many as allowed |
    | `step_size` | step size of the leapfrog integrator in this transition |
    | `acceptance_rate` | Metropolis acceptance probability, averaged over the trajectory |
    | `diverging` | whether the energy rose by more than 1,000 |
    | `n_steps` | leapfrog steps |

    Args:
        args, kwargs: Those of `pyro.infer.NUTS`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC
        >>> from latentmix.inference import RecordingNUTS, from_pyro
        >>> def model():
        ...     pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> mcmc = MCMC(RecordingNUTS(model), num_samples=20, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> from_pyro(mcmc).sample_stats["energy"].shape
        (1, 20)
    """

    _kind = _Tree
    _transition: _Tree

    def _build_basetree(self, *args: Any) -> Any:
        leaf = super()._build_basetree(*args)  # type: ignore[no-untyped-call]
        tree = self._transition
        tree.steps += 1
        tree.acceptance = tree.acceptance + leaf.sum_accept_probs.detach()
        tree.diverging |= bool(leaf.diverging)
        kinetic = self._kinetic_energy(leaf.r_left_unscaled)  # type: ignore[no-untyped-call]
        tree.energies[id(leaf.z_proposal)] = leaf.z_proposal_pe + kinetic
        return leaf

    def _build_tree(
        self, z: Any, r: Any, z_grads: Any, log_slice: Any, direction: Any, tree_depth: int, energy_current: Any
    ) -> Any:
        arguments = (z, r, z_grads, log_slice, direction, tree_depth, energy_current)
        tree = super()._build_tree(*arguments)  # type: ignore[no-untyped-call]
        if tree_depth == self._transition.depth and not (tree.turning or tree.diverging):  # its subtrees are lower
            self._transition.depth += 1
        return tree

    def _final_energy(self, transition: Any) -> Tensor:
        tree: _Tree = transition
        return tree.energies.get(id(self._z_last), tree.energy)

    def _row(self, transition: Any) -> _Row:
        depth: int = transition.depth
        reached = depth >= self._max_tree_depth
        return {**super()._row(transition), "tree_depth": depth, "reached_max_tree_depth": reached}


class RecordingHMC(_Recording, HMC):
    """Pyro's HMC, with the statistics of every draw recorded; a drop-in that gives the same draws for the same seed.

    The record is that of `RecordingNUTS` without the depth of the tree: HMC has none.

    Args:
        args, kwargs: Those of `pyro.infer.HMC`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC
        >>> from latentmix.inference import RecordingHMC, from_pyro
        >>> def model():
        ...     pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> mcmc = MCMC(RecordingHMC(model), num_samples=20, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> sorted(from_pyro(mcmc).sample_stats)
        ['acceptance_rate', 'diverging', 'energy', 'lp', 'n_steps', 'step_size']
    """

    _kind = _Trajectory
    _transition: _Trajectory

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        potential_fn: Callable[[dict[str, Tensor]], Tensor] = self.potential_fn

        def remembered(z: dict[str, Tensor]) -> Tensor:
            self._potential = torch.tensor(torch.nan)  # stays where the potential raises, which HMC takes for NaN
            potential = potential_fn(z)
            self._potential = potential.detach()
            return potential

        self.potential_fn = remembered
        try:
            return super().sample(params)
        finally:
            self.potential_fn = potential_fn

    def _kinetic_energy(self, r_unscaled: dict[Any, Tensor]) -> Tensor:
        kinetic: Tensor = super()._kinetic_energy(r_unscaled)  # type: ignore[no-untyped-call]
        trajectory = self._transition
        if trajectory is not None:
            trajectory.asked += 1
            if trajectory.asked == 2:
                self._finish(trajectory, kinetic + self._potential)
        return kinetic

    def _finish(self, trajectory: _Trajectory, energy: Tensor) -> None:
        rise = energy - trajectory.energy
        rise = torch.where(rise.isnan(), torch.inf, rise)
        trajectory.proposal = energy
        trajectory.steps = self.num_steps
        trajectory.acceptance = (-rise).exp().clamp(max=1.0)
        trajectory.diverging = bool(rise > self._max_sliced_energy)

    def _final_energy(self, transition: Any) -> Tensor:
        trajectory: _Trajectory = transition
        accepted = self._z_last is not trajectory.start
        return trajectory.proposal if accepted and trajectory.proposal is not None else trajectory.energy
