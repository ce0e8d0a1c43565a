"""The E step of Gaussian mixtures: moments of points under the posterior probabilities of the components."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, final

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.density import log_joint
from latentmix.inference.mixtures.em.kernels import Centred, Expanded, Kernel, Workspace, accurate, expandable
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import Points, as_points
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["EStep", "ExactEStep", "KernelEStep", "as_e_step"]

_CHUNK = 1_000_000  # doubles of one chunk's n x K x D


class EStep(ABC):
    """The E step of one fit: a function from mixtures to `SufficientStatistics` of its points.

    It owns the points and whatever memory its passes over them reuse.

    Args:
        points: `n x D` points.

    Attributes:
        exact: Whether the points are observed as they are, complete and without noise. Moments are then those of the
            points themselves: a fit may start from seeds alone, and sharpen covariances that are close to singular.
    """

    exact: ClassVar[bool] = False

    def __init__(self, points: Points) -> None:
        self.points = points

    @abstractmethod
    def __call__(self, parameters: MixtureParameters) -> SufficientStatistics:
        """Statistics of all points, of all processes, under a mixture in float64."""

    def filled(self) -> Points:
        """Complete points near the observed ones, among which a fit finds its start."""
        return self.points

    def variance(self, start: MixtureParameters) -> Tensor:
        """Variances of the features without their noise, `(D,)`, from a mixture to start from where need be."""
        return self.points.variance

    def scored(self, parameters: MixtureParameters) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Log joints `b x K`, points `b x D` without their noise, and weights `(b,)`, by chunks of local points.

        Log joints are NaN where a point is incomplete.
        """
        for x, weight in self.points.chunks(max(1, _CHUNK // parameters.means.numel())):
            yield log_joint(x, parameters), x.double(), weight


class KernelEStep(EStep):
    """An E step whose complete points go through the kernels.

    Log-densities are quadratic in the points: where `expansion_error` is at most 1e-10, all of them are one matrix
    product with features about the points' location, and all moments are another. Elsewhere, or where a covariance
    shrinks a thousandfold in one step, deviations are taken from each component's mean. Blocks of rows stay in the
    cache, in float64 once they are centred.
    """

    def __init__(self, points: Points) -> None:
        super().__init__(points)
        self._workspace = Workspace()
        self._kernel: Expanded | None = None

    @final
    def __call__(self, parameters: MixtureParameters) -> SufficientStatistics:
        if torch.is_grad_enabled():  # not in a fit, which enters the block once
            with torch.no_grad():
                return self(parameters)
        points, kernel = self.points, self._expanded(parameters)
        agree = points.processes.agree  # processes may differ in the last digits
        if kernel is not None and agree(self._accurate(kernel)):
            statistics = points.reduce(lambda: self._pass(kernel))
            if not agree(_shrunk(statistics, parameters)):
                return statistics
        return points.reduce(lambda: self._pass(Centred(parameters, self._workspace)))

    def _expanded(self, parameters: MixtureParameters) -> Expanded | None:
        """The expanded kernel, kept for mixtures of one shape; `None` where features are too many."""
        structure, shape, kernel = parameters.structure, parameters.means.shape, self._kernel
        if kernel is not None and kernel.structure == structure and kernel.parameters.means.shape == shape:
            kernel.begin(parameters)
            return kernel
        if not expandable(structure, shape[1]):
            return None
        kernel = self._kernel = Expanded(parameters, self.points.location, self._workspace)
        self._error = kernel.bound(self.points.variance, self.points.radius)
        return kernel

    def _accurate(self, kernel: Expanded) -> bool:
        points = self.points
        if kernel.accurate(self._error):
            return True
        return accurate(kernel.parameters, points.location, points.variance, points.radius)

    @abstractmethod
    def _pass(self, kernel: Kernel) -> SufficientStatistics:
        """Statistics of this process's points, by one pass over them."""


@final
class ExactEStep(KernelEStep):
    """The E step of complete points without noise.

    Its statistics are about the points' location, or about the means of the mixture.

    Args:
        points: `n x D` points in any floating dtype.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.e_step import ExactEStep
        >>> from latentmix.inference.mixtures.points.points import as_points
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
        >>> mixture = MixtureParameters(torch.ones(1).double(), zeros, ones, covariance_structure("diag"))
        >>> ExactEStep(as_points(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))(mixture).counts
        tensor([2.], dtype=torch.float64)
    """

    exact = True

    def _pass(self, kernel: Kernel) -> SufficientStatistics:
        for x, weight in self.points.columns(kernel.rows):
            kernel.expect(x, weight)
        return kernel.statistics()


def as_e_step(points: Tensor | Points | EStep) -> EStep:
    """An E step as it is, or that of `n x D` complete points without noise."""
    return points if isinstance(points, EStep) else ExactEStep(as_points(points))


def _shrunk(statistics: SufficientStatistics, parameters: MixtureParameters) -> bool:
    """Whether a covariance is less than a thousandth of what it was, in any direction: moments lost its digits."""
    structure, factors = parameters.structure, parameters.precisions_cholesky
    if structure.correlated:
        ratio = factors.mT @ statistics.covariances @ factors
        ratio.diagonal(dim1=-2, dim2=-1).sub_(1e-3)
        info = torch.linalg.cholesky_ex(ratio).info
        return int(info.max()) > 0 and bool(((info > 0) & ~statistics.empty).any())
    ratio = statistics.covariances * parameters.precisions
    if float(ratio.amin()) >= 1e-3:
        return False
    return bool((structure.by_component(ratio < 1e-3).any(-1) & ~statistics.empty).any())
