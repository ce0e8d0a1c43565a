"""What the mixture estimators expect of their options and of what goes with the data."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentmix.models.covariances import covariance_structure

__all__ = ["check_noise", "check_options", "check_weights", "given_start"]


def check_options(estimator: Any) -> None:
    """Refuse options of a `GaussianMixture` that are out of their range.

    Raises:
        ValueError: That names the option, its range and what came.
    """
    covariance_structure(estimator.covariance_type)
    for name, least in (
        ("n_components", 1),
        ("n_init", 1),
        ("max_iter", 0),
        ("svi_epochs", 1),
        ("verbose_interval", 1),
    ):
        value = getattr(estimator, name)
        if not isinstance(value, Integral) or int(value) < least:
            raise ValueError(f"Expected {name} to be an integer >= {least}; got {value!r}.")
    candidates = estimator.noise_candidates
    if candidates is not None and (not isinstance(candidates, Integral) or int(candidates) < 1):
        raise ValueError(f"Expected noise_candidates to be an integer >= 1 or None; got {candidates!r}.")
    for name in ("tol", "reg_covar", "svi_tol"):
        value = getattr(estimator, name)
        if not isinstance(value, Real) or not float(value) >= 0:
            raise ValueError(f"Expected {name} to be a number >= 0; got {value!r}.")
    if estimator.inference not in ("em", "svi"):
        raise ValueError(f"Expected inference in ['em', 'svi']; got {estimator.inference!r}.")


def check_weights(sample_weight: Any, x: Tensor) -> Tensor | None:
    """Sample weights as a `(n,)` tensor in float64, `None` where there are none.

    Raises:
        ValueError: If they have another shape, or are negative, not finite or all zero.
    """
    if sample_weight is None:
        return None
    weight = torch.as_tensor(sample_weight).to(x.device, torch.float64)
    if weight.shape != x.shape[:1]:
        raise ValueError(f"Expected sample_weight of shape {(len(x),)}; got {tuple(weight.shape)}.")
    if not bool(weight.isfinite().all()) or bool((weight < 0).any()) or not bool((weight > 0).any()):
        raise ValueError(
            "Expected sample_weight finite, not negative and not all zero; got values in "
            f"{float(weight.min())} ... {float(weight.max())}."
        )
    return weight


def check_noise(noise_covariance: Any, x: Tensor) -> Tensor | None:
    """Covariances of noise as `n x D` or `n x D x D`, with one row where it is shared; `None` where there are none.

    Raises:
        ValueError: If they have another shape, or rows are not finite, negative, asymmetric or not positive
            semi-definite; the message names them.
    """
    if noise_covariance is None:
        return None
    given = noise_covariance if isinstance(noise_covariance, Tensor) else np.array(noise_covariance, dtype=float)
    noise = torch.as_tensor(given).detach().to(x.device)
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
        size_of = flat.abs().amax(1)
        _refuse_rows("symmetric", (noise - noise.mT).flatten(1).abs().amax(1) > 1e-5 * size_of)
        _refuse_rows("positive semi-definite", _indefinite(noise))
    return noise


def _indefinite(matrices: Tensor) -> Tensor:
    """Which `D x D` matrices have an eigenvalue below -1e-5 of their largest diagonal value: `(n,)` booleans."""
    found = []
    for chunk in matrices.split(2048):
        part = chunk.double()
        largest = part.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
        bad = largest.squeeze(-1) < 0
        lifted = part + torch.diag_embed((1e-5 * largest.clamp_min(1e-300)).expand(-1, part.shape[-1]))
        found.append(bad | (torch.linalg.cholesky_ex(lifted)[1] > 0))
    return torch.cat(found)


def _refuse_rows(what: str, bad: Tensor) -> None:
    if bool(bad.any()):
        rows = bad.nonzero().flatten().tolist()
        listed = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise ValueError(
            f"Expected noise_covariance to be {what} in every row; got {len(rows)} that are not: {listed}."
        )


def given_start(estimator: Any, x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Weights, means and covariances that the user starts from, each `None` where it is not given.

    Raises:
        ValueError: If a shape is wrong, weights do not lie on the simplex or precisions are not positive definite.
    """
    structure = covariance_structure(estimator.covariance_type)
    size = (int(estimator.n_components), x.shape[1])
    shapes = {
        "weights_init": size[:1],
        "means_init": size,
        "precisions_init": structure.covariance_shape(*size),
    }
    found: dict[str, Tensor | None] = {}
    for name, shape in shapes.items():
        value = getattr(estimator, name)
        if value is None:
            found[name] = None
            continue
        tensor = torch.as_tensor(value).detach().to(x.device, torch.float64)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"Expected {name} of shape {shape}; got {tuple(tensor.shape)}.")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"Expected {name} to be finite; got NaN or infinity.")
        found[name] = tensor
    weights, precisions = found["weights_init"], found["precisions_init"]
    if weights is not None and (bool((weights < 0).any()) or abs(float(weights.sum()) - 1) > 1e-6):
        raise ValueError(f"Expected weights_init to be in [0, 1] and to sum to 1; got a sum of {float(weights.sum())}.")
    covariances = None
    if precisions is not None:
        factors = structure.precisions_cholesky(precisions)
        symmetric = structure.expand(precisions, *size)
        if not bool(factors.isfinite().all()) or not torch.allclose(symmetric, symmetric.mT):
            raise ValueError("Expected precisions_init to be symmetric and positive definite; got one that is not.")
        covariances = structure.precisions(factors)
    return weights, found["means_init"], covariances
