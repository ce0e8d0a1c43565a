"""Checks of points, of their weights and noise, and of options of the mixture estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentmix.inference.mixtures.points.arrays import as_tensor, listed_rows
from latentmix.inference.mixtures.points.points import Points
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.process_state import exclusive
from latentmix.models.words import plural

__all__ = [
    "as_random_state",
    "check_device",
    "check_distinct",
    "check_noise",
    "check_points",
    "check_tensor",
    "check_weights",
    "given_start",
]


def as_random_state(random_state: int | np.random.RandomState | None) -> np.random.RandomState:
    """scikit-learn's `check_random_state`, but of `None` a generator of its own, seeded from NumPy's global state.

    This seed is all that is drawn from the process's randomness.
    """
    from sklearn.utils import check_random_state

    if random_state is not None:
        return check_random_state(random_state)
    with exclusive():
        return np.random.RandomState(check_random_state(None).randint(2**32, dtype=np.uint32))


def check_device(device: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: If it is unknown, or not present.
    """
    try:
        named = torch.device(device)
        torch.empty(0, device=named)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Expected a device that is here, such as cpu; got {str(device)!r}.") from error
    return named


def check_tensor(x: Tensor, *, least: int = 1, missing: bool = False, finite: bool = True) -> Tensor:
    """Points as a detached `n x D` tensor in float32 or float64; integers become float64, half precisions float32.

    Args:
        x: The points.
        least: Smallest number of them.
        missing: Whether NaN is accepted, as a missing value.
        finite: Whether values that are not finite are refused.

    Raises:
        ValueError: If they have another shape, are sparse, complex or too few, or have values that are not finite;
            the message names the rows.
    """
    x = x.detach()
    if x.is_sparse or x.layout != torch.strided:
        raise ValueError("Expected X to be dense; got a sparse tensor: convert it with .to_dense().")
    if x.is_complex():
        raise ValueError("Complex data not supported: expected X to hold real numbers.")
    if x.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {x.ndim}D array instead: reshape X to n x D, for one feature by X.reshape(-1, 1), "
            "for one point by X.reshape(1, -1)."
        )
    for size, name, fewest in ((x.shape[0], "sample(s)", least), (x.shape[1], "feature(s)", 1)):
        if size < fewest:
            raise ValueError(
                f"Found array with {size} {name} (shape={tuple(x.shape)}) while a minimum of {fewest} is required."
            )
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float() if x.is_floating_point() else x.double()
    if finite and not bool(x.sum(dtype=torch.float64).isfinite()):
        refused = (x.isinf() if missing else ~x.isfinite()).any(1)
        if bool(refused.any()):
            value = "infinity" if missing else "NaN or infinity"
            count, listed = listed_rows(refused)
            raise ValueError(f"Expected X to be finite; got {value} in {count} rows: {listed}.")
    return x


def check_points(x: Any, n_features: int | None = None) -> Tensor:
    """Finite points of any kind as a detached `n x D` tensor, see `check_tensor`.

    Args:
        x: The points: a tensor, an array, a data frame or nested lists.
        n_features: `D`, where it is known.

    Raises:
        ValueError: If they are no real numbers, or are not as `check_tensor` expects them, or have other features.
    """
    points = check_tensor(as_tensor(x))
    if n_features is not None and points.shape[1] != n_features:
        raise ValueError(f"Expected points with {plural(n_features, 'feature')}; got {points.shape[1]}.")
    return points


def check_weights(sample_weight: Any, x: Tensor) -> Tensor | None:
    """Sample weights as a `(n,)` tensor in float64; `None` is returned unchanged.

    Raises:
        ValueError: If they have another shape, or are negative, not finite or all zero.
    """
    if sample_weight is None:
        return None
    weight = as_tensor(sample_weight).detach().to(x.device, torch.float64)
    if weight.shape != x.shape[:1]:
        raise ValueError(f"Expected sample_weight of shape {(len(x),)}; got {tuple(weight.shape)}.")
    if not bool(weight.isfinite().all()) or bool((weight < 0).any()) or not bool((weight > 0).any()):
        raise ValueError(
            "Expected sample_weight finite, not negative and not all zero; got values in "
            f"{float(weight.min())} ... {float(weight.max())}."
        )
    return weight


def check_noise(noise_covariance: Any, x: Tensor) -> Tensor | None:
    """Covariances of noise as `n x D` or `n x D x D`, with one row where all points share it; `None` stays `None`.

    Raises:
        ValueError: If they have another shape, or rows are not finite, negative, asymmetric or not positive
            semi-definite; the message names them.
    """
    if noise_covariance is None:
        return None
    noise = as_tensor(noise_covariance).detach().to(x.device)
    noise = noise if noise.is_floating_point() else noise.double()
    n, size = x.shape
    noise = noise[None] if noise.shape == (size,) else noise
    shapes = [(rows, *rest) for rest in ((size,), (size, size)) for rows in (n, 1)]
    if tuple(noise.shape) not in shapes:
        raise ValueError(
            f"Expected noise_covariance of shape {shapes[0]} or {shapes[2]}, or with one row where all points share "
            f"it; got {tuple(noise.shape)}."
        )
    flat = noise.flatten(1)
    _refuse_rows("finite", ~flat.isfinite().all(1))
    if noise.ndim == 2:
        _refuse_rows("not negative", (flat < 0).any(1))
    else:
        asymmetry = (noise - noise.mT).flatten(1).abs().amax(1)
        _refuse_rows("symmetric", asymmetry > 1e-5 * flat.abs().amax(1))
        _refuse_rows("positive semi-definite", _indefinite(noise))
    return noise


def _indefinite(matrices: Tensor) -> Tensor:
    """Whether each `D x D` matrix has an eigenvalue below -1e-5 of its largest diagonal value: `(n,)` booleans."""
    indefinite = []
    for chunk in matrices.split(2048):
        part = chunk.double()
        largest = part.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
        bad = largest.squeeze(-1) < 0
        lifted = part + torch.diag_embed((1e-5 * largest.clamp_min(1e-300)).expand(-1, part.shape[-1]))
        indefinite.append(bad | (torch.linalg.cholesky_ex(lifted)[1] > 0))
    return torch.cat(indefinite)


def _refuse_rows(expected: str, bad: Tensor) -> None:
    if bool(bad.any()):
        count, listed = listed_rows(bad)
        raise ValueError(
            f"Expected noise_covariance to be {expected} in every row; got {count} that are not: {listed}."
        )


def given_start(estimator: Any, points: Points) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Weights, means and factors of precisions of the user's start, each `None` where it is not given.

    Raises:
        ValueError: In scikit-learn's words, if a shape is wrong, weights do not lie on the simplex or precisions are
            not positive definite.
    """
    structure = covariance_structure(estimator.covariance_type)
    size = (int(estimator.n_components), points.n_features)
    weights = _given(estimator.weights_init, "weights", size[:1], points)
    if weights is not None:
        if bool((weights < 0).any()) or bool((weights > 1).any()):
            # Its words have least and greatest the wrong way round, and its tests hold them.
            raise ValueError(
                "The parameter 'weights' should be in the range [0, 1], but got max value "
                f"{float(weights.min()):.5f}, min value {float(weights.max()):.5f}"
            )
        if abs(float(weights.sum()) - 1) > 1e-6:
            raise ValueError(
                f"The parameter 'weights' should be normalized, but got sum(weights) = {float(weights.sum()):.5f}"
            )
    means = _given(estimator.means_init, "means", size, points)
    name = f"{structure.name} precision"
    precisions = _given(estimator.precisions_init, name, structure.covariance_shape(*size), points)
    factors = None
    if precisions is not None:
        factors = structure.precisions_cholesky_from_precisions(precisions)
        symmetric = structure.expand(precisions, *size)
        if not bool(factors.isfinite().all()) or not torch.allclose(symmetric, symmetric.mT, rtol=1e-5):
            expected = "symmetric, positive-definite" if structure.correlated else "positive"
            raise ValueError(f"'{name}' should be {expected}")
    return weights, means, factors


def _given(value: Any, name: str, shape: tuple[int, ...], points: Points) -> Tensor | None:
    if value is None:
        return None
    array = as_tensor(value).detach()
    if tuple(array.shape) != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {tuple(array.shape)}")
    if not bool(array.isfinite().all()):
        raise ValueError(f"Expected the parameter '{name}' to be finite; got NaN or infinity.")
    return array.to(points.device, torch.float64)


def check_distinct(points: Points, n_components: int) -> None:
    """Refuse fewer distinct points than components: without a floor some covariances have no estimate.

    Raises:
        ValueError: In scikit-learn's words.
    """
    places = torch.cat(points.gather(lambda: _places(points, n_components)))
    if len(places.unique(dim=0)) < n_components:
        raise ValueError(
            "Fitting the mixture model failed because some components have ill-defined empirical covariance (for "
            "instance caused by singleton or collapsed samples). Try to decrease the number of components, increase "
            "reg_covar, or scale the input data."
        )


def _places(points: Points, n_components: int) -> Tensor:
    """Distinct rows of this process on the CPU, as many as there are components if it has so many."""
    places = torch.zeros(0, points.n_features, dtype=points.dtype, device=points.device)
    for x, weight in points.chunks(10 * n_components + 1000):
        there = x if weight is None else x[weight > 0]
        if len(there[:, 0].unique()) >= n_components:
            places = there
            break
        places = torch.cat([places, there]).unique(dim=0)
        if len(places) >= n_components:
            break
    return places.cpu()
