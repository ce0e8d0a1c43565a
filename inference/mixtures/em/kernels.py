"""Log-densities and moments of blocks of points under all components at once, expanded or centred."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.quadratic import ExpansionErrorBound, coefficients, expansion_error

__all__ = ["Centred", "Expanded", "Kernel", "Workspace", "accurate", "expandable"]

_LARGEST = 16_384  # rows of a block for each thread, at most
_VALUES = 2**19  # values of a block for each thread: 4 MB, which a cache holds
_TOLERANCE = 1e-10
_LOG2_E = 1 / math.log(2)
# With more, products of pairs outgrow everything else, and the centred kernel is as fast.
_MOST_FEATURES = 64


@final
class Workspace:
    """Memory in float64 that kernels reuse, one after another.

    Attributes:
        turns: How often memory was taken: what was written in an earlier turn is lost.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)
        self.turns = 0

    def take(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """Uninitialised memory of that shape, in the dtype and on the device of `like`."""
        self.turns, size = self.turns + 1, rows * columns
        if self._memory.numel() < size or self._memory.dtype != like.dtype or self._memory.device != like.device:
            with torch.inference_mode(False):  # later passes may run outside of it
                self._memory = like.new_empty(size)
        return self._memory[:size].view(rows, columns)


class Kernel(ABC):
    """Log joints of blocks of points, and the sum of their moments under responsibilities.

    A block is passed to `log_joint`, its responsibilities are written to `responsibilities`, and `add` accumulates;
    `begin` begins with another mixture. Memory is reused from block to block, so that nothing is allocated, and is laid
    out components (or features) by points, so that sums over components run along contiguous points.

    Args:
        parameters: The mixture, in float64.
        values: Values of work space that a point needs.
        workspace: The memory; by default one of the kernel's own.
    """

    def __init__(self, parameters: MixtureParameters, values: int, workspace: Workspace | None) -> None:
        self.structure = parameters.structure
        self.n_components, self.n_features = parameters.means.shape
        threads = torch.get_num_threads() if parameters.means.device.type == "cpu" else 16
        self.rows = max(64, min(threads * _VALUES // values, threads * _LARGEST))
        self._values, self._width, self._turn = values, 0, 0
        self._whole: tuple[float, Tensor] | None = None
        self._workspace = Workspace() if workspace is None else workspace
        self.begin(parameters)

    def begin(self, parameters: MixtureParameters) -> None:
        """Begin a pass under a mixture of the same shape and structure, with no block so far."""
        self.parameters = parameters
        self._log_likelihood: Tensor | None = None
        self._weight: Tensor | float = 0.0

    def log_joint(self, x: Tensor) -> Tensor:
        """Log of weight times density, `K x b`, of `b x D` points in any dtype; valid until the next block.

        The expanded kernel leaves out the square that components of a shared covariance have in common, and takes a
        block as unchanged where it is the same object as the last one.
        """
        if len(x) != self._width or self._turn != self._workspace.turns:
            self._width = len(x)
            self._arrange(self._workspace.take(self._values, self._width, self.parameters.means))
            self._turn = self._workspace.turns
        return self._evaluate(x)

    def expect(self, x: Tensor, weight: Tensor | None = None) -> None:
        """The E step of a block: accumulate its log-likelihood, and its moments under its responsibilities.

        Args:
            x: `b x D` points in any dtype.
            weight: `(b,)` weights in float64.
        """
        joint, responsibilities = self.log_joint(x), self.responsibilities
        greatest = torch.amax(joint, 0)
        # exp of MKL takes twice the time of exp2 on some processors, and ten times where it underflows.
        torch.sub(joint, greatest, out=responsibilities).mul_(_LOG2_E).exp2_()
        summed = responsibilities.sum(0)
        density = greatest.add_(summed.log())
        if weight is None:
            total = density.sum()
            responsibilities.mul_(summed.reciprocal_())
        else:
            total = density @ weight
            responsibilities.mul_(weight / summed)
        self._log_likelihood = total if self._log_likelihood is None else self._log_likelihood + total
        self.add(weight)

    def add(self, weight: Tensor | None) -> None:
        """Accumulate moments of the last block of `log_joint` under what `responsibilities` holds."""
        self._weight += self._width if weight is None else weight.sum()
        self._accumulate(weight)

    def _totals(self) -> tuple[Tensor, Tensor]:
        """Log-likelihood and weight of all blocks."""
        means, log_likelihood, weight = self.parameters.means, self._log_likelihood, self._weight
        if not isinstance(weight, Tensor):  # the same in every pass
            if self._whole is None or self._whole[0] != weight:
                self._whole = weight, means.new_full((), weight)
            weight = self._whole[1]
        return means.new_zeros(()) if log_likelihood is None else log_likelihood, weight

    def common_square(self) -> Tensor | float:
        """Log joints of the last block less those of `log_joint`, the same for all components: `(b,)`."""
        return 0.0

    @property
    @abstractmethod
    def responsibilities(self) -> Tensor:
        """`K x b` work space for the responsibilities of the last block, times the weights of the points."""

    @abstractmethod
    def statistics(self) -> SufficientStatistics:
        """The statistics of all blocks."""

    @abstractmethod
    def _arrange(self, space: Tensor) -> None:
        """Divide the `values x b` work space."""

    @abstractmethod
    def _evaluate(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _accumulate(self, weight: Tensor | None) -> None: ...


@final
class Expanded(Kernel):
    """Log joints as linear functions of quadratic features about a common centre, by one matrix product.

    Another gives the moments. It is accurate where `expansion_error` is small.

    Args:
        parameters: The mixture, in float64.
        centre: `(D,)` common centre.
        workspace: As `Kernel` has it.
    """

    def __init__(self, parameters: MixtureParameters, centre: Tensor, workspace: Workspace | None = None) -> None:
        n_components, n_features = parameters.means.shape
        self._features = parameters.structure.features(n_features, centre.device)
        # Whole groups of four rows make the products faster.
        self._padded = n_components if n_components < 4 else -(-n_components // 4) * 4
        self._centre, self._centres = centre[:, None], centre.expand(n_components, -1)
        self._loaded: Tensor | None = None
        # Of a shared structure the scatter about the centre, which depends on the points alone: the first pass adds it.
        self._total: Tensor | None = None
        self._adds_total = parameters.structure.shared
        super().__init__(parameters, self._features.lead + self._features.count + 2 * self._padded, workspace)

    def begin(self, parameters: MixtureParameters) -> None:
        super().begin(parameters)
        self._offsets, log_scale = parameters.means - self._centres, _log_scale(parameters)
        rows = coefficients(self.structure, self._features, self._offsets, parameters.precisions, log_scale)
        padding = self._padded - self.n_components
        self._coefficients = torch.cat([rows, rows.new_zeros(padding, rows.shape[1])]) if padding else rows
        self._sums: Tensor | None = None
        if self._adds_total:  # a pass before was not completed
            self._total = None

    def bound(self, variance: Tensor, radius: float) -> ExpansionErrorBound:
        """Bounds on `expansion_error` for points about the centre, of that variance and radius."""
        return ExpansionErrorBound(self.structure, self._features, variance, radius)

    def accurate(self, bound: ExpansionErrorBound) -> bool:
        """Whether the error is at most 1e-10 even by that bound; if not, see `accurate`."""
        return bound(self._offsets, self.parameters.precisions) <= _TOLERANCE

    @property
    def responsibilities(self) -> Tensor:
        return self._own_weights

    def common_square(self) -> Tensor | float:
        if not self.structure.shared:
            return 0.0
        white = self.structure.whiten(self._points.mT, self.parameters.precisions_cholesky)
        return -0.5 * white[0].square().sum(1)

    def statistics(self) -> SufficientStatistics:
        size, structure, means = self.n_features, self.structure, self.parameters.means
        log_likelihood, weight = self._totals()
        self._adds_total = False
        sums = means.new_zeros(self._features.count, self._padded) if self._sums is None else self._sums
        sums = sums.narrow(1, 0, self.n_components).mT.contiguous()
        if structure.shared:
            scatter = structure.scatter(means[:0, :1], means[:0, None]) if self._total is None else self._total
            log_likelihood = torch.sub(log_likelihood, (self.parameters.precisions * scatter).sum(), alpha=0.5)
        else:
            scatter = self._features.scatter(sums.narrow(1, size + 1, self._features.size))
        return SufficientStatistics(
            counts=sums.select(1, size),
            sums=sums.narrow(1, 0, size),
            scatter=scatter,
            centres=self._centres,
            log_likelihood=log_likelihood,
            weight=weight,
            structure=structure,
        )

    def _arrange(self, space: Tensor) -> None:
        lead, count = self._features.lead, self._features.count
        self._block = space[: lead + count]
        self._design = space[lead : lead + count]
        self._points = self._design[: self.n_features]
        self._design[self.n_features] = 1.0
        self._joint = space[lead + count : lead + count + self._padded]
        self._weights = space[lead + count + self._padded :]
        self._weights[self.n_components :] = 0.0
        self._loaded = None
        self._own_joint, self._own_weights = self._joint[: self.n_components], self._weights[: self.n_components]

    def _evaluate(self, x: Tensor) -> Tensor:
        if x is not self._loaded:
            torch.sub(x.mT, self._centre, out=self._points)
            self._features.fill(self._block)
            self._loaded = x
        torch.mm(self._coefficients, self._design, out=self._joint)
        return self._own_joint

    def _accumulate(self, weight: Tensor | None) -> None:
        # With the features as rows of the result, which are mostly fewer or wider, products are faster.
        if self._sums is None:
            self._sums = self._design @ self._weights.mT
        else:
            self._sums.addmm_(self._design, self._weights.mT)
        if self._adds_total:
            weights = self._points.new_ones(self._width) if weight is None else weight
            scatter = self.structure.scatter(weights[:, None], self._points.mT[:, None])
            self._total = scatter if self._total is None else self._total + scatter


@final
class Centred(Kernel):
    """Deviations from each component's own mean: always accurate, at several times the cost in few features.

    Args:
        parameters: The mixture, in float64.
        workspace: As `Kernel` has it.
    """

    def __init__(self, parameters: MixtureParameters, workspace: Workspace | None = None) -> None:
        n_components, n_features = parameters.means.shape
        super().__init__(parameters, 2 * n_components * (n_features + 1), workspace)

    def begin(self, parameters: MixtureParameters) -> None:
        super().begin(parameters)
        structure, (n_components, n_features) = self.structure, parameters.means.shape
        self._means = parameters.means[:, :, None]
        self._log_scale = _log_scale(parameters)[:, None]
        factors = structure.by_component(parameters.precisions_cholesky)
        if structure.correlated:
            self._factors = factors.expand(n_components, n_features, n_features).mT
            self._moments = factors.new_zeros(n_components, n_features, n_features)
        else:
            self._factors = factors[..., None]
            self._moments = torch.zeros_like(parameters.means)
        self._counts = torch.zeros_like(parameters.weights)
        self._sums = torch.zeros_like(parameters.means)

    @property
    def responsibilities(self) -> Tensor:
        return self._weights

    def statistics(self) -> SufficientStatistics:
        log_likelihood, weight = self._totals()
        return SufficientStatistics(
            counts=self._counts,
            sums=self._sums,
            scatter=self.structure.scatter_of(self._moments),
            centres=self.parameters.means,
            log_likelihood=log_likelihood,
            weight=weight,
            structure=self.structure,
        )

    def _arrange(self, space: Tensor) -> None:
        size, shape = self.n_components * self.n_features, (*self._means.shape[:2], self._width)
        self._deviations, self._work = space[:size].view(shape), space[size : 2 * size].view(shape)
        self._joint, self._weights = space[2 * size :].view(2, self.n_components, self._width).unbind()

    def _evaluate(self, x: Tensor) -> Tensor:
        torch.sub(x.mT, self._means, out=self._deviations)
        if self.structure.correlated:
            torch.bmm(self._factors, self._deviations, out=self._work)
        else:
            torch.mul(self._factors, self._deviations, out=self._work)
        torch.sum(self._work.square_(), 1, out=self._joint)
        return self._joint.mul_(-0.5).add_(self._log_scale)

    def _accumulate(self, weight: Tensor | None) -> None:
        torch.mul(self._deviations, self._weights[:, None], out=self._work)
        self._counts += self._weights.sum(1)
        self._sums += self._work.sum(2)
        if self.structure.correlated:
            self._moments.baddbmm_(self._work, self._deviations.mT)
        else:
            self._moments += self._work.mul_(self._deviations).sum(2)


def accurate(
    parameters: MixtureParameters, location: Tensor, variance: Tensor, radius: float, *, shared: bool = False
) -> bool:
    """Whether to take the expanded kernel: `expansion_error` is at most 1e-10, and its features are not too many.

    Args:
        parameters: The mixture, in float64.
        location: `(D,)` common centre.
        variance: `(D,)`, as `expansion_error` takes it.
        radius: As `expansion_error` takes it.
        shared: As `expansion_error` takes it.
    """
    structure, n_features = parameters.structure, parameters.means.shape[1]
    if not expandable(structure, n_features):
        return False
    features, means = structure.features(n_features, location.device), parameters.means - location
    error = expansion_error(structure, features, means, parameters.precisions, variance, radius, shared=shared)
    return float(error) <= _TOLERANCE


def expandable(structure: CovarianceStructure, n_features: int) -> bool:
    """Whether quadratic features are not too many for the expanded kernel."""
    return n_features <= _MOST_FEATURES or structure.features(n_features, torch.device("cpu")).size <= n_features


def _log_scale(parameters: MixtureParameters) -> Tensor:
    """Log joints at the components' means, `(K,)`.

    A weight of 0 gives -1e300 instead of -inf, whose product with the zeros that pad a matrix product would be NaN.
    """
    log_scale = parameters.structure.log_scale(parameters.precisions_cholesky, parameters.means.shape[1])
    return parameters.weights.log().clamp_min(-1e300) + log_scale
