from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx
from torch._inductor import ir
from torch._inductor.lowering import lowerings
from torch.fx.experimental.proxy_tensor import make_fx

from latentmix.inference.compiled import products
from latentmix.inference.compiled.inductor import compile_graph
from latentmix.inference.compiled.products import with_fast_products
from latentmix.models import products as model_products

pytestmark = pytest.mark.skipif(not torch._C._has_mkldnn, reason="this build of torch has no oneDNN")


def step(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.addmm(bias, x, weight.t()).relu()
    return hidden.sum(), hidden.t() @ x, torch.addmm(hidden, x, weight.t(), beta=2.0)


def make_graph(dtype: torch.dtype = torch.float32) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    inputs = (torch.randn(6, 7, dtype=dtype), torch.randn(5, 7, dtype=dtype), torch.randn(5, dtype=dtype))
    return make_fx(step)(*inputs), inputs


def operators(module: fx.GraphModule) -> list[str]:
    return [str(node.target).removeprefix("aten.") for node in module.graph.nodes if node.op == "call_function"]


def test_large_products_are_taken_over_and_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = make_graph()
    monkeypatch.setattr(model_products, "_least", lambda: (0.0, 0.0))
    fast = with_fast_products(graph)
    assert operators(fast).count("latentmix.product.default") == 2
    assert operators(fast).count("addmm.default") == 1  # whose first addend is a matrix
    torch.testing.assert_close(fast(*inputs), graph(*inputs))
    monkeypatch.setattr(model_products, "_least", lambda: (0.0, 1e9))
    assert (
        operators(with_fast_products(graph)).count("latentmix.product.default") == 1
    )  # by columns: that of hidden.t()
    monkeypatch.setattr(model_products, "_least", lambda: (1e9, 1e9))
    assert with_fast_products(graph) is graph
    monkeypatch.setattr(model_products, "_least", lambda: (0.0, 0.0))
    double, _ = make_graph(torch.float64)
    assert with_fast_products(double) is double


@pytest.mark.parametrize("private", [True, False])
def test_compiled_products_with_and_without_the_private_interface(
    monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    monkeypatch.delitem(lowerings, torch.ops.latentmix.product.default, raising=False)
    monkeypatch.setattr(products, "_lower", products._lower.__wrapped__)
    if not private:
        monkeypatch.delattr(ir, "FallbackKernel")
    products._lower()
    assert (torch.ops.latentmix.product.default in lowerings) == private
    monkeypatch.undo()
    monkeypatch.setattr(products, "_lower", lambda: None)
    monkeypatch.setattr(model_products, "_least", lambda: (0.0, 0.0))
    graph, inputs = make_graph()
    torch.testing.assert_close(tuple(compile_graph(graph, inputs)(inputs)), tuple(graph(*inputs)))
