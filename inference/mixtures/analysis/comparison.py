"""Comparison of two fitted mixtures, and assignment of classes to components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.matching import bhattacharyya
from latentmix.inference.mixtures.points.arrays import check_unmasked
from latentmix.models.display import Displayed
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["MixtureComparison", "align", "compare", "map_by_majority", "map_by_matching"]


def align(a: GaussianMixture | MixtureParameters, b: GaussianMixture | MixtureParameters) -> NDArray[np.int64]:
    """Match the components of two mixtures, by Hungarian assignment on the Bhattacharyya distance.

    The matching depends neither on the order of the components nor on labels (Kuhn, 1955; Bhattacharyya, 1943).

    Args:
        a: A mixture of `K` components.
        b: Another mixture with the same number of components and features.

    Returns:
        `(K,)` indices: component `k` of `a` matches component `order[k]` of `b`.

    Raises:
        ValueError: If the mixtures differ in their numbers of components or features.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.analysis.comparison import align
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> a = MixtureParameters(
        ...     torch.tensor([0.3, 0.7]), torch.tensor([[0.0], [5.0]]), torch.ones(2), covariance_structure("spherical")
        ... )
        >>> align(a, a.permuted(torch.tensor([1, 0]))).tolist()
        [1, 0]
    """
    first, second = _parameters(a), _parameters(b)
    if first.means.shape != second.means.shape:
        raise ValueError(
            f"Expected mixtures of as many components and features, {tuple(first.means.shape)}; got "
            f"{tuple(second.means.shape)}."
        )
    distance = bhattacharyya(first, second)
    _, order = linear_sum_assignment(distance.cpu().numpy())
    return np.asarray(order, dtype=np.int64)


@dataclass(frozen=True, repr=False)
class MixtureComparison(Displayed):
    """Two fits to the same data, `a` and `b` in every pair, with the components of `b` in the order of `a`.

    Attributes:
        log_likelihood: Mean log-density of the data, nats per point.
        iterations: Number of iterations or epochs.
        seconds: Wall-clock time of each fit, its start included.
        weights_distance: Total variation between the weights.
        means_distance: Euclidean distance between the means of each component.
        covariances_distance: Frobenius distance between the covariances, relative to those of `a`.
        agreement: Fraction of the points that both assign to the same component.
        order: Component of `b` that matches each of `a`.
    """

    log_likelihood: tuple[float, float]
    iterations: tuple[int, int]
    seconds: tuple[float, float]
    weights_distance: float
    means_distance: list[float]
    covariances_distance: list[float]
    agreement: float
    order: list[int]

    def shown(self) -> dict[str, Any]:
        (density, other), farthest = self.log_likelihood, max(self.means_distance)
        return {
            "mean log p(x)": f"{density:.6g} (a), {other:.6g} (b) nats per point",
            "iterations": f"{self.iterations[0]} (a), {self.iterations[1]} (b)",
            "seconds": f"{self.seconds[0]:.2f} (a), {self.seconds[1]:.2f} (b)",
            "agreement": f"{self.agreement:.2%} of the points are in the same component",
            "weights": f"{self.weights_distance:.3g} apart, in total variation",
            "means": f"{farthest:.3g} apart, at most",
            "covariances": f"{max(self.covariances_distance):.3g} apart at most, relative to those of a",
            "order": self.order,
        }


def compare(a: GaussianMixture, b: GaussianMixture, x: NDArray[Any] | Tensor) -> MixtureComparison:
    """Compare two fitted mixtures on `n x D` points.

    Raises:
        ValueError: If the mixtures differ in their numbers of components or features.
    """
    order = align(a, b)
    first = _parameters(a)
    second = _parameters(b).permuted(torch.from_numpy(order))
    p, q = first.expanded_covariances(), second.expanded_covariances()
    joints = [mixture._log_joints(x) for mixture in (a, b)]
    ours, theirs = (joint.argmax(1).cpu().numpy() for joint in joints)
    densities = [float(joint.logsumexp(1).sum()) / len(joint) for joint in joints]
    return MixtureComparison(
        log_likelihood=(densities[0], densities[1]),
        iterations=(a.n_iter_, b.n_iter_),
        seconds=(a.seconds_, b.seconds_),
        weights_distance=float((first.weights - second.weights).abs().sum() / 2),
        means_distance=(first.means - second.means).norm(dim=-1).tolist(),
        covariances_distance=(torch.linalg.matrix_norm(p - q) / torch.linalg.matrix_norm(p)).tolist(),
        agreement=float((order[ours] == theirs).mean()),
        order=order.tolist(),
    )


def map_by_matching(
    assignments: ArrayLike, labels: ArrayLike, n_components: int, classes: Sequence[int]
) -> NDArray[np.int64]:
    """Assign a class to each component by Hungarian assignment on the contingency table.

    If there are more components than classes, the others take their majority class, as in `map_by_majority`.

    Args:
        assignments: `(n,)` components of the points.
        labels: `(n,)` classes of the points; labels that are not in `classes`, such as `-1`, are ignored.
        n_components: Number of components `K`.
        classes: The classes.

    Returns:
        `(K,)` classes.
    """
    table = _contingency(assignments, labels, n_components, classes)
    mapping = _majority(table)
    rows, columns = linear_sum_assignment(table, maximize=True)
    mapping[rows] = columns
    return np.asarray(classes, dtype=np.int64)[mapping]


def map_by_majority(
    assignments: ArrayLike, labels: ArrayLike, n_components: int, classes: Sequence[int]
) -> NDArray[np.int64]:
    """Assign to each component the class of most of its labelled points, the first among equals.

    A component without labelled points takes the most frequent class. Arguments and result are those of
    `map_by_matching`.
    """
    table = _contingency(assignments, labels, n_components, classes)
    return np.asarray(classes, dtype=np.int64)[_majority(table)]


def _majority(table: NDArray[np.int64]) -> NDArray[np.int64]:
    mapping = table.argmax(1)
    mapping[table.sum(1) == 0] = table.sum(0).argmax()
    return mapping


def _contingency(
    assignments: ArrayLike, labels: ArrayLike, n_components: int, classes: Sequence[int]
) -> NDArray[np.int64]:
    check_unmasked(labels, "labels", "pass labels.filled(-1)")
    components, truth, known = np.asarray(assignments), np.asarray(labels), np.asarray(classes)
    if components.shape != truth.shape or components.ndim != 1:
        raise ValueError(f"Expected as many labels as assignments, {components.shape}; got {truth.shape}.")
    if components.size and (components.min() < 0 or components.max() >= n_components):
        raise ValueError(
            f"Expected assignments in 0 ... {n_components - 1}; got {components.min()} ... {components.max()}."
        )
    if not known.size:
        raise ValueError("Expected at least one class; got none.")
    table = np.zeros((n_components, len(known)), dtype=np.int64)
    for column, label in enumerate(known):
        table[:, column] = np.bincount(components[truth == label], minlength=n_components)
    return table


def _parameters(mixture: GaussianMixture | MixtureParameters) -> MixtureParameters:
    return mixture if isinstance(mixture, MixtureParameters) else mixture.parameters_
