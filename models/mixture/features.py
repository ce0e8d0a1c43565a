"""Quadratic features of points, in which the log-density of every Gaussian is linear."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import final

import torch
from torch import Tensor

__all__ = ["NoSquares", "Products", "QuadraticFeatures", "SquaredNorm", "Squares"]


class QuadraticFeatures(ABC):
    r"""The features :math:`z`, 1, and as many squares and products as a covariance structure needs.

    The log-density of a Gaussian is :math:`c + b^\top z - \tfrac12 z^\top P z` with the precision :math:`P`,
    :math:`b = P \mu`, and :math:`z` and :math:`\mu` taken from a common centre. Responsibilities times the features,
    summed over the points, are sufficient statistics.

    Features are rows and points are columns of a block in memory. The points' own coordinates are written to it, and
    `fill` computes the rest in place.

    Args:
        n_features: Number of features `D` of the points.
        device: Device of the points.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture.features import Products
        >>> products = Products(2, torch.device("cpu"))
        >>> block = torch.ones(products.lead + products.count, 1)
        >>> block[products.lead : products.lead + 2] = torch.tensor([[2.0], [3.0]])
        >>> products.fill(block)
        >>> block[products.lead :, 0]
        tensor([2., 3., 1., 4., 9., 6.])
    """

    def __init__(self, n_features: int, device: torch.device) -> None:
        self.n_features, self.device = n_features, device

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of squares and products."""

    @property
    def lead(self) -> int:
        """Rows of work space in front of the features."""
        return 0

    @property
    def count(self) -> int:
        """Number of features: `D + 1 + size`."""
        return self.n_features + 1 + self.size

    @abstractmethod
    def fill(self, block: Tensor) -> None:
        """Compute squares and products of the `D` rows that follow the leading ones of a `(lead + count) x n` block."""

    @abstractmethod
    def coefficients(self, precisions: Tensor) -> Tensor:
        """Coefficients of the squares and products, `... x size`, from precisions in their stored shape."""

    @abstractmethod
    def scatter(self, moments: Tensor) -> Tensor:
        """Sums of the squares and products, `K x size`, in the shape of the structure's scatter."""


@final
class Products(QuadraticFeatures):
    """All products of two features, each once: of each feature and the one `s` places on, cyclically."""

    @cached_property
    def _places(self) -> Tensor:
        """The index of each product in a flat `D x D` matrix, row by row: `(size,)`."""
        place = torch.arange(self.size, device=self.device)
        first = place % self.n_features
        return first * self.n_features + (first + place // self.n_features) % self.n_features

    @cached_property
    def _once(self) -> Tensor:
        """Coefficients of the products in minus half a quadratic form whose symmetric matrix holds ones: `(size,)`."""
        square = self._places % (self.n_features + 1) == 0
        return -torch.where(square, 0.5, 1.0).double()

    @cached_property
    def _products(self) -> Tensor:
        """The product that stands in each place of a flat symmetric `D x D` matrix: `(D * D,)`."""
        products = torch.empty(self.n_features**2, dtype=torch.long, device=self.device)
        rows, columns = self._places // self.n_features, self._places % self.n_features
        products[columns * self.n_features + rows] = products[self._places] = torch.arange(
            self.size, device=self.device
        )
        return products

    @property
    def size(self) -> int:
        return self.n_features * (self.n_features + 1) // 2

    @property
    def lead(self) -> int:
        return self.n_features

    def fill(self, block: Tensor) -> None:
        size, rows = self.n_features, block.shape[1]
        points, products = block[size : 2 * size], block[2 * size + 1 :]
        block[:size] = points
        whole, half = (size + 1) // 2, size // 2
        # Points stand twice, one above the other: row `s` of `shifted` is the points moved by `s` places, cyclically.
        shifted = block.as_strided((whole, size, rows), (rows, rows, 1), block.storage_offset())
        torch.mul(points, shifted, out=products[: whole * size].view(whole, size, rows))
        if size % 2 == 0:
            torch.mul(points[:half], points[half:], out=products[whole * size :])

    def coefficients(self, precisions: Tensor) -> Tensor:
        chosen = precisions.flatten(-2).index_select(-1, self._places)
        return chosen * self._once.to(precisions.dtype)

    def scatter(self, moments: Tensor) -> Tensor:
        return moments.index_select(1, self._products).view(-1, self.n_features, self.n_features)


@final
class Squares(QuadraticFeatures):
    """The square of each feature."""

    @property
    def size(self) -> int:
        return self.n_features

    def fill(self, block: Tensor) -> None:
        torch.square(block[: self.n_features], out=block[self.n_features + 1 :])

    def coefficients(self, precisions: Tensor) -> Tensor:
        return -0.5 * precisions

    def scatter(self, moments: Tensor) -> Tensor:
        return moments


@final
class SquaredNorm(QuadraticFeatures):
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

    def coefficients(self, precisions: Tensor) -> Tensor:
        return (-0.5 * precisions).unsqueeze(-1)

    def scatter(self, moments: Tensor) -> Tensor:
        return (moments / self.n_features).expand(-1, self.n_features)


@final
class NoSquares(QuadraticFeatures):
    """No squares: under a shared covariance their term, the same for all components, cancels in responsibilities."""

    @property
    def size(self) -> int:
        return 0

    def fill(self, block: Tensor) -> None:
        pass

    def coefficients(self, precisions: Tensor) -> Tensor:
        raise NotImplementedError("A shared covariance has no squares of single components.")

    def scatter(self, moments: Tensor) -> Tensor:
        raise NotImplementedError("The scatter of a shared covariance is that of all points.")
