"""Libraries that fit Gaussian mixtures by EM, each from given parameters for a given number of iterations."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray

from latentmix.inference import GaussianMixture
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["OURS", "Fit", "contestants"]

OURS = "latentmix"

Fit = Callable[[NDArray[Any], MixtureParameters, int], MixtureParameters]


def contestants(structure: CovarianceStructure) -> tuple[dict[str, Fit], dict[str, str]]:
    """The installed libraries that fit covariances of that structure, and the reasons why others are missing."""
    fits: dict[str, Fit] = {OURS: ours, "scikit-learn": scikit_learn}
    missing = {}
    try:
        with sklearn.config_context(array_api_dispatch=True):
            fits["scikit-learn, array API"] = scikit_learn_array_api
    except (RuntimeError, ImportError):
        missing["scikit-learn, array API"] = "set SCIPY_ARRAY_API=1 before SciPy is imported"
    for name, fit in (("pomegranate", pomegranate), ("torchgmm", torchgmm)):
        if find_spec(name) is None:
            missing[name] = "not installed: pip install 'latentmix[bench]'"
        elif name == "pomegranate" and structure.shared:
            missing[name] = "has no tied covariances"
        else:
            fits[name] = fit
    return fits, missing


def ours(x: NDArray[Any], start: MixtureParameters, iterations: int) -> MixtureParameters:
    return GaussianMixture(len(start.weights), **_given(x, start, iterations, np.asarray)).fit(x).parameters_


def scikit_learn(x: NDArray[Any], start: MixtureParameters, iterations: int) -> MixtureParameters:
    from sklearn.mixture import GaussianMixture as Estimator

    mixture = Estimator(len(start.weights), **_given(x, start, iterations, np.asarray)).fit(x)
    return _parameters(mixture.weights_, mixture.means_, mixture.covariances_, start)


def scikit_learn_array_api(x: NDArray[Any], start: MixtureParameters, iterations: int) -> MixtureParameters:
    from sklearn.mixture import GaussianMixture as Estimator

    with sklearn.config_context(array_api_dispatch=True):
        given = _given(x, start, iterations, torch.as_tensor)
        mixture = Estimator(len(start.weights), **given).fit(torch.from_numpy(x))
    return _parameters(mixture.weights_, mixture.means_, mixture.covariances_, start)


def pomegranate(x: NDArray[Any], start: MixtureParameters, iterations: int) -> MixtureParameters:
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    like = torch.from_numpy(x[:0])
    kind = "sphere" if start.structure.isotropic else "full" if start.structure.correlated else "diag"
    covariances = start.covariances
    if start.structure.isotropic:
        covariances = covariances[:, None].expand_as(start.means)
    components = [
        Normal(mean.clone(), covariance.clone(), covariance_type=kind, check_data=False)  # it writes into what it gets
        for mean, covariance in zip(start.means.to(like), covariances.to(like), strict=True)
    ]
    model = GeneralMixtureModel(
        components, priors=start.weights.to(like, copy=True), max_iter=iterations, tol=-math.inf, check_data=False
    )
    model.fit(torch.from_numpy(x))
    covariances = torch.stack([component.covs.detach() for component in model.distributions])
    means = torch.stack([component.means.detach() for component in model.distributions])
    covariances = covariances.mean(1) if start.structure.isotropic else covariances
    return _parameters(model.priors.detach(), means, covariances, start)


def torchgmm(x: NDArray[Any], start: MixtureParameters, iterations: int) -> MixtureParameters:
    from torchgmm.base.data import DataLoader, collate_tensor, dataset_from_tensors
    from torchgmm.bayes import GaussianMixture as Estimator
    from torchgmm.bayes.gmm.lightning_module import GaussianMixtureLightningModule
    from torchgmm.bayes.gmm.model import GaussianMixtureModel, GaussianMixtureModelConfig

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    data = torch.from_numpy(x)
    precision = "64-true" if data.dtype == torch.float64 else "32-true"
    model = GaussianMixtureModel(GaussianMixtureModelConfig(*start.means.shape, start.structure.name)).to(data.dtype)
    model.component_probs.copy_(start.weights)
    model.means.copy_(start.means)
    model.precisions_cholesky.copy_(start.precisions_cholesky)
    module = GaussianMixtureLightningModule(model, convergence_tolerance=0.0, covariance_regularization=0.0)
    for part in (module.prior_aggregator, module.mean_aggregator, module.covar_aggregator, module.metric_nll):
        part.set_dtype(data.dtype)
    loader = DataLoader(dataset_from_tensors(data), batch_size=len(data), collate_fn=collate_tensor)
    trainer = Estimator(trainer_params={"precision": precision, "accelerator": "cpu"}).trainer(
        max_epochs=iterations, enable_progress_bar=False
    )
    trainer.fit(module, loader)
    return _parameters(model.component_probs, model.means, model.covariances, start)


def _given(x: NDArray[Any], start: MixtureParameters, iterations: int, kind: Callable[[Any], Any]) -> dict[str, Any]:
    """Options of scikit-learn's estimator and of ours."""
    precisions = start.structure.precisions(start.precisions_cholesky)
    values = {"weights_init": start.weights, "means_init": start.means, "precisions_init": precisions}
    return {
        "covariance_type": start.structure.name,
        "tol": 0.0,
        "reg_covar": 0.0,
        "max_iter": iterations,
        "init_params": "random",
        "random_state": 0,
        **{name: kind(value.numpy().astype(x.dtype)) for name, value in values.items()},
    }


def _parameters(weights: Any, means: Any, covariances: Any, start: MixtureParameters) -> MixtureParameters:
    weights, means, covariances = (torch.as_tensor(part).detach().double() for part in (weights, means, covariances))
    return MixtureParameters(weights, means, covariances, start.structure)
