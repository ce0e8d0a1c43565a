"""The random numbers of a graph, drawn outside it from torch's generators, as the uncompiled step draws them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["Draws", "new_input", "without_draws", "written_arguments"]

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


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws the random numbers of a step, in the order of the uncompiled step.

    Those that depend on data or parameters, such as draws of a Gamma distribution, are preceded by the operators that
    give their distribution, which then run twice: here, and compiled in the graph.

    Attributes:
        program: A function of the inputs in `needed`.
        needed: Numbers of the graph's other inputs that the draws depend on.
        copied: Those of them that the program changes in place, as the graph does: it is given copies.
        count: Number of random tensors.
    """

    program: Callable[..., tuple[Tensor, ...]]
    needed: tuple[int, ...]
    copied: frozenset[int]
    count: int

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The random tensors.

        Args:
            inputs: The graph's other inputs.
        """
        if not self.count:
            return ()
        with torch.no_grad():
            return self.program(
                *(inputs[each].clone() if each in self.copied else inputs[each] for each in self.needed)
            )


def without_draws(module: fx.GraphModule, position: int) -> Draws:
    """Make the random numbers of a graph inputs, and return what draws them.

    Args:
        module: The graph, all of whose tensors are inputs.
        position: Number of the inputs before those of the random numbers.
    """
    graph = module.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    results = [result for node in graph.nodes if _random(node) for result in _results(node)]
    roots: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        roots[node] = _root(node, roots)
    written = {node: _written_roots(node, roots) for node in graph.nodes}
    needed = _needed(graph, roots, written)
    program = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in needed or node in results:
            copies[node] = _copied(program, node, copies)
    program.output(tuple(copies[node] for node in results))
    place = inputs[position - 1]
    for index, node in enumerate(results):
        place = new_input(graph, f"draw_{index}", node, after=place)
        node.replace_all_uses_with(place)
    for node in reversed(list(graph.nodes)):
        keeps = node.op == "placeholder" or any(root.op == "placeholder" for root in written.get(node, ()))
        if (node in needed or node in results) and not node.users and not keeps:
            graph.erase_node(node)
    used = [index for index, node in enumerate(inputs) if node in needed]
    changed = frozenset(index for index in used if any(inputs[index] in written[node] for node in needed))
    return Draws(fx.GraphModule(module, program).forward, tuple(used), changed, len(results))


def new_input(graph: fx.Graph, name: str, like: fx.Node, after: fx.Node | None = None) -> fx.Node:
    """A placeholder with the shape of another node.

    Args:
        graph: The graph.
        name: Name of the placeholder.
        like: The other node.
        after: The placeholder before it; by default the last one.
    """
    if after is None:
        *_, after = (node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(after):
        placeholder = graph.placeholder(name)
    placeholder.meta = dict(like.meta)
    return placeholder


def written_arguments(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """The arguments that an operator writes; batch normalisation does not declare its running statistics.

    Args:
        function: An overload of an operator.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    if torch.Tag.inplace_view in function.tags:  # changes a shape, and no value
        return
    for index, argument in enumerate(function._schema.arguments):
        declared = argument.alias_info is not None and argument.alias_info.is_write
        if declared or (function in _BATCH_NORMALISATIONS and index in (3, 4)):
            yield args[index] if index < len(args) else kwargs.get(argument.name)


def _random(node: fx.Node) -> bool:
    return _is_operator(node) and torch.Tag.nondeterministic_seeded in node.target.tags  # type: ignore[union-attr]


def _is_operator(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload)


def _results(node: fx.Node) -> list[fx.Node]:
    """The tensors that a random operator returns, of several those that are used."""
    if isinstance(node.meta.get("val"), tuple | list):
        return [user for user in node.users if user.target is operator.getitem]
    return [node]


def _root(node: fx.Node, roots: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """The node whose memory a view, or the result of an operator in place, has."""
    if _is_operator(node):
        returns = node.target._schema.returns  # type: ignore[union-attr]
        if returns and returns[0].alias_info is not None and isinstance(node.args[0], fx.Node):
            return roots[node.args[0]]
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return roots[node.args[0]]
    return node


def _written_roots(node: fx.Node, roots: Mapping[fx.Node, fx.Node]) -> list[fx.Node]:
    if not _is_operator(node):
        return []
    found: list[fx.Node] = []
    for argument in written_arguments(node.target, node.args, node.kwargs):
        fx.node.map_arg(argument, lambda each: found.append(roots[each]))
    return found


def _needed(
    graph: fx.Graph, roots: Mapping[fx.Node, fx.Node], written: Mapping[fx.Node, Sequence[fx.Node]]
) -> set[fx.Node]:
    """The draws and all that their values depend on, earlier operators in place on the same memory included."""
    places = {node: place for place, node in enumerate(graph.nodes)}
    writers: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        for root in written[node]:
            writers.setdefault(root, []).append(node)
    needed: set[fx.Node] = set()
    for draw in filter(_random, graph.nodes):
        waiting = [draw]
        while waiting:
            node = waiting.pop()
            if node in needed:
                continue
            needed.add(node)
            if _shape_only(node):
                continue
            waiting.extend(node.all_input_nodes)
            waiting.extend(each for each in writers.get(roots[node], ()) if places[each] < places[draw])
    return needed


def _shape_only(node: fx.Node) -> bool:
    return node.target in _LIKE or node.target in _RANDOM_LIKE or node.target in _NEW


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
