"""Large products of a compiled graph on oneDNN, where the BLAS of torch is slow."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, fx

from latentmix.models.products import is_slow, onednn_product

__all__ = ["with_fast_products"]

# Inductor lowers oneDNN's own operator for constant weights only.
_NAME = "latentmix::product"
torch.library.define(_NAME, "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
torch.library.impl(_NAME, "CPU", onednn_product)


def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(len(x), len(weight))


torch.library.register_fake(_NAME, _shape)


def with_fast_products(module: fx.GraphModule) -> fx.GraphModule:
    """A graph whose large float32 products on the CPU are calls of oneDNN; the graph itself where there are none.

    Args:
        module: A graph of aten operators, with the values of a run in its nodes' `meta`.
    """
    if not any(map(_is_large, module.graph.nodes)):
        return module
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if _is_large(node):
            bias, x, weight = (copies.get(factor) for factor in _factors(node))
            turned = graph.call_function(torch.ops.aten.t.default, (weight,))
            copies[node] = graph.call_function(torch.ops.latentmix.product.default, (x, turned, bias))
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.set_codegen(fx.graph.CodeGen())
    _lower()
    return fx.GraphModule(module, graph)


def _factors(node: fx.Node) -> tuple[Any, ...]:
    """Bias, or None, and factors of a product; nothing of another operator."""
    if node.target is torch.ops.aten.mm.default:
        return (None, *node.args)
    if node.target is torch.ops.aten.addmm.default and not node.kwargs:
        bias: Any = node.args[0]
        return node.args if bias.meta["val"].dim() == 1 else ()
    return ()


def _is_large(node: fx.Node) -> bool:
    if not (factors := _factors(node)):
        return False
    x, weight = (factor.meta["val"] for factor in factors[1:])
    plain = x.dtype == torch.float32 and x.device.type == "cpu"
    return plain and is_slow(x, weight.shape[1])


@functools.cache
def _lower() -> None:
    """Tell inductor to call oneDNN's operator itself, without the Python of this module's.

    The interface is private; where it is another one, inductor calls the operator of this module.
    """
    try:
        from torch._inductor.ir import FallbackKernel, TensorBox
        from torch._inductor.lowering import register_lowering

        kernel = torch.ops.mkldnn._linear_pointwise.default

        @register_lowering(torch.ops.latentmix.product.default, type_promotion_kind=None)
        def lower(x: Any, weight: Any, bias: Any) -> Any:
            return TensorBox.create(FallbackKernel.create(kernel, x, weight, bias, "none", [], ""))

    except (ImportError, AttributeError, TypeError):
        return
