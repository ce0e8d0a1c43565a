"""Simulation-based calibration of the Bayesian mixtures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import partial

import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoGuide, AutoMultivariateNormal, AutoNormal
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.inference import SVI
from latentmix.inference.diagnostics.calibration import CalibrationReport, Fitted, calibrate
from latentmix.inference.mixtures.algorithm import FitOptions
from latentmix.inference.mixtures.nuts.fit import NUTS
from latentmix.models import MixtureParameters
from latentmix.models.mixture.covariances import covariance_structure

from tests.verify.registry import Figures, proof

N_POINTS, N_COMPONENTS, N_FEATURES, N_DRAWS = 60, 2, 2, 19
MINIBATCH = 15
DENSITY_AT = ((0.0, 0.0), (2.0, -1.0), (-4.0, 1.0))

Sites = dict[str, Tensor]


def priors(**changed: dist.TorchDistribution) -> dict[str, dist.TorchDistribution]:
    """The priors that truths are drawn from, apart from changed ones."""
    return {
        "weights": dist.Dirichlet(torch.full((N_COMPONENTS,), 5.0)),
        "means": dist.Normal(0.0, 2.5),
        "scales": dist.Gamma(25.0, 25.0),
        "correlations": dist.LKJCholesky(N_FEATURES, torch.tensor(2.0)),
        **changed,
    }


def simulate(seed: int) -> tuple[Sites, Tensor]:
    """Parameters drawn from the priors, and `n x D` points of the mixture, by torch's random state."""
    prior, shape = priors(), (N_COMPONENTS, N_FEATURES)
    sites = {
        "weights": prior["weights"].sample().double(),
        "means": prior["means"].sample(shape).double(),
        "scales": prior["scales"].sample(shape).double(),
        "correlation_cholesky": prior["correlations"].sample(shape[:1]).double(),
    }
    chosen = torch.multinomial(sites["weights"], N_POINTS, replacement=True)
    noise = torch.randn(N_POINTS, N_FEATURES, 1, dtype=torch.float64)
    correlated = (sites["correlation_cholesky"][chosen] @ noise).squeeze(-1)
    return sites, sites["means"][chosen] + sites["scales"][chosen] * correlated


def log_joint(sites: Sites, x: Tensor) -> Tensor:
    """Log of weight times density, `... x K x n`, independent of the library's code."""
    factor = sites["scales"][..., None] * sites["correlation_cholesky"]
    white = torch.linalg.solve_triangular(factor, x.T - sites["means"][..., None], upper=False)
    constant = sites["weights"].log() - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return constant[..., None] - 0.5 * white.square().sum(-2) - 0.5 * N_FEATURES * math.log(2 * math.pi)


def quantities(sites: Sites, x: Tensor) -> Mapping[str, Tensor]:
    """Test quantities that do not depend on the order of the components."""
    prior = priors()
    joint = log_joint(sites, x)
    together = joint[..., :2].softmax(-2).prod(-1).sum(-1)
    values = {
        "log_likelihood": joint.logsumexp(-2).sum(-1),
        "log_prior": prior["weights"].log_prob(sites["weights"])
        + prior["means"].log_prob(sites["means"]).sum((-2, -1))
        + prior["scales"].log_prob(sites["scales"]).sum((-2, -1))
        + prior["correlations"].log_prob(sites["correlation_cholesky"]).sum(-1),
        "greatest_weight": sites["weights"].amax(-1),
        "co_clustering": together,
    }
    correlations = sites["correlation_cholesky"][..., 1, 0].sort(-1).values
    for k in range(N_COMPONENTS):
        values[f"correlation_{k}"] = correlations[..., k]
        for d in range(N_FEATURES):
            values[f"mean_{k}{d}"] = sites["means"][..., d].sort(-1).values[..., k]
        values[f"scale_{k}"] = sites["scales"].log().sum(-1).sort(-1).values[..., k]
    for index, density in enumerate(log_joint(sites, x.new_tensor(DENSITY_AT)).logsumexp(-2).unbind(-1)):
        values[f"density_{index}"] = density
    return values


def start(x: Tensor) -> MixtureParameters:
    """Two components on either side of the centre, along the first principal axis."""
    centred = x - x.mean(0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    step = 0.8 * lengths[0] / len(x) ** 0.5 * axes[0]
    covariances = torch.diag_embed(x.var(0) / 2).expand(2, N_FEATURES, N_FEATURES)
    means = x.mean(0) + torch.stack([step, -step])
    return MixtureParameters(x.new_full((2,), 0.5), means, covariances, covariance_structure("full"))


def nuts(x: Tensor, seed: int, *, size: int = N_POINTS, **changed: dist.TorchDistribution) -> Fitted[Sites]:
    """Draws of NUTS given the first `size` points as if they were all, with changed priors."""
    seen = x[:size]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `calibrate` counts what has not converged
        result = NUTS(priors=priors(**changed), chains=2, draws=80, warmup=60).fit(
            seen, start(seen), FitOptions(reg_covar=0.0, seed=seed)
        )
    return Fitted(result.posterior.sites, ("divergences",) if sum(result.divergences) else ())


def svi(x: Tensor, seed: int, *, family: type[AutoGuide]) -> Fitted[Sites]:
    """Independent draws of a guide that enumerated SVI fitted."""
    result = SVI(priors=priors(), guide=family, epochs=400).fit(x, start(x), FitOptions(reg_covar=0.0, seed=seed))
    drawn = result.draw(N_DRAWS, seed=seed).sites
    return Fitted({name: values[0] for name, values in drawn.items()}, () if result.converged else ("loss",))


def calibration_of_nuts(n_data_sets: int = 200, **planted: object) -> CalibrationReport:
    """Calibration of NUTS; options of `nuts` plant an error."""
    fit = partial(nuts, **planted)  # type: ignore[arg-type]
    return calibrate(
        simulate, fit, quantities, n_data_sets=n_data_sets, n_draws=N_DRAWS, max_r_hat=1.1, seed=4, n_jobs=2
    )


def calibration_of_svi(family: type[AutoGuide], n_data_sets: int = 100) -> CalibrationReport:
    """Calibration of enumerated SVI with a guide of that family, on the first data sets of `calibration_of_nuts`."""
    fit = partial(svi, family=family)
    return calibrate(simulate, fit, quantities, n_data_sets=n_data_sets, n_draws=N_DRAWS, seed=4, n_jobs=2)


@proof()
def nuts_is_calibrated() -> Figures:
    """Truths from the prior, 200 data sets: the ranks of 15 label-invariant quantities lie inside simultaneous bands.

    The bands' false alarm is 1% in total. Fits that do not converge are counted and kept. SVI is reported beside, on
    the first 100 data sets, and need not pass: its guides have one mode and a shape of their own.
    """
    report = calibration_of_nuts()
    return {
        "passed": report.passed,
        "quantities": len(report.ranks),
        "nuts": report.summary(),
        "svi_multivariate_normal": calibration_of_svi(AutoMultivariateNormal).summary(),
        "svi_normal": calibration_of_svi(AutoNormal).summary(),
    }


@proof()
def planted_errors_are_flagged() -> Figures:
    """A dropped prior (of the scales, 60 data sets) and an unscaled plate (a quarter of the data, 30) are flagged.

    The level is that of `nuts_is_calibrated`, which shows that the same fit without the error is not flagged.
    """
    dropped = calibration_of_nuts(60, scales=dist.HalfNormal(50.0))
    unscaled = calibration_of_nuts(30, size=MINIBATCH)
    return {
        "passed": all(report.flagged and not report.n_failed for report in (dropped, unscaled)),
        "dropped_prior": dropped.summary(),
        "unscaled_plate": unscaled.summary(),
    }
