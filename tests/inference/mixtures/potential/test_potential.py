import pyro.distributions as dist
import pytest
import torch
from pyro.infer.mcmc.util import initialize_model

from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.potential.potential import MixturePotential, WhitenedPotential
from latentmix.models.mixture.covariances import covariance_types
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.priors import OrderedMeans

TYPES = covariance_types()
PRIORS = {
    "default": {},
    "normal": {"means": dist.Normal(1.0, 5.0), "scales": dist.HalfNormal(3.0)},
    "others": {"means": dist.StudentT(4.0, 0.0, 5.0), "scales": dist.LogNormal(0.0, 1.0), "weights": None},
    "bounded": {"means": dist.Uniform(-40.0, 40.0), "scales": dist.Uniform(0.0, 9.0)},
    "inverse": {"scales": dist.InverseGamma(2.0, 1.0), "weights": dist.Dirichlet(torch.tensor([2.0, 3.0, 0.5]))},
}


def points(n: int = 60, n_features: int = 2) -> torch.Tensor:
    return 3 * torch.randn(n, n_features, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 2


def pyro_s(model: MixtureModel, x: torch.Tensor, potential: MixturePotential, position: torch.Tensor) -> torch.Tensor:
    """The potential that Pyro makes of the model."""
    with isolated(seed=0):
        _, function, _, _ = initialize_model(model.collapsed, (x,))
    values, first = {}, 0
    for name, transform in potential.transforms.items():
        shape = transform.inverse_shape(torch.Size(model.shapes[name]))
        values[name] = position[first : first + shape.numel()].reshape(shape)
        first += shape.numel()
    assert first == potential.size
    return function(values)


def check(model: MixtureModel, x: torch.Tensor, seed: int = 0) -> None:
    potential = MixturePotential(model, x)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        position = torch.randn(potential.size, generator=generator, dtype=torch.float64).requires_grad_()
        ours, theirs = potential(position), pyro_s(model, x, potential, position)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        (slope,), (expected,) = (torch.autograd.grad(value, position) for value in (ours, theirs))
        torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("floor", [0.0, torch.tensor([0.02, 0.3], dtype=torch.float64)], ids=["bare", "floored"])
def test_value_and_gradient_match_pyro(covariance_type, floor) -> None:
    check(MixtureModel(3, 2, covariance_type=covariance_type, covariance_floor=floor), points())


def test_many_points_are_evaluated_in_blocks_of_the_cache() -> None:
    """The same as in one block; 20,000 points of ten dimensions took four times as long in one."""
    model, x = MixtureModel(3, 2), points(100_001)
    blocks = MixturePotential(model, x)._blocks
    assert len(blocks) == 3
    check(model, x)


@pytest.mark.parametrize("moves", [False, True], ids=["plain", "moved"])
@pytest.mark.parametrize("name", PRIORS)
def test_value_and_gradient_match_pyro_under_any_prior(name, moves) -> None:
    model, x = MixtureModel(3, 2, **PRIORS[name]), points()
    scale, shift = torch.tensor([0.3, 2.0], dtype=torch.float64), torch.tensor([1.0, -4.0], dtype=torch.float64)
    if moves:
        model, x = model.affine(scale, shift), x * scale + shift
    check(model, x)


def test_value_and_gradient_match_pyro_in_other_dimensions() -> None:
    check(MixtureModel(2, 1, means=OrderedMeans(dist.Normal(0.0, 10.0), 2), weights=dist.Beta(2.0, 5.0)), points(30, 1))
    correlations = dist.LKJCholesky(4, torch.tensor([0.7, 3.0]))
    check(MixtureModel(2, 4, covariance_floor=0.01, correlations=correlations), points(30, 4))
    check(MixtureModel(2, 4, covariance_type="tied"), points(30, 4))
    check(MixtureModel(1, 3), points(30, 3))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("scales", [None, dist.Uniform(0.0, 9.0)], ids=["default", "uniform"])
def test_value_and_gradient_match_pyro_for_one_feature(covariance_type, scales) -> None:
    check(MixtureModel(3, 1, covariance_type=covariance_type, scales=scales, covariance_floor=0.1), points(30, 1))


def test_minibatches_are_scaled_to_the_size_of_the_data() -> None:
    check(MixtureModel(3, 2, size=600), points())


def test_sites_and_positions_are_inverse() -> None:
    potential = MixturePotential(MixtureModel(3, 2), points())
    positions = torch.randn(4, 5, potential.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sites = potential.sites(positions)
    assert sites["correlation_cholesky"].shape == (4, 5, 3, 2, 2)
    draw = {name: values[1, 2] for name, values in sites.items()}
    torch.testing.assert_close(potential.position(draw), positions[1, 2])
    expected = sum(prior.log_prob(draw[name]) for name, prior in potential.priors.items())
    torch.testing.assert_close(potential.log_prior(sites)[1, 2], expected)


def test_the_potential_is_infinite_without_density() -> None:
    potential = MixturePotential(MixtureModel(3, 2), points())
    for value in (1e6, float("nan")):
        energy, slope = potential.value_and_gradient(torch.full((potential.size,), value).double().numpy())
        assert energy == float("inf")
        assert (slope == 0).all()


def test_whitening_transforms_value_and_gradient() -> None:
    potential = MixturePotential(MixtureModel(2, 1), points(30, 1))
    generator = torch.Generator().manual_seed(0)
    centre, basis = (torch.randn(*shape, generator=generator).double().numpy() for shape in ((5,), (5, 5)))
    whitened = WhitenedPotential(potential, centre, basis)
    at = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    plain = potential(torch.from_numpy(centre) + torch.from_numpy(basis) @ at)
    own = whitened({"position": at})
    torch.testing.assert_close(own, plain)
    for slope, expected in zip(torch.autograd.grad(own, at), torch.autograd.grad(plain, at), strict=True):
        torch.testing.assert_close(slope, expected)
    assert whitened.n_gradients == 1
