"""Objectives of SVI: made from Pyro's ELBOs, or from a user's own loss."""

from __future__ import annotations

import copy
from collections.abc import Callable

from pyro.infer import (
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.elbo import ELBO
from torch import Tensor

from latentmix.inference.objectives.pyro_elbos import PyroObjective
from latentmix.inference.objectives.terms import Objective, Stochastic, Terms, data_plate
from latentmix.inference.objectives.twins import RenyiTwin, TraceEnumTwin, TraceMeanFieldTwin, TraceTwin

__all__ = [
    "CallableObjective",
    "Objective",
    "Stochastic",
    "Terms",
    "as_objective",
    "bound_of",
    "data_plate",
    "reporter_of",
]


def as_objective(objective: Objective | ELBO | Callable[..., Tensor]) -> Objective:
    """Make an objective from one of Pyro's ELBOs or from a callable.

    `Trace_ELBO`, `TraceMeanField_ELBO`, `TraceEnum_ELBO` and `RenyiELBO` get their twin; another ELBO, and a
    subclass of these, runs as it is. `JitTrace_ELBO` and its like run as their equals that are not compiled. A
    callable `(model, guide, *batch) -> scalar loss` gives its own unit.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, ELBO):
        elbo = _eager(objective)
        return _TWINS.get(type(elbo), PyroObjective)(elbo)
    if isinstance(objective, type):
        raise ValueError(
            f"Expected an objective; got the class {objective.__name__}: make one, {objective.__name__}()."
        )
    if callable(objective):
        return CallableObjective(objective)
    raise ValueError(f"Expected an objective, a Pyro ELBO or a callable; got {type(objective).__name__}.")


def bound_of(objective: Objective) -> Objective:
    """What measures the ELBO at beta = 1 that belongs to an objective, by default `Trace_ELBO`."""
    bound = objective.bound()
    if bound is not None:
        return bound
    if isinstance(objective, PyroObjective) and isinstance(objective.elbo, TraceEnum_ELBO):
        nesting = objective.elbo.max_plate_nesting
        return TraceEnumTwin(TraceEnum_ELBO(max_plate_nesting=nesting, strict_enumeration_warning=False))
    return TraceTwin(Trace_ELBO())


def reporter_of(monitor: Objective | ELBO) -> Objective:
    """What measures the ELBO at beta = 1 for one who names an objective for it."""
    objective = as_objective(monitor)
    return objective.bound() or objective


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


_TWINS: dict[type, Callable[[ELBO], Objective]] = {
    Trace_ELBO: TraceTwin,
    TraceMeanField_ELBO: TraceMeanFieldTwin,
    TraceEnum_ELBO: TraceEnumTwin,
    RenyiELBO: RenyiTwin,
}
_COMPILED: dict[type, type] = {
    JitTrace_ELBO: Trace_ELBO,
    JitTraceMeanField_ELBO: TraceMeanField_ELBO,
    JitTraceEnum_ELBO: TraceEnum_ELBO,
    JitTraceGraph_ELBO: TraceGraph_ELBO,
}


def _eager(elbo: ELBO) -> ELBO:
    """A copy, not compiled: TorchScript would fix the length of a minibatch."""
    copied = copy.copy(elbo)
    if type(elbo) in _COMPILED:
        copied.__class__ = _COMPILED[type(elbo)]
    return copied
