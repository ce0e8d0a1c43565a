"""Stochastic variational inference: `fit` trains any pair of Pyro callables."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.optim import Adam
from tqdm import tqdm

from latentmix.inference.batches import Batch, Transform, as_batch, modules_of, transformed
from latentmix.inference.effects import RandomState, isolated
from latentmix.inference.evaluation import Bound, evaluate
from latentmix.inference.objectives import (
    CallableObjective,
    Objective,
    Stochastic,
    Terms,
    as_objective,
    data_plate,
)
from latentmix.inference.training import (
    Callback,
    DivergenceError,
    EpochRecord,
    MakeOptimizer,
    MakeScheduler,
    TrainingState,
)
from latentmix.models.vae import evaluation_mode

__all__ = ["SVIResult", "fit"]


@dataclass(frozen=True)
class SVIResult:
    """What `fit` returns.

    Attributes:
        history: One record per epoch.
        parameters: Every fitted parameter by its Pyro name, constrained and detached.
        state: The state of training; `fit(..., state=result.state)` goes on from it.
        seed: The seed that was used.
        seconds: Time of training, validation included.
        stopped_early: Whether a callback ended the fit.
    """

    history: list[EpochRecord]
    parameters: dict[str, Tensor]
    state: TrainingState
    seed: int
    seconds: float
    stopped_early: bool

    @property
    def losses(self) -> list[float]:
        """Negative ELBO at beta = 1 on the training data, one per epoch, nats per datum."""
        return [record.loss for record in self.history]

    @property
    def validation_losses(self) -> list[float]:
        """Negative ELBO at beta = 1 on the validation data, one per epoch; empty where there is none."""
        return [record.validation.loss for record in self.history if record.validation is not None]


def fit(
    model: Stochastic,
    guide: Stochastic,
    data: Tensor | Sequence[Tensor],
    *,
    epochs: int,
    batch_size: int | None = None,
    objective: Objective | ELBO | Callable[..., Tensor] = Trace_ELBO(),
    monitor: Objective | ELBO | None = None,
    optimizer: MakeOptimizer | None = None,
    scheduler: MakeScheduler | None = None,
    transform: Transform | None = None,
    validation: Tensor | Sequence[Tensor] | None = None,
    callbacks: Sequence[Callback] = (),
    seed: int | None = None,
    state: TrainingState | None = None,
    progress: bool = False,
) -> SVIResult:
    """Train a model and its guide by stochastic variational inference.

    One optimizer holds every leaf: parameters of modules, of `pyro.param` statements and of lazily made guides.
    Arguments of distributions are validated on the first minibatch and not after it. Random states, Pyro's
    settings and its parameter store are afterwards what they were; modules hold the fitted weights (Hoffman et
    al., *Stochastic Variational Inference*, 2013; Kingma and Welling, 2014, algorithm 1).

    Args:
        model: Pyro callable, called `model(*batch)`.
        guide: Pyro callable with the model's latent sites, called `guide(*batch)`.
        data: A tensor, or several that are sliced together on their first dimension.
        epochs: Passes over the data; counted from the start of training where `state` resumes it.
        batch_size: Data a step; by default all of them.
        objective: An ELBO of Pyro, an `Objective`, or a callable `(model, guide, *batch) -> scalar loss`.
        monitor: What measures the reported ELBO; by default the objective, or `Trace_ELBO` for a callable.
        optimizer: Makes the optimizer from the leaves; by default Adam, fused, with learning rate 1e-3.
        scheduler: Makes a learning-rate schedule from the optimizer; it is stepped after every epoch.
        transform: Applied to every minibatch before model and guide see it, such as a binarisation.
        validation: Data on which the ELBO is measured after every epoch, in evaluation mode.
        callbacks: Called after minibatches and epochs; one that returns True after an epoch ends the fit.
        seed: Seed of the whole fit; by default a fresh one, which the result states.
        state: Is kept up to date during the fit; a state of an earlier fit is resumed from, bit for bit.
        progress: Whether to show a progress bar.

    Returns:
        Losses, parameters and the state of training.

    Raises:
        ValueError: If the data disagree in length or are empty, a size is not positive, or a minibatch would
            count for the whole data set although the model has global latents.
        DivergenceError: If the loss is not finite.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> from latentmix.inference import fit
        >>> from pyro.infer.autoguide import AutoNormal
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", 100, subsample=x):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> result = fit(model, AutoNormal(model), torch.ones(100), epochs=3, batch_size=50, seed=0)
        >>> len(result.losses)
        3
    """
    tensors = as_batch(data)
    held_out = None if validation is None else as_batch(validation)
    size = len(tensors[0]) if batch_size is None else batch_size
    if epochs < 1 or size < 1:
        raise ValueError(f"Expected epochs and batch_size of at least 1; got {epochs} and {size}.")
    size = min(size, len(tensors[0]))
    goal = as_objective(objective)
    if monitor is None:
        monitor = Trace_ELBO() if isinstance(goal, CallableObjective) else goal
    problem = _Problem(model, guide, goal, as_objective(monitor), transform, modules_of(model, guide))
    state = TrainingState() if state is None else state
    if not state.started:
        state.seed = secrets.randbits(32) if seed is None else seed

    start = time.perf_counter()
    batches = -(-len(tensors[0]) // size)
    stopped = False
    with isolated(seed=state.seed, validation=True), _bar(epochs * batches, progress) as bar:
        problem.look(tensors, size)
        pyro.enable_validation(False)
        state.begin(
            problem.leaves(),
            problem.modules,
            partial(Adam, lr=1e-3, fused=True) if optimizer is None else optimizer,
            scheduler,
            callbacks,
        )
        bar.update(state.epoch * batches + state.batch)
        try:
            while state.epoch < epochs and not stopped:
                began = time.perf_counter()
                rate = float(_optimizer(state).param_groups[0]["lr"])
                training = _epoch(problem, state, tensors, size, bar)
                measured = None
                if held_out is not None:
                    measured = evaluate(
                        model, guide, held_out, objective=problem.monitor, transform=transform, batch_size=size
                    )
                seconds = time.perf_counter() - began
                stopped = state.end_epoch(EpochRecord(state.epoch + 1, training, measured, rate, seconds))
                shown = "" if measured is None else f", validation {measured.loss:.3f}"
                bar.set_postfix_str(f"loss {training.loss:.3f}{shown} nats", refresh=False)
            for callback in callbacks:
                callback.on_fit_end(state)
        finally:
            state.random = RandomState.capture()
        store = pyro.get_param_store()
        parameters = {name: store[name].detach().clone() for name in store}
    return SVIResult(list(state.history), parameters, state, state.seed, time.perf_counter() - start, stopped)


def _bar(batches: int, progress: bool) -> tqdm[None]:
    """A progress bar; in a log, where no terminal redraws it, it speaks every half a minute."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=batches, unit=" batches", disable=not progress, dynamic_ncols=True, mininterval=interval)


def _epoch(problem: _Problem, state: TrainingState, data: Batch, size: int, bar: tqdm[None]) -> Bound:
    """One pass over the data, from wherever in the epoch the state is."""
    length, device = len(data[0]), data[0].device
    if state.totals is None:
        state.totals = torch.zeros(4, dtype=torch.float64, device=device)
    if state.order is None and size < length:
        state.order = torch.randperm(length)
    optimizer = _optimizer(state)
    for start in range(state.batch * size, length, size):
        batch = data
        if state.order is not None:
            chosen = state.order[start : start + size].to(device)
            batch = tuple(tensor[chosen] for tensor in data)
        optimizer.zero_grad(set_to_none=True)
        terms = problem.backward(transformed(batch, problem.transform))
        optimizer.step()
        state.totals += terms.totals(len(batch[0]))
        state.batch += 1
        bar.update()
        for callback in state.callbacks:
            callback.on_batch_end(state)
    bound = Bound.from_totals(state.totals)
    if not torch.isfinite(torch.tensor(bound.loss)):
        raise DivergenceError(
            f"Expected a finite loss; got {bound.loss} in epoch {state.epoch + 1}: lower the learning rate, or check "
            "the data for values outside the likelihood's support."
        )
    return bound


def _optimizer(state: TrainingState) -> torch.optim.Optimizer:
    assert state.optimizer is not None
    return state.optimizer


@dataclass(frozen=True)
class _Problem:
    """A model and a guide with what is minimised and what is reported."""

    model: Stochastic
    guide: Stochastic
    objective: Objective
    monitor: Objective
    transform: Transform | None
    modules: list[nn.Module]

    def look(self, data: Batch, size: int) -> None:
        """Run one minibatch, so that lazy parameters exist, arguments are validated and scaling is checked."""
        batch = transformed(tuple(tensor[:size] for tensor in data), self.transform)
        with evaluation_mode(*self.modules):
            guide_trace = poutine.trace(self.guide).get_trace(*batch)
            model_trace = poutine.trace(poutine.replay(self.model, trace=guide_trace)).get_trace(*batch)
            self._check_scaling(model_trace, len(data[0]), size)
            self.objective(self.model, self.guide, *batch)

    @staticmethod
    def _check_scaling(trace: poutine.Trace, length: int, size: int) -> None:
        plate = data_plate(trace.nodes.values(), size)
        counted = size if plate is None else plate.full_size
        if counted == length:
            return
        global_latents = [
            name
            for name, site in trace.nodes.items()
            if site["type"] == "sample"
            and not site["is_observed"]
            and not site_is_subsample(site)
            and (plate is None or plate.name not in [frame.name for frame in site["cond_indep_stack"]])
        ]
        if global_latents:
            raise ValueError(
                f"Expected a plate over all {length} data around what is observed, because "
                f"{global_latents[0]!r} is a latent of the whole data set; got one over {counted}: write "
                f"pyro.plate('data', {length}, subsample=x), so that a minibatch of {size} is scaled up."
            )

    def leaves(self) -> dict[str, Tensor]:
        """The unconstrained parameters of the parameter store and the modules, each once."""
        named = dict(pyro.get_param_store().named_parameters())
        known = {id(leaf) for leaf in named.values()}
        for index, module in enumerate(self.modules):
            for name, leaf in module.named_parameters():
                if id(leaf) not in known:
                    named[f"{index}.{name}"] = leaf
        found = {name: leaf for name, leaf in named.items() if leaf.requires_grad}
        if not found:
            raise ValueError("Expected a model or a guide with parameters to train; got none.")
        return found

    def backward(self, batch: Batch) -> Terms:
        """Accumulate the gradients of one minibatch; gives the reported terms."""
        terms = self.objective.backward(self.model, self.guide, *batch)
        if self.monitor is self.objective:
            return terms
        with torch.no_grad(), evaluation_mode(*self.modules):
            return self.monitor.terms(self.model, self.guide, *batch)
