"""EM and enumerated SVI on latents of trained VAEs and on a synthetic mixture."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.infer import TraceEnum_ELBO
from sklearn.exceptions import ConvergenceWarning

from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.latents import latents_of
from latentmix.experiments.runs.pipeline import Session
from latentmix.guides import global_guide
from latentmix.inference import SVI, GaussianMixture
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.algorithm import FitOptions
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import start
from latentmix.inference.mixtures.svi.objective import RegularizedEnum
from latentmix.models import MixtureModel
from latentmix.models.mixture.covariances import CovarianceType, covariance_structure

from tests.verify.registry import Figures, proof
from tests.verify.runs import PARTS, WITHOUT, mnist_root, preset

COVARIANCE_TYPES: tuple[CovarianceType, ...] = ("full", "tied", "diag", "spherical")
TRAINED = partial(proof, *PARTS, *preset("digits", "mnist_conv16"), without=WITHOUT)


@cache
def latents(preset: str, *options: str) -> NDArray[np.float64]:
    """Means of q at the training images of a VAE trained for this proof."""
    session = Session.prepare(Experiment.from_config(parse_experiment(preset, list(options))), tell=lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        session.train(RunFolder(Path(folder)), progress=False)
    return latents_of(session.guide, session.dataset.train, "mean", 0).latents


@cache
def synthetic(seed: int) -> NDArray[np.float64]:
    """5,000 points of a 3-dimensional mixture of 10 components, centres 3 or more deviations apart."""
    generator = np.random.default_rng(seed)
    centres: list[NDArray[np.float64]] = []
    while len(centres) < 10:
        centre = generator.uniform(-6, 6, 3)
        if all(np.linalg.norm(centre - other) >= 3 for other in centres):
            centres.append(centre)
    component = generator.choice(10, 5000, p=generator.dirichlet(np.full(10, 5.0)))
    factors = np.stack(
        [np.tril(generator.normal(0, 0.4, (3, 3)), -1) + np.diag(generator.uniform(0.5, 1, 3)) for _ in range(10)]
    )
    return np.stack(centres)[component] + np.einsum("nij,nj->ni", factors[component], generator.normal(size=(5000, 3)))


def data_sets() -> dict[str, tuple[NDArray[np.float64], int]]:
    """Points and numbers of components by name."""
    mnist = ("--data.root", mnist_root(), "--data.classes", "1,4,8")
    return {
        "digits": (latents("digits"), 10),
        "mnist_148": (latents("mnist_conv16", *mnist, "--epochs", "5"), 3),
        "synthetic_3d": (synthetic(0), 10),
    }


def em(x: NDArray[np.float64], n_components: int, seed: int, reg_covar: float, tol: float) -> GaussianMixture:
    """A mixture fitted by EM, started by a seed."""
    mixture = GaussianMixture(n_components, random_state=seed, reg_covar=reg_covar, tol=tol, max_iter=20_000)
    return quiet(mixture, x)


def quiet(mixture: GaussianMixture, x: NDArray[np.float64]) -> GaussianMixture:
    """The fitted mixture, without warnings of convergence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(x)


def gradient_norm(x: NDArray[np.float64], mixture: GaussianMixture, reg_covar: float) -> float:
    """Norm of the gradient per datum of SVI's objective in the leaves of `AutoDelta`, on standardised data."""
    points = torch.from_numpy(x)
    scale, location = points.std(0, correction=0), points.mean(0)
    model = MixtureModel.maximum_likelihood(mixture.n_components, x.shape[1])
    guide = global_guide(model, start=mixture.parameters_.affine(1 / scale, -location / scale).sites())
    objective = RegularizedEnum(TraceEnum_ELBO(max_plate_nesting=1), model, reg_covar / scale.square())
    with isolated():
        objective.backward(model, guide, (points - location) / scale)
        leaves = list(guide.parameters())
    return float(torch.cat([leaf.grad.reshape(-1) for leaf in leaves if leaf.grad is not None]).norm())


@TRAINED()
def svi_stays_at_em() -> Figures:
    """Enumerated SVI started at EM's answer, flat priors: gradient norm <= 1e-6, log-likelihood within 1e-6."""
    figures: dict[str, object] = {}
    passed = True
    for name, (x, n_components) in data_sets().items():
        for reg_covar in (0.0, 1e-6):
            answer = em(x, n_components, 0, reg_covar, 1e-15)
            gradient = gradient_norm(x, answer, reg_covar)
            fitted = SVI(epochs=200).fit(torch.from_numpy(x), answer.parameters_, FitOptions(reg_covar=reg_covar))
            moved = float(fitted.parameters.log_likelihood(torch.from_numpy(x)).mean()) - float(answer.score(x))
            figures[f"{name}, floor {reg_covar:g}"] = {"gradient_norm": gradient, "log_likelihood_moved": moved}
            passed &= abs(moved) <= 1e-6 and gradient <= 1e-6
    return {"passed": bool(passed), **figures}


@TRAINED()
def svi_reaches_em() -> Figures:
    """From a common start enumerated SVI reaches EM's log-likelihood (tol 1e-8) minus 0.001 nat per point, 5 seeds."""
    figures: dict[str, object] = {}
    passed = True
    for name, (x, n_components) in data_sets().items():
        for reg_covar in (0.0, 1e-6):
            gains, seconds = [], {"em": 0.0, "svi": 0.0}
            for seed in range(5):
                first = em(x, n_components, seed, reg_covar, 1e-8)
                second = GaussianMixture(n_components, random_state=seed, reg_covar=reg_covar, inference="svi").fit(x)
                gains.append(float(second.score(x)) - float(first.score(x)))
                seconds["em"] += first.seconds_ / 5
                seconds["svi"] += second.seconds_ / 5
            figures[f"{name}, floor {reg_covar:g}"] = {"svi_minus_em": gains, "mean_seconds": seconds}
            passed &= min(gains) >= -1e-3
    return {"passed": bool(passed), **figures}


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of a call."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        run()
    return time.perf_counter() - began


@TRAINED()
def svi_takes_at_most_ten_times_em() -> Figures:
    """From a common start enumerated SVI takes at most 10 times EM's time at tolerance 1e-6, start aside.

    Medians of 3 alternating repeats, 3 seeds, after a fit of each that is not counted. Fits of the estimator, k-means
    included, are reported as well.
    """
    figures: dict[str, object] = {}
    worst = 0.0
    for name, (x, n_components) in data_sets().items():
        for covariance_type in COVARIANCE_TYPES:
            rows = [_times(x, n_components, covariance_type, seed) for seed in range(3)]
            ratios = [float(np.median(row["svi"]) / np.median(row["em"])) for row in rows]
            worst = max(worst, *ratios)
            figures[f"{name}, {covariance_type}"] = {"ratios": ratios, "seconds": rows}
    return {"passed": worst <= 10.0, "worst_ratio": worst, **figures}


def _times(
    x: NDArray[np.float64], n_components: int, covariance_type: CovarianceType, seed: int
) -> dict[str, list[float]]:
    """Seconds of 3 alternating repeats of both fits, from a common start, and of both estimators."""
    points = torch.from_numpy(x).double()
    first = start(points, n_components, covariance_structure(covariance_type), random_state=np.random.RandomState(seed))
    whole = partial(
        GaussianMixture,
        n_components,
        covariance_type=covariance_type,
        random_state=seed,
        tol=1e-6,
        max_iter=20_000,
    )
    runs: dict[str, Callable[[], object]] = {
        "em": partial(fit_em, points, first, tol=1e-6, max_iter=20_000),
        "svi": partial(SVI().fit, points, first),
        "em_whole": partial(whole(inference="em").fit, x),
        "svi_whole": partial(whole(inference="svi").fit, x),
    }
    taken: dict[str, list[float]] = {key: [] for key in runs}
    for repeat in range(4):
        for key, run in runs.items():
            time_taken = seconds(run)
            if repeat:
                taken[key].append(time_taken)
    return taken


@TRAINED()
def em_never_falls() -> Figures:
    """Without a covariance floor EM's log-likelihood never falls by more than 1e-9 per iteration."""
    worst: dict[str, float] = {}
    for name, (x, n_components) in data_sets().items():
        for covariance_type in COVARIANCE_TYPES:
            for seed in range(3):
                mixture = GaussianMixture(
                    n_components,
                    covariance_type=covariance_type,
                    reg_covar=0.0,
                    tol=0.0,
                    max_iter=300,
                    random_state=seed,
                )
                bounds = np.array(quiet(mixture, x).lower_bounds_)
                fall = float(-np.diff(bounds).min())
                worst[name] = max(worst.get(name, -np.inf), fall)
    return {"passed": max(worst.values()) <= 1e-9, "worst_fall": worst}
