"""Nothing process-wide changes, whatever of the mixtures is called and however it ends.

A new public call joins `ACTIONS`; nothing else here needs to change.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

from latentmix.inference import (
    NUTS,
    SVI,
    BayesianGaussianMixture,
    GaussianMixture,
    modes,
    select,
    standard_errors,
)
from latentmix.inference.mixtures.analysis.gibbs import gibbs
from latentmix.inference.mixtures.analysis.selection import remeasured
from latentmix.inference.mixtures.em.missing import impute
from latentmix.inference.mixtures.points.points import as_points

from tests.inference.process import differences, plane, snapshot

K = 2


def fitted() -> GaussianMixture:
    return GaussianMixture(K, random_state=0).fit(plane())


def holes() -> Tensor:
    x = plane().clone()
    x[::3, 0] = torch.nan
    return x


def batches() -> list[Tensor]:
    return list(plane().split(16))


def refused(action: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        with pytest.raises(ValueError, match="Expected"):
            action()

    return run


ACTIONS: dict[str, Callable[[], Any]] = {
    "batches": lambda: GaussianMixture(K, random_state=0).fit(batches()),
    "batches that can be read once": refused(lambda: as_points(iter(batches()))),
    "scores of batches": lambda: [call(batches()) for call in (fitted().score, fitted().bic, fitted().aic)],
    "partial fit": lambda: GaussianMixture(K, random_state=0).partial_fit(plane()).partial_fit(plane()),
    "missing values": lambda: GaussianMixture(K, missing="marginalize", random_state=0).fit(holes()).impute(holes()),
    "impute": lambda: impute(holes(), fitted().parameters_),
    "variational": lambda: BayesianGaussianMixture(n_components=3, random_state=0).fit(plane()).sample(3),
    "SVI": lambda: SVI(epochs=3).fit(plane(), fitted().parameters_),
    "SVI with a full guide": lambda: GaussianMixture(
        K, inference=SVI(guide=AutoMultivariateNormal, epochs=5, priors={}), random_state=0
    ).fit(plane()),
    "draws of a guide": lambda: repr(
        GaussianMixture(K, inference=SVI(guide=AutoMultivariateNormal, epochs=3, priors={}), random_state=0)
        .fit(plane())
        .posterior_
    ),
    "NUTS": lambda: NUTS(chains=2, draws=6, warmup=6).fit(plane(), n_components=K),
    "NUTS by the estimator": lambda: GaussianMixture(
        K, inference=NUTS(chains=1, draws=6, warmup=6), random_state=0
    ).fit(plane()),
    "NUTS that fails": refused(lambda: NUTS().fit(plane(), n_components=0)),
    "standard errors": lambda: standard_errors(fitted(), plane()),
    "bootstrap": lambda: standard_errors(fitted(), plane(), method="bootstrap", n_bootstrap=3),
    "modes": lambda: modes(plane(), K, n_starts=3),
    "Gibbs": lambda: gibbs(plane(), fitted().parameters_, chains=2, draws=5, warmup=5),
    "selection": lambda: select(plane(), (1, 2), ("full",), n_init=1, draws=50),
    "selection measured anew": lambda: remeasured(
        select(plane(), K, "full", max_iter=1, n_init=1, draws=50), plane(), fitted(), draws=50
    ),
}


@pytest.fixture
def unusual() -> Any:
    """A process that is in no default state, so that what is put back is not what merely is usual."""
    with pyro.settings.context(validate_infer=False, validate_poutine=False):
        pyro.param("mine", torch.tensor(3.0))
        pyro.set_rng_seed(11)
        torch.randn(3), np.random.randn(), random.gauss(0.0, 1.0)
        yield
    pyro.clear_param_store()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_process_wide_changes(unusual: Any, action: str, gradients: bool) -> None:
    if gradients:
        ACTIONS[action]()  # the first call of a process may import what sets variables
    with torch.set_grad_enabled(gradients):
        before = snapshot()
        ACTIONS[action]()
        assert differences(before, snapshot()) == []
