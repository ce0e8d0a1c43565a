"""A traced step: equal to the uncompiled one in terms, gradients, random numbers and buffers, or refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor, nn

from latentmix.guides import AmortizedGuide, AutoregressiveFlow, DiagonalNormal, FullNormal, MLPEncoder
from latentmix.inference import FreeBits, Objective, Weighted, as_objective
from latentmix.inference.compiled.trace import NotTraceableError, trace_step
from latentmix.inference.isolation import Modules, isolated
from latentmix.models import (
    VAE,
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    FlowPrior,
    Gaussian,
    Laplace,
    MixturePrior,
    MLPDecoder,
    StandardNormal,
    StudentT,
    VampPrior,
)

from tests.inference.pairs import (
    auxiliary_pair,
    chain_pair,
    local_pair,
    mixture_pair,
    normalised_pair,
    score_function_pair,
    subsampled_pair,
)

SHAPE = (1, 4, 4)
PRIORS: dict[str, Callable[[], Any]] = {
    "StandardNormal": lambda: StandardNormal(2),
    "StudentT": lambda: StudentT(2),
    "MixturePrior": lambda: MixturePrior(2, n_components=3),
    "MixturePrior, enumerated": lambda: MixturePrior(2, n_components=3, enumerated=True),
    "VampPrior": lambda: VampPrior(2, n_components=3, shape=SHAPE),
    "FlowPrior": lambda: FlowPrior(2, transforms=1, hidden=(4,)),
}
FAMILIES = {
    "DiagonalNormal": DiagonalNormal,
    "FullNormal": FullNormal,
    "AutoregressiveFlow": lambda: AutoregressiveFlow(transforms=1, hidden=(4,)),
}
LIKELIHOODS = {
    "Bernoulli": Bernoulli,
    "ContinuousBernoulli": ContinuousBernoulli,
    "Gaussian": lambda: Gaussian(0.1),
    "Gaussian, shared": lambda: Gaussian("shared"),
    "Gaussian, pixel": lambda: Gaussian("pixel"),
    "Laplace": lambda: Laplace("shared"),
    "DiscretizedLogistic": lambda: DiscretizedLogistic(2),
}
OBJECTIVES = {
    "Trace_ELBO": lambda: Trace_ELBO(num_particles=2),
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "TraceEnum_ELBO": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "RenyiELBO": lambda: RenyiELBO(alpha=0, num_particles=2),
    "Weighted": lambda: Weighted(Trace_ELBO(), beta=2.0, warmup=4),
    "FreeBits": lambda: FreeBits(0.3),
}


def vae_of(prior: str, likelihood: str, family: str) -> tuple[VAE, AmortizedGuide, Tensor]:
    torch.manual_seed(0)
    made = LIKELIHOODS[likelihood]()
    vae = VAE(MLPDecoder(2, (5,), SHAPE, outputs=made.outputs), PRIORS[prior](), made)
    guide = AmortizedGuide(MLPEncoder(2, (5,), SHAPE), FAMILIES[family]())
    x = torch.bernoulli(torch.full((6, *SHAPE), 0.4))
    if isinstance(vae.prior, VampPrior):
        vae.prior.bind(guide.posterior, inputs=x[:3])
    return vae.double(), guide.double(), x.double()


def leaves_of(model: Any, guide: Any) -> dict[str, Tensor]:
    with Modules(model, guide, evaluation=False) as modules:
        named = {f"{i}.{name}": leaf for i, m in enumerate(modules) for name, leaf in m.named_parameters()}
    return {**named, **dict(pyro.get_param_store().named_parameters())}


def step_of(call: Callable[[], Any], leaves: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor], Tensor]:
    """Terms, gradients and the next random number of a step from seed 5."""
    for leaf in leaves.values():
        leaf.grad = None
    torch.manual_seed(5)
    terms = call()
    return terms, {k: v.grad.clone() for k, v in leaves.items() if v.grad is not None}, torch.rand(1)


def assert_traced_equal(objective: Objective, model: Any, guide: Any, *batch: Tensor) -> None:
    """The graph agrees after data, parameters and the objective's weight have changed, in all to 1e-10."""
    with isolated(seed=1, validation=False):
        objective.rehearse(model, guide, *batch)
        objective.begin_step(1.0)
        before = torch.get_rng_state()
        step = trace_step(objective, model, guide, batch)
        assert torch.equal(torch.get_rng_state(), before)
        leaves = leaves_of(model, guide)
        with torch.no_grad():
            for leaf in leaves.values():
                leaf.add_(0.05)
        objective.begin_step(3.0)
        other = tuple(tensor.flip(0) for tensor in batch)

        def traced() -> Any:
            terms, gradients = step.outputs(step.graph(*step.inputs(other)))
            for leaf, gradient in zip(step.leaves, gradients, strict=True):
                leaf.grad = gradient
            return terms

        theirs, expected, expected_next = step_of(lambda: objective.backward(model, guide, *other), leaves)
        ours, gradients, next_draw = step_of(traced, leaves)
    assert torch.equal(next_draw, expected_next)
    for mine, other_term in zip(ours, theirs, strict=True):
        assert (mine is None) == (other_term is None)
        if mine is not None:
            torch.testing.assert_close(mine, other_term.detach(), rtol=1e-10, atol=1e-10)
    assert gradients.keys() == expected.keys()
    assert any(bool(gradient.abs().sum() > 0) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-10)


def compatible(prior: str, family: str, objective: str) -> bool:
    if prior == "MixturePrior, enumerated":
        return objective == "TraceEnum_ELBO"
    closed = prior == "StandardNormal" and family != "AutoregressiveFlow"
    if objective == "FreeBits":
        return closed and family == "DiagonalNormal"
    return objective != "TraceMeanField_ELBO" or closed


def pairwise(cells: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Cells that together contain every pair of a prior, a family and an objective that any cell contains."""
    kept, covered = [], set[tuple[int, str, str]]()
    for prior, family, objective in cells:
        pairs = {(0, prior, family), (1, prior, objective), (2, family, objective)}
        if not pairs <= covered:
            kept.append((prior, family, objective))
            covered |= pairs
    return kept


CELLS = pairwise([cell for cell in itertools.product(PRIORS, FAMILIES, OBJECTIVES) if compatible(*cell)])


@pytest.mark.parametrize(("prior", "family", "objective"), CELLS)
def test_a_step_of_every_prior_family_and_objective(prior: str, family: str, objective: str) -> None:
    vae, guide, x = vae_of(prior, "Bernoulli", family)
    assert_traced_equal(as_objective(OBJECTIVES[objective]()), vae.model, guide, x)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_step_of_every_likelihood(likelihood: str) -> None:
    vae, guide, x = vae_of("StandardNormal", likelihood, "DiagonalNormal")
    assert_traced_equal(as_objective(Trace_ELBO()), vae.model, guide, x)


@pytest.mark.parametrize(
    ("elbo", "pair"),
    [
        (Trace_ELBO(), subsampled_pair()),
        (Trace_ELBO(), auxiliary_pair()),
        (Trace_ELBO(), local_pair("collapsed", 0.4)),
        (Trace_ELBO(), score_function_pair()),
        (TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False), score_function_pair()),
        (TraceEnum_ELBO(max_plate_nesting=1), mixture_pair(AutoNormal, 100)),
        (TraceEnum_ELBO(max_plate_nesting=1), mixture_pair(AutoMultivariateNormal, 100)),
        (TraceEnum_ELBO(max_plate_nesting=1), local_pair("mixture", 0.4)),
        (TraceEnum_ELBO(max_plate_nesting=2), chain_pair()),
    ],
    ids=[
        "plate",
        "auxiliary",
        "collapsed",
        "score function",
        "Dice",
        "AutoNormal",
        "AutoMultivariateNormal",
        "enumerated",
        "chain",
    ],
)
def test_a_step_of_models_in_the_style_of_pyro(elbo: Any, pair: Any) -> None:
    model, guide, batch, _ = pair
    assert_traced_equal(as_objective(elbo), model, guide, *batch)


@pytest.mark.parametrize(
    ("elbo", "pair", "reason"),
    [
        (TraceGraph_ELBO(), subsampled_pair(), "gradients are those of its loss; got TraceGraph_ELBO"),
    ],
    ids=["Pyro's own code"],
)
def test_a_step_that_is_no_fixed_graph_is_refused(elbo: Any, pair: Any, reason: str) -> None:
    model, guide, batch, _ = pair
    with isolated(seed=1, validation=False):
        objective = as_objective(elbo)
        objective.rehearse(model, guide, *batch)
        with pytest.raises(NotTraceableError, match=reason):
            trace_step(objective, model, guide, batch)


def test_a_branch_on_the_data_is_refused() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc if x.sum() > 0 else -loc, 1.0), obs=x)

    with isolated(seed=1, validation=False), pytest.raises(NotTraceableError):
        trace_step(as_objective(Trace_ELBO()), model, lambda x: None, (torch.ones(3),))


def test_random_numbers_of_the_shape_of_a_tensor_are_the_same() -> None:
    """`randn_like` and dropout name a tensor that depends on parameters, for its shape alone."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = nn.functional.dropout(pyro.param("loc", torch.ones(6)) * x, 0.4)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(loc + 0.1 * torch.randn_like(loc) + 0.1 * torch.rand_like(x)))

    assert_traced_equal(as_objective(Trace_ELBO()), model, guide, torch.arange(6.0))


def test_running_statistics_are_updated_by_the_graph_and_kept_by_tracing() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    model, guide = normalised_pair(network, 2)
    x = torch.arange(6, dtype=torch.float64)
    objective = as_objective(Trace_ELBO())
    buffers = dict(network.named_buffers())
    with isolated(seed=1, validation=False):
        objective.rehearse(model, guide, x)
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        step = trace_step(objective, model, guide, (x,))
        assert all(torch.equal(buffers[name], before[name]) for name in buffers)
        torch.manual_seed(5)
        step.graph(*[each.detach() for each in step.inputs((x,))])
        traced = {name: buffer.clone() for name, buffer in buffers.items()}
        for name, buffer in buffers.items():
            buffer.copy_(before[name])
        torch.manual_seed(5)
        objective.backward(model, guide, x)
    assert not any(torch.equal(traced[name], before[name]) for name in buffers)
    for name, buffer in buffers.items():
        torch.testing.assert_close(traced[name], buffer, rtol=1e-10, atol=1e-12)
