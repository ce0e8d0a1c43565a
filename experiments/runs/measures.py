"""Figures of a trained VAE on given data: bound, reconstructions, latents, prior, and samples against points.

`metrics` holds the formulas, and `evaluation` takes these figures of a finished run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.metrics import classification, reconstruction
from latentmix.guides import AmortizedGuide
from latentmix.inference import (
    Objective,
    bits_per_dimension,
    component_coverage,
    energy_test,
    evaluate,
    latent_statistics,
    log_likelihood,
    map_by_majority,
)
from latentmix.inference.batches import Transform
from latentmix.inference.objectives.pointwise import PointwiseBound
from latentmix.models import VAE, MixtureParameters, MixturePrior

__all__ = ["Measured", "measure_prior", "measure_vae", "prior_assignments"]

AGGREGATE = 1000


class Measured(NamedTuple):
    """Figures of a VAE on a split, and what they are means of.

    Attributes:
        figures: Figures by name, see `measure_vae`.
        squared_errors: `N` mean squared errors per value of a datum.
        elbo: `N` ELBOs, in nats; `None` where the bound is not known datum by datum, see `PointwiseBound`.
        iw_log_likelihood: `M <= N` importance-weighted log-likelihoods of the first data, in nats; `None` if they were
            not measured.
    """

    figures: dict[str, Any]
    squared_errors: NDArray[np.float64]
    elbo: NDArray[np.float64] | None
    iw_log_likelihood: NDArray[np.float64] | None


def measure_vae(
    vae: VAE,
    guide: AmortizedGuide,
    split: Split,
    seen: Tensor,
    *,
    transform: Transform,
    objective: Objective,
    samples: int = 0,
    limit: int = 1000,
    seed: int = 0,
) -> Measured:
    """Figures of a VAE on a split, with the values of single data.

    Args:
        vae: The model.
        guide: The guide.
        split: The original data, for reconstructions.
        seen: The data as model and guide see them before `transform`, such as one binary draw.
        transform: Applied to every batch of `seen`.
        objective: Evaluates the bound.
        samples: Importance samples for `iw_log_likelihood`; 0 skips it.
        limit: Most data for `iw_log_likelihood`.
        seed: Seed of the draws.

    Returns:
        Its figures are `mse`, and `ssim` for images; `elbo`, `log_likelihood` and `kl` in nats per datum (`kl` is the
        rate, and `-log_likelihood` the distortion); `active_units`; `kl_per_dimension` if prior and guide factorise;
        `mutual_information` and `marginal_kl`, the parts of the rate; `bits_per_dimension` if the likelihood is a
        probability mass, from the importance-weighted log-likelihood if that is measured, else from the ELBO.
    """
    measuring = PointwiseBound(objective)
    bound = evaluate(vae.model, guide, seen, objective=measuring, transform=transform, seed=seed)
    errors = reconstruction(vae, guide, split.x)
    latent = latent_statistics(vae, guide, seen, aggregate=AGGREGATE, transform=transform, seed=seed)
    figures: dict[str, Any] = {
        **errors.figures,
        "elbo": bound.elbo,
        "log_likelihood": bound.log_likelihood,
        "kl": bound.kl,
        "active_units": latent.active_units,
        "mutual_information": latent.mutual_information,
        "marginal_kl": latent.marginal_kl,
    }
    if latent.kl_per_dimension is not None:
        figures["kl_per_dimension"] = latent.kl_per_dimension.tolist()
        figures["active"] = latent.active.tolist()
    best, weighted = bound.elbo, None
    if samples:
        weighted = log_likelihood(vae, guide, seen[:limit], samples, transform=transform, seed=seed)
        figures["iw_log_likelihood"] = best = float(weighted.mean())
        figures["iw"] = {"samples": samples, "data": len(weighted), "sd": float(weighted.std())}
    if vae.likelihood.discrete:
        figures["bits_per_dimension"] = bits_per_dimension(best, vae.likelihood, vae.shape)
    return Measured(figures, errors.squared_errors, _array(measuring.elbo), _array(weighted))


def measure_prior(
    vae: VAE, dataset: Dataset, latents: Mapping[str, LatentSplit], *, seed: int
) -> dict[str, dict[str, Any]]:
    """Figures of the prior: classification by its components, and samples of the VAE against points.

    Args:
        vae: The model.
        dataset: The data.
        latents: Latents of the splits `train` and `test`.
        seed: Seed of the samples.

    Returns:
        `prior` for a mixture prior and labelled data: figures of classification on test data, each component standing
        for its majority class among the training data. `coverage` for points of a known mixture.
    """
    figures: dict[str, dict[str, Any]] = {}
    if isinstance(vae.prior, MixturePrior) and dataset.classes:
        figures["prior"] = _classify(vae.prior, latents, dataset)
    if dataset.truth is not None:
        figures["coverage"] = measure_samples(vae, dataset, dataset.truth, seed=seed)
    return figures


def prior_assignments(prior: MixturePrior, latents: NDArray[np.float64]) -> NDArray[np.int64]:
    """The most probable component of a mixture prior for each of `N x latent_dim` latents."""
    device, dtype = prior.means.device, prior.means.dtype
    assigned = prior.responsibilities(torch.from_numpy(latents).to(device, dtype)).argmax(1).cpu().numpy()
    return np.asarray(assigned, dtype=np.int64)


def _classify(prior: MixturePrior, latents: Mapping[str, LatentSplit], dataset: Dataset) -> dict[str, Any]:
    assigned = {name: prior_assignments(prior, split.latents) for name, split in latents.items()}
    train, test = latents["train"].labels, latents["test"].labels
    assert train is not None
    assert test is not None
    component_classes = map_by_majority(assigned["train"], train, prior.n_components, dataset.classes)
    predicted = np.asarray(component_classes)[assigned["test"]]
    figures = classification(test, predicted, assigned["test"], dataset.classes, dataset.class_names)
    return {"component_classes": [int(label) for label in component_classes], **figures}


def measure_samples(vae: VAE, dataset: Dataset, truth: MixtureParameters, *, seed: int) -> dict[str, Any]:
    """Samples of the VAE against points, in the data's units: coverage of the true components, and a two-sample test.

    As many samples are drawn as there are test points, noise of the likelihood included.
    """
    real = dataset.restore(dataset.test.x)
    sampled = dataset.restore(vae.generate(len(real), mean=False, seed=seed))
    coverage = component_coverage(sampled, truth)
    return {
        "components": len(truth.weights),
        "covered": coverage.n_covered,
        "covered_components": coverage.covered.tolist(),
        "shares": coverage.shares.tolist(),
        "expected": coverage.expected.tolist(),
        "outside": coverage.outside,
        "energy": asdict(energy_test(sampled, real, seed=seed)),
    }


def _array(values: Tensor | None) -> NDArray[np.float64] | None:
    return None if values is None else values.detach().cpu().double().numpy()
