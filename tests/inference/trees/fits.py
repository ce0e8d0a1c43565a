"""Small fits that tests of trees share."""

from __future__ import annotations

import warnings

import numpy as np
from pyro.infer.autoguide import AutoMultivariateNormal
from sklearn.exceptions import ConvergenceWarning

from latentmix.inference import NUTS, SVI, GaussianMixture

POINTS = np.random.RandomState(0).randn(80, 2) + np.repeat([[-3.0, 0.0], [3.0, 1.0]], 40, 0)

ALGORITHMS = {
    "nuts": NUTS(chains=2, draws=150, warmup=100),
    "svi": SVI(guide=AutoMultivariateNormal, priors={}),
    "em": "em",
}


def fitted(name: str, covariance_type: str = "diag") -> GaussianMixture:
    mixture = GaussianMixture(
        2,
        covariance_type=covariance_type,
        random_state=0,
        tol=1e-9,
        max_iter=500,
        inference=ALGORITHMS[name],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(POINTS)
