from __future__ import annotations

import math

import pytest
import torch

from latentmix.inference.two_sample import component_coverage, energy_test
from latentmix.models import MixtureParameters
from latentmix.models.mixture.covariances import covariance_structure


def mixture() -> MixtureParameters:
    means = torch.tensor([[-6.0, 0.0], [6.0, 0.0], [0.0, 6.0]], dtype=torch.float64)
    covariances = torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
    covariances[1] = torch.tensor([[2.0, 0.8], [0.8, 1.0]])
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    return MixtureParameters(weights, means, covariances, covariance_structure("full"))


def draw(n: int, components: list[int], seed: int = 0) -> torch.Tensor:
    truth = mixture()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.tensor(components)[torch.randint(len(components), (n,), generator=generator)]
    noise = torch.randn(n, 2, 1, dtype=torch.float64, generator=generator)
    return truth.means[chosen] + (torch.linalg.cholesky(truth.covariances)[chosen] @ noise).squeeze(-1)


def test_a_sample_of_the_mixture_covers_it_by_the_expected_shares() -> None:
    truth = mixture()
    chosen = torch.multinomial(truth.weights, 20_000, replacement=True)
    noise = torch.randn(20_000, 2, 1, dtype=torch.float64)
    x = truth.means[chosen] + (torch.linalg.cholesky(truth.covariances)[chosen] @ noise).squeeze(-1)
    coverage = component_coverage(x, truth)
    assert coverage.n_covered == 3
    # 5 standard errors of a share of 0.5: false alarms below 2e-6 for all four
    assert torch.allclose(coverage.shares, coverage.expected, atol=5 * 0.5 / 20_000**0.5)
    assert abs(coverage.outside - 0.01) < 5 * 0.1 / 20_000**0.5


def test_absent_components_are_not_covered() -> None:
    assert component_coverage(draw(1000, [0, 2]), mixture()).covered.tolist() == [True, False, True]


def test_points_between_the_components_count_for_none() -> None:
    coverage = component_coverage(torch.zeros(100, 2), mixture())
    assert coverage.n_covered == 0
    assert coverage.outside == 1.0


def test_coverage_refuses_other_points() -> None:
    with pytest.raises(ValueError, match=r"shape \(n, 2\); got \(4, 3\)"):
        component_coverage(torch.zeros(4, 3), mixture())
    with pytest.raises(ValueError, match="level between 0 and 1; got 1"):
        component_coverage(torch.zeros(4, 2), mixture(), level=1.0)


def test_energy_distance_of_two_points_each() -> None:
    # 2 E|X-Y| - E|X-X'| - E|Y-Y'| by hand: X = {0, 1}, Y = {3, 5}
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]])
    assert energy_test(x, y).statistic == pytest.approx(2 * (3 + 5 + 2 + 4) / 4 - 1 / 2 - 2 / 2)


def test_p_values_of_equal_distributions_are_uniform() -> None:
    # share of p <= 0.1 in 100 tests is binomial(100, 0.1): above 0.25 with probability 1e-5
    values = [
        energy_test(draw(60, [0, 1], seed=k), draw(50, [0, 1], seed=1000 + k), permutations=39).p_value
        for k in range(100)
    ]
    assert sum(value <= 0.1 for value in values) <= 25
    assert sum(value > 0.5 for value in values) >= 25


def test_a_missing_component_is_noticed() -> None:
    test = energy_test(draw(500, [0, 1, 2]), draw(500, [0, 2], seed=1))
    assert test.p_value == pytest.approx(1 / 200)
    assert test.statistic > 0.1


def test_energy_test_is_seeded_and_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    x, y = draw(300, [0]), draw(300, [0], seed=1)
    assert energy_test(x, y, limit=100, seed=3) == energy_test(x, y, limit=100, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_energy_test_refuses_other_widths() -> None:
    with pytest.raises(ValueError, match="two samples of one width"):
        energy_test(torch.zeros(4, 2), torch.zeros(4, 3))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    points = torch.full((10, 2), bad)
    with pytest.raises(ValueError, match="Expected finite samples; got NaN or infinite values"):
        energy_test(points, torch.zeros(10, 2))
    with pytest.raises(ValueError, match="Expected finite points, at least one; got 10 with NaN or infinity"):
        component_coverage(points, mixture())
    with pytest.raises(ValueError, match="Expected finite points, at least one; got 0"):
        component_coverage(points[:0], mixture())


@pytest.mark.parametrize("options", [{"permutations": 0}, {"limit": 1}])
def test_invalid_numbers_of_permutations_and_points_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Expected permutations of at least 1 and a limit of at least 2; got"):
        energy_test(torch.randn(5, 2), torch.randn(5, 2), **options)
