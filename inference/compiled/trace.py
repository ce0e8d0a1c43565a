"""One step of SVI as a graph: loss and gradients, with everything that may change as an input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from latentmix.inference.batches import Batch
from latentmix.inference.isolation import RandomState, Registered
from latentmix.inference.objectives.base import Objective, Stochastic, Terms

__all__ = ["NotTraceableError", "TracedStep", "trace_step"]


class NotTraceableError(ValueError):
    """The step of a model and guide is no fixed graph of tensors; the message names the reason."""


@dataclass(frozen=True, eq=False)
class TracedStep:
    """Loss, reported terms and gradients of one minibatch as a graph.

    Attributes:
        graph: A module of `len(leaves) + len(batch) + len(draws) + len(constants)` tensors, in this order; it returns
            the reported terms and one gradient per leaf.
        leaves: The parameters that the loss depends on.
        draws: Draws the random numbers of a step from torch's generators, in the order of the uncompiled step.
        constants: All other tensors that the step reads, such as buffers, frozen parameters and the prior's tensors.
            They are the objects themselves, so that changes in place are seen.
        reported: Which terms of loss, ELBO, log-likelihood and KL the objective reports.
        written: Those of the constants that the step changes, such as running statistics.
    """

    graph: fx.GraphModule
    leaves: tuple[Tensor, ...]
    draws: Callable[[], tuple[Tensor, ...]]
    constants: tuple[Tensor, ...]
    reported: tuple[bool, ...]
    written: tuple[Tensor, ...]

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
        return [*self.leaves, *batch, *self.draws(), *self.constants]

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
        NotTraceableError: If the gradients are not those of the loss, a Python value depends on tensors, or random
            numbers depend on data or parameters.
    """
    if not objective.gradients_of_loss:
        raise NotTraceableError(
            f"Expected an objective whose gradients are those of its loss; got {_name(objective)}, which has others."
        )
    with _Unwritten() as kept, Registered():
        terms = objective.terms(model, guide, *batch)
        leaves = _leaves(terms.loss)
        if not leaves:
            raise NotTraceableError("Expected a loss that depends on parameters; got a constant.")
        reported = tuple(part is not None for part in terms)

        def step(_: Sequence[Tensor], data: Batch) -> list[Tensor]:
            traced = objective.terms(model, guide, *data)
            gradients = torch.autograd.grad(traced.loss, leaves)
            return [*(part.detach() for part in traced if part is not None), *gradients]

        try:
            graph = make_fx(step, tracing_mode="real")(leaves, batch)
        except Exception as error:
            raise NotTraceableError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    graph.graph.set_codegen(fx.graph.CodeGen())
    draws = _without_draws(graph)
    constants = _without_constants(graph)
    written = tuple(tensor for tensor in constants if id(tensor) in kept.written)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return TracedStep(graph, leaves, draws, constants, reported, written)


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
            for tensor, value in self.written.values():
                tensor.copy_(value)
        self._randomness.restore()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _written_arguments(func, args):
            if id(tensor) not in self.written:
                self.written[id(tensor)] = (tensor, tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def _written_arguments(operator: Any, args: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors that an operator writes; batch normalisation does not declare its running statistics."""
    declared = [
        argument.alias_info is not None and argument.alias_info.is_write for argument in operator._schema.arguments
    ]
    if operator in _BATCH_NORMALISATIONS:
        declared[3:5] = [True, True]
    for argument, writes in zip(args, declared, strict=False):
        if writes and isinstance(argument, Tensor):
            yield argument


def _leaves(loss: Tensor) -> tuple[Tensor, ...]:
    """The leaves that a loss depends on, in the order in which its graph is walked."""
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
    return tuple(leaves.values())


_BATCH_NORMALISATIONS = {
    torch.ops.aten.native_batch_norm.default,
    torch.ops.aten.cudnn_batch_norm.default,
    torch.ops.aten.miopen_batch_norm.default,
}

# Operators whose result has the shape of their argument and not its values.
_LIKE: dict[Any, float | None] = {
    torch.ops.aten.empty_like.default: None,
    torch.ops.aten.zeros_like.default: 0.0,
    torch.ops.aten.ones_like.default: 1.0,
}
_RANDOM_LIKE: dict[Any, str] = {
    torch.ops.aten.rand_like.default: "uniform_",
    torch.ops.aten.randn_like.default: "normal_",
}
_NEW: dict[Any, float | None] = {
    torch.ops.aten.new_empty.default: None,
    torch.ops.aten.new_zeros.default: 0.0,
    torch.ops.aten.new_ones.default: 1.0,
}


def _without_draws(module: fx.GraphModule) -> Callable[[], tuple[Tensor, ...]]:
    """Make the random numbers of a graph inputs, and return the function that draws them."""
    graph = module.graph
    drawing = [node for node in graph.nodes if _random(node)]
    places = {node: place for place, node in enumerate(graph.nodes)}
    needed: set[fx.Node] = set()
    for node in drawing:
        _collect(node, needed, places)
    program = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in needed:
            continue
        if node.op == "placeholder":
            raise NotTraceableError(
                f"Expected random numbers that depend neither on data nor on parameters; got {_operator(drawing)}."
            )
        copies[node] = _copied(program, node, copies)
    program.output(tuple(copies[node] for node in drawing))
    for index, node in enumerate(drawing):
        node.replace_all_uses_with(_new_input(graph, f"draw_{index}", node))
    for node in reversed(list(graph.nodes)):
        if node in needed and not node.users:
            graph.erase_node(node)
    draw: Callable[[], tuple[Tensor, ...]] = fx.GraphModule(module, program).forward
    return torch.no_grad()(draw) if drawing else tuple


def _random(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def _shape_only(node: fx.Node) -> bool:
    return node.target in _LIKE or node.target in _RANDOM_LIKE or node.target in _NEW


def _collect(draw: fx.Node, needed: set[fx.Node], places: Mapping[fx.Node, int]) -> None:
    """Add a draw and all that its values depend on, operators in place before it included."""
    waiting = [draw]
    while waiting:
        node = waiting.pop()
        if node in needed:
            continue
        needed.add(node)
        if not _shape_only(node):
            waiting.extend(node.all_input_nodes)
        if node is not draw and node.op != "placeholder":
            waiting.extend(user for user in node.users if places[user] < places[draw] and _writes(user, node))


def _writes(user: fx.Node, node: fx.Node) -> bool:
    """Whether an operator changes the node, its first argument, in place."""
    schema = getattr(user.target, "_schema", None)
    return bool(user.args) and user.args[0] is node and schema is not None and schema.is_mutable


def _copied(program: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    """A node of the program that draws: the node, or an operator that needs no argument for its shape."""
    if not _shape_only(node):
        return program.node_copy(node, lambda argument: copies[argument])
    value: Tensor = node.meta["val"]
    empty = program.call_function(
        torch.empty_strided,
        (tuple(value.shape), tuple(value.stride())),
        {"dtype": value.dtype, "device": value.device},
    )
    if node.target in _RANDOM_LIKE:
        return program.call_method(_RANDOM_LIKE[node.target], (empty,))
    fill = {**_LIKE, **_NEW}[node.target]
    return empty if fill is None else program.call_method("fill_", (empty, fill))


def _without_constants(module: fx.GraphModule) -> tuple[Tensor, ...]:
    """Make the tensors that a graph holds inputs, and return them."""
    constants: dict[str, tuple[Tensor, fx.Node]] = {}
    for node in [node for node in module.graph.nodes if node.op == "get_attr"]:
        name = str(node.target)
        if name not in constants:
            constants[name] = (getattr(module, name), _new_input(module.graph, f"constant_{len(constants)}", node))
        node.replace_all_uses_with(constants[name][1])
        module.graph.erase_node(node)
    for name in constants:
        delattr(module, name)
    return tuple(tensor for tensor, _ in constants.values())


def _new_input(graph: fx.Graph, name: str, like: fx.Node) -> fx.Node:
    """A placeholder after the last one, with the shape of another node."""
    *_, last = (node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(last):
        placeholder = graph.placeholder(name)
    placeholder.meta = dict(like.meta)
    return placeholder


def _operator(drawing: Sequence[fx.Node]) -> str:
    return ", ".join(sorted({str(node.target).removeprefix("aten.") for node in drawing}))


def _name(part: object) -> str:
    return type(getattr(part, "elbo", part)).__name__
