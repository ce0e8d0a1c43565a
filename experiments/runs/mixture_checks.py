"""Checks of mixtures in files: shapes, dtypes, finite values, weights on the simplex, definite covariances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.words import plural

__all__ = ["check_components", "check_mixture"]

TENSORS = ("weights", "means", "covariances", "precisions", "precisions_cholesky")
SUM = 1e-4  # weights may be float32


def check_mixture(tensors: Mapping[str, Any], kind: str, n_components: Any) -> None:
    """Refuse parameters of a mixture that no fit has left.

    Args:
        tensors: Weights, means, covariances, and perhaps precisions and their factors, by name.
        kind: The covariance type.
        n_components: The number of components.

    Raises:
        ValueError: If one is no tensor of floats, is not finite, or has another shape; or if weights are negative or do
            not sum to one, or covariances are not positive definite. The message names it.

    Example:
        >>> import torch
        >>> from latentmix.experiments.runs.mixture_checks import check_mixture
        >>> tensors = {"weights": torch.ones(1), "means": torch.zeros(1, 2), "covariances": -torch.ones(1, 2)}
        >>> check_mixture(tensors, "diag", 1)
        Traceback (most recent call last):
            ...
        ValueError: Expected positive definite covariances of a mixture; got others.
    """
    structure = covariance_structure(kind)
    given = {name: tensors[name] for name in TENSORS if name in tensors}
    for name in ("weights", "means", "covariances"):
        if not isinstance(given.get(name), Tensor):
            raise ValueError(f"Expected {name} of a mixture as a tensor; got {type(given.get(name)).__name__}.")
    means = given["means"]
    if means.ndim != 2 or not isinstance(n_components, int) or len(means) != n_components or not means.shape[1]:
        raise ValueError(f"Expected means of {n_components!r:.20} components; got shape {tuple(means.shape)}.")
    stored = structure.covariance_shape(*means.shape)
    shapes = {"weights": (len(means),), "means": tuple(means.shape)}
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.float32, torch.float64):
            got = getattr(tensor, "dtype", type(tensor).__name__)
            raise ValueError(f"Expected {name} of a mixture in float32 or float64; got {got}.")
    for name, tensor in given.items():
        if tensor.dtype != means.dtype:
            raise ValueError(f"Expected {name} of a mixture in {means.dtype}, as its means; got {tensor.dtype}.")
        shape = shapes.get(name, stored)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"Expected {name} of a mixture of shape {shape}; got {tuple(tensor.shape)}.")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"Expected finite {name} of a mixture; got NaN or infinity.")
    weights = given["weights"]
    if bool((weights < 0).any()) or not abs(float(weights.sum()) - 1) <= SUM:
        raise ValueError(f"Expected weights of a mixture that sum to one; got {weights.tolist()!r:.100}.")
    for name in ("covariances", "precisions"):
        if name in given:
            _check_definite(name, structure.expand(given[name].double(), *means.shape))
    if "precisions_cholesky" in given:
        diagonals = structure.expand(given["precisions_cholesky"], *means.shape).diagonal(dim1=-2, dim2=-1)
        if bool((diagonals <= 0).any()):
            raise ValueError("Expected factors of precisions with a positive diagonal; got others.")


def check_components(classes: Any, component_classes: Any, n_components: int) -> None:
    """Refuse classes of components that are no labels, or not one for each component.

    Raises:
        ValueError: If so.
    """
    for name, labels in (("classes", classes), ("component_classes", component_classes)):
        if not isinstance(labels, list) or not all(
            isinstance(label, int | str) and not isinstance(label, bool) for label in labels
        ):
            raise ValueError(f"Expected {name} of a mixture as a list of labels; got {labels!r:.60}.")
    if len(component_classes) != (n_components if classes else 0) or not set(component_classes) <= set(classes):
        raise ValueError(
            f"Expected a class out of {classes!r:.60} for each of {plural(n_components, 'component')}; got "
            f"{component_classes!r:.60}."
        )


def _check_definite(name: str, matrices: Tensor) -> None:
    """Refuse matrices that are not symmetric, or have a negative eigenvalue beyond rounding."""
    scale = matrices.diagonal(dim1=-2, dim2=-1)
    positive = bool((scale > 0).all())
    if positive:
        factors = scale.rsqrt()
        correlations = factors[..., :, None] * matrices * factors[..., None, :]
        symmetric = bool(torch.isclose(correlations, correlations.mT, atol=1e-4).all())
        positive = symmetric and float(torch.linalg.eigvalsh(correlations).amin()) > -1e-6
    if not positive:
        raise ValueError(f"Expected positive definite {name} of a mixture; got others.")
