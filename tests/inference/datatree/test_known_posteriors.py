"""Short versions of the proofs that posteriors of known means pass through the tree."""

from __future__ import annotations

import numpy as np
import pytest

from tests.verify.proofs.datatree import (
    CASES,
    EFFECTS,
    ERRORS,
    distances,
    exact_regression,
    loo_by_svi,
    loo_difference,
    nuts,
    regression_evidence,
    regression_loo,
    svi,
)


def test_exact_means_agree_with_draws_from_the_prior_weighted_by_the_likelihood():
    """A check of the quadrature itself, by importance sampling in NumPy."""
    generator = np.random.default_rng(0)
    mu, tau = generator.normal(0, 5, (40_000, 1)), abs(5 * generator.standard_cauchy((40_000, 1)))
    variance = ERRORS.numpy() ** 2 + tau**2
    weight = np.exp((-0.5 * np.log(variance) - 0.5 * (EFFECTS.numpy() - mu) ** 2 / variance).sum(1))
    means = CASES["eight schools"].means()
    assert means["mu"] == pytest.approx(np.average(mu[:, 0], weights=weight), abs=0.15)
    assert means["tau"] == pytest.approx(np.average(tau[:, 0], weights=weight), abs=0.15)


def test_known_means_and_cross_validation():
    case = CASES["regression"]
    by_nuts = nuts(case, draws=50)
    assert all(distance < 5 for distance in distances(by_nuts, case.means()).values())
    figures = loo_difference(by_nuts, svi(case, steps=150, draws=100))
    assert abs(figures["nuts"] - figures["svi"]) < 1


def test_densities_of_the_exact_posterior_as_a_guide():
    tree = exact_regression(draws=500)
    log_ratio = tree.sample_stats["log_p"] - tree.sample_stats["log_q"]
    np.testing.assert_allclose(log_ratio, regression_evidence(), atol=1e-4)
    loo = loo_by_svi(tree)
    assert float(loo.elpd) == pytest.approx(regression_loo(), abs=0.15)
    assert float(loo.pareto_k.max()) < 0.7
