"""Posterior draws with the components of each in one order: label switching undone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["align_draws", "component_order", "permuted_draws"]

_CHUNK = 2_000_000


def align_draws(sites: Mapping[str, Tensor], reference: MixtureParameters) -> dict[str, Tensor]:
    """Draws with the components of each in the order of a reference.

    Each draw is matched by Hungarian assignment on the Bhattacharyya distance between components (Kuhn, 1955;
    Bhattacharyya, 1943): a pivot, as in Marin, Mengersen and Robert (2005), section 4.3. Let the reference depend on
    the data alone; labels or the truth would make the draws look better than they are.

    Args:
        sites: `weights`, `means`, `scales` and `correlation_cholesky` of a `MixtureModel`, each with the same batch
            shape in front, in the coordinates of the reference.
        reference: A mixture of as many components and features.

    Returns:
        The sites, of the same shapes.

    Raises:
        ValueError: If the draws have other components, features or structure than the reference.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.matching import align_draws
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> spherical = covariance_structure("spherical")
        >>> reference = MixtureParameters(torch.full((2,), 0.5), torch.tensor([[0.0], [5.0]]), torch.ones(2), spherical)
        >>> means = torch.tensor([[[0.1], [4.9]], [[5.2], [-0.2]]])
        >>> draws = {"weights": torch.full((2, 2), 0.5), "means": means, "scales": torch.ones(2, 2)}
        >>> align_draws(draws, reference)["means"].flatten(1).tolist()[1]
        [-0.20000000298023224, 5.199999809265137]
    """
    return permuted_draws(sites, component_order(sites, reference), reference)


def component_order(sites: Mapping[str, Tensor], reference: MixtureParameters) -> Tensor:
    """Which component of each draw goes with each of a reference: `batch x K` indices; see `align_draws`."""
    means = sites["means"]
    size = tuple(reference.means.shape)
    expected = reference.structure.scale_shape(*size)
    batch = means.shape[: means.ndim - 2]
    if tuple(means.shape[-2:]) != size or tuple(sites["scales"].shape[len(batch) :]) != expected:
        raise ValueError(
            f"Expected means of shape (..., {size[0]}, {size[1]}) and scales of shape (..., "
            f"{', '.join(map(str, expected))}), as the reference has; got {tuple(means.shape)} and "
            f"{tuple(sites['scales'].shape)}."
        )
    count = math.prod(batch)
    flat = {name: values.reshape(count, *values.shape[len(batch) :]) for name, values in sites.items()}
    rows = max(1, _CHUNK // (size[0] ** 2 * size[1] ** 2))
    parts = [
        _order({name: values[first : first + rows] for name, values in flat.items()}, reference)
        for first in range(0, count, rows)
    ]
    return torch.cat(parts).reshape(*batch, size[0]).to(means.device)


def permuted_draws(sites: Mapping[str, Tensor], order: Tensor, reference: MixtureParameters) -> dict[str, Tensor]:
    """Draws with component `order[..., k]` of each in the place of `k`; what the components share stays.

    Args:
        sites: As `align_draws` takes them.
        order: `batch x K` indices.
        reference: A mixture of the same structure.
    """
    shared = ("scales", "correlation_cholesky") if reference.structure.name == "tied" else ()
    return {name: values if name in shared else _taken(values, order) for name, values in sites.items()}


def _taken(values: Tensor, order: Tensor) -> Tensor:
    index = order.reshape(*order.shape, *[1] * (values.ndim - order.ndim))
    return values.gather(order.ndim - 1, index.expand(values.shape))


def _order(sites: Mapping[str, Tensor], reference: MixtureParameters) -> Tensor:
    distance = _bhattacharyya(sites, reference).cpu()
    order = distance.argmin(-1)
    tangled = (order.sort(-1).values != torch.arange(order.shape[-1])).any(-1)
    if bool(tangled.any()):
        costs = distance[tangled].nan_to_num(nan=1e300, posinf=1e300).numpy()
        order[tangled] = torch.from_numpy(np.stack([linear_sum_assignment(cost)[1] for cost in costs]))
    return order


def _bhattacharyya(sites: Mapping[str, Tensor], reference: MixtureParameters) -> Tensor:
    """Distances between components of the reference (rows) and of the draws (columns): `S x K x K`."""
    structure, correlation = reference.structure, sites.get("correlation_cholesky")
    own = structure.covariances(sites["scales"], correlation)
    pivot = reference.covariances.to(own)
    shift = reference.means.to(own)[:, None] - sites["means"][:, None]
    if correlation is not None:
        own, pivot = (part.unsqueeze(-3) if structure.name == "tied" else part for part in (own, pivot))
        between = (pivot[:, None] + own[:, None]) / 2
        factor, _ = torch.linalg.cholesky_ex(between)
        white = torch.linalg.solve_triangular(factor, shift[..., None], upper=False)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        spread = log_det - 0.5 * (torch.logdet(pivot)[:, None] + torch.logdet(own)[:, None])
        return white.square().sum((-2, -1)) / 8 + spread / 2
    if reference.structure.name in ("full", "tied"):  # one feature: matrices of one element
        own, pivot = own[..., 0], pivot[..., 0]
        own, pivot = (part.unsqueeze(-2) if structure.name == "tied" else part for part in (own, pivot))
    elif structure.isotropic:
        own, pivot = own[..., None], pivot[..., None]
    between = (pivot[:, None] + own[:, None]) / 2
    spread = between.log() - 0.5 * (pivot[:, None].log() + own[:, None].log())
    return (shift.square() / between / 8 + spread.expand_as(shift) / 2).sum(-1)
