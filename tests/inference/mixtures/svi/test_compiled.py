"""SVI of mixtures with compiled steps: the same fits as without."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor

from latentmix.guides.mixture import global_guide
from latentmix.inference import SVI, GaussianMixture, SVIResult, fit
from latentmix.inference.isolation import isolated
from latentmix.models import MixtureModel

from tests.inference.compiled.interpreter import interpreted

# Covariance type, guide, priors and batch size; a normal guide under proper priors with all the data takes no gradient
# steps. All 64 cells agree.
CELLS: list[tuple[str, Any, Any, int | None]] = [
    ("full", AutoDelta, None, None),
    ("full", AutoNormal, {}, 16),
    ("tied", AutoDelta, {}, 16),
    ("tied", AutoMultivariateNormal, None, None),
    ("diag", AutoDelta, {}, None),
    ("diag", AutoLowRankMultivariateNormal, {}, 16),
    ("spherical", AutoNormal, None, 16),
    ("spherical", AutoDiagonalNormal, None, None),
]


@pytest.fixture(autouse=True)
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmix.inference.compiled.objective.compile_graph", interpreted)
    monkeypatch.setattr("latentmix.inference.compiled.objective.compiler_obstacle", lambda device: None)


def points() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-2.0, 0.0, 1.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
    return (centres[:, None] + torch.randn(2, 20, 3, dtype=torch.float64, generator=generator)).flatten(0, 1)


def fitted(kind: str, compile: bool, **options: Any) -> Any:
    svi = SVI(epochs=6, compile=compile, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Steps run uncompiled")
        return GaussianMixture(2, covariance_type=kind, inference=svi, random_state=0).fit(points()).result_


@pytest.mark.parametrize(("kind", "guide", "priors", "batch_size"), CELLS)
def test_a_compiled_fit_is_the_uncompiled_one(kind: str, guide: Any, priors: Any, batch_size: int | None) -> None:
    options = {"guide": guide, "priors": priors, "batch_size": batch_size}
    plain, fast = fitted(kind, False, **options), fitted(kind, True, **options)
    assert fast.lower_bounds == pytest.approx(plain.lower_bounds, rel=1e-10)
    for name, value in plain.svi.parameters.items():
        torch.testing.assert_close(fast.svi.parameters[name], value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fast.parameters.covariances, plain.parameters.covariances, rtol=1e-10, atol=1e-10)


def test_a_compiled_fit_without_noise_ends_where_the_uncompiled_one_does() -> None:
    """Natural gradients, curvature and the end of the fit read the compiled loss."""
    results = [
        GaussianMixture(2, inference=SVI(compile=compile), random_state=0).fit(points()).result_
        for compile in (False, True)
    ]
    plain, fast = results
    assert plain.converged
    assert fast.converged
    assert fast.n_iter == plain.n_iter
    assert fast.lower_bound == pytest.approx(plain.lower_bound, rel=1e-9)


def test_a_guide_from_the_curvature_warns_that_there_is_nothing_to_compile() -> None:
    svi = SVI(guide=AutoNormal, priors={}, epochs=3, compile=True)
    with pytest.warns(UserWarning, match="fitted from the curvature: compile=True has no effect"):
        GaussianMixture(2, inference=svi, random_state=0).fit(points())


@pytest.mark.parametrize("family", [AutoDelta, AutoNormal, AutoLowRankMultivariateNormal])
def test_a_mixture_model_in_a_compiled_fit_is_that_in_an_uncompiled_one(family: Any) -> None:
    results: list[SVIResult] = []
    for compile in (False, True):
        model = MixtureModel(2, 3, size=40)
        guide = global_guide(model, family=family)
        with isolated(seed=0):
            guide(points()[:1])
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Steps run uncompiled")
            results.append(
                fit(
                    model,
                    guide,
                    points(),
                    epochs=4,
                    batch_size=15,
                    objective=TraceEnum_ELBO(max_plate_nesting=1),
                    optimizer=partial(torch.optim.Adam, lr=0.02),
                    seed=0,
                    compile=compile,
                )
            )
    plain, fast = results
    assert fast.losses == pytest.approx(plain.losses, rel=1e-10)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(fast.parameters[name], value, rtol=1e-10, atol=1e-10)
