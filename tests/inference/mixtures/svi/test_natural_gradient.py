import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch.distributions import transform_to

from latentmix.guides.mixture import global_guide
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import start
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.svi.fit import SVI
from latentmix.inference.mixtures.svi.natural_gradient import MixtureMetric
from latentmix.inference.mixtures.svi.quasi_newton import QuasiNewton, _direction
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.model import MixtureModel

from tests.inference.mixtures.clouds import TYPES, synthetic


@pytest.fixture(scope="module")
def x():
    return synthetic(400, n_components=4)


def metric_problem(covariance_type, x):
    model = MixtureModel.maximum_likelihood(4, x.shape[1], covariance_type=covariance_type)
    structure = covariance_structure(covariance_type)
    first = start(x, 4, structure, random_state=np.random.RandomState(0), reg_covar=1.0)
    guide = global_guide(model, start=first.sites())
    guide(x)
    return model, guide, first, list(guide.parameters())


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_features", [1, 3])
def test_the_metric_inverts_the_fisher_information(x, covariance_type, n_features):
    model, guide, first, leaves = metric_problem(covariance_type, torch.from_numpy(x[:, :n_features]))
    generator = torch.Generator().manual_seed(0)
    n = 50_000
    assignment = torch.multinomial(first.weights, n, replacement=True, generator=generator)
    noise = torch.randn(n, n_features, generator=generator, dtype=torch.float64)
    tril = torch.linalg.cholesky(first.expanded_covariances())
    drawn = first.means[assignment] + (tril[assignment] @ noise[..., None]).squeeze(-1)

    names = [name.removesuffix("_unconstrained") for name, _ in guide.named_parameters()]
    supports = [model.priors(drawn)[name].support for name in names]

    def complete(*values):
        sites = {name: transform_to(support)(u) for name, support, u in zip(names, supports, values, strict=True)}
        known = poutine.condition(model, {"assignment": assignment, **sites})
        trace = poutine.trace(known).get_trace(drawn)
        trace.compute_log_prob()
        return -(trace.nodes["x"]["log_prob"].sum() + trace.nodes["assignment"]["log_prob"].sum()) / n

    blocks = torch.autograd.functional.hessian(complete, tuple(leaf.detach() for leaf in leaves))
    hessian = torch.cat(
        [
            torch.cat([block.reshape(a.numel(), b.numel()) for block, b in zip(row, leaves, strict=True)], 1)
            for row, a in zip(blocks, leaves, strict=True)
        ]
    )
    inverse = MixtureMetric(model, guide, drawn)(leaves)
    vector = torch.randn(len(hessian), generator=generator, dtype=torch.float64)
    vector[: len(first.weights)] -= vector[: len(first.weights)].mean()
    again = hessian @ inverse(vector)
    assert (again - vector).norm() < 0.05 * vector.norm()


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_features", [1, 3])
def test_a_natural_gradient_step_is_a_step_of_em(x, covariance_type, n_features):
    data = torch.from_numpy(x[:, :n_features])
    model, guide, first, leaves = metric_problem(covariance_type, data)
    TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide, data)
    for leaf in leaves:
        leaf.grad /= len(data)
    QuasiNewton(leaves, metric=MixtureMetric(model, guide, data), warmup=1).step()
    expected = fit_em(data, first, max_iter=1, reg_covar=0.0).parameters.sites()
    for name, value in guide.median().items():
        torch.testing.assert_close(value.detach(), expected[name], rtol=0, atol=1e-7)


def test_the_warm_up_ends_once_steps_promise_little(x):
    data = torch.from_numpy(x)
    paths = []
    for settled in (0.0, 1e9):
        model, guide, _, leaves = metric_problem("full", data)
        metric = MixtureMetric(model, guide, data)
        optimizer = QuasiNewton(leaves, metric=metric, warmup=50, settled=settled, max_step=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide, data)
            for leaf in leaves:
                leaf.grad /= len(data)
            optimizer.step()
        state = optimizer.state[leaves[0]]
        paths.append((state["warm"], len(state["moves"])))
    assert paths == [(50, 0), (0, 2)]


def test_the_metric_refuses_constrained_means_and_floors(x):
    prior = dist.Uniform(-100.0, 100.0).expand([4, 3])
    assert not MixtureMetric.applies(MixtureModel(4, 3, means=prior))
    assert not MixtureMetric.applies(MixtureModel(4, 3, covariance_floor=0.1))
    fitted = GaussianMixture(4, inference=SVI(priors={"means": prior}), random_state=0).fit(x)
    assert fitted.score(x) > GaussianMixture(4, random_state=0).fit(x).score(x) - 0.05


def test_quasi_newton_solves_an_ill_conditioned_problem():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=generator)).Q
    matrix = basis @ torch.logspace(0, 3, 8, dtype=torch.float64).diag() @ basis.T
    leaves = [torch.ones(3, dtype=torch.float64), torch.ones(5, dtype=torch.float64)]
    for leaf in leaves:
        leaf.requires_grad_()
    optimizer = QuasiNewton(leaves, max_step=0.5)
    for step in range(60):
        if step == 20:
            saved = optimizer.state_dict()
            optimizer = QuasiNewton(leaves, max_step=0.1)
            optimizer.load_state_dict(saved)
        before = torch.cat(leaves).detach().clone()
        optimizer.zero_grad()
        point = torch.cat(leaves)
        (point @ matrix @ point / 2).backward()
        optimizer.step()
        assert (torch.cat(leaves) - before).abs().max() <= 0.5 + 1e-12
    assert torch.cat(leaves).abs().max() < 1e-6
    with pytest.raises(ValueError, match="Expected lr, memory and max_step to be positive"):
        QuasiNewton(leaves, memory=0)
    with pytest.raises(ValueError, match="Expected a metric for a warm-up"):
        QuasiNewton(leaves, warmup=5)


def two_loop_recursion(gradient, moves, changes, inverse):
    """Nocedal and Wright, algorithm 7.4, as it is printed."""
    direction, coefficients = gradient.clone(), []
    for move, change in zip(reversed(moves), reversed(changes), strict=True):
        coefficients.append(move @ direction / (move @ change))
        direction -= coefficients[-1] * change
    direction = inverse(direction)
    for move, change, coefficient in zip(moves, changes, reversed(coefficients), strict=True):
        direction += (coefficient - change @ direction / (move @ change)) * move
    return direction


@pytest.mark.parametrize("pairs", [0, 1, 2, 7])
def test_the_direction_is_that_of_the_two_loop_recursion(pairs):
    generator = torch.Generator().manual_seed(pairs)
    gradient, scales = torch.randn(2, 9, dtype=torch.float64, generator=generator)
    moves = torch.randn(pairs, 9, dtype=torch.float64, generator=generator)
    root = torch.randn(9, 9, dtype=torch.float64, generator=generator)
    changes = moves @ (root @ root.T + torch.eye(9))

    def inverse(vector):
        return scales.square() * vector

    expected = two_loop_recursion(gradient, moves, changes, inverse)
    torch.testing.assert_close(_direction(gradient, moves, changes, inverse), expected, rtol=1e-9, atol=1e-9)
