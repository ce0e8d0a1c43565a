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
from typing import final

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.completion import completions
from latentmix.inference.mixtures.em.density import log_joint
from latentmix.inference.mixtures.em.e_step import ExactEStep, KernelEStep
from latentmix.inference.mixtures.em.kernels import Kernel
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import Points
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["IncompleteEStep", "check_observed", "impute", "log_joint_with_missing", "marginalizing"]

_CHUNK = 2_000_000  # doubles of one block


@final
class IncompleteEStep(KernelEStep):
    """The E step of points with missing entries: expected statistics of the complete points, about the means.

    Points are grouped by what is observed of them, and matrices are factorised once for each pattern and component of
    a chunk, all at once; complete points go through the kernels. The log-likelihood is that of the observed entries.

    Args:
        points: `n x D` points, NaN where an entry is missing, made with `allow_nan`.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.missing import IncompleteEStep
        >>> from latentmix.inference.mixtures.points.points import as_points
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, covariance = torch.zeros(1, 2).double(), torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]).double()
        >>> mixture = MixtureParameters(torch.ones(1).double(), zeros, covariance, covariance_structure("full"))
        >>> x = torch.tensor([[3.0, torch.nan], [0.0, 0.0]])
        >>> IncompleteEStep(as_points(x, allow_nan=True))(mixture).sums
        tensor([[3.0000, 1.5000]], dtype=torch.float64)
    """

    def filled(self) -> Points:
        """The points with every missing entry at its feature's mean."""
        location = self.points.location
        return self.points.map(lambda x: torch.where(x.isnan(), location.to(x), x))

    def _pass(self, kernel: Kernel) -> SufficientStatistics:
        parameters, partial = kernel.parameters, None
        for x, weight in self.points.chunks(_CHUNK // sum(parameters.means.shape)):
            if weight is not None and bool((weight == 0).any()):
                x, weight = x[weight > 0], weight[weight > 0]
            whole = ~x.isnan().any(1)
            complete = (x[whole],) if weight is None else (x[whole], weight[whole])
            for block in zip(*(part.split(kernel.rows) for part in complete), strict=True):
                if len(block[0]):
                    kernel.expect(*block)
            if not bool(whole.all()):
                own = None if weight is None else weight[~whole]
                added = _completed(x[~whole].double(), own, parameters)
                partial = added if partial is None else partial + added
        statistics = kernel.statistics().about(parameters.means)
        return statistics if partial is None else statistics + partial


def marginalizing(points: Points) -> ExactEStep | IncompleteEStep:
    """The E step of points that may have missing entries.

    Raises:
        ValueError: If a column has no observed entry; the message names it.
    """
    return IncompleteEStep(points) if check_observed(points) else ExactEStep(points)


def _completed(x: Tensor, weight: Tensor | None, parameters: MixtureParameters) -> SufficientStatistics:
    """Expected statistics of `b x D` incomplete points."""
    weight = x.new_ones(len(x)) if weight is None else weight
    total = None
    for block in completions(x, parameters):
        density = block.log_joint.logsumexp(1)
        mass = weight[block.rows]
        responsibilities = (block.log_joint - density[:, None]).exp() * mass[:, None]
        scatter = parameters.structure.scatter(responsibilities, block.deviations)
        added = SufficientStatistics(
            counts=responsibilities.sum(0),
            sums=torch.einsum("nk,nkd->kd", responsibilities, block.deviations),
            scatter=scatter + block.spread(responsibilities),
            centres=parameters.means,
            log_likelihood=density @ mass,
            weight=mass.sum(),
            structure=parameters.structure,
        )
        total = added if total is None else total + added
    assert total is not None
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
    """Replace missing entries by their expectations given the observed ones.

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
            responsibilities = block.log_joint.softmax(1)
            expected = responsibilities @ parameters.means
            expected = expected + torch.einsum("nk,nkd->nd", responsibilities, block.deviations)
            filled[own] = torch.where(x[own].isnan(), expected.to(x.dtype), x[own])
    return filled


def _absent(points: Points) -> Tensor:
    """Number of missing entries of each column, and weight of the observed ones: `2 x D`."""
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


def _incomplete(x: Tensor, parameters: MixtureParameters) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of the rows with a missing entry, and these rows in float64, a chunk at a time."""
    rows = x.isnan().any(1).nonzero().flatten()
    for own in rows.split(max(1, _CHUNK // sum(parameters.means.shape))):
        if len(own):
            yield own, x[own].double()
