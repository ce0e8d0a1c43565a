import numpy as np
import pytest
import torch

from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.covariances import covariance_structure


def numbers(n=1000, n_features=3, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).randn(n, n_features) * [1.0, 10.0, 0.1][:n_features])


class Repeated:
    """A batch again and again."""

    def __init__(self, batch: torch.Tensor, times: int) -> None:
        self.batch, self.times = batch, times

    def __iter__(self):
        return (self.batch for _ in range(self.times))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["tensor", "array", "batches"])
def test_moments_are_those_of_the_points(kind, weighted):
    x = numbers(70_000)
    weight = torch.arange(len(x)).double() % 5 if weighted else None
    given = {
        "tensor": x,
        "array": x.numpy(),
        "batches": list(x.split(999)) if weight is None else list(zip(x.split(999), weight.split(999), strict=True)),
    }[kind]
    points = as_points(given, None if kind == "batches" else weight)
    own = torch.ones(len(x)).double() if weight is None else weight
    assert (points.count, points.local_count, points.offset, points.n_features) == (70_000, 70_000, 0, 3)
    assert points.weighted == weighted
    assert points.weight == float(own.sum())
    mean = np.average(x, axis=0, weights=own)
    variance = np.average((x.numpy() - mean) ** 2, axis=0, weights=own)
    np.testing.assert_allclose(points.location, mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(points.variance, variance, rtol=1e-12)
    farthest = np.linalg.norm((x.numpy() - mean) / variance**0.5, axis=1).max()
    assert farthest <= points.radius <= 3**0.5 * farthest
    assert as_points(points) is points


def test_moments_keep_their_digits_far_from_the_origin_and_over_many_rows():
    batch = (numbers(1_000_000, 1) + 1e6).float()
    points = as_points(Repeated(batch, 50))
    exact = batch.double()
    assert points.count == 50_000_000
    np.testing.assert_allclose(points.location, exact.mean(0), rtol=1e-14)
    np.testing.assert_allclose(points.variance, exact.var(0, correction=0), rtol=1e-9)


def test_a_constant_feature_takes_the_mean_variance():
    x = numbers()
    x[:, 1] = 7.0
    points = as_points(x)
    spread = x.var(0, correction=0)
    torch.testing.assert_close(points.variance[1], spread.mean())
    torch.testing.assert_close(points.variance[[0, 2]], spread[[0, 2]])
    assert as_points(torch.full((5, 2), 3.0)).variance.tolist() == [1.0, 1.0]


def test_moments_ignore_missing_values():
    x = numbers()
    x[::3, 0] = torch.nan
    x[:, 2] = torch.nan
    with pytest.raises(ValueError, match="Expected finite points; got NaN in row 0: drop or mend the row"):
        as_points(x)
    points = as_points(x, allow_nan=True)
    there = x[~x[:, 0].isnan(), 0]
    torch.testing.assert_close(points.location[0], there.mean())
    torch.testing.assert_close(points.variance[0], there.var(correction=0))
    assert bool(points.location.isfinite().all())
    assert bool((points.variance > 0).all())
    assert np.isfinite(points.radius)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("row", [0, 611, 999])
def test_a_value_that_is_not_finite_is_named_by_its_row(value, row):
    x = numbers().float()
    x[row, 1] = value
    what = "NaN" if np.isnan(value) else "infinity"
    for given in (x, x.numpy(), list(x.split(64))):
        with pytest.raises(ValueError, match=f"Expected finite points; got {what} in row {row}:"):
            as_points(given)
    if what == "infinity":
        with pytest.raises(ValueError, match=f"got infinity in row {row}: drop the row, or mark what is missing"):
            as_points(x, allow_nan=True)


def test_invalid_weights_and_empty_points_are_refused():
    x, weight = numbers(10), torch.ones(10)
    weight[4] = -1
    refused = [
        ((x, weight), "Expected sample_weight finite and not negative; got -1.0 in row 4"),
        ((x, weight * torch.nan), "got nan in row 0"),
        ((x, 0 * weight), "not to be all zero; got zeros"),
        ((x[:0], None), "Expected points; got no rows"),
        (([], None), "Expected points; got no rows"),
        ((x[:, :0], None), "Expected points with a feature at least; got none"),
        ((as_points(x), weight), "Expected no sample_weight beside Points"),
    ]
    for given, message in refused:
        with pytest.raises(ValueError, match=message):
            as_points(*given)
    with pytest.raises(ValueError, match=r"Expected torch\.distributed to be initialised"):
        as_points(x, distributed=True)


def test_sample_gives_the_rows_of_its_indices():
    x, weight = numbers(), torch.arange(1000.0)
    indices = torch.tensor([999, 3, 3, 0, 500])
    for points in (
        as_points(x, weight),
        as_points(x.numpy(), weight.numpy()),
        as_points(list(zip(x.split(90), weight.split(90), strict=True))),
    ):
        assert torch.equal(points.sample(indices), x[indices])
        rows, weights = points.weighted_sample(indices)
        assert torch.equal(rows, x[indices])
        assert torch.equal(weights, indices.double())
    assert as_points(x).weighted_sample(indices)[1] is None


def test_a_lone_process_returns_its_own_summand():
    x = numbers()
    points = as_points(x)
    structure = covariance_structure("diag")
    statistics = SufficientStatistics.of(x, torch.ones(1000, 1).double(), x[:1], structure)
    assert points.reduce(lambda: statistics) is statistics
    assert points.reduce(lambda: x) is x


def test_the_radius_ignores_chunks_without_a_value():
    x = torch.full((200_000, 2), 1e6, dtype=torch.float64) + torch.arange(200_000)[:, None] % 7
    x[:100_000, 1] = torch.nan
    assert as_points(x, allow_nan=True).radius < 3


def test_points_whose_variance_overflows_are_refused():
    with pytest.raises(ValueError, match="divide the points by a common factor"):
        as_points(torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64) * 1e160).check_scale()
