"""The plane that latents are drawn in, the same in every picture of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.style import Array, as_array, check_finite

__all__ = ["Plane", "latent_plane"]


@final
@dataclass(frozen=True)
class Plane:
    """A plane through a latent space.

    Args:
        origin: The D coordinates of its origin.
        directions: Its two axes, a `D x 2` array with orthonormal columns.
        names: Names of the two axes.
        explained: Fractions of the variance along the axes.
    """

    origin: Array
    directions: Array
    names: tuple[str, str]
    explained: tuple[float, float]

    def project(self, latents: ArrayLike | Tensor) -> Array:
        """Coordinates in the plane: `N x 2` of `N x D` latents."""
        return (as_array(latents) - self.origin) @ self.directions

    def project_covariances(self, covariances: ArrayLike | Tensor) -> Array:
        """Covariances in the plane: `K x 2 x 2` of `K x D x D`."""
        return np.asarray(self.directions.T @ as_array(covariances) @ self.directions)


def latent_plane(latents: ArrayLike | Tensor) -> Plane:
    """The plane of two-dimensional latents themselves, or of the first two principal components of longer ones.

    Each principal component points to where the largest of its coefficients is positive, so that the same latents are
    drawn alike in every picture.

    Args:
        latents: An `N x D` array with D of at least 2.

    Raises:
        ValueError: If the latents have another shape.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures.planes import latent_plane
        >>> latents = np.random.default_rng(0).normal(size=(60, 3)) * [3, 2, 1]
        >>> latent_plane(latents[:, :2]).names
        ('z₁', 'z₂')
        >>> latent_plane(latents).names[0]
        'principal component 1 (75% of the variance)'
    """
    data = as_array(latents)
    if data.ndim != 2 or data.shape[1] < 2 or not len(data):
        raise ValueError(f"Expected latents of shape N x D with D >= 2; got {data.shape}.")
    check_finite(latents=data)
    origin = data.mean(axis=0)
    centred = data - origin
    variances = centred.var(axis=0)
    total = float(variances.sum())
    if data.shape[1] == 2:
        first, second = (float(variance / total) if total else 0.0 for variance in variances)
        return Plane(np.zeros(2), np.eye(2), ("z₁", "z₂"), (first, second))
    if float(np.abs(centred).max()) <= 1e-12 * float(np.abs(data).max(initial=1.0)):
        directions, explained = np.eye(data.shape[1])[:, :2], (0.0, 0.0)
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred / len(data))
        directions = vectors[:, [-1, -2]]
        directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), [0, 1]])
        explained = (float(values[-1] / total), float(values[-2] / total))
    names = [f"principal component {k + 1} ({part:.0%} of the variance)" for k, part in enumerate(explained)]
    return Plane(origin, directions, (names[0], names[1]), explained)
