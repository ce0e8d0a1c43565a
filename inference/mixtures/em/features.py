"""Log-densities of Gaussians as linear functions of features of the points: one matrix product for all components."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["Features", "constants", "features_for"]

_LOG_TWO_PI = math.log(2 * math.pi)


class Features(ABC):
    r"""What a log-density is linear in: :math:`z`, 1, and as many squares and products as the structure needs.

    The log of weight times density of component `k` is :math:`c_k + b_k^\top z - \tfrac12 z^\top P_k z` with the
    precision :math:`P_k`, :math:`b_k = P_k \mu_k`, and :math:`z` and :math:`\mu_k` taken from a common centre.
    Responsibilities times the features, summed over the points, are the sufficient statistics of the M step.

    Args:
        n_features: Number of features `D` of the points.
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of squares and products."""

    @property
    def lead(self) -> int:
        """Rows of work space before the features."""
        return 0

    @property
    def count(self) -> int:
        """Number of features: `D + 1 + size`."""
        return self.n_features + 1 + self.size

    @abstractmethod
    def fill(self, block: Tensor) -> None:
        """Squares and products from the `D` rows after the leading ones: `block` is `lead + count` x b."""

    @abstractmethod
    def squares(self, precisions_cholesky: Tensor) -> Tensor:
        """Coefficients of the squares and products, `K x size`."""

    @abstractmethod
    def scatter(self, moments: Tensor) -> Tensor:
        """`K x size` moments in the shape that `SufficientStatistics` has for the structure."""

    def coefficients(self, parameters: MixtureParameters, centre: Tensor) -> Tensor:
        """Coefficients of all features, `K x count`, about the `(D,)` centre."""
        means, factors = parameters.means - centre, parameters.precisions_cholesky
        if parameters.structure.name in ("full", "tied"):
            scaled = (means[:, None] @ factors)[:, 0]
            linear = (factors @ scaled[..., None])[..., 0]
        else:
            factors = factors.reshape(len(means), -1)
            scaled = means * factors
            linear = scaled * factors
        constant = constants(parameters) - 0.5 * scaled.square().sum(1)
        parts = [linear, constant[:, None]]
        if self.size:
            parts.append(self.squares(parameters.precisions_cholesky))
        return torch.cat(parts, dim=1)


def constants(parameters: MixtureParameters) -> Tensor:
    """What of the log of weight times density does not depend on the point: `(K,)`; of a weight of 0 it is -1e300.

    A finite number, as infinity times zero, of which matrix products may pad their blocks, is no number.
    """
    factors, n_features = parameters.precisions_cholesky, parameters.means.shape[1]
    match parameters.structure.name:
        case "full" | "tied":
            log_det = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        case "diag":
            log_det = factors.log().sum(-1)
        case "spherical":
            log_det = n_features * factors.log()
    return parameters.weights.log().clamp_min(-1e300) + log_det - 0.5 * n_features * _LOG_TWO_PI


@final
class _Products(Features):
    """All products of two features, each once: of each feature and the one `s` places on, cyclically.

    One product of two overlapping views makes them all.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self._shifts = n_features // 2 + 1

    @property
    def size(self) -> int:
        return self._shifts * self.n_features

    @property
    def lead(self) -> int:
        return self.n_features

    def fill(self, block: Tensor) -> None:
        size, rows = self.n_features, block.shape[1]
        points = block[size : 2 * size]
        block[:size] = points
        shifted = block.as_strided((self._shifts, size, rows), (rows, rows, 1))
        torch.mul(points, shifted, out=block[2 * size + 1 :].view(self._shifts, size, rows))

    def squares(self, precisions_cholesky: Tensor) -> Tensor:
        size, device = self.n_features, precisions_cholesky.device
        precisions = precisions_cholesky @ precisions_cholesky.mT
        shifts = torch.arange(self._shifts, device=device)[:, None]
        row = torch.arange(size, device=device)
        once = torch.where((shifts == 0) | (2 * shifts == size), 0.5, 1.0).to(precisions)
        return -(once * precisions[:, row, (row + shifts) % size]).flatten(1)

    def scatter(self, moments: Tensor) -> Tensor:
        size = self.n_features
        row = torch.arange(size, device=moments.device)[:, None]
        ahead, behind = (row.T - row) % size, (row - row.T) % size
        first = (ahead < behind) | ((ahead == behind) & (row <= row.T))
        return moments[:, torch.where(first, ahead * size + row, behind * size + row.T)]


@final
class _Squares(Features):
    """The square of each feature."""

    @property
    def size(self) -> int:
        return self.n_features

    def fill(self, block: Tensor) -> None:
        torch.square(block[: self.n_features], out=block[self.n_features + 1 :])

    def squares(self, precisions_cholesky: Tensor) -> Tensor:
        return -0.5 * precisions_cholesky.square()

    def scatter(self, moments: Tensor) -> Tensor:
        return moments


@final
class _Norm(Features):
    """The squared norm."""

    @property
    def size(self) -> int:
        return 1

    @property
    def lead(self) -> int:
        return self.n_features

    def fill(self, block: Tensor) -> None:
        size = self.n_features
        torch.square(block[size : 2 * size], out=block[:size])
        torch.sum(block[:size], 0, out=block[-1])

    def squares(self, precisions_cholesky: Tensor) -> Tensor:
        return -0.5 * precisions_cholesky.square()[:, None]

    def scatter(self, moments: Tensor) -> Tensor:
        return (moments / self.n_features).expand(-1, self.n_features)


@final
class _Linear(Features):
    """No squares: all components share theirs."""

    @property
    def size(self) -> int:
        return 0

    def fill(self, block: Tensor) -> None:
        pass

    def squares(self, precisions_cholesky: Tensor) -> Tensor:
        raise NotImplementedError("Tied covariances have no squares of their own.")

    def scatter(self, moments: Tensor) -> Tensor:
        raise NotImplementedError("The scatter of tied covariances is that of all points.")


_FEATURES: dict[str, type[Features]] = {"full": _Products, "tied": _Linear, "diag": _Squares, "spherical": _Norm}


def features_for(structure: CovarianceStructure, n_features: int) -> Features:
    """The features that log-densities under covariances of that structure are linear in."""
    return _FEATURES[structure.name](n_features)
