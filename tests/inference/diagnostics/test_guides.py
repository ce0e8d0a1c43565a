"""Pareto-smoothed importance weights of a guide's draws: exact guides, narrow ones, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from latentmix.inference.diagnostics.guides import importance_weights


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=4000)


def test_draws_of_the_posterior_have_equal_weights(x):
    weights, k_hat = importance_weights(-0.5 * x**2 + 7.0, -0.5 * x**2)
    assert weights == pytest.approx(1 / 4000)
    assert k_hat < 0


def test_weights_of_a_close_guide_give_the_posteriors_moments(x):
    """q = N(0, 1), p = N(0.3, 0.9^2): whose moments are known."""
    found = importance_weights(-0.5 * ((x - 0.3) / 0.9) ** 2, -0.5 * x**2)
    assert found.weights.sum() == pytest.approx(1.0)
    mean = found.weights @ x
    assert mean == pytest.approx(0.3, abs=0.05)
    assert np.sqrt(found.weights @ (x - mean) ** 2) == pytest.approx(0.9, abs=0.05)
    assert found.k_hat < 0.5
    assert 2500 < found.effective_size < 4000


def test_k_hat_grows_as_a_guide_gets_narrower(x):
    """Ratios of N(0, s^2) to N(0, 1) have a Pareto tail of shape 1 - 1 / s^2."""
    found = [importance_weights(-0.5 * x**2 / s**2, -0.5 * x**2) for s in (1.2, 2.0, 4.0)]
    assert [each.k_hat for each in found] == pytest.approx([0.31, 0.75, 0.94], abs=0.2)
    assert found[0].effective_size > found[1].effective_size > found[2].effective_size


def test_chains_of_draws_are_taken_in_any_shape(x):
    log_p, log_q = -0.5 * x**2 / 4, -0.5 * x**2
    grouped = importance_weights(log_p.reshape(1, -1), log_q.reshape(1, -1))
    assert grouped.k_hat == importance_weights(log_p, log_q).k_hat


@pytest.mark.parametrize(
    ("log_p", "log_q", "words"),
    [
        (np.zeros(30), np.zeros(40), r"one shape; got \(30,\) by the model"),
        (np.zeros(20), np.zeros(20), r"at least 25 draws"),
        (np.full(30, -np.inf), np.zeros(30), r"finite log densities; got others at 30 of 30 draws"),
    ],
)
def test_densities_that_are_refused(log_p, log_q, words):
    with pytest.raises(ValueError, match=words):
        importance_weights(log_p, log_q)
