"""Latents projected on a plane: that of their pictures, and by t-SNE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from latentmix.experiments.figures.planes import Plane, latent_plane
from latentmix.experiments.figures.style import Array, as_array
from latentmix.models.display import Displayed
from latentmix.models.process_state import kept_filters

__all__ = ["Projections", "project"]


@final
@dataclass(frozen=True, repr=False)
class Projections(Displayed):
    """Projections of some latents on a plane.

    Attributes:
        rows: The n projected rows of the N latents, ascending.
        points: By method, an `n x 2` float64 array.
        plane: The plane of the first method.
    """

    rows: NDArray[np.int64]
    points: dict[str, Array]
    plane: Plane


def project(latents: ArrayLike | Tensor, *, limit: int = 1500, seed: int = 0) -> Projections:
    """Project latents on `latent_plane`, and those of more than two dimensions by t-SNE as well.

    The plane is that of all latents. t-SNE (van der Maaten and Hinton, *Visualizing data using t-SNE*, 2008) is
    initialized from their principal components and sees only `limit` latents, because its time grows with their number
    (about 5 s for 1500).

    Args:
        latents: An `N x D` array, N being at least 4 and D at least 2.
        limit: Most points, spread evenly over the N.
        seed: Seed of t-SNE.

    Raises:
        ValueError: If there are too few latents or dimensions, or a latent is not finite.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.runs.projections import project
        >>> latents = np.random.default_rng(0).normal(size=(60, 5)) * [3, 2, 1, 1, 1]
        >>> projections = project(latents, limit=20)
        >>> {name: points.shape for name, points in projections.points.items()}
        {'PCA': (20, 2), 't-SNE': (20, 2)}
        >>> list(project(latents[:, :2]).points)
        ['z']
    """
    data = as_array(latents)
    if data.ndim != 2 or len(data) < 4 or data.shape[1] < 2 or limit < 4:
        raise ValueError(f"Expected 4 or more latents of shape N x D with D >= 2; got {data.shape}, at most {limit}.")
    if not np.isfinite(data).all():
        raise ValueError("Expected finite latents; got NaN or infinity among them.")
    rows = np.linspace(0, len(data) - 1, min(limit, len(data))).astype(np.int64)
    plane = latent_plane(data)
    if data.shape[1] == 2:
        return Projections(rows, {"z": data[rows]}, plane)
    flat = plane.project(data[rows])
    scale = float(np.abs(data - plane.origin).max())
    if scale <= 1e-12 * float(np.abs(data).max(initial=1.0)):
        return Projections(rows, {"PCA": np.zeros_like(flat), "t-SNE": np.zeros_like(flat)}, plane)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    tsne = TSNE(2, init="pca", perplexity=perplexity, random_state=seed)
    with kept_filters(), threadpool_limits(1):  # its thousand short parallel regions take minutes on shared cores
        neighbours = tsne.fit_transform((data[rows] - plane.origin) / scale)
    return Projections(rows, {"PCA": flat, "t-SNE": as_array(neighbours)}, plane)
