"""Matching of mixture components, and draws whose label switching is undone by it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["align_draws", "bhattacharyya", "bhattacharyya_distances", "component_order", "permuted_draws"]

_CHUNK = 2_000_000  # doubles of one chunk of pairs


def align_draws(sites: Mapping[str, Tensor], reference: MixtureParameters) -> dict[str, Tensor]:
    """Relabel the components of each draw in the order of a reference.

    Each draw is matched by Hungarian assignment on the Bhattacharyya distance between components (Kuhn, 1955;
    Bhattacharyya, 1943): the reference is a pivot, as in Marin, Mengersen and Robert (2005), section 4.3. It should
    depend on the data alone; labels or the truth would make the draws look better than they are.

    Args:
        sites: `weights`, `means`, `scales` and `correlation_cholesky` of a `MixtureModel`, each with the same batch
            shape in front, in the coordinates of the reference.
        reference: A mixture with the same number of components and features.

    Returns:
        The relabelled sites, of the same shapes.

    Raises:
        ValueError: If the numbers of components or features, or the structure, differ from the reference's.

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
    """Component of each draw that matches each of a reference: `batch x K` indices; see `align_draws`."""
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
    """Draws whose component `k` is component `order[..., k]` of the given ones.

    Args:
        sites: As for `align_draws`.
        order: `batch x K` indices.
        reference: A mixture of the same structure.
    """
    shared = ("scales", "correlation_cholesky") if reference.structure.shared else ()
    return {name: values if name in shared else _gathered(values, order) for name, values in sites.items()}


def bhattacharyya(a: MixtureParameters, b: MixtureParameters) -> Tensor:
    """Bhattacharyya distances between the components of two mixtures over the same features.

    Args:
        a: A mixture of `K` components.
        b: A mixture of `M` components.

    Returns:
        A `K x M` tensor.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.matching import bhattacharyya
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> spherical = covariance_structure("spherical")
        >>> mixture = MixtureParameters(torch.full((2,), 0.5), torch.tensor([[0.0], [4.0]]), torch.ones(2), spherical)
        >>> bhattacharyya(mixture, mixture)
        tensor([[0., 2.],
                [2., 0.]])
    """
    if a.structure == b.structure:
        covariances = [mixture.structure.by_component(mixture.covariances) for mixture in (a, b)]
    else:
        covariances = [mixture.expanded_covariances() for mixture in (a, b)]
    return bhattacharyya_distances(a.means, covariances[0], b.means, covariances[1])


def bhattacharyya_distances(means: Tensor, covariances: Tensor, others: Tensor, other_covariances: Tensor) -> Tensor:
    r"""Bhattacharyya distances between all pairs of two sets of Gaussians.

    .. math:: \tfrac18 (\mu - \nu)^\top \bar\Sigma^{-1} (\mu - \nu)
        + \tfrac12 \log |\bar\Sigma| - \tfrac14 \log |\Sigma| |\mathrm T|,
        \qquad \bar\Sigma = \tfrac12 (\Sigma + \mathrm T)

    Args:
        means: `... x K x D`.
        covariances: `... x K x D x D` matrices, or `... x K x D` variances; dimensions of 1 broadcast, as those of
            `CovarianceStructure.by_component` do.
        others: `... x M x D`.
        other_covariances: In the same form.

    Returns:
        A `... x K x M` tensor.
    """
    n_features = means.shape[-1]
    shift = means[..., :, None, :] - others[..., None, :, :]
    matrices = covariances.ndim > means.ndim or other_covariances.ndim > others.ndim
    if matrices and n_features > 1:
        first, second = covariances[..., :, None, :, :], other_covariances[..., None, :, :, :]
        factor, _ = torch.linalg.cholesky_ex((first + second) / 2)
        white = torch.linalg.solve_triangular(factor, shift[..., None], upper=False)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        spread = log_det - 0.5 * (
            torch.logdet(covariances)[..., :, None] + torch.logdet(other_covariances)[..., None, :]
        )
        return white.square().sum((-2, -1)) / 8 + spread / 2
    if matrices:
        covariances, other_covariances = covariances[..., 0], other_covariances[..., 0]
    first, second = covariances[..., :, None, :], other_covariances[..., None, :, :]
    between = (first + second) / 2
    spread = between.log() - 0.5 * (first.log() + second.log())
    return (shift.square() / between / 8 + spread.expand_as(shift) / 2).sum(-1)


def _gathered(values: Tensor, order: Tensor) -> Tensor:
    index = order.reshape(*order.shape, *[1] * (values.ndim - order.ndim))
    return values.gather(order.ndim - 1, index.expand(values.shape))


def _order(sites: Mapping[str, Tensor], reference: MixtureParameters) -> Tensor:
    structure, means = reference.structure, sites["means"]
    drawn = structure.covariances(sites["scales"], sites.get("correlation_cholesky"))
    pivot = structure.by_component(reference.covariances.to(drawn))
    drawn = structure.by_component(drawn)
    distance = bhattacharyya_distances(reference.means.to(means), pivot, means, drawn).cpu()
    order = distance.argmin(-1)
    conflicting = (order.sort(-1).values != torch.arange(order.shape[-1])).any(-1)
    if bool(conflicting.any()):
        from scipy.optimize import linear_sum_assignment

        costs = distance[conflicting].nan_to_num(nan=1e300, posinf=1e300).numpy()
        order[conflicting] = torch.from_numpy(np.stack([linear_sum_assignment(cost)[1] for cost in costs]))
    return order
