"""Products of networks in bfloat16: their rounding, what stays in float32, refusals, and fits that resume."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn

from latentmix.guides import AmortizedGuide, AutoregressiveFlow, ConvEncoder, FullNormal, MLPEncoder
from latentmix.inference import TrainingState, Weighted, as_objective, fit
from latentmix.inference.compiled.inductor import compiler_obstacle
from latentmix.inference.compiled.objective import CompiledObjective
from latentmix.inference.objectives import precision
from latentmix.inference.objectives.precision import MixedPrecision, _Products, slow_products
from latentmix.inference.svi.saved import StateError
from latentmix.models import (
    VAE,
    Bernoulli,
    ConvDecoder,
    FlowPrior,
    Gaussian,
    MixturePrior,
    MLPDecoder,
    StandardNormal,
    VampPrior,
)
from latentmix.models.convolutions import ConvTranspose2d

from tests.inference.compiled.interpreter import interpreted
from tests.inference.svi.test_state import Recorder

SHAPE = (1, 8, 8)
COMPILER = compiler_obstacle(torch.device("cpu"))
HALF_ULP = 2.0**-8  # of bfloat16, relative to a value
Parts = tuple[VAE, AmortizedGuide, Any]


def vae(prior: Any = None, likelihood: Any = None, decoder: Any = None) -> VAE:
    return VAE(decoder or MLPDecoder(3, (20,), SHAPE), prior or StandardNormal(3), likelihood or Bernoulli())


def guide(**options: Any) -> AmortizedGuide:
    return AmortizedGuide(MLPEncoder(3, (20,), SHAPE), **options)


def vamp() -> Parts:
    encoder, prior = guide(), VampPrior(3, SHAPE, n_components=4)
    prior.bind(encoder.posterior)
    return vae(prior), encoder, Trace_ELBO()


def convolutions() -> Parts:
    decoder, encoder = ConvDecoder(3, (8, 4), SHAPE), ConvEncoder(3, (4, 8), SHAPE, batch_norm=(False, True))
    return vae(decoder=decoder), AmortizedGuide(encoder), Trace_ELBO()


PARTS: dict[str, Callable[[], Parts]] = {
    "plain": lambda: (vae(), guide(), Trace_ELBO()),
    "Gaussian": lambda: (vae(likelihood=Gaussian("shared")), guide(), Weighted(Trace_ELBO(), warmup=2)),
    "full covariance": lambda: (
        vae(MixturePrior(3, n_components=2)),
        guide(family=FullNormal()),
        Trace_ELBO(num_particles=3, vectorize_particles=True),
    ),
    "enumerated": lambda: (
        vae(MixturePrior(3, n_components=2, enumerated=True)),
        guide(),
        TraceEnum_ELBO(max_plate_nesting=1),
    ),
    "flows": lambda: (vae(FlowPrior(3)), guide(family=AutoregressiveFlow()), Trace_ELBO()),
    "pseudo-inputs": vamp,
    "convolutions": convolutions,
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(30, 7), (5, 30)),
    "linear of batches": (lambda: nn.Linear(30, 7), (2, 5, 30)),
    "without bias": (lambda: nn.Linear(30, 7, bias=False), (5, 30)),
    "1-d convolution": (lambda: nn.Conv1d(3, 4, 5, stride=2, padding=2), (6, 3, 20)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding="same", groups=2), (6, 4, 8, 8)),
    "3-d convolution": (lambda: nn.Conv3d(2, 3, 3, dilation=2), (2, 2, 7, 7, 7)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1), (6, 4, 5, 5)),
    "onto few channels": (lambda: ConvTranspose2d(40, 1, 4, stride=2, padding=1), (6, 40, 5, 5)),
    "of one datum": (lambda: nn.ConvTranspose2d(4, 3, 4, stride=2, output_padding=1), (4, 5, 5)),
}


def images(count: int = 24) -> Tensor:
    return torch.bernoulli(torch.full((count, *SHAPE), 0.4), generator=torch.Generator().manual_seed(0))


def rounded(value: Tensor) -> Tensor:
    return value.detach().bfloat16().double()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_product_is_that_of_rounded_factors_rounded_once(layer: str) -> None:
    """With its gradients, against float64; the bias and its gradient are in float32."""
    torch.manual_seed(0)
    make, shape = LAYERS[layer]
    module: Any = make()
    exact: Any = make().double()
    exact.load_state_dict(module.state_dict())
    exact.weight.data = rounded(module.weight)
    x = torch.randn(shape, requires_grad=True)
    exact_x = rounded(x).requires_grad_()
    with _Products():
        value = module(x)
    exact_value = exact(exact_x)
    upstream = torch.randn_like(value)
    (value * upstream).sum().backward()
    (exact_value * rounded(upstream)).sum().backward()
    size = 0.0 if module.bias is None else float(module.bias.detach().abs().max())
    for ours, theirs, bias in (
        (value, exact_value, size),
        (x.grad, exact_x.grad, 0.0),
        (module.weight.grad, exact.weight.grad, 0.0),
    ):
        assert ours.dtype == torch.float32
        error = (ours.double() - theirs).abs().detach()
        assert bool((error <= HALF_ULP * (theirs.abs() + bias) + 1e-5).all())
        assert float(error.max()) > 1e-5
    if module.bias is not None:
        ones = make().double()
        ones(exact_x.detach()).mul(upstream.double()).sum().backward()
        torch.testing.assert_close(module.bias.grad.double(), ones.bias.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", PARTS)
def test_losses_and_gradients_are_near_those_of_float32(parts: str) -> None:
    torch.manual_seed(0)
    model, encoder, elbo = PARTS[parts]()
    leaves = [leaf for leaf in {*model.parameters(), *encoder.parameters()} if leaf.requires_grad]
    steps = []
    for objective in (as_objective(elbo), MixedPrecision(as_objective(elbo))):
        torch.manual_seed(1)
        pyro.clear_param_store()
        for leaf in leaves:
            leaf.grad = None
        terms = objective.backward(model.model, encoder, images())
        assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in leaves)
        steps.append((terms, torch.cat([leaf.grad.flatten() for leaf in leaves if leaf.grad is not None])))
    pyro.clear_param_store()
    (exact, exact_gradient), (terms, gradient) = steps
    assert 0 < abs(float((terms.loss - exact.loss).detach())) < 3e-3 * abs(float(exact.loss.detach()))
    assert all(part is None or part.dtype == torch.float32 for part in terms)
    assert float((gradient - exact_gradient).norm()) < 0.02 * float(exact_gradient.norm())


def test_densities_are_in_float32() -> None:
    """Their triangular, quadratic and Mahalanobis products, and the draws."""
    torch.manual_seed(0)
    z, scale_tril = torch.randn(7, 3), torch.randn(3, 3).tril(-1) + torch.eye(3)
    prior = MixturePrior(3, n_components=2)

    def values() -> list[Tensor]:
        torch.manual_seed(1)
        both: list[Any] = [dist.MultivariateNormal(torch.ones(3), scale_tril=scale_tril), prior()]
        made = [value for each in both for value in (each.log_prob(z), each.sample((5,)))]
        return [*made, scale_tril @ z.T, torch.einsum("ij,nj->ni", scale_tril, z)]

    expected = values()
    with _Products() as products:
        assert all(torch.equal(*pair) for pair in zip(values(), expected, strict=True))
    assert products.count == 0


@pytest.mark.parametrize(
    ("parts", "compile"), [*((parts, False) for parts in PARTS), ("plain", True), ("convolutions", True)]
)
def test_fits_draw_the_same_random_numbers_and_end_nearby(
    parts: str, compile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentmix.inference.compiled.objective.compile_graph", interpreted)
    monkeypatch.setattr("latentmix.inference.compiled.objective.compiler_obstacle", lambda device: None)
    results = []
    for chosen in ("full", "bf16-mixed"):
        torch.manual_seed(0)
        model, encoder, elbo = PARTS[parts]()
        options: dict[str, Any] = {"objective": elbo, "validation": images(5), "precision": chosen, "compile": compile}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            results.append(fit(model.model, encoder, images(), epochs=3, batch_size=8, seed=0, **options))
    exact, mixed = results
    assert torch.equal(exact.state.random.torch, mixed.state.random.torch)
    assert mixed.losses != exact.losses
    assert mixed.losses == pytest.approx(exact.losses, rel=3e-3)
    assert mixed.validation_losses == pytest.approx(exact.validation_losses, rel=3e-3)
    assert all(value.dtype == torch.float32 for value in mixed.parameters.values())


def test_validation_is_in_float32() -> None:
    """Without steps of any size, so that both fits keep the same weights."""
    losses = []
    for chosen in ("full", "bf16-mixed"):
        torch.manual_seed(0)
        model, encoder, _ = PARTS["plain"]()
        still = partial(torch.optim.SGD, lr=0.0)
        options: dict[str, Any] = {"optimizer": still, "validation": images(6), "precision": chosen, "seed": 0}
        result = fit(model.model, encoder, images(), epochs=2, batch_size=8, **options)
        losses.append((result.losses, result.validation_losses))
    assert losses[0][1] == losses[1][1]
    assert losses[0][0] != losses[1][0]


@pytest.mark.skipif(COMPILER is not None, reason=str(COMPILER))
def test_a_step_compiled_by_inductor_is_that_of_the_uncompiled_one() -> None:
    model, encoder, elbo = PARTS["plain"]()
    objective = CompiledObjective(MixedPrecision(as_objective(elbo)), model.model, encoder)
    pyro.clear_param_store()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            objective.checked_backward(model.model, encoder, images())
    pyro.clear_param_store()
    assert objective.obstacle is None


def test_a_fit_resumes_bit_for_bit_and_in_its_own_precision_alone() -> None:
    recorder = Recorder()

    def train(**options: Any) -> Any:
        torch.manual_seed(0)
        model, encoder, _ = PARTS["plain"]()
        return fit(model.model, encoder, images(), epochs=2, batch_size=8, **options)

    whole = train(precision="bf16-mixed", seed=0, callbacks=[recorder])
    saved = recorder.load("batch 1.1")
    resumed = train(precision="bf16-mixed", state=TrainingState.from_state_dict(saved))
    assert resumed.losses == whole.losses
    assert all(torch.equal(resumed.parameters[name], value) for name, value in whole.parameters.items())
    with pytest.raises(StateError, match="Expected the precision of the fit that is resumed, bf16-mixed; got full"):
        train(state=TrainingState.from_state_dict(saved))
    earlier = {name: value for name, value in saved.items() if name != "precision"}
    assert TrainingState.from_state_dict(earlier).precision == "full"
    with pytest.raises(StateError, match="Expected a precision of full or bf16-mixed in the state of training; got 8"):
        TrainingState.from_state_dict({**saved, "precision": 8})


def regression(x: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(slope, 1.0), obs=x)


def test_refusals() -> None:
    model, encoder, _ = PARTS["plain"]()
    with pytest.raises(ValueError, match="Expected precision 'full' or 'bf16-mixed'; got '16-mixed'"):
        fit(model.model, encoder, images(), epochs=1, precision="16-mixed")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected linear layers or convolutions in model or guide for precision='bf"):
        fit(regression, lambda x: None, torch.ones(4), epochs=1, precision="bf16-mixed")
    with pytest.raises(ValueError, match=r"Expected networks and their inputs in float32 .* got a product of torch.fl"):
        fit(model.double().model, encoder.double(), images().double(), epochs=1, precision="bf16-mixed")


def test_a_processor_without_such_products_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert slow_products(cpu) == "this processor has no products in bfloat16, such as AVX512_BF16 or AMX"
    model, encoder, _ = PARTS["plain"]()
    with pytest.warns(UserWarning, match="precision='bf16-mixed' gains no time here: this processor has no products"):
        fit(model.model, encoder, images(), epochs=1, precision="bf16-mixed")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True})
    assert slow_products(cpu) is None


def test_other_threads_and_later_products_are_in_float32() -> None:
    layer, x = nn.Linear(30, 7), torch.randn(5, 30)
    expected, values = layer(x), []
    with _Products():
        thread = threading.Thread(target=lambda: values.append(layer(x)))
        thread.start()
        thread.join()
        assert not torch.equal(layer(x), expected)
    assert torch.equal(values[0], expected)
    assert torch.equal(layer(x), expected)
    assert precision.PRECISIONS == ("full", "bf16-mixed")


def test_linear_layers_of_ours_are_in_bfloat16_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that call oneDNN by themselves for large products in float32."""
    monkeypatch.setattr("latentmix.models.products.is_slow", lambda *sizes: True)
    decoder, z = MLPDecoder(3, (20,), SHAPE), torch.randn(5, 3)
    with _Products() as counted:
        decoder(z)
    assert counted.count == 2
