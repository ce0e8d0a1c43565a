"""Objectives of SVI: made from Pyro's ELBOs, or from a user's own loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor

from latentmix.inference.effects import Modules
from latentmix.inference.terms import Objective, Stochastic, Terms, data_count, data_plate
from latentmix.inference.twins import RenyiTwin, TraceEnumTwin, TraceMeanFieldTwin, TraceTwin

__all__ = ["CallableObjective", "Objective", "Stochastic", "Terms", "as_objective", "bound_of", "data_plate"]


def as_objective(objective: Objective | ELBO | Callable[..., Tensor]) -> Objective:
    """Make an objective from one of Pyro's ELBOs or from a callable.

    `Trace_ELBO`, `TraceMeanField_ELBO`, `TraceEnum_ELBO` and `RenyiELBO` get their twin; another ELBO, and a
    subclass of these, runs as it is. A callable `(model, guide, *batch) -> scalar loss` gives its own unit.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, ELBO):
        return _TWINS.get(type(objective), PyroObjective)(copy.copy(objective))
    if callable(objective):
        return CallableObjective(objective)
    raise ValueError(f"Expected an objective, a Pyro ELBO or a callable; got {type(objective).__name__}.")


def bound_of(objective: Objective) -> Objective:
    """What measures the ELBO at beta = 1 that belongs to an objective, by default `Trace_ELBO`."""
    bound = objective.bound()
    if bound is not None:
        return bound
    if isinstance(objective, PyroObjective) and isinstance(objective.elbo, TraceEnum_ELBO):
        return TraceEnumTwin(TraceEnum_ELBO(max_plate_nesting=objective.elbo.max_plate_nesting))
    return TraceTwin(Trace_ELBO())


class CallableObjective(Objective):
    """A user's own loss; it says nothing about the bound, which `fit` then measures by its `monitor`.

    Args:
        function: `(model, guide, *batch) -> scalar loss`, differentiable.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        loss = self.function(model, guide, *batch)
        if not isinstance(loss, Tensor) or loss.dim():
            raise ValueError(f"Expected a scalar tensor from the objective; got {loss!r:.80}.")
        return Terms(loss, None, None, None)


class _Sites(poutine.messenger.Messenger):
    """Keeps the sample sites and the leaves of whatever runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[Any] = []
        self.leaves: list[Tensor] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        self.sites.append({key: msg[key] for key in ("type", "is_observed", "cond_indep_stack")})

    def _pyro_post_param(self, msg: Any) -> None:
        self.leaves.append(msg["value"].unconstrained())


class PyroObjective(Objective):
    """An ELBO that has no twin: Pyro's own estimate and gradients, divided by the number of data."""

    def __init__(self, elbo: Any) -> None:
        self.elbo = elbo

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        with _Sites() as seen, torch.no_grad():
            loss = self.elbo.loss(model, guide, *batch)
        return self._per_datum(loss, data_count(seen.sites, batch))

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        with _Sites() as seen, Modules(model, guide, evaluation=False) as modules:
            loss = self.elbo.loss_and_grads(model, guide, *batch)
        count = data_count(seen.sites, batch)
        leaves = [*seen.leaves, *(leaf for module in modules.found.values() for leaf in module.parameters())]
        for leaf in {id(leaf): leaf for leaf in leaves}.values():
            if leaf.grad is not None:
                leaf.grad /= count
        return self._per_datum(loss, count)

    @staticmethod
    def _per_datum(loss: float | Tensor, count: int) -> Terms:
        value = torch.as_tensor(loss, dtype=torch.float64).detach() / count
        return Terms(value, -value, None, None)


_TWINS: dict[type, Callable[[ELBO], Objective]] = {
    Trace_ELBO: TraceTwin,
    TraceMeanField_ELBO: TraceMeanFieldTwin,
    TraceEnum_ELBO: TraceEnumTwin,
    RenyiELBO: RenyiTwin,
}
