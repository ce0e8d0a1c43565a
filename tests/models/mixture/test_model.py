import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from scipy.stats import multivariate_normal

from latentmix.guides.mixture import global_guide
from latentmix.models.mixture.covariances import covariance_structure, covariance_types
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters

TYPES = covariance_types()


def random_parameters(covariance_type, n_components=3, n_features=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    structure = covariance_structure(covariance_type)
    shape = structure.covariance_shape(n_components, n_features)
    if structure.correlated:
        root = torch.randn(shape, generator=generator, dtype=torch.float64)
        covariances = root @ root.mT + 0.3 * torch.eye(n_features, dtype=torch.float64)
    else:
        covariances = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.3
    weights = torch.rand(n_components, generator=generator, dtype=torch.float64) + 0.2
    means = torch.randn(n_components, n_features, generator=generator, dtype=torch.float64) * 2
    return MixtureParameters(weights / weights.sum(), means, covariances, structure)


def data(n=40, n_features=2, dtype=torch.float64):
    return torch.randn(n, n_features, generator=torch.Generator().manual_seed(1), dtype=dtype) * 2


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_density_matches_scipy(covariance_type):
    parameters, x = random_parameters(covariance_type), data()
    expected = sum(
        weight.item() * torch.from_numpy(multivariate_normal(mean.numpy(), covariance.numpy()).pdf(x.numpy()))
        for weight, mean, covariance in zip(
            parameters.weights, parameters.means, parameters.expanded_covariances(), strict=True
        )
    )
    torch.testing.assert_close(parameters.log_likelihood(x), expected.log(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_enumerated_and_collapsed_agree_in_value_and_gradient(covariance_type, flat, floor):
    make = MixtureModel.maximum_likelihood if flat else MixtureModel
    model = make(3, 2, covariance_type=covariance_type, covariance_floor=floor)
    x, parameters = data(), random_parameters(covariance_type)
    start = parameters.sites(floor)
    guide = global_guide(model, start=start)
    guide(x)
    leaves = list(guide.parameters())
    assert len(leaves) == len(model.shapes)

    enumerated = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, x)
    collapsed = Trace_ELBO(max_plate_nesting=1).differentiable_loss(model.collapsed, guide, x)
    torch.testing.assert_close(enumerated, collapsed, rtol=0, atol=1e-10)
    gradients = (torch.autograd.grad(loss, leaves) for loss in (enumerated, collapsed))
    for summed, integrated in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, integrated, rtol=0, atol=1e-10)
    if flat:
        torch.testing.assert_close(-enumerated, parameters.log_likelihood(x).sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sampled_assignments_have_the_density_of_their_component(covariance_type):
    model, x = MixtureModel(3, 2, covariance_type=covariance_type), data()
    parameters = random_parameters(covariance_type)
    assignment = torch.arange(len(x)) % 3
    fixed = poutine.condition(model, {**parameters.sites(), "assignment": assignment})
    trace = poutine.trace(fixed).get_trace(x)
    trace.compute_log_prob()
    joint = trace.nodes["x"]["log_prob"] + trace.nodes["assignment"]["log_prob"]
    torch.testing.assert_close(joint, parameters.log_joint(x)[torch.arange(len(x)), assignment])


def test_minibatches_are_unbiased():
    x = data(40)
    model = MixtureModel(3, 2, size=40)
    guide = global_guide(model, start=random_parameters("full").sites())
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss
    whole = loss(model, guide, x)
    parts = torch.stack([loss(model, guide, part) for part in x.split(8)])
    torch.testing.assert_close(parts.mean(), whole, rtol=0, atol=1e-9)
    assert parts.std() > 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_sites_have_their_shapes_and_dtypes(covariance_type, dtype):
    model = MixtureModel(3, 2, covariance_type=covariance_type)
    trace = poutine.trace(model).get_trace(data(dtype=dtype))
    expected = {
        "full": ((3, 2), (3, 2, 2)),
        "diag": ((3, 2), None),
        "tied": ((2,), (2, 2)),
        "spherical": ((3,), None),
        "tied_diag": ((2,), None),
    }[covariance_type]
    assert trace.nodes["weights"]["value"].shape == (3,)
    assert trace.nodes["means"]["value"].shape == (3, 2)
    assert trace.nodes["scales"]["value"].shape == expected[0]
    assert ("correlation_cholesky" in trace.nodes) == (expected[1] is not None)
    if expected[1] is not None:
        assert trace.nodes["correlation_cholesky"]["value"].shape == expected[1]
    assert trace.nodes["scale_tril"]["value"].shape == (3, 2, 2)
    assert trace.nodes["assignment"]["value"].shape == (40,)
    assert all(trace.nodes[name]["value"].dtype == dtype for name in ("weights", "means", "scales", "scale_tril"))
    assert torch.isfinite(trace.log_prob_sum())


def test_one_feature_has_no_correlation():
    for covariance_type in TYPES:
        trace = poutine.trace(MixtureModel(2, 1, covariance_type=covariance_type)).get_trace(data(10, 1))
        assert "correlation_cholesky" not in trace.nodes
        assert torch.isfinite(trace.log_prob_sum())


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_floor_is_added_to_the_variances(covariance_type):
    floor = torch.full((2,), 0.25, dtype=torch.float64)
    model = MixtureModel.maximum_likelihood(3, 2, covariance_type=covariance_type, covariance_floor=floor)
    scales = torch.zeros(model.shapes["scales"], dtype=torch.float64)
    shape = model.shapes.get("correlation_cholesky")
    eye = None if shape is None else torch.eye(2, dtype=torch.float64).expand(shape)
    floored, correlation = model.effective(scales, eye)
    torch.testing.assert_close(floored, torch.full_like(scales, 0.5))
    assert eye is None or torch.equal(correlation, eye)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("floor", [1e-6, 0.3])
def test_the_floor_is_added_to_the_covariances(covariance_type, floor):
    """Whatever the correlation, no direction has less variance than the floor, and `sites` undoes it."""
    model = MixtureModel.maximum_likelihood(3, 2, covariance_type=covariance_type, covariance_floor=floor)
    raw = random_parameters(covariance_type)
    floored = model.parameters(raw.sites())
    expected = raw.expanded_covariances() + floor * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(floored.expanded_covariances(), expected, rtol=1e-10, atol=1e-12)
    again = model.parameters(floored.sites(floor))
    torch.testing.assert_close(again.covariances, floored.covariances, rtol=1e-8, atol=1e-10)
    below = MixtureParameters(raw.weights, raw.means, 0.0 * raw.covariances, raw.structure)
    assert torch.linalg.eigvalsh(model.parameters(below.sites(floor)).expanded_covariances()).min() > floor


def test_given_priors_enter_the_density():
    x = data()
    start = random_parameters("diag").sites()
    narrow = dist.Normal(0.0, 0.1).expand([3, 2])
    models = [MixtureModel(3, 2, covariance_type="diag", means=prior) for prior in (None, narrow)]
    losses = [TraceEnum_ELBO(max_plate_nesting=1).loss(model, global_guide(model, start=start), x) for model in models]
    means = start["means"]
    gap = dist.Normal(0.0, 3.0).log_prob(means).sum() - dist.Normal(0.0, 0.1).log_prob(means).sum()
    assert losses[1] - losses[0] == pytest.approx(gap.item(), abs=1e-4)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_parameters_survive_sites_and_affine_maps(covariance_type):
    parameters, x = random_parameters(covariance_type), data()
    again = MixtureModel(3, 2, covariance_type=covariance_type).parameters(parameters.sites())
    torch.testing.assert_close(again.covariances, parameters.covariances, rtol=1e-12, atol=1e-12)
    scale = torch.tensor([2.0, 2.0] if parameters.structure.isotropic else [2.0, 0.1], dtype=torch.float64)
    shift = torch.tensor([1.0, -3.0], dtype=torch.float64)
    moved = parameters.affine(scale, shift).log_likelihood(x * scale + shift) + scale.log().sum()
    torch.testing.assert_close(moved, parameters.log_likelihood(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "Expected n_components"),
        ({"covariance_type": "round"}, "Expected covariance_type in .*; got 'round'"),
        ({"covariance_floor": -1.0}, "Expected a covariance_floor >= 0"),
        ({"means": dist.Normal(0.0, 1.0).expand([2, 3])}, r"Expected a prior of shape \(3, 2\) for means"),
        (
            {"covariance_type": "diag", "correlations": dist.LKJCholesky(2, 1.0)},
            "Expected no prior of correlations",
        ),
        ({"size": 0}, "Expected size"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MixtureModel(**{"n_components": 3, "n_features": 2, **options})


def test_data_of_another_width_or_beyond_the_size_are_refused():
    with pytest.raises(ValueError, match=r"Expected x of shape \(n, 2\); got \(4, 3\)"):
        MixtureModel(3, 2)(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="Expected at most size=3 data; got 4"), pyro.validation_enabled(False):
        MixtureModel(3, 2, size=3)(torch.zeros(4, 2))


GIVEN = {
    "means": [dist.Normal(-3.0, 20.0), dist.Uniform(-500.0, 500.0), None],
    "scales": [dist.HalfNormal(30.0), dist.LogNormal(1.0, 2.0), dist.InverseGamma(2.0, 5.0), dist.Gamma(2.0, 0.1)],
}


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("means", "scales"), list(itertools.product(*GIVEN.values()))[::3])
def test_affine_maps_transform_the_priors(covariance_type, means, scales):
    """The log-density in one coordinate system is that in the other plus the Jacobians of the data and the sites."""
    means = means if means is not None else dist.StudentT(4.0, 1.0, 7.0)
    x, parameters = data(), random_parameters(covariance_type)
    isotropic = parameters.structure.isotropic
    scale = torch.tensor([30.0, 30.0] if isotropic else [30.0, 0.4], dtype=torch.float64)
    shift = torch.tensor([5.0, -70.0], dtype=torch.float64)
    model = MixtureModel(3, 2, covariance_type=covariance_type, means=means, scales=scales, covariance_floor=0.01)
    pushed = model.affine(scale, shift)
    before = parameters.sites()
    log_scale = scale.log()
    spread = scale[0] if isotropic else scale
    after = {**before, "means": before["means"] * scale + shift, "scales": before["scales"] * spread}
    jacobian = (len(x) + 3) * log_scale.sum() + spread.log().expand(model.shapes["scales"]).sum()
    densities = [
        poutine.trace(poutine.condition(each.collapsed, values)).get_trace(points).log_prob_sum()
        for each, values, points in ((model, before, x), (pushed, after, x * scale + shift))
    ]
    assert torch.isfinite(densities[0])
    torch.testing.assert_close(densities[1] + jacobian, densities[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "tied_diag"])
def test_mirrored_mixtures_describe_mirrored_data(covariance_type: str) -> None:
    structure = covariance_structure(covariance_type)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariances = structure.regularize(torch.zeros(structure.covariance_shape(1, 2)).double(), torch.ones(2).double())
    covariances = covariances + (0.5 if structure.correlated else 0.0)
    mixture = MixtureParameters(torch.ones(1).double(), torch.ones(1, 2).double(), covariances, structure)
    scale = torch.tensor([-1.0, 2.0]).double()
    moved = mixture.affine(scale, torch.zeros(2).double()).log_likelihood(x * scale)
    torch.testing.assert_close(moved, mixture.log_likelihood(x) - math.log(2.0))
