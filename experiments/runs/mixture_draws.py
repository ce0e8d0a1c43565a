"""Draws of a mixture's posterior as tensors and plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.models.mixture.covariances import CovarianceStructure

__all__ = ["draws_state", "kept_draws", "load_draws"]

MOST_DRAWS = 500
MOST_NUMBERS = 1 << 20  # of the sites of one mixture: 8 MiB


def kept_draws(posterior: MixturePosterior) -> MixturePosterior:
    """Evenly spaced draws of each chain, which a run keeps: at most 500 of all chains, and at most 8 MiB.

    Args:
        posterior: The draws.
    """
    numbers = sum(site[0, 0].numel() for site in posterior.sites.values())
    return posterior.thinned(max(1, min(MOST_DRAWS, MOST_NUMBERS // numbers) // posterior.n_chains))


def draws_state(posterior: MixturePosterior) -> dict[str, Any]:
    """The `kept_draws` as tensors and plain values.

    Args:
        posterior: The draws.
    """
    kept = kept_draws(posterior)
    return {
        "sites": dict(kept.sites),
        "covariance_floor": kept.covariance_floor,
        "inference": kept.inference,
        "sample_stats": dict(kept.sample_stats),
    }


def load_draws(state: Mapping[str, Any], structure: CovarianceStructure, means: Tensor) -> MixturePosterior:
    """The posterior that `draws_state` gave.

    Args:
        state: The tensors and plain values.
        structure: The covariance structure of the mixture.
        means: Its `K x D` means.

    Raises:
        ValueError: If a site is missing, no tensor of float64, not finite or of another shape; if weights are negative
            or do not sum to one; if scales, or diagonals of factors, are not positive; or if statistics are not a
            number for each draw. The message names it.
    """
    sites, floor = dict(state["sites"]), state["covariance_floor"]
    shapes = _shapes(structure, *means.shape)
    if set(sites) != set(shapes):
        raise ValueError(f"Expected draws of {', '.join(shapes)}; got {', '.join(map(str, sites)) or 'none'}.")
    leading = tuple(sites["weights"].shape[:2]) if isinstance(sites["weights"], Tensor) else ()
    for name, shape in shapes.items():
        _check(f"draws of {name}", sites[name], (*leading, *shape))
    _check("the covariance floor of draws", floor, (means.shape[1],))
    weights, scales = sites["weights"], sites["scales"]
    if bool((weights < 0).any()) or not torch.allclose(weights.sum(-1), weights.new_ones(()), atol=1e-4):
        raise ValueError("Expected draws of weights that sum to one; got others.")
    if not bool((scales > 0).all()) or bool((floor < 0).any()):
        raise ValueError("Expected positive draws of scales; got others.")
    factors = sites.get("correlation_cholesky")
    if factors is not None and not bool((factors.diagonal(dim1=-2, dim2=-1) > 0).all()):
        raise ValueError("Expected draws of correlation_cholesky with a positive diagonal; got others.")
    if state["inference"] not in ("nuts", "svi"):
        raise ValueError(f"Expected draws of nuts or svi; got {state['inference']!r:.40}.")
    statistics = dict(state.get("sample_stats", {}))  # earlier versions kept none
    for name, values in statistics.items():
        if not isinstance(name, str) or not isinstance(values, Tensor) or tuple(values.shape) != leading:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"Expected the statistic {name!r:.40} of draws of shape {leading}; got {got}.")
    return MixturePosterior(sites, structure, floor, state["inference"], sample_stats=statistics)


def _shapes(structure: CovarianceStructure, n_components: int, n_features: int) -> dict[str, tuple[int, ...]]:
    size = (n_components, n_features)
    shapes = {"weights": size[:1], "means": size, "scales": structure.scale_shape(*size)}
    correlation = structure.correlation_shape(*size)
    return shapes if correlation is None else shapes | {"correlation_cholesky": (*correlation, n_features, n_features)}


def _check(name: str, tensor: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.float64 or tuple(tensor.shape) != shape:
        got = f"{tuple(tensor.shape)} in {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"Expected {name} of shape {shape} in float64; got {got}.")
    if not tensor.numel() or not bool(tensor.isfinite().all()):
        raise ValueError(f"Expected finite {name}; got {'NaN or infinity' if tensor.numel() else 'none'}.")
