from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from latentmix.models import MLPDecoder, products
from latentmix.models.products import Linear

pytestmark = pytest.mark.skipif(not torch._C._has_mkldnn, reason="this build of torch has no oneDNN")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Products of oneDNN, of which all are taken, as on a processor with a slow BLAS."""
    seen: list[tuple[int, ...]] = []
    product = products.onednn_product

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append((*x.shape, len(weight)))
        return product(x, weight, bias)

    monkeypatch.setattr(products, "_least", lambda: (0.0, 0.0))
    monkeypatch.setattr(products, "onednn_product", counted)
    return seen


def pair(inputs: int = 7, outputs: int = 5, bias: bool = True) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    own, plain = Linear(inputs, outputs, bias=bias), nn.Linear(inputs, outputs, bias=bias)
    plain.load_state_dict(own.state_dict())
    return own, plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 6])
def test_values_and_gradients_are_those_of_the_plain_layer(calls: list[tuple[int, ...]], rows: int, bias: bool) -> None:
    own, plain = pair(bias=bias)
    x = torch.randn(rows, 7)
    results = []
    for layer in (own, plain):
        given = x.clone().requires_grad_()
        value = layer(given)
        value.square().sum().backward()
        results.append([value, given.grad, *(leaf.grad for leaf in layer.parameters())])
    torch.testing.assert_close(*results)
    assert calls == ([(rows, 7, 5), (rows, 5, 7), (5, rows, 7)] if rows else [])


def test_gradients_of_gradients(calls: list[tuple[int, ...]]) -> None:
    own, plain = pair()
    x = torch.randn(6, 7)
    results = []
    for layer in (own, plain):
        given = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(layer(given).pow(3).sum(), given, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), [given, *layer.parameters()]))
    torch.testing.assert_close(*results)
    assert calls


def test_a_frozen_layer_has_no_gradient(calls: list[tuple[int, ...]]) -> None:
    own, _ = pair()
    own.requires_grad_(False)
    x = torch.randn(6, 7, requires_grad=True)
    own(x).sum().backward()
    assert x.grad is not None
    assert own.weight.grad is None
    assert len(calls) == 2


def test_transformations_traces_and_other_types_take_the_plain_way(calls: list[tuple[int, ...]]) -> None:
    own, plain = pair()
    x = torch.randn(4, 7)
    torch.testing.assert_close(torch.vmap(own)(x[:, None]), plain(x)[:, None])
    torch.testing.assert_close(torch.func.jacrev(own)(x), torch.func.jacrev(plain)(x))
    torch.testing.assert_close(torch.func.hessian(lambda x: own(x).pow(3).sum())(x).shape, (4, 7, 4, 7))
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(own(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    torch.testing.assert_close(tangent, (torch.ones_like(x) @ own.weight.T).detach())
    graph = make_fx(own)(x)
    assert "mkldnn" not in graph.code
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert own(x).dtype == torch.bfloat16
    assert own(x[None]).shape == (1, 4, 5)
    own.double()
    assert own(x.double()).dtype == torch.float64
    assert calls == []


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_layer_takes_any_number_of_rows(calls: list[tuple[int, ...]], strict: bool) -> None:
    own, plain = pair()
    shapes = ({0: torch.export.Dim("rows")},)
    exported = torch.export.export(own, (torch.randn(4, 7),), dynamic_shapes=shapes, strict=strict).module()
    x = torch.randn(9, 7)
    torch.testing.assert_close(exported(x), plain(x))
    assert calls == []


def test_small_products_stay_on_the_blas(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]) -> None:
    own, _ = pair()
    monkeypatch.setattr(products, "_least", lambda: (2.0 * 6 * 7 * 5, math.inf))
    own(torch.randn(5, 7))
    assert calls == []
    own(torch.randn(6, 7))
    assert calls == [(6, 7, 5)]


def test_the_gradient_of_a_weight_stays_where_its_layout_is_slow(
    monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]
) -> None:
    own, plain = pair()
    monkeypatch.setattr(products, "_least", lambda: (0.0, math.inf))
    x = torch.randn(6, 7, requires_grad=True)
    for layer in (own, plain):
        layer(x).square().sum().backward()
    assert calls == [(6, 7, 5), (6, 5, 7)]
    torch.testing.assert_close(own.weight.grad, plain.weight.grad)


def test_the_rule_takes_nothing_where_the_operator_is_missing_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Tensor:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(products, "_has_amd", lambda: True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    least = products._least.__wrapped__
    assert least() == (4e6, 4e6)
    monkeypatch.setattr(products, "onednn_product", fails)
    assert least() == (math.inf, math.inf)
    monkeypatch.undo()
    monkeypatch.setattr(products, "_has_amd", lambda: False)
    assert least() == (math.inf, math.inf)


def test_networks_have_such_layers() -> None:
    decoder = MLPDecoder(2, (8,), (1, 4, 4))
    assert all(type(layer) is Linear for layer in decoder.modules() if isinstance(layer, nn.Linear))
