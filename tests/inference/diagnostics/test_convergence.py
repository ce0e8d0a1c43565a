import subprocess
import sys

import arviz
import numpy as np
import pytest

from latentmix.inference.diagnostics.convergence import effective_size, split_r_hat

CHAINS = np.random.default_rng(0).normal(size=(4, 300, 2, 3))


def autocorrelated(n_chains=4, n_draws=2000, correlation=0.8):
    noise = np.random.default_rng(1).normal(size=(n_chains, n_draws))
    values = np.empty_like(noise)
    values[:, 0] = noise[:, 0]
    for draw in range(1, n_draws):
        values[:, draw] = correlation * values[:, draw - 1] + (1 - correlation**2) ** 0.5 * noise[:, draw]
    return values


def test_figures_are_arviz_s_for_quantities_of_any_shape():
    assert split_r_hat(CHAINS).shape == effective_size(CHAINS).shape == (2, 3)
    for index in np.ndindex(2, 3):
        chains = CHAINS[(..., *index)]
        assert split_r_hat(CHAINS)[index] == pytest.approx(float(arviz.rhat(chains)), rel=1e-12)
        for kind in ("bulk", "tail"):
            expected = float(arviz.ess(chains, method=kind, **({"prob": (0.05, 0.95)} if kind == "tail" else {})))
            assert effective_size(CHAINS, kind)[index] == pytest.approx(expected, rel=1e-12)


def test_effective_size_of_an_autoregression_is_the_closed_form():
    values = autocorrelated()
    assert effective_size(values) == pytest.approx(values.size * (1 - 0.8) / (1 + 0.8), rel=0.15)


def test_chains_apart_and_halves_apart_have_a_great_r_hat():
    assert split_r_hat(CHAINS).max() < 1.02
    assert split_r_hat(CHAINS + np.arange(4)[:, None, None, None]).min() > 1.5
    drifting = np.random.default_rng(0).normal(size=(1, 400)) + np.linspace(0, 5, 400)
    assert split_r_hat(drifting) > 1.5
    assert split_r_hat(CHAINS[:1, :, 0, 0]) < 1.05


def test_constants_and_few_draws_have_no_r_hat():
    assert np.isnan(split_r_hat(np.ones((4, 100))))
    assert np.isnan(split_r_hat(CHAINS[:, :3])).all()


def test_arviz_is_loaded_when_it_is_needed_and_not_before():
    code = "import sys, latentmix.inference.diagnostics.calibration; assert 'arviz_stats' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
