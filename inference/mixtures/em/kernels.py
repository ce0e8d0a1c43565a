"""Log-densities and moments of blocks of points under all components at once: expanded or centred."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.features import constants, features_for
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["Centred", "Expanded", "Kernel", "accurate", "expansion_error"]

_LARGEST = 16_384  # rows of a block for each thread, at most
_VALUES = 2**19  # values of a block for each thread: 4 MB, which a cache holds
_UNIT = 2.0**-53
_TOLERANCE = 1e-10
# Products of pairs outgrow everything beyond; the centred kernel is as fast there.
_MOST_FEATURES = 64


class Kernel(ABC):
    """One pass over points: blocks of them come, log-joints go out, and shares come back.

    Work space is kept from block to block, so that a pass allocates nothing, and everything is laid out components
    (or features) by points, so that sums over components run along contiguous points.

    Args:
        parameters: The mixture, in float64.

    Attributes:
        space: The work space; one of an earlier pass may be put in its place, and saves the system's clearing it.
    """

    def __init__(self, parameters: MixtureParameters, values: int) -> None:
        """`values`: of the work space, for each point."""
        self.parameters = parameters
        self.n_components, self.n_features = parameters.means.shape
        larger = torch.get_num_threads() if parameters.means.device.type == "cpu" else 16
        self.rows = max(64, min(larger * _VALUES // values, larger * _LARGEST))
        self._values = values
        self.space = parameters.means.new_empty(0)
        self._width = 0

    @torch.no_grad()
    def load(self, x: Tensor) -> Tensor:
        """Log of weight times density, `K x b`, of `b x D` points in any dtype; valid until the next block.

        Under tied covariances the expanded kernel leaves out the square that the components share, see `shared`.
        """
        if len(x) != self._width:
            self._width = len(x)
            if self.space.numel() < self._values * self._width:
                self.space = self.space.new_empty(self._values * self._width)
            self._arrange(self.space[: self._values * self._width].view(self._values, self._width))
        return self._load(x)

    @abstractmethod
    def _arrange(self, space: Tensor) -> None:
        """Divide the `values x b` work space."""

    @abstractmethod
    def _load(self, x: Tensor) -> Tensor: ...

    def shared(self) -> Tensor | float:
        """What the log-joints of the loaded points still lack, the same for all components: `(b,)`."""
        return 0.0

    @abstractmethod
    def add(self, weight: Tensor | None) -> None:
        """Add the moments of the loaded points under the responsibilities in `shares`."""

    @property
    @abstractmethod
    def shares(self) -> Tensor:
        """`K x b` work space for the responsibilities, already times the weights."""

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Counts, sums, scatter and centres, as `SufficientStatistics` has them, of all that was added."""


@final
class Expanded(Kernel):
    """Log-densities as linear functions of features about one common centre: one matrix product there, one back.

    It is accurate where `expansion_error` is small.

    Args:
        parameters: The mixture, in float64.
        centre: `(D,)` common centre.
        total: `D x D` second moments of all points about the centre, where they are known; for tied covariances.
    """

    def __init__(self, parameters: MixtureParameters, centre: Tensor, total: Tensor | None = None) -> None:
        n_components, n_features = parameters.means.shape
        self._features = features_for(parameters.structure, n_features)
        # Whole groups of four rows make the products faster.
        self._padded = n_components if n_components < 4 else -(-n_components // 4) * 4
        super().__init__(parameters, self._features.lead + self._features.count + 2 * self._padded)
        self._centre = centre[:, None]
        coefficients = self._features.coefficients(parameters, centre)
        self._coefficients = coefficients.new_zeros(self._padded, self._features.count)
        self._coefficients[:n_components] = coefficients
        self._sums = torch.zeros_like(self._coefficients)
        self._tied = parameters.structure.name == "tied"
        self._adds_total = self._tied and total is None
        self.total = coefficients.new_zeros(n_features, n_features) if total is None else total

    def _arrange(self, space: Tensor) -> None:
        lead, count = self._features.lead, self._features.count
        self._block = space[: lead + count]
        self._design = space[lead : lead + count]
        self._points = self._design[: self.n_features]
        self._design[self.n_features] = 1.0
        self._joint = space[lead + count : lead + count + self._padded]
        self._weights = space[lead + count + self._padded :]
        self._weights[self.n_components :] = 0.0

    @property
    def shares(self) -> Tensor:
        return self._weights[: self.n_components]

    def _load(self, x: Tensor) -> Tensor:
        torch.sub(x.mT, self._centre, out=self._points)
        self._features.fill(self._block)
        torch.mm(self._coefficients, self._design, out=self._joint)
        return self._joint[: self.n_components]

    def shared(self) -> Tensor | float:
        if not self._tied:
            return 0.0
        return -0.5 * (self.parameters.precisions_cholesky.mT @ self._points).square().sum(0)

    def add(self, weight: Tensor | None) -> None:
        self._sums.addmm_(self._weights, self._design.mT)
        if self._adds_total:
            points = self._points if weight is None else self._points * weight
            self.total.addmm_(points, self._points.mT)

    def moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        size, found = self.n_features, self._sums[: self.n_components]
        scatter = self.total if self._tied else self._features.scatter(found[:, size + 1 :])
        centres = self._centre.mT.expand(self.n_components, size)
        return found[:, size].clone(), found[:, :size].clone(), scatter, centres


@final
class Centred(Kernel):
    """Deviations from each component's own mean: accurate always, at several times the cost in few features.

    Args:
        parameters: The mixture, in float64.
    """

    def __init__(self, parameters: MixtureParameters) -> None:
        n_components, n_features = parameters.means.shape
        super().__init__(parameters, 2 * n_components * (n_features + 1))
        self._means = parameters.means[:, :, None]
        self._constants = constants(parameters)[:, None]
        self._matrices = parameters.structure.name in ("full", "tied")
        factors = parameters.precisions_cholesky
        if self._matrices:
            self._factors = factors.expand(n_components, n_features, n_features).mT
            self._scatter = factors.new_zeros(n_components, n_features, n_features)
        else:
            self._factors = factors.reshape(n_components, -1, 1)
            self._scatter = torch.zeros_like(parameters.means)
        self._counts = torch.zeros_like(parameters.weights)
        self._sums = torch.zeros_like(parameters.means)

    def _arrange(self, space: Tensor) -> None:
        size, shape = self.n_components * self.n_features, (*self._means.shape[:2], self._width)
        self._deviations, self._work = space[:size].view(shape), space[size : 2 * size].view(shape)
        self._joint, self._weights = space[2 * size :].view(2, self.n_components, self._width).unbind()

    @property
    def shares(self) -> Tensor:
        return self._weights

    def _load(self, x: Tensor) -> Tensor:
        torch.sub(x.mT, self._means, out=self._deviations)
        if self._matrices:
            torch.bmm(self._factors, self._deviations, out=self._work)
        else:
            torch.mul(self._factors, self._deviations, out=self._work)
        torch.sum(self._work.square_(), 1, out=self._joint)
        return self._joint.mul_(-0.5).add_(self._constants)

    def add(self, weight: Tensor | None) -> None:
        torch.mul(self._deviations, self.shares[:, None], out=self._work)
        self._counts += self.shares.sum(1)
        self._sums += self._work.sum(2)
        if self._matrices:
            self._scatter.baddbmm_(self._work, self._deviations.mT)
        else:
            self._scatter += self._work.mul_(self._deviations).sum(2)

    def moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        structure, scatter = self.parameters.structure, self._scatter
        if structure.name == "tied":
            scatter = scatter.sum(0)
        elif structure.isotropic:
            scatter = scatter.mean(1, keepdim=True).expand_as(scatter)
        return self._counts, self._sums, scatter, self.parameters.means


def accurate(
    parameters: MixtureParameters, location: Tensor, variance: Tensor, radius: float, *, shared: bool = False
) -> bool:
    """Whether to take the expanded kernel: `expansion_error` is at most 1e-10, and its features are not too many.

    Args:
        parameters: The mixture, in float64.
        location: As `expansion_error` takes them all.
        variance: And so on.
        radius: And so on.
        shared: And so on.
    """
    if parameters.structure.name == "full" and parameters.means.shape[1] > _MOST_FEATURES:
        return False
    return expansion_error(parameters, location, variance, radius, shared=shared) <= _TOLERANCE


def expansion_error(
    parameters: MixtureParameters, location: Tensor, variance: Tensor, radius: float, *, shared: bool = False
) -> float:
    r"""Rounding error of the expanded kernel: of log-densities in nats, of covariances relative to themselves.

    In units of the points' standard deviations about their location, let no point be farther than :math:`R`, a mean
    be at :math:`m_k` and its precision :math:`P_k`, and :math:`\rho_k \ge \lVert |P_k| \rVert_2` the lesser of its
    Frobenius and maximum norms. The terms of a log-density's :math:`F` features sum in size to at most
    :math:`T_k = \tfrac12 (R + \lVert m_k \rVert)^2 \rho_k`; their sum errs by :math:`u \sqrt{F + 8}\, T_k` with
    :math:`u = 2^{-53}`, as the coefficients and features are rounded themselves. Second moments about the location
    are at most :math:`\lVert m_k \rVert^2 + D \le 2 T_k / \rho_k`, so that their errors, :math:`\rho_k` times as much
    of a covariance in its narrowest direction, are of that size too. Under tied covariances the shared square is left
    out, :math:`T_k = (R + \tfrac12 \lVert m_k \rVert) \lVert m_k \rVert \rho_k`, and the second moments of all points
    are at most :math:`D`. Roundings are taken as independent (Higham and Mary, *A new approach to probabilistic
    rounding error analysis*, 2019), in sums of `F` terms or of blocks alike; where they conspire, the root is to be
    squared. Errors met are a tenth to a hundredth of it.

    Args:
        parameters: The mixture, in float64.
        location: `(D,)` common centre.
        variance: `(D,)` squares of the units.
        radius: Greatest distance of a point from the location, in these units.
        shared: Whether the square that tied components share counts too: responsibilities, and the sum of all
            log-densities, do without it, a point's own log-density does not.

    Returns:
        The greater of the two errors over the components; not a number where a covariance is singular.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.kernels import expansion_error
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
        >>> narrow = MixtureParameters(torch.ones(1).double(), zeros, 1e-12 * ones, covariance_structure("diag"))
        >>> expansion_error(narrow, zeros[0], ones[0], 4.0) > 1e-5
        True
    """
    structure, (_, n_features) = parameters.structure, parameters.means.shape
    unit = variance.sqrt()
    factors = parameters.precisions_cholesky
    if structure.name in ("full", "tied"):
        factors = unit[:, None] * factors
        precisions = (factors @ factors.mT).abs()
        norm = torch.minimum(precisions.square().sum((-2, -1)).sqrt(), precisions.sum(-1).amax(-1))
    else:
        norm = (factors.reshape(len(parameters.means), -1).square() * variance).amax(1)
    reach = ((parameters.means - location) / unit).norm(dim=1)
    if structure.name == "tied" and not shared:
        terms = torch.maximum((radius + reach / 2) * reach, reach.new_tensor(float(n_features))) * norm
    else:
        terms = 0.5 * (radius + reach).square() * norm
    roundings = features_for(structure, n_features).count + 8
    return _UNIT * float(roundings) ** 0.5 * float(terms.amax())
