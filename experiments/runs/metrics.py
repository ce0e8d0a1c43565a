"""Metrics of reconstruction and classification, by torchmetrics and scikit-learn; `measures` takes them of a VAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    adjusted_rand_score,
    normalized_mutual_info_score,
    precision_recall_fscore_support,
)
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.image import StructuralSimilarityIndexMeasure

from latentmix.experiments.data.pixels import ToFloat
from latentmix.guides import AmortizedGuide
from latentmix.models import VAE
from latentmix.models.process_state import kept_filters

__all__ = ["Reconstruction", "calibration", "classification", "reconstruct", "reconstruction"]

BINS = 10
LEAST = float(np.finfo(np.float64).eps)


def reconstruct(vae: VAE, guide: AmortizedGuide, images: Tensor) -> Tensor:
    """The likelihood's mean at the mean of q(z given the grey image).

    Args:
        vae: The model.
        guide: The guide.
        images: An `N x C x H x W` uint8 tensor.

    Returns:
        A float tensor of the same shape.
    """
    return vae.decode(guide.encode(images, transform=ToFloat()))


class Reconstruction(NamedTuple):
    """Errors of reconstructions.

    Attributes:
        figures: `mse`, and `ssim` for images, averaged over the data.
        squared_errors: `N` float64 mean squared errors per value of a datum, whose mean is `mse`.
    """

    figures: dict[str, float]
    squared_errors: NDArray[np.float64]


def reconstruction(vae: VAE, guide: AmortizedGuide, images: Tensor, *, batch_size: int = 1024) -> Reconstruction:
    """Mean squared error per value, and structural similarity of images, of reconstructions to the originals.

    SSIM is Wang et al., *Image quality assessment: from error visibility to structural similarity*, 2004, with
    a Gaussian window of 11 pixels and a data range of 1, averaged over images.

    Args:
        vae: The model.
        guide: The guide.
        images: An `N x C x H x W` uint8 tensor, or `N x D` points.
        batch_size: Data per chunk.
    """
    pictorial = images.dim() == 4
    similarity = StructuralSimilarityIndexMeasure(data_range=1.0).to(images.device)
    chunks: list[NDArray[np.float64]] = []
    for chunk in images.split(batch_size):
        originals, means = ToFloat()(chunk), reconstruct(vae, guide, chunk)
        chunks.append((originals - means).double().square().flatten(1).mean(1).cpu().numpy())
        if pictorial:
            similarity.update(means, originals)
    squared_errors = np.concatenate(chunks)
    figures = {"mse": float(squared_errors.mean())}
    if pictorial:
        figures["ssim"] = float(torch.as_tensor(similarity.compute()))
    return Reconstruction(figures, squared_errors)


def classification(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    assignments: NDArray[np.int64],
    classes: Sequence[int],
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Metrics of classification and clustering.

    Args:
        labels: N true labels, each one of `classes`.
        predicted: N predicted labels, likewise.
        assignments: N components, for the indices that compare partitions.
        classes: The classes, in the order of the confusion matrix.
        class_names: Their names; by default the labels.

    Returns:
        `accuracy`; `precision`, `recall` and `f1`, their means over the classes that occur; `per_class`, by name;
        `confusion`, true classes by row; `ari` and `nmi`, adjusted Rand index and normalised mutual information.
    """
    with kept_filters():
        columns = precision_recall_fscore_support(labels, predicted, labels=list(classes), zero_division=0.0)
        ari, nmi = adjusted_rand_score(labels, assignments), normalized_mutual_info_score(labels, assignments)
    present = columns[3] > 0
    names = ("precision", "recall", "f1", "support")
    per_class = {
        name: {figure: float(column[row]) for figure, column in zip(names, columns, strict=True)}
        for row, name in enumerate(class_names or map(str, classes))
    }
    macro = {name: float(np.mean(column[present])) for name, column in zip(names[:3], columns[:3], strict=True)}
    return {
        "accuracy": float(np.mean(labels == predicted)),
        **macro,
        "per_class": per_class,
        "confusion": _confusion(labels, predicted, classes).tolist(),
        "ari": float(ari),
        "nmi": float(nmi),
    }


def _confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[int]) -> NDArray[np.int64]:
    """Counts of data by true class (rows) and predicted class: scikit-learn's warns of a single class."""
    assert np.isin(labels, classes).all()
    assert np.isin(predicted, classes).all()
    order = np.argsort(classes)
    rows, columns = (order[np.searchsorted(classes, each, sorter=order)] for each in (labels, predicted))
    return np.bincount(rows * len(classes) + columns, minlength=len(classes) ** 2).reshape(2 * (len(classes),))


def calibration(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[int]
) -> dict[str, Any]:
    """Accuracy and calibration of class probabilities.

    The confidence of a datum is the probability of its most probable class. The expected calibration error (Naeini et
    al., *Obtaining well calibrated probabilities using Bayesian binning*, 2015) is the mean distance between confidence
    and accuracy over ten bins of equal width, weighted by their data. The negative log-likelihood is the log loss in
    nats, where a probability below 2.2e-16 counts as that, as in scikit-learn.

    Args:
        labels: N true labels.
        probabilities: An `N x n_classes` array.
        classes: The classes, in the order of its columns.

    Returns:
        `accuracy`, `ece`, `nll`, and of the bins `count`, `confidence` and `accuracy`, means that are 0 where a bin is
        empty, as `bins`.
    """
    true = np.searchsorted(classes, labels)
    confidence = probabilities.max(1).clip(0.0, np.nextafter(1.0, 0.0))  # 1 would be in a bin of its own
    correct = probabilities.argmax(1) == true
    ece = multiclass_calibration_error(
        torch.from_numpy(probabilities.clip(0.0, np.nextafter(1.0, 0.0))),
        torch.from_numpy(true),
        num_classes=len(classes),
        n_bins=BINS,
        validate_args=False,
    )
    place = (confidence * BINS).astype(np.int64)
    count = np.bincount(place, minlength=BINS)
    sums = (np.bincount(place, weights=values, minlength=BINS) for values in (confidence, correct))
    means = [(total / count.clip(1)).tolist() for total in sums]
    return {
        "accuracy": float(correct.mean()),
        "ece": float(ece),
        "nll": float(-np.log(probabilities[np.arange(len(true)), true].clip(LEAST, 1.0)).mean()),
        "bins": {"count": count.tolist(), "confidence": means[0], "accuracy": means[1]},
    }
