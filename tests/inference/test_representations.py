"""Every result that a notebook shows is a few lines long, and has HTML."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import (
    NUTS,
    SVI,
    GaussianMixture,
    compare,
    component_coverage,
    ex_post_priors,
    fit,
    latent_statistics,
    modes,
    select,
    standard_errors,
)
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
from latentmix.models.display import Displayed


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(centre, 1.0, (60, 2)) for centre in (-4.0, 4.0)])
    images = torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    torch.manual_seed(0)
    vae = VAE(MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8)), StandardNormal(2), Bernoulli())
    guide = AmortizedGuide(MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8)))
    trained = fit(vae.model, guide, images, epochs=60, batch_size=40, validation=images, seed=0)
    em, svi = (GaussianMixture(2, inference=kind, random_state=0, tol=1e-8).fit(points) for kind in ("em", "svi"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nuts = NUTS(chains=2, draws=20, warmup=20).fit(torch.from_numpy(points), em.parameters_)
        noisy = GaussianMixture(2, inference=SVI(epochs=3, batch_size=40), random_state=0).fit(points)
        posteriors = ex_post_priors(GaussianMixture(2, random_state=0), vae, guide, images, ("samples",), seed=0)
        selection = select(points, range(1, 5), ("full", "diag"), criteria=("bic", "icl"))
        report = modes(points, 3, n_starts=4)
    return {
        "fit": trained,
        "its state": trained.state,
        "an epoch": trained.history[0],
        "random states": trained.state.random,
        "latent statistics": latent_statistics(vae, guide, images),
        "em": em.result_,
        "parameters": em.parameters_,
        "svi": svi.result_,
        "noisy svi": noisy.result_,
        "nuts": nuts,
        "posterior": nuts.posterior,
        "compare": compare(em, svi, points),
        "select": selection,
        "a candidate": selection.best("bic"),
        "modes": report,
        "standard errors": standard_errors(em, points),
        "coverage": component_coverage(torch.from_numpy(points), em.parameters_),
        "ex post": posteriors["samples"],
    }


def test_results_are_a_few_lines(results: dict[str, Any]) -> None:
    for name, result in results.items():
        lines = repr(result).splitlines()
        assert len(lines) <= 20, name
        assert max(map(len, lines)) <= 300, name
        assert len(repr(result)) <= 1500, name


def test_results_show_the_figures_that_one_wants(results: dict[str, Any]) -> None:
    trained = results["fit"]
    wanted = {
        "fit": [f"{trained.losses[-1]:.6g}", f"{trained.validation_losses[-1]:.6g}", "nats per datum", "60 in "],
        "compare": ["mean log p(x)", f"{results['compare'].agreement:.2%}", "total variation"],
        "select": ["BIC", "ICL", "K = 2"],
        "modes": ["mean log p(x)", "of 4 starts", "rivals"],
        "nuts": [f"{results['nuts'].r_hat:.4f} at most", f"{results['nuts'].ess:.0f} at least", "divergences"],
        "em": ["2 components, 2 features, full", "converged"],
        "standard errors": ["sandwich"],
        "latent statistics": ["ELBO", "KL(q(z|x), p(z))", "E_q log p(x|z)", " of 2"],
    }
    for name, words in wanted.items():
        for word in words:
            assert word in repr(results[name]), f"{name}: {word}"


def test_results_have_html(results: dict[str, Any]) -> None:
    for name, result in results.items():
        if isinstance(result, Displayed):
            assert result._repr_html_().count("<tr>") == len(result.shown()), name
    assert "KL(q(z|x), p(z))" in results["latent statistics"]._repr_html_()
    assert "<b>" not in results["fit"]._repr_html_()
