"""ELBOs of Pyro that have no twin: they run as they are."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
)
from torch import Tensor, nn

from latentmix.inference.isolation import Modules
from latentmix.inference.objectives.terms import Objective, Stochastic, Terms, data_count, data_plate
from latentmix.inference.objectives.twins import TraceEnumTwin, TraceTwin, check_sampled

__all__ = ["IMPORTANCE_WEIGHTED", "PyroObjective"]

AVERAGE = "__baseline_avg_downstream_cost_"  # Pyro's name, less the site's, of a baseline that is a running average
WHOLE_DATA = (ReweightedWakeSleep, TraceTailAdaptive_ELBO)  # weigh particles by the p / q of all data at once
IMPORTANCE_WEIGHTED = (*WHOLE_DATA, TraceTMC_ELBO, RenyiELBO)


class PyroObjective(Objective):
    """An ELBO that has no twin: Pyro's own estimate and gradients, divided by the number of data.

    Where its loss is not the negative ELBO (a tighter bound, another divergence, gradients without a value), an ELBO is
    measured beside it. The running averages that are baselines of `TraceGraph_ELBO` are kept as buffers of `modules`:
    in Pyro's parameter store they would count as parameters; a shorter minibatch has the first of them.
    """

    def __init__(self, elbo: Any) -> None:
        self.elbo = elbo
        self.averages = nn.Module()
        self.modules = (self.averages,)

    def bound(self) -> Objective | None:
        """See `Objective.bound`."""
        if isinstance(self.elbo, TraceTMC_ELBO):
            elbo = TraceEnum_ELBO(max_plate_nesting=self.elbo.max_plate_nesting, strict_enumeration_warning=False)
            return TraceEnumTwin(elbo)
        if isinstance(self.elbo, (*WHOLE_DATA, Trace_MMD)):
            return TraceTwin(Trace_ELBO())
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
        """See `Objective.rehearse`: one step without an optimizer, of which nothing stays."""
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
        except Exception as error:  # Pyro asserts, or fails in whatever way, on what an ELBO does not take
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if isinstance(self.elbo, ReweightedWakeSleep) and self.elbo.insomnia < 1:
                said += " (its sleep phase calls guide(*batch, observations=...); insomnia=1 leaves it out)"
            raise ValueError(f"Expected a model and a guide that {self._name} takes; got {said}") from error
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
        parts = loss if isinstance(loss, tuple) else (loss,)  # of model and guide, whose gradients are of the sum
        value = torch.stack([torch.as_tensor(part, dtype=torch.float64).detach() for part in parts]).sum() / count
        return Terms(value, None if self.bound() is not None else -value, None, None)


def _leaves(run: _Run, modules: Modules) -> list[Tensor]:
    leaves = [*run.leaves, *(leaf for module in modules.found.values() for leaf in module.parameters())]
    return list({id(leaf): leaf for leaf in leaves}.values())


class _Run(poutine.messenger.Messenger):
    """Keeps the sample sites and the leaves of whatever runs inside, and the running averages of baselines.

    Args:
        averages: Gets a buffer for every average.
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
