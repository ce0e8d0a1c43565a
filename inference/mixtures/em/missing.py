r"""Gaussian mixtures of points with missing entries: EM on the likelihood of what is observed.

NaN stands for an entry that is missing at random. Of a point with observed features :math:`o` and missing ones
:math:`m` the log-density under component k is :math:`\log \mathcal N(x_o \mid \mu_{k,o}, \Sigma_{k,oo})`, and the
missing entries have there the mean :math:`\mu_{k,m} + \Sigma_{k,mo} \Sigma_{k,oo}^{-1} (x_o - \mu_{k,o})` and the
covariance :math:`\Sigma_{k,mm} - \Sigma_{k,mo} \Sigma_{k,oo}^{-1} \Sigma_{k,om}`; both enter the statistics
(Ghahramani and Jordan, *Supervised learning from incomplete data via an EM approach*, 1994; Little and Rubin,
*Statistical Analysis with Missing Data*, section 8.2).

A point with every entry missing has log-density 0, belongs to the components by their weights, and adds their own
moments: it moves no maximum of the likelihood, though EM takes smaller steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from latentmix.inference.mixtures.em.completion import completions
from latentmix.inference.mixtures.em.density import log_joint
from latentmix.inference.mixtures.em.initialization import StartMethod, start
from latentmix.inference.mixtures.em.statistics import SufficientStatistics, expectation
from latentmix.inference.mixtures.points.points import Points, as_points
from latentmix.inference.mixtures.points.sources import Source, as_source
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = [
    "check_observed",
    "expectation_with_missing",
    "impute",
    "log_joint_with_missing",
    "mean_filled",
    "start_with_missing",
]

_CHUNK = 2_000_000  # doubles of one block


def expectation_with_missing(
    points: Tensor | Points, parameters: MixtureParameters, sample_weight: Tensor | None = None
) -> SufficientStatistics:
    """The E step for points with missing entries: expected statistics of the complete points.

    Points are grouped by what is observed of them, and matrices are factorised once for each pattern and component of
    a chunk, all at once; complete points go through `expectation`.

    Args:
        points: `n x D` points, NaN where an entry is missing, or `Points` made with `allow_nan`.
        parameters: The mixture, in float64.
        sample_weight: `(n,)` weights, where the points do not bring their own.

    Returns:
        Statistics in float64 about the means, of `Points` those of all processes; the log-likelihood is that of the
        observed entries.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.missing import expectation_with_missing
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, covariance = torch.zeros(1, 2).double(), torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]).double()
        >>> mixture = MixtureParameters(torch.ones(1).double(), zeros, covariance, covariance_structure("full"))
        >>> expectation_with_missing(torch.tensor([[3.0, torch.nan]]), mixture).sums
        tensor([[3.0000, 1.5000]], dtype=torch.float64)
    """
    if isinstance(points, Points):
        return points.reduce(lambda: _expectation(points, parameters))
    return _expectation(as_source(points, sample_weight), parameters)


def _expectation(source: Points | Source, parameters: MixtureParameters) -> SufficientStatistics:
    """Statistics of this process's points."""
    structure = parameters.structure
    total = _nothing(parameters)
    for x, weight in source.chunks(_CHUNK // sum(parameters.means.shape)):
        if weight is not None and bool((weight == 0).any()):
            x, weight = x[weight > 0], weight[weight > 0]
        whole = ~x.isnan().any(1)
        if bool(whole.any()):
            total = total + expectation(x[whole], parameters, None if weight is None else weight[whole])
        if bool(whole.all()):
            continue
        partial = x[~whole].double()
        own = partial.new_ones(len(partial)) if weight is None else weight[~whole]
        for block in completions(partial, parameters):
            density = block.log_joint.logsumexp(1)
            mass = own[block.rows]
            shares = (block.log_joint - density[:, None]).exp() * mass[:, None]
            total = total + SufficientStatistics(
                counts=shares.sum(0),
                sums=torch.einsum("nk,nkd->kd", shares, block.deviations),
                scatter=structure.scatter(shares, block.deviations) + block.spread(shares),
                centres=parameters.means,
                log_likelihood=density @ mass,
                weight=mass.sum(),
                structure=structure,
            )
    return total


def log_joint_with_missing(x: Tensor, parameters: MixtureParameters) -> Tensor:
    """Log of weight times density of the observed entries under each component, `n x K` in float64.

    Args:
        x: `n x D` points, NaN where an entry is missing.
        parameters: The mixture, in float64.
    """
    whole = ~x.isnan().any(1)
    if bool(whole.all()):
        return log_joint(x, parameters)
    joint = torch.empty(len(x), len(parameters.weights), dtype=torch.float64, device=x.device)
    joint[whole] = log_joint(x[whole], parameters)
    for rows, part in _incomplete(x, parameters):
        for block in completions(part, parameters):
            joint[rows[block.rows]] = block.log_joint
    return joint


def impute(x: Tensor, parameters: MixtureParameters) -> Tensor:
    """Points with their missing entries replaced by what the mixture expects given the observed ones.

    Args:
        x: `n x D` points, NaN where an entry is missing.
        parameters: The mixture, in float64.

    Returns:
        `n x D` points in the dtype of `x`, observed entries as they are; where all of a point is missing, the
        mixture's mean.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.missing import impute
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, covariance = torch.zeros(1, 2).double(), torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]).double()
        >>> mixture = MixtureParameters(torch.ones(1).double(), zeros, covariance, covariance_structure("full"))
        >>> impute(torch.tensor([[3.0, torch.nan]]), mixture)
        tensor([[3.0000, 1.5000]])
    """
    filled = x.clone()
    for rows, part in _incomplete(x, parameters):
        for block in completions(part, parameters):
            own = rows[block.rows]
            shares = block.log_joint.softmax(1)
            expected = shares @ parameters.means + torch.einsum("nk,nkd->nd", shares, block.deviations)
            filled[own] = torch.where(x[own].isnan(), expected.to(x.dtype), x[own])
    return filled


def start_with_missing(
    points: Tensor | Points,
    n_components: int,
    structure: CovarianceStructure,
    *,
    method: StartMethod = "kmeans",
    random_state: np.random.RandomState,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
    assign: bool = True,
) -> MixtureParameters:
    """Seed a mixture of points with missing entries: `start` on the mean-filled points, then one step of EM.

    The filled entries lie at the mean, which shrinks the covariances of the seed; the step of EM on the observed
    entries widens them again. Complete points are seeded by `start` alone.

    Args:
        points: `n x D` points, NaN where an entry is missing, or `Points` made with `allow_nan`.
        n_components: Number of components `K`.
        structure: What the covariances share.
        method: As `start` takes it.
        random_state: The source of randomness.
        sample_weight: `(n,)` weights, where the points do not bring their own.
        reg_covar: Variance added to the diagonals.
        assign: As `start` takes it, of complete points.

    Returns:
        The start, in float64.

    Raises:
        ValueError: If a column has no observed entry; the message names it.
    """
    points = as_points(points, sample_weight, allow_nan=True)
    filled = mean_filled(points)
    seed = start(
        filled,
        n_components,
        structure,
        method=method,
        random_state=random_state,
        reg_covar=reg_covar,
        assign=assign or filled is not points,
    )
    if filled is points:
        return seed
    return expectation_with_missing(points, seed).maximize(reg_covar, points.variance)[0]


def _absent(points: Points) -> Tensor:
    """How many entries of each column are missing, and the weight of those that are not: `2 x D`."""
    missing = torch.zeros(points.n_features, dtype=torch.float64, device=points.device)
    weight = torch.zeros_like(missing)
    for x, own in points.chunks(_CHUNK // points.n_features):
        absent = x.isnan()
        missing += absent.sum(0)
        weight += (~absent).sum(0) if own is None else own @ (~absent).double()
    return torch.stack([missing, weight])


def check_observed(points: Points) -> bool:
    """Whether an entry is missing.

    Raises:
        ValueError: If a column has no observed entry of positive weight; the message names it.
    """
    missing, weight = points.reduce(lambda: _absent(points))
    empty = (weight <= 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"Expected an observed entry in every column; got none in column {', '.join(map(str, empty))}: drop it."
        )
    return bool(missing.any())


def mean_filled(points: Points) -> Points:
    """The points with every missing entry at its feature's mean, filled chunk by chunk; themselves if complete.

    Raises:
        ValueError: If a column has no observed entry; the message names it.
    """
    if not check_observed(points):
        return points
    return points.map(lambda x: torch.where(x.isnan(), points.location.to(x), x))


def _incomplete(x: Tensor, parameters: MixtureParameters) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of the rows with a missing entry, and these rows in float64, a chunk at a time."""
    rows = x.isnan().any(1).nonzero().flatten()
    for own in rows.split(max(1, _CHUNK // sum(parameters.means.shape))):
        if len(own):
            yield own, x[own].double()


def _nothing(parameters: MixtureParameters) -> SufficientStatistics:
    structure, weights = parameters.structure, parameters.weights
    shape = structure.covariance_shape(*parameters.means.shape)
    none = weights.new_zeros(())
    return SufficientStatistics(
        counts=torch.zeros_like(weights),
        sums=torch.zeros_like(parameters.means),
        scatter=weights.new_zeros(shape) if structure.name != "spherical" else torch.zeros_like(parameters.means),
        centres=parameters.means,
        log_likelihood=none,
        weight=none,
        structure=structure,
    )
