"""Mixtures to start from: the same for EM and SVI, for one process and several, in memory or in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentmix.inference.mixtures.em.e_step import EStep, ExactEStep
from latentmix.inference.mixtures.em.empty import reset_empty, warn_of_empty
from latentmix.inference.mixtures.em.kernels import Centred, Expanded, Kernel, accurate
from latentmix.inference.mixtures.em.m_step import keep_empty, maximize
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import Points, as_points
from latentmix.models.mixture.covariances import CovarianceStructure, covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.process_state import kept_filters

__all__ = ["StartMethod", "from_labels", "from_seeds", "initialize", "start"]

# Called at the start of a pass over this process's points. It returns a function from a chunk of them and their rows to
# their assignments, `(b,)`, or responsibilities, `b x K`.
_Membership = Callable[[], Callable[[Tensor, slice], Tensor]]
StartMethod = Literal["kmeans", "k-means++", "random", "random_from_data"]
# Points among which seeds are sought, and the least number of them for each component.
_SAMPLE = 50_000
_PER_COMPONENT = 250
_CHUNK = 1_000_000  # doubles of one chunk's n x K x D


def initialize(
    e_step: EStep,
    n_components: int,
    structure: CovarianceStructure,
    *,
    method: StartMethod = "kmeans",
    random_state: np.random.RandomState,
    reg_covar: float = 1e-6,
) -> MixtureParameters:
    """Seed a mixture for a fit by that E step.

    Exact points may start from seeds alone, as the first E step assigns all points. Incomplete ones are seeded on the
    mean-filled points, which shrinks the covariances; one step of EM on the observed entries widens them again.

    Args:
        e_step: The E step of the fit.
        n_components: Number of components `K`.
        structure: The covariance structure.
        method: As `start` takes it.
        random_state: The source of randomness.
        reg_covar: Variance added to the diagonals.

    Returns:
        The start, in float64.

    Raises:
        ValueError: As `start` raises it.
    """
    points = e_step.filled()
    seed = start(
        points,
        n_components,
        structure,
        method=method,
        random_state=random_state,
        reg_covar=reg_covar,
        assign=not e_step.exact,
    )
    if points is e_step.points:
        return seed
    return maximize(e_step(seed), reg_covar, points.variance)[0]


def start(
    x: Tensor | Points,
    n_components: int,
    structure: CovarianceStructure,
    *,
    method: StartMethod = "kmeans",
    random_state: np.random.RandomState,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
    assign: bool = True,
) -> MixtureParameters:
    """Seed a mixture: assign every point to a seed, then take one M step.

    `kmeans` takes the centres of k-means seeded by k-means++ (Arthur and Vassilvitskii, 2007) as seeds; `k-means++`
    and `random_from_data` take points; `random` draws responsibilities. Where there are more than 50,000 points (and
    more than 250 for each component), seeds are sought in a sample of so many; all points are then assigned to
    the nearest. The sample is drawn among the rows of all processes, so that the start depends neither on their
    number nor on batches; integer weights count as repetition.

    With `assign=False`, for a fit whose first step is one of exact EM, a component with a covariance of its own that is
    seeded by a point consists of that point alone: of the weight of one point, so that the weights do not sum to one,
    and of variances `reg_covar`. The first E step then assigns all points. This is scikit-learn's start, to the last
    digits. For tied covariances scikit-learn divides the scatter by `K` instead of `n` (EM then ends 0.3 nats per point
    lower), and with `reg_covar=0` every covariance would be singular: there all points are assigned regardless.

    Args:
        x: `n x D` points.
        n_components: Number of components `K`.
        structure: The covariance structure.
        method: Source of the seeds.
        random_state: The source of randomness; with several processes, that of the first.
        sample_weight: `(n,)` weights; `Points` hold their own.
        reg_covar: Variance added to the diagonals.
        assign: Whether all points are assigned where the seeds are points themselves.

    Returns:
        The start, in float64.

    Raises:
        ValueError: If the method is unknown, or there are fewer points than components.

    Example:
        >>> import numpy as np, torch
        >>> from latentmix.inference.mixtures.em.initialization import start
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> x = torch.tensor([[-1.0], [-1.2], [0.9], [1.1]])
        >>> start(x, 2, covariance_structure("diag"), random_state=np.random.RandomState(0)).weights
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    methods = ["k-means++", "kmeans", "random", "random_from_data"]
    if method not in methods:
        raise ValueError(f"Expected init_params in {methods}; got {method!r}.")
    points = as_points(x, sample_weight)
    if points.count < n_components:
        raise ValueError(f"Expected {n_components} points at least, one for each component; got {points.count}.")
    if not points.processes.alone:
        random_state.set_state(points.processes.agree(random_state.get_state(legacy=True)))
    if method == "random":
        drawn = _Drawn(points, n_components, random_state)
        centres = points.location.expand(n_components, -1)
        parameters = _from_memberships(points, drawn.begin, centres, structure, reg_covar)
        drawn.finish()
        return parameters
    seeds = points.processes.agree(_seeds(points, n_components, method, random_state)).to(points.device)
    if assign or method == "kmeans" or structure.shared or reg_covar == 0:
        return from_seeds(points, seeds, structure, reg_covar=reg_covar)
    return _seeds_alone(seeds, points.weight, structure, reg_covar)


def from_labels(
    x: Tensor | Points,
    labels: Tensor,
    n_components: int,
    structure: CovarianceStructure,
    *,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
) -> MixtureParameters:
    """Seed component `k` by the points labelled `k`.

    All points are assigned to the nearest mean of labelled points under several metrics: that of the standardised
    features, then the Mahalanobis metric of the covariance within components, refined a few times. The start of the
    highest likelihood is returned; labels play no further part.

    Args:
        x: `n x D` points.
        labels: `(n,)` integers, of this process's points, `-1` where a point has no label.
        n_components: Number of components `K`.
        structure: The covariance structure.
        sample_weight: `(n,)` weights; `Points` hold their own.
        reg_covar: Variance added to the diagonals.

    Returns:
        The start, in float64.

    Raises:
        ValueError: If the labels have another shape, lie outside `-1 ... K-1`, or leave a component out.
    """
    points = as_points(x, sample_weight)
    labelled = points.reduce(lambda: _labelled(points, labels, n_components))
    counts, sums = labelled[:, -1], labelled[:, :-1]
    if bool((counts == 0).any()):
        missing = torch.nonzero(counts == 0).flatten().tolist()
        raise ValueError(f"Expected a labelled point for every component; got none for components {missing}.")
    seeds = points.location + sums / counts[:, None]

    tied, e_step = covariance_structure("tied"), ExactEStep(points)
    metric = points.variance.rsqrt().diag()
    best, highest = None, -float("inf")
    for _ in range(6):
        candidate = from_seeds(points, seeds, structure, metric=metric, reg_covar=reg_covar)
        bound = e_step(candidate).bound
        if best is None or bound > highest:
            best, highest = candidate, bound
        metric = from_seeds(points, seeds, tied, metric=metric, reg_covar=reg_covar).precisions_cholesky
    assert best is not None
    return best


def from_seeds(
    x: Tensor | Points,
    seeds: Tensor,
    structure: CovarianceStructure,
    *,
    metric: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
) -> MixtureParameters:
    """One M step from all points, each assigned to the nearest of `K x D` seeds.

    Args:
        x: `n x D` points.
        seeds: `K x D`.
        structure: The covariance structure.
        metric: A `D x D` map under which distances are Euclidean; by default the identity.
        sample_weight: `(n,)` weights; `Points` hold their own.
        reg_covar: Variance added to the diagonals.
    """
    points = as_points(x, sample_weight)
    seeds = seeds.double()
    targets = seeds - points.location if metric is None else (seeds - points.location) @ metric
    halves = targets.square().sum(1)[:, None] / 2

    def nearest(part: Tensor, _: slice) -> Tensor:
        moved = part - points.location
        moved = moved if metric is None else moved @ metric
        return torch.addmm(halves, targets, moved.mT, beta=-1).max(0).indices

    return _from_memberships(points, lambda: nearest, seeds, structure, reg_covar)


def _from_memberships(
    points: Points, membership: _Membership, centres: Tensor, structure: CovarianceStructure, reg_covar: float
) -> MixtureParameters:
    """One M step, with moments about the location where that is accurate, else about the means of a first pass.

    Args:
        points: `n x D` points.
        membership: Assignments or responsibilities, pass by pass.
        centres: `K x D`, anything near the means.
        structure: The covariance structure.
        reg_covar: Variance added to the diagonals.
    """
    wide = _as_wide_as(points, centres, structure)
    if not _expansion_is_accurate(points, wide):
        wide = _as_wide_as(points, centres, covariance_structure("diag"))
    statistics = _statistics(points, membership, Expanded(wide, points.location))
    parameters, _ = maximize(statistics, reg_covar, points.variance)
    if statistics.structure != structure or not _expansion_is_accurate(points, parameters):
        statistics = _statistics(points, membership, Centred(_as_wide_as(points, parameters.means, structure)))
        parameters, _ = maximize(statistics, reg_covar, points.variance)
    if statistics.any_empty:
        parameters = reset_empty(ExactEStep(points), parameters, statistics.empty)
        warn_of_empty(int(statistics.empty.sum()))
    return parameters


def _as_wide_as(points: Points, means: Tensor, structure: CovarianceStructure) -> MixtureParameters:
    """Components as wide as the points, of the same weight."""
    n_components = len(means)
    covariances = means.new_zeros(structure.covariance_shape(*means.shape))
    wide = structure.regularize(covariances, points.variance)
    return MixtureParameters(means.new_full((n_components,), 1 / n_components), means, wide, structure)


def _expansion_is_accurate(points: Points, parameters: MixtureParameters) -> bool:
    return points.processes.agree(accurate(parameters, points.location, points.variance, points.radius))


def _statistics(points: Points, membership: _Membership, kernel: Kernel) -> SufficientStatistics:
    """Statistics of all points under their membership."""
    return keep_empty(points.reduce(lambda: _local(points, membership, kernel)))


@torch.no_grad()
def _local(points: Points, membership: _Membership, kernel: Kernel) -> SufficientStatistics:
    """Statistics of this process's points."""
    first, members_of = 0, membership()
    for x, weight in points.chunks(kernel.rows):
        kernel.log_joint(x)  # loads the block; of the kernel only the moments are used
        members = members_of(x.double(), slice(first, first + len(x))).to(x.device)
        responsibilities = kernel.responsibilities
        if members.ndim == 1:
            responsibilities.zero_().scatter_(0, members.long()[None], 1.0)
        else:
            responsibilities.copy_(members.mT)
        if weight is not None:
            responsibilities.mul_(weight)
        kernel.add(weight)
        first += len(x)
    return kernel.statistics()


def _seeds_alone(seeds: Tensor, weight: float, structure: CovarianceStructure, reg_covar: float) -> MixtureParameters:
    """The M step of scikit-learn for `K x D` seeds that have one point each, with its roundings."""
    count = 1 + 10 * torch.finfo(torch.float64).eps
    means = seeds / count
    residue = torch.zeros_like(means) if structure.correlated else seeds.square() / count - means.square()
    covariances = means.new_zeros(structure.covariance_shape(*means.shape))
    variances = residue.mean(1, keepdim=True).expand_as(means) if structure.isotropic else residue
    covariances = structure.regularize(covariances, variances + reg_covar)
    return MixtureParameters(means.new_full((len(means),), count / weight), means, covariances, structure)


class _Drawn:
    """Random responsibilities, uniform and normalised, in the order of the rows of all processes."""

    def __init__(self, points: Points, n_components: int, random_state: np.random.RandomState) -> None:
        self.points, self.n_components, self.random_state = points, n_components, random_state
        self.state = random_state.get_state(legacy=True)

    def begin(self) -> Callable[[Tensor, slice], Tensor]:
        """Begin a pass, whose draws are the same as in any other."""
        self.random_state.set_state(self.state)
        self._skip(self.points.offset)
        return lambda part, _: self._draw(len(part))

    def finish(self) -> None:
        """Leave the source of randomness in the same state on every process."""
        self._skip(self.points.count - self.points.offset - self.points.local_count)

    def _draw(self, rows: int) -> Tensor:
        drawn = self.random_state.uniform(size=(rows, self.n_components))
        return torch.from_numpy(drawn / drawn.sum(1, keepdims=True))

    def _skip(self, rows: int) -> None:
        for first in range(0, rows, 65_536):
            self.random_state.uniform(size=(min(65_536, rows - first), self.n_components))


def _seeds(points: Points, n_components: int, method: StartMethod, random_state: np.random.RandomState) -> Tensor:
    """`K x D` seeds in float64, on the CPU."""
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.utils.random import sample_without_replacement

    size = max(_SAMPLE, _PER_COMPONENT * n_components)
    if points.count <= size:
        indices = np.arange(points.count)
    else:
        indices = np.sort(sample_without_replacement(points.count, size, random_state=random_state))
    sampled, sampled_weight = points.weighted_sample(torch.from_numpy(indices))
    rows = sampled.cpu().numpy() if sampled.dtype in (torch.float32, torch.float64) else sampled.cpu().double().numpy()
    weight = None if sampled_weight is None else sampled_weight.cpu().numpy()
    rows, weight = _merged(rows, weight, n_components)
    seeds: NDArray[np.floating]
    if method == "kmeans":
        with kept_filters():
            clusters = KMeans(n_components, n_init=1, random_state=random_state).fit(rows, sample_weight=weight)
        seeds = clusters.cluster_centers_
    elif method == "k-means++":
        centred = rows - rows.mean(0, dtype=np.float64)  # its distances are of expanded squares
        with kept_filters():
            _, places = kmeans_plusplus(centred, n_components, random_state=random_state, sample_weight=weight)
        seeds = rows[places]
    else:
        chance = None if weight is None or np.count_nonzero(weight) < n_components else weight / weight.sum()
        seeds = rows[random_state.choice(len(rows), n_components, replace=False, p=chance)]
    return torch.from_numpy(np.ascontiguousarray(seeds)).double()


def _merged(
    rows: NDArray[np.floating], weight: NDArray[np.floating] | None, n_components: int
) -> tuple[NDArray[np.floating], NDArray[np.floating] | None]:
    """Merge equal rows, so that integer weights and repetition give the same draws.

    Where a quarter of the rows or more are repeated, equal ones become one row of their weight, in ascending order.
    Otherwise, and where too few differ, rows stay as they are, with integer weights as repetition: draws are then
    scikit-learn's.
    """
    if weight is None and len(np.unique(rows[:, 0])) == len(rows):
        return rows, None
    own = np.ones(len(rows)) if weight is None else weight
    different, inverse = torch.from_numpy(rows[own > 0]).unique(dim=0, return_inverse=True)
    if len(different) < n_components:
        return rows, weight
    if bool((own == own.round()).all()) and len(different) > 0.75 * own.sum():
        return np.repeat(rows, own.astype(int), axis=0), None
    return different.numpy(), np.bincount(inverse.numpy(), weights=own[own > 0])


def _check_labels(points: Points, labels: Tensor, n_components: int) -> None:
    """Refuse labels of this process that are not `(n,)` integers in range."""
    if labels.shape != (points.local_count,) or labels.is_floating_point():
        raise ValueError(
            f"Expected integer labels of shape {(points.local_count,)}; got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    if bool(((labels < -1) | (labels >= n_components)).any()):
        raise ValueError(
            f"Expected labels in -1 ... {n_components - 1}; got {int(labels.min())} ... {int(labels.max())}."
        )


def _labelled(points: Points, labels: Tensor, n_components: int) -> Tensor:
    """Sums of this process's labelled points about the location, and in the last column their number: `K x (D+1)`."""
    _check_labels(points, labels, n_components)
    total, first = points.location.new_zeros(n_components, points.n_features + 1), 0
    for x, _ in points.chunks(_CHUNK // (n_components * points.n_features)):
        own = labels[first : first + len(x)].to(x.device)
        known = own >= 0
        total[:, -1] += torch.bincount(own[known], minlength=n_components)
        total[:, :-1].index_add_(0, own[known], x.double()[known] - points.location)
        first += len(x)
    return total
