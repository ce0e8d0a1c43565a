import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentmix.models.mixture import gaussians
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.gaussians import FactoredNormal, SelectedNormal, assigned, expanded_points
from latentmix.models.mixture.matrices import inverse_lower
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.quadratic import ExpandedPoints, coefficients


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def components(kind: str, n_features: int = 3, n_components: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    loc = draw(n_components, n_features, seed=1)
    if kind == "diag":
        return loc, draw(n_components, n_features, seed=2).exp()
    return loc, draw(n_components, n_features, n_features, seed=2).tril(-1) + torch.eye(n_features).double() * 0.7


def expanded(x: torch.Tensor, kind: str) -> ExpandedPoints | None:
    return expanded_points(x, covariance_structure(kind))


def oracle(x: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`n x K` log-densities, one Gaussian at a time."""
    parts = [
        dist.Normal(a, b).to_event(1) if b.ndim == 1 else dist.MultivariateNormal(a, scale_tril=b)
        for a, b in zip(loc, scale, strict=True)
    ]
    return torch.stack([part.log_prob(x) for part in parts])


@pytest.mark.parametrize("kind", ["full", "diag"])
@pytest.mark.parametrize("n_features", [1, 2, 5])
@pytest.mark.parametrize("as_features", [False, True])
def test_enumerated_densities_and_gradients_are_the_gaussians(kind: str, n_features: int, as_features: bool) -> None:
    x, (loc, scale) = draw(30, n_features) * 2 + 5, components(kind, n_features)
    upstream = draw(4, 30, seed=3)
    values, gradients = [], []
    for fast in (True, False):
        leaves = [loc.clone().requires_grad_(), scale.clone().requires_grad_()]
        if fast:
            points = expanded(x, kind) if as_features else None
            normal = SelectedNormal(*leaves, torch.arange(4)[:, None], points).expand([4, 30])
            density = normal.log_prob(x)
            factors = inverse_lower(scale).mT if kind == "full" else scale.reciprocal()
            assert points is None or points.log_density(loc, factors) is not None
        else:
            density = oracle(x, *leaves)
        values.append(density.detach())
        gradients.append(torch.autograd.grad((density * upstream).sum(), leaves))
    torch.testing.assert_close(*values, rtol=0, atol=1e-11)
    for each, other in zip(*gradients, strict=True):
        each, other = (part.tril() if kind == "full" else part for part in (each, other))
        torch.testing.assert_close(each, other, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_sampled_assignments_take_their_own_gaussian(kind: str) -> None:
    x, (loc, scale) = draw(30, 3), components(kind)
    assignment = torch.arange(30) % 4
    normal = SelectedNormal(loc, scale, assignment, expanded(x, kind))
    expected = oracle(x, loc, scale)[assignment, torch.arange(30)]
    torch.testing.assert_close(normal.log_prob(x), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(normal.expand([2, 30]).log_prob(x), expected.expand(2, 30), rtol=0, atol=1e-11)
    several = torch.stack([x, x + 1])
    expected = torch.stack([expected, oracle(x + 1, loc, scale)[assignment, torch.arange(30)]])
    torch.testing.assert_close(normal.log_prob(several), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_draws_have_the_moments_of_their_gaussian(kind: str) -> None:
    """At 20,000 draws each moment lies within 5 standard errors: a false alarm in 1e5 runs, were it not seeded."""
    loc, scale = components(kind, 2)
    normal = SelectedNormal(loc, scale, torch.tensor([3, 1]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = normal.sample((20_000,))
    assert x.shape == (20_000, 2, 2)
    for index, component in enumerate((3, 1)):
        root = scale[component].diag() if kind == "diag" else scale[component]
        covariance = root @ root.T
        error = 5 * covariance.diagonal().sqrt() / 20_000**0.5
        assert ((x[:, index].mean(0) - loc[component]).abs() < error).all()
        spread = 5 * 1.5 * covariance.diagonal().max() / 20_000**0.5
        assert ((x[:, index].T.cov() - covariance).abs() < spread).all()


@pytest.mark.parametrize("kind", ["full", "diag"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_are_centred_if_products_would_cancel(kind: str, dtype: torch.dtype) -> None:
    """Two clusters 2e4 standard deviations apart: the features lose the digits that centring keeps."""
    x = torch.cat([draw(20, 3), draw(20, 3, seed=5) + 2e4])
    loc, scale = components(kind)
    loc = loc + torch.tensor([0.0, 2e4, 0.0, 2e4])[:, None].double()
    expected = oracle(x.to(dtype).double(), loc.to(dtype).double(), scale.to(dtype).double())
    rounded = x.to(dtype)
    points = expanded(rounded, kind)
    assert points is not None
    result = SelectedNormal(loc.to(dtype), scale.to(dtype), torch.arange(4)[:, None], points).log_prob(rounded).double()
    near = expected > -1e3
    assert 20 <= int(near.sum()) < near.numel()
    error = (result - expected)[near].abs().max()
    assert error < 1e4 * torch.finfo(dtype).eps
    factors = (inverse_lower(scale).mT if kind == "full" else scale.reciprocal()).to(dtype)
    assert points.log_density(loc.to(dtype), factors) is None
    structure, offset = points.structure, loc.to(dtype) - points.centre
    linear = coefficients(
        structure, points.features, offset, structure.precisions(factors), structure.log_scale(factors, 3)
    )
    lost = ((linear @ points.design).double() - expected)[near].abs().max()
    assert lost > 100 * error


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_other_data_than_the_expanded_ones_have_their_own_density(kind: str) -> None:
    x, (loc, scale) = draw(30, 3), components(kind)
    normal = SelectedNormal(loc, scale, torch.arange(4)[:, None], expanded(x, kind))
    torch.testing.assert_close(normal.log_prob(x + 1), oracle(x + 1, loc, scale), rtol=0, atol=1e-11)


def test_a_shared_factor_is_one_of_all_components() -> None:
    x, (loc, scale) = draw(30, 3), components("full")
    made = dist.MultivariateNormal(loc, scale_tril=scale[:1])
    for points in (None, expanded(x, "tied")):
        normal = assigned(made, torch.arange(4)[:, None], points)
        torch.testing.assert_close(normal.log_prob(x), oracle(x, loc, scale[:1].expand(4, 3, 3)), rtol=0, atol=1e-11)
        assert normal.sample().shape == (4, 1, 3)
    sampled = assigned(made, torch.arange(30) % 4).log_prob(x)
    torch.testing.assert_close(
        sampled, oracle(x, loc, scale[:1].expand(4, 3, 3))[torch.arange(30) % 4, torch.arange(30)]
    )


def test_expanded_points_are_copied_and_pickled() -> None:
    points = expanded(draw(10, 3), "full")
    for copied in (copy.deepcopy(points), pickle.loads(pickle.dumps(points))):
        assert torch.equal(copied.design, points.design)


def test_data_too_large_to_keep_features_of_are_centred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussians, "_MOST", 100)
    x, (loc, scale) = draw(10, 3), components("full")
    assert expanded(x, "full") is None
    result = SelectedNormal(loc, scale, torch.arange(4)[:, None]).log_prob(x)
    torch.testing.assert_close(result, oracle(x, loc, scale), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_batches_of_mixtures_are_selected_too(kind: str) -> None:
    x, (loc, scale) = draw(30, 3), components(kind)
    locs, scales = torch.stack([loc, loc + 1])[:, None], torch.stack([scale, scale])[:, None]
    made = dist.Normal(locs, scales).to_event(1) if kind == "diag" else dist.MultivariateNormal(locs, scale_tril=scales)
    result = assigned(made, torch.arange(4).reshape(4, 1, 1), expanded(x, kind)).log_prob(x)
    expected = torch.stack([oracle(x, loc, scale), oracle(x, loc + 1, scale)], 1)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


def test_a_factored_normal_is_the_multivariate_normal() -> None:
    x, (loc, scale) = draw(30, 3), components("full")
    shared = FactoredNormal(loc[:, None], scale_tril=scale[:, None]).log_prob(x)
    torch.testing.assert_close(shared, oracle(x, loc, scale), rtol=0, atol=1e-11)
    each = FactoredNormal(loc[0], scale_tril=scale[0]).log_prob(x)
    torch.testing.assert_close(each, oracle(x, loc, scale)[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical", "tied_diag"])
@pytest.mark.parametrize(
    "assignment", [torch.tensor(1), torch.tensor([2]), torch.tensor([0, 2, 1, 1]), torch.arange(3)[:, None]]
)
@pytest.mark.parametrize("expanded", [False, True])
def test_shapes_follow_the_assignment_for_every_structure(covariance_type, assignment, expanded) -> None:
    structure = covariance_structure(covariance_type)
    means = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, 3.0]]).double()
    scales = torch.full(structure.scale_shape(3, 2), 1.5).double()
    shape = structure.correlation_shape(3, 2)
    correlation = None if shape is None else torch.tensor([[1.0, 0.0], [0.6, 0.8]]).double().expand(*shape, 2, 2)
    components = structure.components(means, scales, correlation)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    normal = assigned(components, assignment, expanded_points(x, structure) if expanded else None)
    assert normal.sample().shape == (*assignment.shape, 2)
    expected = components.log_prob(x[:, None])[:, assignment.flatten()]  # n x assignments
    if assignment.ndim == 2:
        torch.testing.assert_close(normal.log_prob(x), expected.T, rtol=1e-10, atol=1e-10)
    elif len(assignment.flatten()) == 4:
        torch.testing.assert_close(normal.log_prob(x), expected.diagonal(), rtol=1e-10, atol=1e-10)
    else:
        torch.testing.assert_close(normal.log_prob(x), expected[:, 0], rtol=1e-10, atol=1e-10)
        assert normal.log_prob(x[0]).shape == assignment.shape


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_a_single_point_has_one_density(covariance_type) -> None:
    model = MixtureModel(3, 2, covariance_type=covariance_type)
    trace = pyro.poutine.trace(model).get_trace(torch.randn(1, 2))
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (1,)
