"""Seeds of mixtures: `random_state=None` draws one from NumPy's global state, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from latentmix.inference import BayesianGaussianMixture, GaussianMixture
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.analysis.standard_errors import standard_errors
from latentmix.inference.mixtures.nuts.fit import NUTS
from latentmix.inference.mixtures.svi.fit import SVI

from tests.inference.process import differences, plane, snapshot

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = np.random.default_rng(0).normal(size=(140, 2))
ONE_DRAW = ["numpy"]


def means(mixture: Any, **options: Any) -> list[Any]:
    fitted: list[Any] = mixture.fit(X, **options).means_.tolist()
    return fitted


FITS: dict[str, Callable[[], Any]] = {
    "EM": lambda: means(GaussianMixture(6)),
    "EM, several starts": lambda: means(GaussianMixture(6, n_init=3, init_params="random", max_iter=5)),
    "k-means++": lambda: means(GaussianMixture(6, init_params="k-means++")),
    "rows": lambda: means(GaussianMixture(6, init_params="random_from_data")),
    "missing": lambda: means(GaussianMixture(6, missing="marginalize", max_iter=3)),
    "batches": lambda: GaussianMixture(6).fit([X[:70], X[70:]]).means_.tolist(),
    "stepwise": lambda: GaussianMixture(6).partial_fit(X).means_.tolist(),
    "SVI": lambda: means(GaussianMixture(6, inference=SVI(epochs=5))),
    "SVI with a density": lambda: means(GaussianMixture(2, inference=SVI(guide=AutoNormal, epochs=5))),
    "NUTS": lambda: means(GaussianMixture(2, inference=NUTS(chains=1, draws=4, warmup=4))),
    "Bayesian": lambda: means(BayesianGaussianMixture(n_components=6, max_iter=5)),
    "sample": lambda: GaussianMixture(2, random_state=0).fit(X).set_params(random_state=None).sample(4)[0].tolist(),
    "Bayesian sample": lambda: (
        BayesianGaussianMixture(random_state=0).fit(X).set_params(random_state=None).sample(4)[0].tolist()
    ),
    "bootstrap": lambda: standard_errors(
        GaussianMixture(2, random_state=0).fit(X), X, method="bootstrap", n_bootstrap=2, random_state=None
    ).means.tolist(),
}


@pytest.mark.parametrize("name", FITS)
def test_numpy_seed_repeats_a_fit_without_a_random_state(name: str) -> None:
    with isolated():
        np.random.seed(0)
        first, following = FITS[name](), FITS[name]()
        np.random.seed(0)
        assert (FITS[name](), FITS[name]()) == (first, following)
        assert following != first


@pytest.mark.parametrize("name", FITS)
def test_a_fit_draws_one_seed_from_numpy(name: str) -> None:
    with isolated():
        np.random.seed(0)
        np.random.randint(2**32, dtype=np.uint32)
        expected = np.random.rand(3).tolist()
        np.random.seed(0)
        before = snapshot()
        FITS[name]()
        assert differences(before, snapshot()) == ONE_DRAW
        assert np.random.rand(3).tolist() == expected


def test_a_seeded_fit_draws_nothing() -> None:
    before = snapshot()
    GaussianMixture(2, random_state=0).fit(plane()).sample(3)
    BayesianGaussianMixture(random_state=np.random.RandomState(0)).fit(plane()).sample(3)
    assert differences(before, snapshot()) == []


def test_torch_seed_does_not_matter() -> None:
    with isolated():
        np.random.seed(0)
        torch.manual_seed(1)
        first = FITS["SVI"]()
        np.random.seed(0)
        torch.manual_seed(2)
        assert FITS["SVI"]() == first
