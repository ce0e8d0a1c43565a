"""Posteriors of mixtures: NUTS and enumerated SVI against the large-sample approximation."""

from __future__ import annotations

import numpy as np
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor

from latentmix.inference.mixtures.algorithm import FitOptions
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.nuts.fit import NUTS
from latentmix.inference.mixtures.svi.fit import SVI

from tests.verify.registry import Figures, proof

_SIZE = 2000


def _overlapping(seed: int) -> Tensor:
    """2,000 points of three correlated components in the plane, which overlap."""
    generator = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [3.5, 1.0], [-1.5, 4.0]])
    factors = np.array([[[1.0, 0.0], [0.5, 0.8]], [[0.7, 0.0], [-0.3, 1.2]], [[1.0, 0.0], [0.2, 0.6]]])
    component = generator.choice(3, _SIZE, p=[0.5, 0.3, 0.2])
    noise = np.einsum("nij,nj->ni", factors[component], generator.normal(size=(_SIZE, 2)))
    return torch.from_numpy(centres[component] + noise)


@proof()
def posterior_draws_lie_below_the_maximum() -> Figures:
    """NUTS, 2,000 points, K = 3, 2-D: the draws' mean log-likelihood per point is the maximum less p/2n within 25%.

    This is the Laplace approximation, in which each of the 17 parameters costs half a nat. Enumerated SVI with two
    guides on the same model is reported as well. Two data sets; R-hat at most 1.01, and no divergence.
    """
    figures: dict[str, object] = {}
    passed = True
    for seed in range(2):
        x = _overlapping(seed)
        nuts = NUTS(chains=4, draws=1000, warmup=300).fit(x, options=FitOptions(seed=seed), n_components=3)
        highest = fit_em(x, nuts.reference, reg_covar=0.0, tol=1e-13, max_iter=20_000).parameters
        top, expected = float(highest.log_likelihood(x).mean()), highest.n_parameters() / (2 * _SIZE)
        ratio = (top - nuts.lower_bound) / expected
        beside = {}
        for family in (AutoMultivariateNormal, AutoNormal):
            svi = SVI(priors={}, guide=family, epochs=1500).fit(x, nuts.reference, FitOptions(seed=seed))
            draws = svi.draw(2000, seed=seed).log_likelihood(x)
            beside[family.__name__] = (top - float(draws.mean()) / _SIZE) / expected
        figures[f"seed {seed}"] = {
            "maximum": top,
            "p/2n": expected,
            "nuts: gap / (p/2n)": ratio,
            **{f"{name}: gap / (p/2n)": value for name, value in beside.items()},
            "r_hat": nuts.r_hat,
            "ess": nuts.ess,
            "divergences": sum(nuts.divergences),
            "nuts_seconds": nuts.seconds,
            "milliseconds_per_gradient": 1000 * nuts.seconds / sum(nuts.n_gradients),
        }
        passed &= abs(ratio - 1) <= 0.25 and nuts.r_hat <= 1.01 and not any(nuts.divergences)
    return {"passed": bool(passed), **figures}
