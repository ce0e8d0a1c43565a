"""One step of training: gradients, their check and clipping, and the update; a step that goes wrong is skipped."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from latentmix.inference.batches import Batch, transformed
from latentmix.inference.objectives.base import Terms
from latentmix.inference.svi.fault import find_fault, is_numerical, message_of
from latentmix.inference.svi.fused import AreFinite, OptimizerStep, flush_denormals, is_observed
from latentmix.inference.svi.problem import Problem
from latentmix.inference.svi.state import Callback, DivergenceError, TrainingState
from latentmix.models.words import plural

__all__ = ["StepRules", "Steps"]

_GUARDED_EVERY = 20  # steps at least in which Python values are compared, and the optimizer's state is looked up
_FLUSHED_EVERY = 200  # steps; a mean takes some 800 steps to decay to a denormal number


@dataclass(frozen=True)
class StepRules:
    """Clipping of gradients, the bound on skipped steps, and schedules by steps.

    Attributes:
        clip_norm: Largest norm of all gradients together; larger ones are scaled down to it. None for no bound.
        max_skipped: Most steps in succession that are skipped, see `Steps`.
        scheduled: Whether the learning-rate schedule is stepped after every minibatch.
    """

    clip_norm: float | None = None
    max_skipped: int = 10
    scheduled: bool = False

    def __post_init__(self) -> None:
        bound = self.clip_norm
        if bound is not None and not (isinstance(bound, int | float) and 0 < bound < math.inf):
            raise ValueError(f"Expected clip_norm as a positive number, or None for no bound; got {bound!r}.")
        if not isinstance(self.max_skipped, int) or self.max_skipped < 0:
            raise ValueError(f"Expected max_skipped as a whole number of steps, 0 or more; got {self.max_skipped!r}.")


class Steps:
    """The steps of a fit.

    A step whose loss or gradient is not finite, or whose numbers raise an error, changes neither parameters nor
    buffers, and is counted in `TrainingState.skipped`. An epoch has to have one good step at least.

    Args:
        problem: The problem.
        state: The state of training, with an optimizer.
        rules: The rules.
    """

    def __init__(self, problem: Problem, state: TrainingState, rules: StepRules) -> None:
        assert state.optimizer is not None
        self.problem, self.state, self.rules = problem, state, rules
        self._optimizer = state.optimizer
        self._leaves = list(state.parameters.values())
        self._are_finite, self._update = AreFinite(), OptimizerStep(state.optimizer)
        self._buffers = _Buffers(problem.modules)
        self._alone = not rules.scheduled and _is_alone(problem, state)
        self._warned = False
        # A schedule warns where `optimizer.step` has not been called: the first step was skipped, or is torch's kernel.
        state.optimizer._opt_called = True  # type: ignore[attr-defined]

    def take(self, batch: Batch, *, check: bool = False) -> None:
        """Train on one minibatch, and add its terms to the totals of the epoch.

        Args:
            batch: The minibatch, before the transform.
            check: See `Problem.backward`.

        Raises:
            DivergenceError: If one more step in succession has gone wrong than the rules allow.

        Warns:
            UserWarning: At the first step that goes wrong; it names the step and the site.
        """
        state = self.state
        if state.step % _FLUSHED_EVERY == 0:
            flush_denormals(self._optimizer)
        length = len(batch[0])
        batch = transformed(batch, self.problem.transform)
        randomness = torch.get_rng_state()
        self._buffers.keep()  # a callback may have set some since the last step
        for leaf in self._leaves:
            leaf.grad = None
        guarded = not self._alone or state.batch % _GUARDED_EVERY == 0
        if guarded:
            self._are_finite.forget()
            self._update.forget()
        try:
            terms = self.problem.backward(batch, length=length, check=check, guarded=guarded)
        except (RuntimeError, ValueError) as error:  # as of a decomposition, or of a distribution with NaN
            self._buffers.restore()
            if not is_numerical(error, self.problem, state.parameters, batch, randomness):
                raise
            self._skip(batch, f"the error {message_of(error)!r}", randomness)
        else:
            wrong = self._finish(terms, len(batch[0]))
            if wrong is not None:
                self._skip(batch, wrong, randomness)
        if self.rules.scheduled and state.scheduler is not None:
            state.scheduler.step()

    def _finish(self, terms: Terms, length: int) -> str | None:
        """Update the parameters by the gradients of a minibatch; else the name of a value that is not finite."""
        gradients = [leaf.grad for leaf in self._leaves if leaf.grad is not None]
        loss = float(terms.loss.detach())
        elbo = loss if terms.elbo is None else float(terms.elbo)
        # A loss may be infinite by design where another objective reports the ELBO, as that of TraceTailAdaptive_ELBO.
        whole = len(gradients) == len(self._leaves)
        if math.isfinite(elbo) and not math.isnan(loss) and self._clip(gradients, whole):
            self._update(whole=whole)
            self.state.skipped_in_succession = 0
            self.state.totals = terms.totals(length, self.state.totals)
            return None
        values = {f"the loss {loss:.4g}": loss, f"the reported ELBO {elbo:.4g}": elbo}
        return next((name for name, value in values.items() if not math.isfinite(value)), "a gradient")

    def _clip(self, gradients: list[Tensor], whole: bool) -> bool:
        """Clip gradients, and tell whether all of them are finite."""
        bound = self.rules.clip_norm
        if bound is None:
            return self._are_finite(gradients, whole=whole)
        norm = get_total_norm(gradients)
        if not math.isfinite(norm):
            if not self._are_finite(gradients):
                return False
            norm = get_total_norm([gradient.double() for gradient in gradients])  # its square overflows in float32
        clip_grads_with_norm_(self._leaves, bound, norm)
        return True

    def _skip(self, batch: Batch, wrong: str, randomness: Tensor) -> None:
        state, rules = self.state, self.rules
        self._buffers.restore()
        others = state.skipped_in_succession
        last = others >= rules.max_skipped or state.skipped + 1 == state.batches or not state.finite
        if last or not self._warned:
            fault = find_fault(self.problem, state.parameters, batch, wrong, randomness)
            self._buffers.restore()
            step = f"step {state.step + 1}, in epoch {state.epoch + 1}"
            if last:
                raise DivergenceError(
                    f"Expected a finite loss with finite gradients; got {fault}, at {step}"
                    f"{f', as in the {plural(others, "step")} before' if others else ''}: lower the learning rate, "
                    "clip the gradients by clip_norm, or check the data for values outside the likelihood's support."
                )
            warnings.warn(
                "Steps whose loss or gradient is not finite, or whose numbers raise an error, are skipped, the first "
                f"at {step}: {fault}. The history counts them by epoch.",
                stacklevel=5,
            )
            self._warned = True
        state.skipped += 1
        state.skipped_in_succession += 1


def _is_alone(problem: Problem, state: TrainingState) -> bool:
    """Whether no code of the user's runs between the steps of an epoch, which could change a Python value."""
    parts: list[Any] = [state.optimizer, problem.objective]
    while (inner := getattr(parts[-1], "objective", None)) is not None:
        parts.append(inner)
    return (
        problem.transform is None
        and all(getattr(each.on_batch_end, "__func__", None) is Callback.on_batch_end for each in state.callbacks)
        and all(type(part).__module__.partition(".")[0] in ("torch", "latentmix") for part in parts)
        and not is_observed(parts[0])
    )


class _Buffers:
    """The buffers of modules as they were before the present step, such as running means."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        parts = {id(part): part for module in modules for part in module.modules()}.values()
        self._buffers = [
            _Buffer(part._buffers, name, isinstance(part, _NormBase))
            for part in parts
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]

    def keep(self) -> None:
        """Copy the buffers that have changed."""
        for buffer in self._buffers:
            if buffer.changed:
                buffer.keep()

    def restore(self) -> None:
        """Bring back the values that were kept."""
        for buffer in self._buffers:
            if buffer.changed:
                buffer.restore()


class _Buffer:
    """One buffer; normalisation layers write theirs without a new version of the tensor."""

    def __init__(self, owner: dict[str, Tensor | None], name: str, unversioned: bool) -> None:
        self._owner, self._name, self._unversioned = owner, name, unversioned
        self.keep()

    @property
    def changed(self) -> bool:
        present = self._owner[self._name]
        return (
            self._unversioned
            or self._seen is not present
            or (present is not None and self._version != present._version)
        )

    def keep(self) -> None:
        self._seen = self._owner[self._name]
        self._version = 0 if self._seen is None else self._seen._version
        self._kept = None if self._seen is None else self._seen.detach().clone()

    @torch.no_grad()
    def restore(self) -> None:
        if self._seen is not None and self._kept is not None:
            self._seen.copy_(self._kept)
        self._owner[self._name] = self._seen
        self.keep()
