"""Stochastic variational inference: `fit` trains any pair of Pyro callables."""

from __future__ import annotations

import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.elbo import ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from latentmix.inference.batches import Batch, Data, Transform, as_batch
from latentmix.inference.compiled.plan import Compiling, compile_plan
from latentmix.inference.evaluation import Bound, check_store
from latentmix.inference.isolation import Modules, RandomState, isolated, plain_errors
from latentmix.inference.objectives.base import Objective, Stochastic
from latentmix.inference.objectives.conversion import as_objective, bound_of, reporter_of
from latentmix.inference.objectives.precision import Precision, check_precision
from latentmix.inference.svi.optimizers import (
    MakeOptimizer,
    MakeScheduler,
    as_optimizer,
    as_scheduler,
    check_schedule_steps,
)
from latentmix.inference.svi.problem import Frozen, Problem
from latentmix.inference.svi.saved import StateError
from latentmix.inference.svi.state import Callback, DivergenceError, EpochRecord, TrainingState
from latentmix.inference.svi.steps import StepRules, Steps
from latentmix.inference.svi.warm_start import start_from
from latentmix.models.display import Displayed
from latentmix.models.words import plural

__all__ = ["SVIResult", "fit"]

CHECKED_EVERY = 20  # steps at least between comparisons of a compiled step with an uncompiled one


@dataclass(frozen=True, repr=False)
class SVIResult(Displayed):
    """Result of `fit`.

    Attributes:
        history: One record per epoch.
        parameters: Fitted parameters by Pyro's name, constrained and detached; those of a module that is not registered
            with Pyro by their path, after the module's number.
        store: State of Pyro's parameter store at the end, for `evaluate` and `pyro.get_param_store().scope`.
        state: The state of training; `fit(..., state=result.state)` resumes from it.
        seed: Seed of the fit.
        seconds: Time of training, validation included.
        stopped_early: Whether a callback ended the fit.
        compilation: Whether steps ran compiled, and why others did not.
    """

    history: list[EpochRecord]
    parameters: dict[str, Tensor]
    store: Any
    state: TrainingState
    seed: int
    seconds: float
    stopped_early: bool
    compilation: str = "not compiled"

    def shown(self) -> dict[str, Any]:
        early = ", stopped early" if self.stopped_early else ""
        figures = {"epochs": f"{len(self.history)} in {self.seconds:.1f} s{early}"}
        for name, losses in (("training loss", self.losses), ("validation loss", self.validation_losses)):
            if losses:
                figures[name] = f"{losses[0]:.6g} ... {losses[-1]:.6g} nats per datum, the negative ELBO at beta = 1"
        if skipped := sum(record.skipped for record in self.history):
            figures["skipped steps"] = f"{skipped:,}, for numerical reasons"
        size = sum(value.numel() for value in self.parameters.values())
        parameters = f"{plural(size, 'number')} in {plural(len(self.parameters), 'tensor')}"
        return {**figures, "steps": self.compilation, "parameters": parameters, "seed": self.seed}

    @property
    def losses(self) -> list[float]:
        """Negative ELBO at beta = 1 on the training data, one per epoch, nats per datum."""
        return [record.loss for record in self.history]

    @property
    def validation_losses(self) -> list[float]:
        """Negative ELBO at beta = 1 on the validation data, one per epoch; empty if there are no such data."""
        return [record.validation.loss for record in self.history if record.validation is not None]

    def predict(
        self,
        model: Stochastic,
        guide: Stochastic,
        *arguments: Any,
        num_samples: int = 1000,
        return_sites: Sequence[str] = (),
        parallel: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> dict[str, Tensor]:
        """Draw from the posterior predictive distribution, by Pyro's `Predictive` with the fitted values.

        A plain `Predictive` would take the initial values of `pyro.param` statements, whose fitted values no module
        holds. Modules are in evaluation mode; Pyro's parameter store is unchanged.

        Args:
            model: The fitted model.
            guide: The fitted guide.
            *arguments: Arguments of both; an observed site is drawn where its data are `None`.
            num_samples: Number of draws, `S`.
            return_sites: Names of the sites to return, `_RETURN` for the model's return value; by default all.
            parallel: Whether all draws are made in one call, in a plate outside the model's own; the model must be
                written for that.
            seed: Seed of the draws.
            **options: Keyword arguments of both.

        Returns:
            Draws by the name of their site, each an `S x site_shape` tensor.

        Raises:
            ValueError: If `num_samples` is not positive, or a `pyro.param` statement has no fitted value.

        Example:
            >>> import torch, pyro, pyro.distributions as dist
            >>> from latentmix.inference import fit
            >>> def model(x, size=3):
            ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
            ...     with pyro.plate("data", size):
            ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
            >>> def guide(x, size=3):
            ...     pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.1))
            >>> result = fit(model, guide, torch.ones(3), epochs=2, seed=0)
            >>> result.predict(model, guide, None, size=5, num_samples=10)["x"].shape
            torch.Size([10, 5])
        """
        if num_samples < 1:
            raise ValueError(f"Expected num_samples of at least 1; got {num_samples}.")
        known = {kind: dict(part) for kind, part in self.store.items()}
        with plain_errors(), isolated(seed=seed, params=known), Modules(model, guide), torch.no_grad():
            draw = Predictive(
                model, guide=guide, num_samples=num_samples, return_sites=tuple(return_sites), parallel=parallel
            )
            drawn: dict[str, Tensor] = draw(*arguments, **options)
            check_store(self.store, "take the model and guide of the fit")
        return drawn


def fit(
    model: Stochastic,
    guide: Stochastic,
    data: Data,
    *,
    epochs: int,
    batch_size: int | None = None,
    drop_last: bool = False,
    objective: Objective | ELBO | Callable[..., Tensor] = Trace_ELBO(),
    monitor: Objective | ELBO | None = None,
    optimizer: MakeOptimizer | PyroOptim | None = None,
    scheduler: MakeScheduler | None = None,
    transform: Transform | None = None,
    validation: Data | None = None,
    callbacks: Sequence[Callback] = (),
    seed: int | None = None,
    state: TrainingState | None = None,
    store: Any | None = None,
    clip_norm: float | None = None,
    max_skipped: int = 10,
    schedule_steps: bool = False,
    compile: Compiling = "auto",
    precision: Precision = "full",
    progress: bool = False,
) -> SVIResult:
    """Train a model and its guide by stochastic variational inference.

    One optimizer holds all leaves: parameters of modules, of `pyro.param` statements and of lazily built guides.
    Arguments of distributions are validated on the first minibatch only. Pyro's parameter store starts empty; after
    the fit random states, Pyro's settings and its parameter store are restored, and modules hold the fitted weights.
    Frozen parameters and modules in evaluation mode stay so (Hoffman et al., *Stochastic Variational Inference*, 2013;
    Kingma and Welling, 2014, algorithm 1).

    Args:
        model: Pyro callable, called `model(*batch)`.
        guide: Pyro callable with the model's latent sites, called `guide(*batch)`.
        data: A tensor, or several that are sliced together on their first dimension; or a torch `DataLoader` over a
            map-style data set, which is read into memory once, in its own order: minibatches then have the loader's
            `batch_size`, and are drawn by `seed`, whether the loader shuffles or not. Its random augmentations are
            drawn once; a `transform` draws for every minibatch.
        epochs: Passes over the data, from the start of training in a resumed fit too.
        batch_size: Data a step; by default all data, or the batch size of a `DataLoader`.
        drop_last: Whether an incomplete last minibatch is left out, with other data in every epoch; losses are then
            means over the remaining data. By default that of a `DataLoader`.
        objective: An ELBO of Pyro, an `Objective`, or a callable `(model, guide, *batch) -> scalar loss`.
        monitor: The objective that measures the reported ELBO, in evaluation mode; by default the objective itself
            where it reports its ELBO at beta = 1, else `Trace_ELBO`, for one more forward pass a step.
        optimizer: Function from the leaves to an optimizer, such as `partial(torch.optim.Adam, lr=0.01)`, or an
            optimizer of `pyro.optim` with one dictionary of options; by default Adam, fused, with learning rate 1e-3.
        scheduler: Function from the optimizer to a learning-rate schedule.
        transform: Applied to every minibatch before model and guide, such as a binarisation.
        validation: Data on which the ELBO is measured after every epoch, in evaluation mode.
        callbacks: Called after minibatches and epochs; one that returns True after an epoch ends the fit.
        seed: Seed of the whole fit; by default a fresh one, see `SVIResult.seed`.
        state: Updated during the fit; a state of an earlier fit is resumed, bit for bit, with the settings of its
            optimizer.
        store: Initial values of `pyro.param` statements, PyroModules and guides, as in `SVIResult.store`: a warm start,
            with other data, optimizer and seed. By default, initial values are those of the statements and modules.
        clip_norm: Largest norm of all gradients together; larger ones are scaled down to it. By default, no bound.
        max_skipped: Most steps in succession that are skipped, since the loss, the reported ELBO or a gradient is not
            finite, a decomposition fails, or NaN raises an error; one more ends the fit. Such steps change neither
            parameters nor buffers, are counted in `EpochRecord.skipped`, and a warning names the first with its site;
            an epoch needs a good one.
        schedule_steps: Whether the schedule is stepped after every minibatch, and not after every epoch.
        compile: Whether steps run as compiled graphs, see `compile_elbo`: after some seconds of compilation each takes
            about half the time. "auto" compiles where the number of steps pays for that, see `compile_plan`. Random
            numbers are the same; sums are rounded otherwise. At the start of an epoch, and at most every 20 steps, a
            step runs uncompiled, and is compared. `SVIResult.compilation` says what was done. On a GPU,
            draws, loss and gradients are recorded as a CUDA graph: written without one at hand, and not measured.
        precision: `full`, that of the parameters; or `bf16-mixed`, products of linear layers and convolutions in
            bfloat16, and log-densities, divergences, sums, parameters, gradients and the optimizer in float32, see
            `MixedPrecision`. Validation and `evaluate` are in full precision.
        progress: Whether to show a progress bar.

    Returns:
        Losses, parameters and the state of training.

    Raises:
        ValueError: If the data disagree in length or are empty, or a row lies outside the support of the site that
            observes it; a size is not positive; a minibatch would count for the whole data set although the model has
            global latents, or is a single datum under batch normalisation; optimizer or schedule cannot be made, or the
            schedule ends before the fit; or `store` does not fit; or for `bf16-mixed` a network is not in float32, or
            there is none.
        DivergenceError: If more steps than `max_skipped` in succession, or all of an epoch, are skipped, or a parameter
            is not finite. Parameters are those of the last good step; `EarlyStopping` restores the best.

    Warns:
        UserWarning: If a warm-up of the objective is longer than the fit, a step is skipped, steps cannot be
            compiled, or the device has no fast products in bfloat16.

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

        A warm start from the fitted values, with other data and another learning rate:

        >>> from functools import partial
        >>> changed = {"optimizer": partial(torch.optim.Adam, lr=1e-4), "store": result.store}
        >>> later = fit(model, AutoNormal(model), torch.zeros(100), epochs=1, seed=0, **changed)
        >>> bool((later.parameters["AutoNormal.locs.loc"] - result.parameters["AutoNormal.locs.loc"]).abs() < 1e-3)
        True
    """
    tensors = as_batch(data)
    if isinstance(data, DataLoader):
        drop_last = drop_last or data.drop_last
    held_out = None if validation is None else as_batch(validation)
    if batch_size is None and isinstance(data, DataLoader):
        batch_size = data.batch_size
    size = len(tensors[0]) if batch_size is None else batch_size
    if epochs < 1 or size < 1:
        raise ValueError(f"Expected epochs and batch_size of at least 1; got {epochs} and {size}.")
    size = min(size, len(tensors[0]))
    check_precision(precision)
    make_optimizer = partial(Adam, lr=1e-3, fused=True) if optimizer is None else as_optimizer(optimizer)
    make_scheduler = None if scheduler is None else as_scheduler(scheduler)
    rules = StepRules(clip_norm, max_skipped, schedule_steps)
    loss = as_objective(objective)
    reporter = bound_of(loss) if monitor is None else reporter_of(monitor)
    if store is not None and state is not None and state.started:
        raise ValueError("Expected store or a state to resume, which has values of its own; got both.")
    state = TrainingState() if state is None else state
    state = _checked_state(state, seed, len(tensors[0]), size, drop_last, precision)
    state.warmup = loss.warmup_epochs
    if state.warmup > epochs:
        warnings.warn(
            f"Expected a warm-up within the {plural(epochs, 'epoch')} of the fit; got one of {state.warmup:g}: its "
            "last weight is not reached, and early stopping does not begin.",
            stacklevel=2,
        )

    start = time.perf_counter()
    batches = state.batches
    with (
        isolated(seed=state.seed, validation=True),
        _bar(epochs * batches, progress) as bar,
        Frozen(model, guide) as frozen,
        _notifying_of_errors(state, callbacks),
    ):
        problem = Problem.prepare(model, guide, loss, reporter, transform, tensors, held_out, size)
        pyro.enable_validation(False)
        _retain_memory()
        if precision == "bf16-mixed":
            problem = problem.mixed(tensors, size)
        plan = compile_plan(
            compile,
            epochs=epochs,
            length=len(tensors[0]),
            batch_size=size,
            drop_last=drop_last,
            device=tensors[0].device,
        )
        problem = problem.with_compiled(plan)
        problem.check_batches(tensors, size, drop_last)
        if store is not None:
            start_from(store)
        state.begin(problem.leaves(frozen.leaves), problem.modules, make_optimizer, make_scheduler, callbacks)
        count = epochs * batches if schedule_steps else epochs
        check_schedule_steps(state.scheduler, count, by_steps=schedule_steps)
        steps = Steps(problem, state, rules)
        params = pyro.get_param_store()
        names = set(params)
        bar.update(state.step)
        try:
            while state.epoch < epochs and not state.stopped:
                began = time.perf_counter()
                rate = float(_optimizer(state).param_groups[0]["lr"])
                training = _epoch(steps, state, tensors, bar)
                if created := set(params) - names:
                    raise ValueError(f"Expected every parameter to exist after one step; got {min(created)!r} later.")
                measured = None if held_out is None else problem.measure(held_out, size)
                seconds = time.perf_counter() - began
                record = EpochRecord(state.epoch + 1, training, measured, rate, seconds, state.skipped)
                state.end_epoch(record, scheduled=not schedule_steps)
                shown = "" if measured is None else f", validation {measured.loss:.3f}"
                bar.set_postfix_str(f"loss {training.loss:.3f}{shown} nats", refresh=False)
            for callback in callbacks:
                callback.on_fit_end(state)
        except DivergenceError:
            _notify_of_divergence(state)
            raise
        except Exception as error:
            if state.finite:
                raise
            epoch = state.epoch + 1
            _notify_of_divergence(state)
            raise DivergenceError(
                f"Expected finite parameters; got others in epoch {epoch} ({error}): lower the learning rate."
            ) from error
        finally:
            state.random = RandomState.capture()
        parameters = {**state.parameters, **{name: params[name] for name in params}}
        return SVIResult(
            history=list(state.history),
            parameters={name: value.detach().clone() for name, value in parameters.items()},
            store=params.get_state(),
            state=state,
            seed=state.seed,
            seconds=time.perf_counter() - start,
            stopped_early=state.stopped,
            compilation=problem.compilation,
        )


def _retain_memory() -> None:
    """Let the C library keep freed memory, which it would return to the system and fault in again in every step.

    That of GNU keeps twice the size of the largest block that has been freed, of at most 32 MiB.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")


def _notify_of_divergence(state: TrainingState) -> None:
    for callback in state.callbacks:
        callback.on_divergence(state)


@contextmanager
def _notifying_of_errors(state: TrainingState, callbacks: Sequence[Callback]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        for callback in callbacks:
            callback.on_error(state, error)
        raise


def _checked_state(
    state: TrainingState, seed: int | None, length: int, size: int, drop_last: bool, precision: Precision
) -> TrainingState:
    """The state, with seed and sizes of this fit; those of a state to resume must agree."""
    if seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"Expected a seed in 0 ... 2**32 - 1; got {seed}.")
    if not state.started:
        state.seed = secrets.randbits(32) if seed is None else seed
        state.length, state.batch_size, state.drop_last, state.precision = length, size, drop_last, precision
    for name, given, earlier in (
        ("seed", seed, state.seed),
        ("number of data", length, state.length),
        ("batch_size", size, state.batch_size),
        ("drop_last", drop_last, state.drop_last),
        ("precision", precision, state.precision),
    ):
        if given is not None and given != earlier:
            raise StateError(f"Expected the {name} of the fit that is resumed, {earlier}; got {given}.")
    return state


def _bar(batches: int, progress: bool) -> tqdm[None]:
    """A progress bar; in a log, without a terminal, it prints every half a minute."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=batches, unit=" batches", disable=not progress, dynamic_ncols=True, mininterval=interval)


def _epoch(steps: Steps, state: TrainingState, data: Batch, bar: tqdm[None]) -> Bound:
    """One pass over the data, or the rest of one that was interrupted."""
    length, size, batches = state.length, state.batch_size, state.batches
    if state.order is None and size < length:
        state.order = torch.randperm(length).to(data[0].device)
    for start in range(state.batch * size, min(length, batches * size), size):
        batch = data
        if state.order is not None:
            chosen = state.order[start : start + size]
            batch = tuple(tensor.index_select(0, chosen) for tensor in data)
        steps.problem.objective.begin_step(state.epoch + (state.batch + 1) / batches)
        steps.take(batch, check=state.batch == 0 and state.epoch % -(-CHECKED_EVERY // batches) == 0)
        state.batch += 1
        bar.update()
        for callback in state.callbacks:
            callback.on_batch_end(state)
    if not state.finite:
        raise DivergenceError(
            f"Expected finite parameters; got others after epoch {state.epoch + 1}: lower the learning rate."
        )
    assert state.totals is not None
    return Bound.from_totals(state.totals)


def _optimizer(state: TrainingState) -> torch.optim.Optimizer:
    assert state.optimizer is not None
    return state.optimizer
