"""Where a mixture fit starts: the same for EM and SVI."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans, kmeans_plusplus
from torch import Tensor

from latentmix.inference.mixtures.em import SufficientStatistics, expectation, moments, reseed, slices
from latentmix.models.covariances import CovarianceStructure, covariance_structure
from latentmix.models.parameters import MixtureParameters

__all__ = ["StartMethod", "from_assignments", "from_labels", "from_responsibilities", "start"]

StartMethod = Literal["kmeans", "k-means++", "random", "random_from_data"]


def start(
    x: Tensor,
    n_components: int,
    structure: CovarianceStructure,
    *,
    method: StartMethod = "kmeans",
    random_state: np.random.RandomState,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
) -> MixtureParameters:
    """Seed a mixture: assign every point to a seed, then take one M step.

    `kmeans` takes the clusters of k-means seeded by k-means++ (Arthur and Vassilvitskii, 2007); `k-means++` and
    `random_from_data` take points as seeds and assign every point to the nearest; `random` draws
    responsibilities.

    Args:
        x: `n x D` points.
        n_components: Number of components `K`.
        structure: What the covariances share.
        method: How the seeds are found.
        random_state: The source of randomness.
        sample_weight: `(n,)` weights.
        reg_covar: Variance added to the diagonals.

    Returns:
        The start, in float64.
    """
    points = x.detach().cpu().numpy()
    weight = None if sample_weight is None else sample_weight.detach().cpu().numpy()
    seeds: NDArray[np.floating]
    match method:
        case "kmeans":
            clusters = KMeans(n_components, n_init=1, random_state=random_state).fit(points, sample_weight=weight)
            assignments = torch.from_numpy(clusters.labels_).long().to(x.device)
            return from_assignments(
                x, assignments, n_components, structure, sample_weight=sample_weight, reg_covar=reg_covar
            )
        case "random":
            drawn = random_state.uniform(size=(len(x), n_components))
            responsibilities = torch.from_numpy(drawn / drawn.sum(1, keepdims=True)).to(x.device)
            return from_responsibilities(
                x, responsibilities, structure, sample_weight=sample_weight, reg_covar=reg_covar
            )
        case "k-means++":
            seeds, _ = kmeans_plusplus(points, n_components, random_state=random_state, sample_weight=weight)
        case "random_from_data":
            chance = None if weight is None else weight / weight.sum()
            seeds = points[random_state.choice(len(x), n_components, replace=False, p=chance)]
        case _:
            raise ValueError(
                f"Expected init_params in ['k-means++', 'kmeans', 'random', 'random_from_data']; got {method!r}."
            )
    means = torch.from_numpy(np.ascontiguousarray(seeds)).to(x.device).double()
    return from_assignments(
        x, _nearest(x, means), n_components, structure, sample_weight=sample_weight, reg_covar=reg_covar
    )


def from_labels(
    x: Tensor,
    labels: Tensor,
    n_components: int,
    structure: CovarianceStructure,
    *,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
) -> MixtureParameters:
    """Seed component `k` by the points labelled `k`.

    The means of the labelled points take all points that are nearest to them, under several metrics: the
    standardised features, and then the Mahalanobis metric of the covariance within what was assigned, refined a
    few times. The start with the highest likelihood of the data is taken; labels play no further part.

    Args:
        x: `n x D` points.
        labels: `(n,)` integers, `-1` where a point has no label.
        n_components: Number of components `K`.
        structure: What the covariances share.
        sample_weight: `(n,)` weights.
        reg_covar: Variance added to the diagonals.

    Returns:
        The start, in float64.

    Raises:
        ValueError: If the labels have another shape, lie outside `-1 ... K-1`, or leave a component out.
    """
    if labels.shape != x.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"Expected integer labels of shape {(len(x),)}; got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if bool(((labels < -1) | (labels >= n_components)).any()):
        raise ValueError(
            f"Expected labels in -1 ... {n_components - 1}; got {int(labels.min())} ... {int(labels.max())}."
        )
    counts = torch.bincount(labels[labels >= 0], minlength=n_components)
    if bool((counts == 0).any()):
        missing = torch.nonzero(counts == 0).flatten().tolist()
        raise ValueError(f"Expected a labelled point for every component; got none for components {missing}.")
    known = labels >= 0
    seeds = torch.zeros(n_components, x.shape[1], dtype=torch.float64, device=x.device)
    seeds.index_add_(0, labels[known], x[known].double())
    seeds /= counts[:, None]

    tied = covariance_structure("tied")
    _, variance = moments(x, sample_weight)
    metric = variance.rsqrt().diag()
    best, highest = None, -float("inf")
    for _ in range(6):
        assigned = _nearest(x, seeds, metric)
        candidate = from_assignments(
            x, assigned, n_components, structure, sample_weight=sample_weight, reg_covar=reg_covar
        )
        bound = expectation(x, candidate, sample_weight).bound
        if best is None or bound > highest:
            best, highest = candidate, bound
        within = from_assignments(x, assigned, n_components, tied, sample_weight=sample_weight, reg_covar=reg_covar)
        metric = within.precisions_cholesky
    assert best is not None
    return best


def from_assignments(
    x: Tensor,
    assignments: Tensor,
    n_components: int,
    structure: CovarianceStructure,
    *,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
) -> MixtureParameters:
    """One M step from `(n,)` hard assignments."""
    return _maximize(x, assignments, n_components, structure, sample_weight, reg_covar)


def from_responsibilities(
    x: Tensor,
    responsibilities: Tensor,
    structure: CovarianceStructure,
    *,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
) -> MixtureParameters:
    """One M step from `n x K` responsibilities."""
    return _maximize(x, responsibilities, responsibilities.shape[1], structure, sample_weight, reg_covar)


def _maximize(
    x: Tensor,
    membership: Tensor,
    n_components: int,
    structure: CovarianceStructure,
    sample_weight: Tensor | None,
    reg_covar: float,
) -> MixtureParameters:
    weight = x.new_ones(len(x), dtype=torch.float64) if sample_weight is None else sample_weight.double()
    mean, variance = moments(x, weight)
    counts = mean.new_zeros(n_components)
    sums = mean.new_zeros(n_components, len(mean))
    for rows in slices(x, n_components):
        shares = _shares(membership[rows], n_components) * weight[rows, None]
        counts += shares.sum(0)
        sums += shares.T @ (x[rows].double() - mean)
    centres = mean + sums / counts.clamp_min(torch.finfo(counts.dtype).tiny)[:, None]
    total = None
    for rows in slices(x, n_components):
        shares = _shares(membership[rows], n_components)
        added = SufficientStatistics.of(x[rows].double(), shares, centres, structure, sample_weight=weight[rows])
        total = added if total is None else total + added
    assert total is not None
    parameters, _ = total.maximize(reg_covar, variance)
    if bool(total.empty.any()):
        parameters = reseed(x, parameters, total.empty, variance)
    return parameters


def _shares(membership: Tensor, n_components: int) -> Tensor:
    if membership.ndim == 2:
        return membership
    return torch.nn.functional.one_hot(membership, n_components).double()


def _nearest(x: Tensor, seeds: Tensor, metric: Tensor | None = None) -> Tensor:
    parts = []
    for rows in slices(x, len(seeds)):
        moved = x[rows].double() - seeds[0]
        targets = seeds - seeds[0]
        if metric is not None:
            moved, targets = moved @ metric, targets @ metric
        parts.append(torch.cdist(moved, targets, compute_mode="donot_use_mm_for_euclid_dist").argmin(1))
    return torch.cat(parts)
