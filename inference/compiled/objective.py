"""An objective whose steps run as compiled graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import pyro
import torch
from pyro.infer.elbo import ELBO
from torch import Tensor

from latentmix.inference.batches import Batch
from latentmix.inference.compiled.capture import Step, as_cuda_graph
from latentmix.inference.compiled.inductor import compile_graph, compiler_obstacle
from latentmix.inference.compiled.python_state import PythonState
from latentmix.inference.compiled.trace import (
    NotTraceableError,
    TracedStep,
    agree,
    close,
    described,
    largest,
    memory,
    trace_step,
)
from latentmix.inference.objectives.base import Objective, Stochastic, Terms, WrappedObjective
from latentmix.inference.objectives.conversion import as_objective
from latentmix.models.process_state import exclusive

__all__ = ["CompiledObjective", "compile_elbo"]

Key = tuple[tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device], ...]
MAX_GRAPHS = 8
MAX_CHANGES = 3  # of Python values, for one shape
SETTLED = 5  # steps without a further change before the next one is traced again


@dataclass(frozen=True, eq=False)
class _CompiledStep:
    """A traced step with its compiled function.

    Attributes:
        traced: The traced step.
        run: The function of a minibatch: terms and gradients, as the graph returns them.
        copied: Numbers of the gradients that share memory with others or with inputs, as an optimizer may change them
            in place, or are laid out otherwise than their leaves, since fused optimizers ignore the layout.
    """

    traced: TracedStep
    run: Step
    copied: frozenset[int]

    @classmethod
    def of(cls, traced: TracedStep, batch: Batch) -> _CompiledStep:
        """Compile a step, and run it once.

        Raises:
            NotTraceableError: If it cannot be compiled, or the compiled loss or a gradient is another one.
        """
        with traced.undone():
            compiled = compile_graph(traced.graph, traced.inputs(batch))

        def run(batch: Batch) -> Sequence[Tensor]:
            return compiled(traced.inputs(batch))

        with traced.undone(), torch.no_grad():
            expected, exact = traced.outputs(traced.graph(*traced.inputs(batch)))
        with traced.undone():
            inputs = traced.inputs(batch)
            terms, gradients = traced.outputs(compiled(inputs))
            used = {memory(tensor) for tensor in inputs}
            copied = set()
            for index, (leaf, gradient) in enumerate(zip(traced.leaves, gradients, strict=True)):
                place = memory(gradient)
                if place in used or gradient.stride() != leaf.stride():
                    copied.add(index)
                used.add(place)
        if not agree(terms, gradients, expected, exact, traced.rounding):
            raise NotTraceableError(
                f"the compiled loss is {float(terms.loss):.8g} where the traced one is {float(expected.loss):.8g}, or "
                "gradients differ"
            )
        return cls(traced, as_cuda_graph(run, traced, batch), frozenset(copied))

    def __call__(self, batch: Batch) -> tuple[Terms, list[Tensor]]:
        """Terms, and a gradient per leaf, in memory of its own."""
        terms, gradients = self.traced.outputs(self.run(batch))
        torch.autograd.graph.increment_version(self.traced.written)
        return terms, [
            torch.empty_like(leaf, requires_grad=False).copy_(gradient) if index in self.copied else gradient
            for index, (leaf, gradient) in enumerate(zip(self.traced.leaves, gradients, strict=True))
        ]


class _Shape:
    """The compiled steps for minibatches of one shape, one for each state of the Python values that a step reads.

    Attributes:
        steps: The steps, the last used first.
        changes: Number of states of these values that were found for which there is no step.
        trusted: The step that the last comparison found to be the right one, if it did.
    """

    def __init__(self) -> None:
        self.steps: list[_CompiledStep] = []
        self.changes = 0
        self.trusted: _CompiledStep | None = None
        self._present: PythonState | None = None
        self._same = 0

    def step(self) -> _CompiledStep | None:
        """The step that was traced with the present values; None if there is none."""
        for index, step in enumerate(self.steps):
            if step.traced.change is None:
                self.steps.insert(0, self.steps.pop(index))
                return step
        return None

    def settled(self) -> bool:
        """Whether the last five calls have found the same values, for which there is no step."""
        if self._present is None or self._present.changes():
            self._present, self._same = self.steps[0].traced.python.present(), 0
            self.changes += 1
        self._same += 1
        return self._same > SETTLED

    def add(self, step: _CompiledStep) -> None:
        """Keep a step that was traced with the present values."""
        self.steps.insert(0, step)
        self.trusted = step
        self._present = None


@final
class CompiledObjective(WrappedObjective):
    """An objective whose `backward` runs loss and gradients as one compiled graph.

    A minibatch of a new shape or layout is traced and compiled first, of up to 8 of them; others run uncompiled. Random
    numbers are drawn as without compilation, from the same stream. Where a Python value of model, guide or objective
    has changed since, such as a number, a mode or a frozen parameter, steps run uncompiled until five have found it the
    same, and are then traced again, up to three times. Where steps cannot be traced, or values change more often, a
    warning gives the reason, and they run uncompiled. On a GPU a step is a CUDA graph where `as_cuda_graph` can make
    one of it.

    Args:
        objective: The objective.
        model: The model that its steps will be for.
        guide: The guide that its steps will be for.

    Attributes:
        objective: The objective.
        obstacle: The reason why steps run uncompiled; None if they are compiled.
        guarded: Whether Python values are compared before a step. `fit` leaves that out between steps where no code of
            the user's has run; all is compared in the first step of an epoch, and every 20 steps.
    """

    def __init__(self, objective: Objective, model: Stochastic, guide: Stochastic) -> None:
        super().__init__(objective)
        self.obstacle: str | None = None
        self.guarded = True
        self._functions = (model, guide)
        self._shapes: dict[Key, _Shape] = {}
        self._warned = False

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.backward`."""
        dense = tuple(map(_dense, batch))
        step = self._compiled(model, guide, dense)
        if step is None:
            return self.objective.backward(model, guide, *batch)
        terms, gradients = step(dense)
        for leaf, gradient in zip(step.traced.leaves, gradients, strict=True):
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        return terms

    def checked_backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """`backward` uncompiled, after a comparison with the compiled loss of the same random numbers.

        A value that the model reads from elsewhere than its tensors, such as a number that a callback changes, is
        fixed in the graph; once it has changed, steps run uncompiled.

        Warns:
            UserWarning: If the two losses differ.
        """
        dense = tuple(map(_dense, batch))
        step = self._compiled(model, guide, dense)
        if step is None:
            return self.objective.backward(model, guide, *batch)
        with step.traced.undone():
            loss = step(dense)[0].loss
        terms = self.objective.backward(model, guide, *batch)
        expected = terms.loss.detach()
        if not close(loss, expected, largest(terms)):
            self._give_up(
                f"the compiled loss is {float(loss):.8g} where model and guide give {float(expected):.8g}: a value "
                "that is no tensor has changed since they were traced"
            )
        return terms

    def _compiled(self, model: Stochastic, guide: Stochastic, batch: Batch) -> _CompiledStep | None:
        """The graph for the shapes of a minibatch; None where steps run uncompiled."""
        if self.obstacle is not None or (model, guide) != self._functions:
            return None
        key = tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in batch)
        shape = self._shapes.get(key) or _Shape()
        if not self.guarded and shape.trusted is not None:
            return shape.trusted
        step = shape.trusted = shape.step()
        if step is not None:
            return step
        change = shape.steps[0].traced.change if shape.steps else None
        if change is not None:
            settled = shape.settled()
            if shape.changes > MAX_CHANGES:
                self._give_up(f"{change} is no longer what it was when the step was traced, and has changed before")
            if shape.changes > MAX_CHANGES or not settled:
                return None
        if sum(len(each.steps) for each in self._shapes.values()) == MAX_GRAPHS:
            self._warn_of_graphs()
            return None
        try:
            step = self._compile(model, guide, batch)
        except NotTraceableError as error:
            self._give_up(str(error))
            return None
        shape.add(step)
        self._shapes[key] = shape
        return step

    def _compile(self, model: Stochastic, guide: Stochastic, batch: Batch) -> _CompiledStep:
        obstacle = compiler_obstacle(batch[0].device)
        if obstacle is not None:
            raise NotTraceableError(obstacle)
        with exclusive(), pyro.validation_enabled(False):
            try:
                return _CompiledStep.of(trace_step(self.objective, model, guide, batch), batch)
            except NotTraceableError:
                raise
            except Exception as error:  # the uncompiled step raises it again, where it is the model's
                raise NotTraceableError(described(error)) from error

    def _warn_of_graphs(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"Minibatches of more than {MAX_GRAPHS} shapes or layouts, counted anew where a Python value changes: "
                "steps of further ones run uncompiled.",
                stacklevel=2,
            )

    def _give_up(self, reason: str) -> None:
        self.obstacle = reason
        warnings.warn(f"Steps run uncompiled: {reason.rstrip('.')}.", stacklevel=2)


def compile_elbo(
    model: Stochastic,
    guide: Stochastic,
    objective: Objective | ELBO | Callable[..., Tensor],
    example_batch: Tensor | Batch,
) -> CompiledObjective:
    """Compile the loss and the gradients of a model and a guide, for training by `fit(objective=...)` or by hand.

    Loss and gradients are traced as one graph, whose inputs are the parameters, the minibatch, the random numbers and
    every other tensor that is read, and compiled by inductor; there is no Python of Pyro, and no guard, in a step.

    Args:
        model: Pyro callable.
        guide: Pyro callable; both have run before, so that lazy parameters exist.
        objective: An objective, one of Pyro's ELBOs, or a callable `(model, guide, *batch) -> scalar loss`.
        example_batch: A minibatch; others may have other shapes, and are compiled when they first come.

    Returns:
        The objective; its `obstacle` is the reason where it runs uncompiled.

    Warns:
        UserWarning: If the step cannot be traced or compiled; it then runs as before.

    Example:
        >>> import torch
        >>> from pyro.infer import Trace_ELBO
        >>> from latentmix.guides import AmortizedGuide, MLPEncoder
        >>> from latentmix.inference import compile_elbo
        >>> from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
        >>> vae = VAE(MLPDecoder(2, (8,), (1, 4, 4)), StandardNormal(2), Bernoulli())
        >>> guide = AmortizedGuide(MLPEncoder(2, (8,), (1, 4, 4)))
        >>> x = torch.zeros(5, 1, 4, 4)
        >>> objective = compile_elbo(vae.model, guide, Trace_ELBO(), x)  # doctest: +SKIP
        >>> objective.backward(vae.model, guide, x).elbo  # doctest: +SKIP
        tensor(-11.2)
    """
    batch = (example_batch,) if isinstance(example_batch, Tensor) else tuple(example_batch)
    compiled = CompiledObjective(as_objective(objective), model, guide)
    compiled._compiled(model, guide, tuple(map(_dense, batch)))
    return compiled


def _dense(tensor: Tensor) -> Tensor:
    """The tensor; a copy of one with gaps in memory, or expanded, laid out as operators lay out their results."""
    same = tensor.is_contiguous() or torch.empty_like(tensor).stride() == tensor.stride()
    return tensor if same else tensor.clone()
