"""One step of SVI as a graph: loss and gradients, with everything that may change as an input."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentmix.inference.batches import Batch
from latentmix.inference.compiled.draws import Draws, new_input, without_draws, written_arguments
from latentmix.inference.compiled.functions import FAST_FUNCTIONS
from latentmix.inference.compiled.python_state import LIMIT, Place, PythonState, State
from latentmix.inference.isolation import RandomState, Registered
from latentmix.inference.objectives.base import Objective, Stochastic, Terms
from latentmix.models.display import Displayed
from latentmix.models.words import plural

__all__ = ["NotTraceableError", "TracedStep", "trace_step"]


class NotTraceableError(ValueError):
    """The step of a model and guide is no fixed graph of tensors; the message names the reason."""


@dataclass(frozen=True, eq=False, repr=False)
class TracedStep(Displayed):
    """Loss, reported terms and gradients of one minibatch as a graph.

    Attributes:
        graph: A module of `len(leaves) + len(batch) + len(draws) + len(constants)` tensors, in this order; it returns
            the reported terms and one gradient per leaf.
        leaves: The parameters that the loss depends on.
        draws: Draws the random numbers of a step from torch's generators, in the order of the uncompiled step.
        constants: All other tensors that the step reads, such as buffers, frozen parameters and the prior's tensors.
            They are the objects themselves, so that changes in place are seen.
        reported: Which terms of loss, ELBO, log-likelihood and KL the objective reports.
        written: Those of leaves and constants that the step changes, such as running statistics.
        python: The Python values that model, guide and objective had, which the graph has as constants.
    """

    graph: fx.GraphModule
    leaves: tuple[Tensor, ...]
    draws: Draws
    constants: tuple[Tensor, ...]
    reported: tuple[bool, ...]
    written: tuple[Tensor, ...]
    python: PythonState

    def shown(self) -> dict[str, Any]:
        size = sum(leaf.numel() for leaf in self.leaves)
        return {
            "operators": sum(node.op == "call_function" for node in self.graph.graph.nodes),
            "parameters": f"{plural(size, 'number')} in {plural(len(self.leaves), 'tensor')}",
            "other tensors": len(self.constants),
            "Python values": len(self.python.places),
        }

    @property
    def rounding(self) -> float:
        """The largest rounding error among the graph's floating-point types, of a number about 1."""
        values = (node.meta.get("val") for node in self.graph.graph.nodes)
        types = {value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point()}
        return max((torch.finfo(dtype).eps for dtype in types), default=0.0)

    @property
    def change(self) -> str | None:
        """The name of a Python value or a parameter that is no longer what it was when the step was traced; or None."""
        if self.python.same:
            return None
        return next((place.name for place in self.python.places if place.changed), None)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """A block after which random states, and the tensors that the step changes, are what they were."""
        randomness, values = RandomState.capture(), [tensor.detach().clone() for tensor in self.written]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(self.written, values, strict=True):
                    tensor.copy_(value)
            randomness.restore()

    def inputs(self, batch: Batch) -> list[Tensor]:
        """The inputs of the graph for a minibatch, with fresh random numbers."""
        return [*self.leaves, *batch, *self.draws((*self.leaves, *batch, *self.constants)), *self.constants]

    def outputs(self, values: Sequence[Tensor]) -> tuple[Terms, tuple[Tensor, ...]]:
        """Terms, and a gradient per leaf, from the values that the graph returned."""
        parts = iter(values)
        terms = Terms(*(next(parts) if given else None for given in self.reported))  # type: ignore[arg-type]
        return terms, tuple(parts)


def trace_step(objective: Objective, model: Stochastic, guide: Stochastic, batch: Batch) -> TracedStep:
    """Trace the loss of a minibatch and its gradients.

    Model and guide run several times; random states, and tensors that they change in place, are restored afterwards.

    Args:
        objective: The objective.
        model: Pyro callable.
        guide: Pyro callable.
        batch: Tensors of one minibatch; the graph is for their shapes.

    Raises:
        NotTraceableError: If the gradients are not those of the loss, a Python value depends on tensors, random numbers
            are not torch's, or there are too many Python values to watch.
    """
    if not objective.gradients_of_loss:
        raise NotTraceableError(
            f"Expected an objective whose gradients are those of its loss; got {_name(objective)}, which has others."
        )
    python = PythonState.of(model, guide, objective, *objective.modules, pyro.get_param_store()._params)
    if len(python.places) >= LIMIT:
        raise NotTraceableError(
            f"Expected fewer than {LIMIT:,} Python values within reach of model and guide; got more, whose changes "
            "would not be seen."
        )
    with _Unwritten() as kept, Registered(), _unchanged(python):
        terms = objective.terms(model, guide, *batch)
        if kept.has_foreign_draws:
            raise NotTraceableError(
                "Expected random numbers of torch's generators; got some of Python's or NumPy's, which a graph would "
                "fix."
            )
        leaves = _leaves(terms.loss)
        reported = tuple(part is not None for part in terms)
        rebound = _rebound(python)

        def step(_: Sequence[Tensor], data: Batch) -> list[Tensor]:
            with _Known(), _Unread():  # type: ignore[no-untyped-call]
                traced = objective.terms(model, guide, *data)
            gradients = torch.autograd.grad(traced.loss, leaves)
            return [*(part.detach() for part in traced if part is not None), *gradients]

        try:
            # Copies, as model and guide may hold the same tensors, which are none of the minibatch.
            data = tuple(tensor.detach().clone() for tensor in batch)
            graph = make_fx(step, decomposition_table=dict(FAST_FUNCTIONS), tracing_mode="real")(leaves, data)
        except Exception as error:
            raise NotTraceableError(_reason(error)) from error
    graph.graph.set_codegen(fx.graph.CodeGen())
    constants = _without_constants(graph)
    draws = without_draws(graph, len(leaves) + len(batch))
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    changed = {memory(tensor) for tensor, _ in kept.written.values()}
    if any(memory(tensor) in changed for tensor in batch):
        raise NotTraceableError("Expected a step that leaves its minibatch as it is; got one that changes it in place.")
    for place in (each for each in rebound if not each.is_object):
        cached = place.name.rpartition(".")[2].startswith("_")  # as by Pyro's flows
        if not cached or any(place.value is tensor for tensor in constants):
            raise NotTraceableError(_effect(place.name))
    read = {id(tensor) for tensor in (*leaves, *constants)}
    guarded = PythonState(
        (
            *(place for place in python.places if place not in rebound and _read(place, read)),
            _freezing((*leaves, *constants)),
        )
    )
    written = tuple(tensor for tensor in (*leaves, *constants) if memory(tensor) in changed)
    traced = TracedStep(graph, leaves, draws, constants, reported, written, guarded)
    _verify(traced, objective, model, guide, batch)
    return traced


def _read(place: Place, tensors: set[int]) -> bool:
    return not isinstance(place.value, Tensor) or id(place.value) in tensors


def _freezing(tensors: Sequence[Tensor]) -> Place:
    on_gpu = [tensor for tensor in tensors if tensor.is_cuda and tensor.layout is torch.strided]

    def read() -> State:
        # A CUDA graph reads the memory that it has recorded.
        return State((list(map(_FREEZING, tensors)), [tensor.untyped_storage().data_ptr() for tensor in on_gpu]))

    return Place("whether a parameter is frozen, its type or its memory", read(), read, lambda _: None)


_FREEZING = attrgetter("requires_grad", "dtype", "layout")


@contextmanager
def _unchanged(python: PythonState) -> Iterator[None]:
    try:
        yield
    finally:
        python.restore()


def _rebound(python: PythonState) -> list[Place]:
    """Restore what a step has changed, and return the places of tensors, and of objects of Pyro's, among it.

    Raises:
        NotTraceableError: If there is another value among it.
    """
    changes = python.changes()
    python.restore()
    for place in changes:
        if not (isinstance(place.value, Tensor) or (place.library and place.is_object)):
            raise NotTraceableError(_effect(place.name))
    return changes


def _effect(name: str) -> str:
    return f"Expected a step without effects on Python values; got one that changes {name}."


def _reason(error: Exception) -> str:
    """A sentence about the failure of a trace."""
    if "_local_scalar_dense" not in str(error) and not isinstance(error, _ReadError):
        return described(error)
    libraries = tuple(f"{Path(module.__file__ or '').parent}{os.sep}" for module in (torch, pyro))
    own = f"{Path(__file__).parents[1]}{os.sep}"
    frames = [
        each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith((*libraries, own))
    ]
    place = f" in {frames[-1].name}, line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
    return (
        f"Expected no Python value of a tensor, as by .item(), float(), .numpy() or a branch on data; got one{place}."
    )


def described(error: Exception) -> str:
    """Kind and message of an error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _verify(step: TracedStep, objective: Objective, model: Stochastic, guide: Stochastic, batch: Batch) -> None:
    """Compare graph and step with other data and parameters, since a value read outside torch is fixed in the graph.

    Raises:
        NotTraceableError: If they differ.
    """
    length = len(batch[0])
    values = [leaf.detach().clone() for leaf in step.leaves]
    for rows in (torch.arange(length) // 2, length - 1 - torch.arange(length) // 2):
        other = tuple(tensor[rows.to(tensor.device)] for tensor in batch)
        try:
            with torch.no_grad():
                for leaf in step.leaves:
                    leaf.mul_(1.01).add_(1e-3)
            with step.undone(), torch.no_grad():
                terms, gradients = step.outputs(step.graph(*step.inputs(other)))
            with step.undone(), Registered(), _unchanged(step.python):
                expected = objective.terms(model, guide, *other)
                exact = torch.autograd.grad(expected.loss, step.leaves)
        except Exception as error:
            raise NotTraceableError(
                f"Expected tensors of the same shapes for other data and parameters; got an error: {_reason(error)}"
            ) from error
        finally:
            with torch.no_grad():
                for leaf, value in reversed(list(zip(step.leaves, values, strict=True))):
                    leaf.copy_(value)
        if not agree(terms, gradients, expected, exact):
            loss = expected.loss.detach()
            raise NotTraceableError(
                f"the traced loss is {float(terms.loss):.8g} where model and guide give {float(loss):.8g} "
                "with other data, parameters and random numbers, some of which are not torch's"
            )


def largest(terms: Terms) -> float:
    """The largest absolute value among the terms, the scale of their rounding errors."""
    return float(torch.stack([part.detach().abs().double() for part in terms if part is not None]).max())


def agree(
    terms: Terms, gradients: Sequence[Tensor], expected: Terms, exact: Sequence[Tensor], rounding: float = 0.0
) -> bool:
    """Whether loss and gradients are those expected, up to rounding errors.

    Compilation rounds otherwise only now and then, and a loss is the sum of so many numbers that errors in bfloat16 on
    the way cancel. In a gradient they leave up to four times `rounding`, the largest error of a single number, of the
    norm of all gradients.
    """
    scale = largest(expected)
    norms = [float(torch.linalg.vector_norm(theirs)) for theirs in exact]
    error = 4.0 * rounding * math.hypot(*norms)
    return close(terms.loss, expected.loss.detach(), scale) and all(
        close(ours, theirs, scale + norm, error) for ours, theirs, norm in zip(gradients, exact, norms, strict=True)
    )


def close(value: Tensor, expected: Tensor, scale: float, error: float = 0.0) -> bool:
    """Whether two values agree up to 1,000 rounding errors of some scale, or `error`, norm-wise; NaN equals NaN."""
    tolerance = max(1e3 * torch.finfo(expected.dtype).eps * (1.0 + scale), error)
    difference = torch.linalg.vector_norm((value - expected).abs().double().nan_to_num(0.0, 0.0, 0.0))
    same = torch.equal(value.isfinite(), expected.isfinite())
    return same and float(difference) <= tolerance


def memory(tensor: Tensor) -> int:
    """The address of a tensor's memory, common to its views; for a sparse or empty one, the object's identity."""
    address = tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
    return address or id(tensor)


_READERS = frozenset({Tensor.tolist, Tensor.numpy, Tensor.__array__})  # which no trace sees


class _Known(TorchFunctionMode):
    """Answers questions about tensors whose answers are known, since a trace cannot ask them.

    Those are the validation by distributions that were made while it was on, such as those of PyroSample, and the
    numbers of a range, over which `for i in pyro.plate(...)` runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ranges: dict[int, tuple[Tensor, Sequence[int]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._is_all_true:
            return True
        known, numbers = self._ranges.get(id(args[0]), (None, None)) if args else (None, None)
        if known is not None and known._version > 0:  # changed in place
            numbers = None
        if func is Tensor.item and numbers is not None:
            return numbers[0]
        if func in _READERS:
            raise _ReadError
        result = func(*args, **(kwargs or {}))
        if func is torch.arange and all(type(each) is int for each in args):
            self._ranges[id(result)] = (result, range(*args))
        elif func is Tensor.unbind and numbers is not None:
            self._ranges |= {id(each): (each, [number]) for each, number in zip(result, numbers, strict=True)}
        return result


class _ReadError(Exception):
    """The step takes a Python value of a tensor."""


class _Unread(TorchDispatchMode):
    """Refuses Python values of tensors from outside a trace, such as buffers, which it would fix in the graph."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            mode = get_proxy_mode()
            assert mode is not None
            for tensor in args:
                if isinstance(tensor, Tensor) and tensor not in mode.tracer.tensor_tracker:
                    raise _ReadError
        return func(*args, **(kwargs or {}))


class _Unwritten(TorchDispatchMode):
    """A block after which random states, and tensors that were written in place, are what they were.

    Attributes:
        written: The tensors, each with a copy of its first values, by identity.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.written: dict[int, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> Self:
        self._randomness = RandomState.capture()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for tensor, value in reversed(self.written.values()):
                tensor.copy_(value)
        self._randomness.restore()

    @property
    def has_foreign_draws(self) -> bool:
        """Whether random numbers have been drawn from Python's or NumPy's generator."""
        first, present = self._randomness, RandomState.capture()
        same = all(np.array_equal(*each) for each in zip(first.numpy, present.numpy, strict=True))
        return not same or first.python != present.python

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves(list(written_arguments(func, args, kwargs or {}))):
            if isinstance(tensor, Tensor) and id(tensor) not in self.written:
                self.written[id(tensor)] = (tensor, tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def _leaves(loss: Tensor) -> tuple[Tensor, ...]:
    """The leaves that have a gradient, in the order in which the graph of the loss is walked.

    Raises:
        NotTraceableError: If there is none, or one has a hook after its gradient.
    """
    leaves: dict[int, Tensor] = {}
    seen: set[Any] = set()
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if (leaf := getattr(function, "variable", None)) is not None:
            leaves.setdefault(id(leaf), leaf)
        waiting.extend(following for following, _ in function.next_functions)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True) if leaves else ()
    given = [leaf for leaf, gradient in zip(leaves.values(), gradients, strict=True) if gradient is not None]
    if not given:
        raise NotTraceableError("Expected a loss that depends on parameters; got a constant.")
    if any(gradient is not None and gradient.layout is not torch.strided for gradient in gradients):
        raise NotTraceableError("Expected dense gradients; got sparse ones, as of torch.nn.Embedding(sparse=True).")
    if any(leaf._post_accumulate_grad_hooks for leaf in given):
        raise NotTraceableError("Expected parameters without hooks after their gradients; got some that have one.")
    return tuple(given)


def _without_constants(module: fx.GraphModule) -> tuple[Tensor, ...]:
    """Make the tensors that a graph holds inputs, and return them."""
    constants: dict[str, tuple[Tensor, fx.Node]] = {}
    for node in [node for node in module.graph.nodes if node.op == "get_attr"]:
        name = str(node.target)
        if not isinstance(getattr(module, name), Tensor):  # a generator of random numbers
            continue
        if name not in constants:
            constants[name] = (getattr(module, name), new_input(module.graph, f"constant_{len(constants)}", node))
        node.replace_all_uses_with(constants[name][1])
        module.graph.erase_node(node)
    for name in constants:
        delattr(module, name)
    return tuple(tensor for tensor, _ in constants.values())


def _name(part: object) -> str:
    return type(getattr(part, "elbo", part)).__name__
