"""Draws of a mixture's posterior as tensors and plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.models.mixture.covariances import CovarianceStructure

__all__ = ["draws_state", "load_draws"]

MOST_DRAWS = 500
MOST_NUMBERS = 1 << 20  # of the sites of one mixture: 8 MiB
_DENSITIES = ("log_p", "log_q")


def draws_state(posterior: MixturePosterior) -> dict[str, Any]:
    """Evenly spaced draws of each chain, with their densities: at most 500 of all chains, and at most 8 MiB.

    Args:
        posterior: The draws.
    """
    numbers = sum(site[0, 0].numel() for site in posterior.sites.values())
    most = max(1, min(MOST_DRAWS, MOST_NUMBERS // numbers) // posterior.n_chains)
    kept = min(most, posterior.n_draws)
    chosen = torch.arange(kept) * posterior.n_draws // kept
    return {
        "sites": {name: site[:, chosen] for name, site in posterior.sites.items()},
        "covariance_floor": posterior.covariance_floor,
        "inference": posterior.inference,
        **{name: values[:, chosen] for name in _DENSITIES if (values := getattr(posterior, name)) is not None},
    }


def load_draws(state: Mapping[str, Any], structure: CovarianceStructure, means: Tensor) -> MixturePosterior:
    """The posterior that `draws_state` gave.

    Args:
        state: The tensors and plain values.
        structure: The covariance structure of the mixture.
        means: Its `K x D` means.

    Raises:
        ValueError: If a site is missing, no tensor of float64, not finite or of another shape, or a log-density of the
            draws is such; if weights are negative or do not sum to one; or if scales, or diagonals of factors, are not
            positive. The message names it.
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
    densities = {name: state[name] for name in _DENSITIES if name in state}
    for name, values in densities.items():
        _check(f"{name} of draws", values, leading)
    return MixturePosterior(sites, structure, floor, state["inference"], **densities)


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
