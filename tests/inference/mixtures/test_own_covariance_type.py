"""Shared variances by EM, SVI and NUTS: "tied_diag", and a covariance type of one's own that is registered here."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from latentmix.inference.mixtures.algorithm import FitOptions
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.nuts.fit import NUTS
from latentmix.inference.mixtures.svi.fit import SVI
from latentmix.models import MixturePrior
from latentmix.models.mixture import covariances
from latentmix.models.mixture.covariances import (
    Matrices,
    Variances,
    covariance_structure,
    covariance_types,
    register_structure,
)
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import blobs


class TiedSpherical(Variances):
    """One variance for all components and features."""

    name = "tied_spherical"
    shared = True
    isotropic = True


TYPES = {"tied_diag": (2,), "tied_spherical": ()}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covariances, "_STRUCTURES", dict(covariances._STRUCTURES))
        register_structure(TiedSpherical())
        yield


@pytest.fixture(scope="module")
def x() -> Tensor:
    return blobs(n=200, n_features=2, n_components=3) * torch.tensor([1.0, 3.0])


def begin(x: Tensor, covariance_type: str) -> MixtureParameters:
    structure, variance = covariance_structure(covariance_type), x.var(0)
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    return MixtureParameters(weights, x[:3], variance.mean() if structure.isotropic else variance, structure)


def by_hand(x: Tensor, start: MixtureParameters, steps: int = 2000) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Weights, means and variances by EM, written out."""
    points, weights, means = x.numpy(), start.weights.numpy(), start.means.numpy()
    variance = np.broadcast_to(start.covariances.numpy(), points.shape[1])
    for _ in range(steps):
        squares = (points[:, None] - means) ** 2
        joint = np.log(weights) - 0.5 * (squares / variance + np.log(variance)).sum(-1)
        responsibilities = np.exp(joint - joint.max(1, keepdims=True))
        responsibilities /= responsibilities.sum(1, keepdims=True)
        counts = responsibilities.sum(0)
        weights, means = counts / len(points), responsibilities.T @ points / counts[:, None]
        variance = np.einsum("nk,nkd->d", responsibilities, (points[:, None] - means) ** 2) / len(points)
        variance = np.full_like(variance, variance.mean()) if start.structure.isotropic else variance
    return weights, means, variance[0] if start.structure.isotropic else variance


def close(
    fitted: MixtureParameters, expected: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], **tolerance: float
) -> None:
    for name, values in zip(("weights", "means", "covariances"), expected, strict=True):
        torch.testing.assert_close(getattr(fitted, name), torch.as_tensor(values), **tolerance)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_model_has_shared_scales(x: Tensor, covariance_type: str) -> None:
    model = MixtureModel(3, 2, covariance_type=covariance_structure(covariance_type), covariance_floor=0.1)
    parameters = begin(x, covariance_type)
    sites = parameters.sites(0.1)
    assert {name: tuple(value.shape) for name, value in sites.items()} == model.shapes
    assert model.shapes["scales"] == TYPES[covariance_type]
    torch.testing.assert_close(model.parameters(sites).covariances, parameters.covariances)
    trace = poutine.trace(poutine.condition(model.collapsed, sites)).get_trace(x)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], parameters.log_likelihood(x))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sampled_data_have_the_variance_of_the_mixture(x: Tensor, covariance_type: str) -> None:
    parameters = begin(x, covariance_type)
    model = poutine.uncondition(MixtureModel(3, 2, covariance_type=parameters.structure))
    trace = poutine.trace(poutine.condition(model, parameters.sites())).get_trace(x.repeat(100, 1))
    drawn = trace.nodes["x"]["value"]
    torch.testing.assert_close(drawn.var(0), parameters.variance, rtol=0.05, atol=0)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_em_matches_em_by_hand(x: Tensor, covariance_type: str) -> None:
    start = begin(x, covariance_type)
    result = fit_em(x, start, reg_covar=0.0, tol=0.0, max_iter=50)
    close(result.parameters, by_hand(x, start, steps=50), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_svi_ends_where_em_does(x: Tensor, covariance_type: str) -> None:
    result = SVI(tol=1e-10).fit(x, begin(x, covariance_type), FitOptions(reg_covar=0.0))
    assert result.converged
    close(result.parameters, by_hand(x, begin(x, covariance_type)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_guide_gives_draws(x: Tensor, covariance_type: str) -> None:
    result = SVI(priors={}, guide=AutoNormal, epochs=300).fit(x, begin(x, covariance_type))
    draws = result.posterior
    assert draws.sites["scales"].shape == (1, 1000, *TYPES[covariance_type])
    torch.testing.assert_close(draws.mean().covariances, result.parameters.covariances, rtol=0.05, atol=0)
    assert draws.predictive_log_density(x).isfinite().all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_nuts_agrees_with_em(x: Tensor, covariance_type: str) -> None:
    start = begin(x, covariance_type)
    result = NUTS(chains=2, draws=150, warmup=150).fit(x, fit_em(x, start).parameters)
    assert result.posterior.sites["scales"].shape == (2, 150, *TYPES[covariance_type])
    weights, means, variances = by_hand(x, start)
    torch.testing.assert_close(result.parameters.weights, torch.from_numpy(weights), rtol=0, atol=0.05)
    torch.testing.assert_close(result.parameters.means, torch.from_numpy(means), rtol=0.05, atol=0.3)
    torch.testing.assert_close(result.parameters.covariances, torch.as_tensor(variances), rtol=0.2, atol=0)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_prior_of_a_vae_has_its_density(x: Tensor, covariance_type: str) -> None:
    parameters = begin(x, covariance_type)
    prior = MixturePrior.from_parameters(parameters).double()
    prior.initialize(parameters)
    assert prior.log_scales.shape == TYPES[covariance_type]
    torch.testing.assert_close(prior().log_prob(x), parameters.log_likelihood(x), rtol=1e-10, atol=1e-10)


class Equal(Matrices):
    """A covariance matrix for all components, by flags alone."""

    name = "equal"
    shared = True


def test_a_matrix_type_by_flags_alone_fits_and_becomes_a_prior(x: Tensor) -> None:
    """Not registered: passed as an object; its prior is full, which holds its density."""
    tied, equal = (
        GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(x)
        for covariance_type in ("tied", Equal())
    )
    torch.testing.assert_close(equal.covariances_, tied.covariances_, rtol=1e-12, atol=1e-12)
    prior = MixturePrior.from_parameters(equal.parameters_).double()
    prior.initialize(equal.parameters_)
    assert prior.covariance_type == "full"
    torch.testing.assert_close(prior().log_prob(x), equal.parameters_.log_likelihood(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (Equal, "Expected an instance of CovarianceStructure; got <class .*Equal'>"),
        ("equal", "Expected an instance of CovarianceStructure; got 'equal'"),
        (type("Nameless", (Matrices,), {})(), "Expected a covariance structure with a name; got Nameless"),
    ],
    ids=["class", "word", "nameless"],
)
def test_what_is_no_named_instance_is_not_registered(structure: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register_structure(structure)
    assert "equal" not in covariance_types()
