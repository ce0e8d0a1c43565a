import pytest
import torch

from latentmix.inference.mixtures.em.e_step import ExactEStep
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.stepwise import StepwiseEM
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import ALL_TYPES, begin, blobs


def shuffled(x, size, epochs):
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        yield from x[order].split(size)


def assert_equal(each, other, atol):
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(getattr(each, name), getattr(other, name), rtol=0, atol=atol)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_shuffled_batches_lead_to_the_answer_of_em(covariance_type):
    """Ten times through 6,000 points of clouds apart: 0.002 nat per point of EM's maximum, and means 0.05 of its."""
    x = blobs(1, n=6000, spread=0.2)
    first = begin(x[:300], covariance_type)
    answer = fit_em(x, first, tol=1e-9, max_iter=500).parameters
    batches = list(shuffled(x, 300, 10))
    state = StepwiseEM.begin(batches[0], first)
    for batch in batches[1:]:
        state = state.step(batch)
    best, reached = (float(each.log_likelihood(x).mean()) for each in (answer, state.parameters))
    assert 0 <= best - reached < 2e-3
    assert best - float(first.log_likelihood(x).mean()) > 5e-3
    torch.testing.assert_close(state.parameters.means, answer.means, rtol=0, atol=0.05)
    assert state.steps == 200
    assert state.weight == 60_000
    assert state.statistics.bound == pytest.approx(reached, abs=0.1)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_the_first_batch_is_a_step_of_em(covariance_type):
    x = blobs()
    first = begin(x, covariance_type)
    state = StepwiseEM.begin(x, first)
    expected = fit_em(x, first, max_iter=1, tol=0.0)
    assert_equal(state.parameters, expected.parameters, 1e-12)
    assert state.statistics.bound == pytest.approx(expected.lower_bounds[0], abs=1e-12)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_a_step_is_the_m_step_of_averaged_statistics(covariance_type):
    """Against the recursion as it is published, with raw moments about the origin."""
    x, weight = blobs(n=400), torch.arange(400).double() % 3 + 0.5
    first = begin(x, covariance_type)
    state = StepwiseEM.begin(x[:200], first, sample_weight=weight[:200], exponent=0.7, delay=1.5)
    for step, rows in enumerate([slice(200, 300), slice(300, 400)], start=1):
        before = state
        state = state.step(x[rows], sample_weight=weight[rows])
        share = 1 - (1 - (step + 1.5) ** -0.7) ** (float(weight[rows].sum()) * step / before.weight)
        result = ExactEStep(as_points(x[rows], weight[rows]))(before.parameters)
        origin = torch.zeros_like(first.means)
        old, new = before.statistics.about(origin), result.about(origin)
        size = float(weight[rows].sum())
        counts, sums, scatter = (
            (1 - share) * getattr(old, name) + share * getattr(new, name) / size
            for name in ("counts", "sums", "scatter")
        )
        means = sums / counts[:, None]
        covariances = first.structure.estimate(counts, scatter, means)
        covariances = first.structure.regularize(covariances, torch.full((3,), 1e-6).double())
        expected = MixtureParameters(counts, means, covariances, first.structure)
        assert_equal(state.parameters, expected, 1e-10)


def test_batches_count_alike_at_an_exponent_and_a_delay_of_one():
    """One component, whose parameters are then those of all points."""
    x = blobs()
    first = begin(x[:60], "full", n_components=1)
    state = StepwiseEM.begin(x[:60], first, exponent=1.0, delay=1.0, reg_covar=0.0)
    for batch in x[60:].split(60):
        state = state.step(batch, reg_covar=0.0)
    torch.testing.assert_close(state.parameters.means[0], x.mean(0), rtol=0, atol=1e-10)
    torch.testing.assert_close(state.parameters.covariances[0], torch.cov(x.T, correction=0), rtol=0, atol=1e-10)


def test_a_smaller_batch_moves_less():
    x = blobs(n=1020)
    state = StepwiseEM.begin(x[:1000], begin(x[:1000], "full"))
    share = 1 - (1 - 3**-0.6) ** 0.01
    for rows in (slice(1000, 1010), slice(1010, 1020)):
        moved = state.step(x[rows]).statistics.counts - state.statistics.counts
        assert 0 < float(moved.abs().sum()) <= 2 * share
    assert bool(state.step(x[1000:1001]).parameters.means.isfinite().all())


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_no_digits_are_lost_far_from_the_origin(covariance_type):
    x = blobs(n=2000, spread=0.3)
    far = x + 1e6
    first = begin(x[:500], covariance_type)
    moved = MixtureParameters(first.weights, first.means + 1e6, first.covariances, first.structure)
    near_state, far_state = StepwiseEM.begin(x[:500], first), StepwiseEM.begin(far[:500], moved)
    for near, out in zip(x[500:].split(100), far[500:].split(100), strict=True):
        near_state, far_state = near_state.step(near), far_state.step(out)
    shifted = far_state.parameters.affine(torch.ones(3).double(), torch.full((3,), -1e6).double())
    assert_equal(shifted, near_state.parameters, 1e-6)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_degenerate_batches_stay_finite(covariance_type):
    x = blobs()
    first = begin(x, covariance_type)
    far = MixtureParameters(
        first.weights, first.means + 1e5 * torch.eye(4)[1][:, None], first.covariances, first.structure
    )
    state = StepwiseEM.begin(x, far)
    for batch in [x, x[:1], x[:1].repeat(50, 1), *x.split(100)] * 3:
        state = state.step(batch, reg_covar=0.0)
        for tensor in (state.parameters.weights, state.parameters.means, state.parameters.precisions_cholesky):
            assert bool(tensor.isfinite().all())
    assert float(state.parameters.means.abs().max()) < 100


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_a_component_reset_to_one_point_has_the_scale_of_the_mixture(covariance_type):
    x = 1e-8 * blobs()
    first = begin(x, covariance_type, reg_covar=0.0)
    gone = 1e-4 * torch.eye(4)[1][:, None].double()
    far = MixtureParameters(first.weights, first.means + gone, first.covariances, first.structure)
    state = StepwiseEM.begin(x[:1], far, reg_covar=0.0)
    assert float(state.parameters.means.abs().max()) < 1e-6
    assert float(state.parameters.covariances.abs().max()) < 1e-14


def test_batches_and_points_are_the_same():
    x = blobs()
    first = begin(x, "full")
    states = [StepwiseEM.begin(x[:100], first).step(given) for given in (x[100:], as_points(list(x[100:].split(30))))]
    assert_equal(states[0].parameters, states[1].parameters, 1e-12)


def test_options_out_of_range_are_refused():
    x = blobs()
    first = begin(x, "full")
    for options, message in [
        ({"exponent": 0.5}, r"Expected an exponent in \(0.5, 1\]; got 0.5"),
        ({"exponent": 1.1}, "got 1.1"),
        ({"delay": -1.0}, "Expected a delay that is not negative; got -1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            StepwiseEM.begin(x, first, **options)
    with pytest.raises(ValueError, match="Expected points with 3 features; got 2"):
        StepwiseEM.begin(x, first).step(x[:, :2])


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("outlier", [1e9, 1e60])
def test_a_batch_far_wider_than_those_before_leaves_a_mixture(covariance_type, outlier):
    x = blobs()
    wide = x.clone()
    wide[0] = outlier
    state = StepwiseEM.begin(x, begin(x, covariance_type)).step(wide)
    assert state.parameters.regular
    assert bool(state.parameters.log_likelihood(x).isfinite().all())


@pytest.mark.parametrize(("outlier", "message"), [(1e160, "squares are finite"), (1e150, "log-likelihood is finite")])
def test_points_whose_squares_overflow_are_refused(outlier, message):
    x = blobs()
    first = begin(x, "full")
    narrow = MixtureParameters(first.weights, first.means, first.covariances * 1e-20, first.structure)
    wide = x.clone()
    wide[0] = outlier
    with pytest.raises(ValueError, match=message):
        StepwiseEM.begin(wide, narrow)
    with pytest.raises(ValueError, match=message):
        fit_em(wide, narrow)
