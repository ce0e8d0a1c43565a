"""Objectives made from Pyro's ELBOs and from a user's own loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import (
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
)
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

from latentmix.inference.isolation import Modules
from latentmix.inference.objectives.base import Objective, Stochastic, Terms, data_count, data_plate
from latentmix.inference.objectives.elbos import (
    EnumObjective,
    MeanFieldObjective,
    RenyiObjective,
    TraceObjective,
    check_sampled,
)

__all__ = [
    "IMPORTANCE_WEIGHTED",
    "CallableObjective",
    "PyroObjective",
    "as_objective",
    "bound_of",
    "reporter_of",
]

AVERAGE = "__baseline_avg_downstream_cost_"  # Pyro's prefix of the names of running averages that serve as baselines
WHOLE_DATA = (ReweightedWakeSleep, TraceTailAdaptive_ELBO)  # particles are weighted by p / q of all data
IMPORTANCE_WEIGHTED = (*WHOLE_DATA, TraceTMC_ELBO, RenyiELBO)

_OBJECTIVES: dict[type, Callable[[ELBO], Objective]] = {
    Trace_ELBO: TraceObjective,
    TraceMeanField_ELBO: MeanFieldObjective,
    TraceEnum_ELBO: EnumObjective,
    RenyiELBO: RenyiObjective,
}
_COMPILED: dict[type, type] = {
    JitTrace_ELBO: Trace_ELBO,
    JitTraceMeanField_ELBO: TraceMeanField_ELBO,
    JitTraceEnum_ELBO: TraceEnum_ELBO,
    JitTraceGraph_ELBO: TraceGraph_ELBO,
}


def as_objective(objective: Objective | ELBO | Callable[..., Tensor]) -> Objective:
    """Convert one of Pyro's ELBOs, or a callable, to an objective.

    `Trace_ELBO`, `TraceMeanField_ELBO`, `TraceEnum_ELBO` and `RenyiELBO` have objectives of their own, see
    `latentmix.inference.objectives.elbos`; other ELBOs, and subclasses of these, run Pyro's own code. `JitTrace_ELBO`
    and its like run without compilation.

    Args:
        objective: An objective, which is returned as it is, an ELBO, which is copied, or a callable
            `(model, guide, *batch) -> scalar loss` in any unit.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from latentmix.inference import as_objective
        >>> type(as_objective(Trace_ELBO())).__name__
        'TraceObjective'
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, ELBO):
        elbo = _eager(objective)
        return _OBJECTIVES.get(type(elbo), PyroObjective)(elbo)
    if isinstance(objective, type):
        raise ValueError(
            f"Expected an objective; got the class {objective.__name__}: make one, {objective.__name__}()."
        )
    if callable(objective):
        return CallableObjective(objective)
    raise ValueError(f"Expected an objective, a Pyro ELBO or a callable; got {type(objective).__name__}.")


def _eager(elbo: ELBO) -> ELBO:
    """A copy without compilation: TorchScript would fix the length of a minibatch."""
    copied = copy.copy(elbo)
    if type(elbo) in _COMPILED:
        copied.__class__ = _COMPILED[type(elbo)]
    return copied


def bound_of(objective: Objective) -> Objective:
    """The objective that measures the ELBO at beta = 1 for another one; `Trace_ELBO`'s unless it names its own.

    Args:
        objective: The objective that is minimised.
    """
    bound = objective.bound()
    if bound is not None:
        return bound
    if isinstance(objective, PyroObjective) and isinstance(objective.elbo, TraceEnum_ELBO):
        nesting = objective.elbo.max_plate_nesting
        return EnumObjective(TraceEnum_ELBO(max_plate_nesting=nesting, strict_enumeration_warning=False))
    return TraceObjective(Trace_ELBO())


def reporter_of(monitor: Objective | ELBO) -> Objective:
    """The objective that measures the ELBO at beta = 1 for a monitor that the user names; else the monitor itself.

    Args:
        monitor: An objective or one of Pyro's ELBOs.
    """
    objective = as_objective(monitor)
    return objective.bound() or objective


class CallableObjective(Objective):
    """A user's own loss. It does not report an ELBO; `fit` measures one by its `monitor`.

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


class PyroObjective(Objective):
    """An ELBO in Pyro's own code: its estimate and gradients, divided by the number of data.

    Where its loss is not the negative ELBO (a tighter bound, another divergence, gradients without a value), `bound`
    measures the ELBO. The running averages that serve as baselines of `TraceGraph_ELBO` are buffers of `modules`, as
    in Pyro's parameter store they would count as parameters; a shorter minibatch uses the first entries of them.

    Args:
        elbo: The ELBO.
    """

    def __init__(self, elbo: Any) -> None:
        self.elbo = elbo
        self.averages = nn.Module()
        self.modules = (self.averages,)

    def bound(self) -> Objective | None:
        """See `Objective.bound`."""
        if isinstance(self.elbo, TraceTMC_ELBO):
            elbo = TraceEnum_ELBO(max_plate_nesting=self.elbo.max_plate_nesting, strict_enumeration_warning=False)
            return EnumObjective(elbo)
        if isinstance(self.elbo, (*WHOLE_DATA, Trace_MMD)):
            return TraceObjective(Trace_ELBO())
        return None

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        if isinstance(self.elbo, TraceTailAdaptive_ELBO):
            raise ValueError(
                f"Expected an ELBO with a value; got {self._name}, which has gradients alone: evaluate Trace_ELBO."
            )
        with _Run(self.averages) as run, torch.no_grad():
            loss = self.elbo.loss(model, guide, *batch)
        return self._per_datum(loss, data_count(run.sites, len(batch[0])))

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.backward`."""
        with _Run(self.averages) as run, Modules(model, guide, evaluation=False) as modules:
            loss = self.elbo.loss_and_grads(model, guide, *batch)
        count = data_count(run.sites, len(batch[0]))
        for leaf in _leaves(run, modules):
            if leaf.grad is not None:
                leaf.grad /= count
        return self._per_datum(loss, count)

    def rehearse(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> None:
        """See `Objective.rehearse`: gradients without an optimizer, which are discarded."""
        for name, _ in list(self.averages.named_buffers()):
            delattr(self.averages, name)
        if not isinstance(self.elbo, TraceEnum_ELBO | TraceTMC_ELBO):
            guide_trace = poutine.trace(guide).get_trace(*batch)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
            check_sampled(model_trace, guide_trace, self._name)
        try:
            with _Run(self.averages) as run, Modules(model, guide) as modules:
                self.elbo.loss_and_grads(model, guide, *batch)
        except ValueError:
            raise
        except Exception as error:  # Pyro asserts, or raises other errors, on a model that an ELBO does not accept
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if isinstance(self.elbo, ReweightedWakeSleep) and self.elbo.insomnia < 1:
                reason += " (its sleep phase calls guide(*batch, observations=...); insomnia=1 leaves it out)"
            raise ValueError(f"Expected a model and a guide that {self._name} takes; got {reason}") from error
        for leaf in _leaves(run, modules):
            leaf.grad = None
        for average in self.averages.buffers():
            average.zero_()
        plate = data_plate(run.sites, len(batch[0]))
        if isinstance(self.elbo, WHOLE_DATA) and plate is not None and plate.full_size not in (None, plate.size):
            raise ValueError(
                f"Expected all {plate.full_size} data in one step for {self._name}, which weighs particles by p / q of "
                f"all of them; got a subsample of {plate.size}: leave batch_size out, or use Trace_ELBO."
            )

    @property
    def _name(self) -> str:
        return type(self.elbo).__name__

    def _per_datum(self, loss: Any, count: float) -> Terms:
        parts = loss if isinstance(loss, tuple) else (loss,)  # wake-sleep: a loss of the model and one of the guide
        value = torch.stack([torch.as_tensor(part, dtype=torch.float64).detach() for part in parts]).sum() / count
        return Terms(value, None if self.bound() is not None else -value, None, None)


def _leaves(run: _Run, modules: Modules) -> list[Tensor]:
    leaves = [*run.leaves, *(leaf for module in modules for leaf in module.parameters())]
    return list({id(leaf): leaf for leaf in leaves}.values())


class _Run(poutine.messenger.Messenger):
    """Records the sample sites and the leaves of what runs inside, and the running averages of baselines.

    Args:
        averages: Holds a buffer for every average.
    """

    def __init__(self, averages: nn.Module) -> None:
        super().__init__()
        self.averages = averages
        self.sites: list[Any] = []
        self.leaves: list[Tensor] = []

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        store = pyro.get_param_store()
        for name in [name for name in store if name.startswith(AVERAGE)]:
            new = store[name].detach()
            del store[name]
            if self._average(name) is None:
                self.averages.register_buffer(_key(name), torch.zeros_like(new))
            self.averages.get_buffer(_key(name))[tuple(map(slice, new.shape))] = new

    def _pyro_post_sample(self, msg: Any) -> None:
        kept = ("name", "type", "fn", "value", "is_observed", "cond_indep_stack", "infer", "scale", "_unweighted")
        self.sites.append({key: msg[key] for key in kept if key in msg})

    def _pyro_param(self, msg: Any) -> None:
        average = self._average(msg["name"])
        if average is not None and msg["name"] not in pyro.get_param_store():
            msg["value"] = average[tuple(map(slice, msg["args"][1].shape))].clone()
            msg["done"] = True

    def _pyro_post_param(self, msg: Any) -> None:
        if not msg["name"].startswith(AVERAGE):
            self.leaves.append(msg["value"].unconstrained())

    def _average(self, name: str) -> Tensor | None:
        return dict(self.averages.named_buffers()).get(_key(name)) if name.startswith(AVERAGE) else None


def _key(name: str) -> str:
    return name.removeprefix(AVERAGE).replace(".", "/")
