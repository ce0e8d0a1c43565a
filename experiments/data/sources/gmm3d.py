"""Points drawn from a known mixture of ten Gaussians in three dimensions."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from latentmix.experiments.data.base import Reading, Source, Split
from latentmix.experiments.reading.limits import MAX_GIB, refuse_larger
from latentmix.models import MixtureParameters
from latentmix.models.mixture.covariances import covariance_structure

__all__ = ["SOURCES", "gmm3d", "three_dimensional_mixture"]

COMPONENTS = 10
HALF_WIDTH = 3.0
SPREADS = (0.15, 0.45)
SEPARATION = 1.9
SEED = 9


def three_dimensional_mixture(components: Collection[int] | None = None) -> MixtureParameters:
    """The mixture behind `gmm3d`, the same at every call: ten components of weight 0.1 in three dimensions.

    Centres are uniform in a cube of side 6, each at least 1.9 from those before it (by rejection), then shifted so that
    the mixture's mean is zero. A component's standard deviations along its three random axes are uniform in 0.15 to
    0.45. Any two centres are therefore more than four standard deviations apart along the line between them, by the
    standard deviation of either component.

    Args:
        components: Keep only these components, in ascending order and with equal weights; by default all ten.

    Returns:
        Float64 parameters with full covariances.

    Example:
        >>> from latentmix.experiments.data.sources.gmm3d import three_dimensional_mixture
        >>> mixture = three_dimensional_mixture()
        >>> mixture.means.shape, mixture.covariances.shape
        (torch.Size([10, 3]), torch.Size([10, 3, 3]))
    """
    generator = torch.Generator().manual_seed(SEED)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    means = torch.empty(0, 3, dtype=torch.float64)
    while len(means) < COMPONENTS:
        candidate = HALF_WIDTH * (2 * uniform(1, 3) - 1)
        if bool((torch.cdist(candidate, means) > SEPARATION).all()):
            means = torch.cat([means, candidate])
    axes, _ = torch.linalg.qr(2 * uniform(COMPONENTS, 3, 3) - 1)
    scales = SPREADS[0] + (SPREADS[1] - SPREADS[0]) * uniform(COMPONENTS, 1, 3)
    factors = axes * scales
    kept = sorted(set(range(COMPONENTS) if components is None else components))
    weights = torch.full((len(kept),), 1 / len(kept), dtype=torch.float64)
    covariances = factors @ factors.mT
    return MixtureParameters(weights, (means - means.mean(0))[kept], covariances[kept], covariance_structure("full"))


def gmm3d(points: int, seed: int) -> tuple[Tensor, Tensor]:
    """Independent draws from `three_dimensional_mixture`.

    Args:
        points: Number of points.
        seed: Seed of the draws; the global random state is not touched.

    Returns:
        A `points x 3` float32 tensor, and the component (0 to 9) of each point.

    Example:
        >>> from latentmix.experiments.data.sources.gmm3d import gmm3d
        >>> x, components = gmm3d(100, seed=0)
        >>> x.shape, x.dtype, components.shape
        (torch.Size([100, 3]), torch.float32, torch.Size([100]))
    """
    mixture = three_dimensional_mixture()
    generator = torch.Generator().manual_seed(seed)
    components = torch.randint(COMPONENTS, (points,), generator=generator)
    noise = torch.randn(points, 3, 1, dtype=torch.float64, generator=generator)
    factors = torch.linalg.cholesky(mixture.covariances)[components]
    return (mixture.means[components] + (factors @ noise).squeeze(-1)).float(), components


def _read(points: int, seed: int, max_gib: float = MAX_GIB) -> Reading:
    refuse_larger(100 * points, max_gib, "the draws", "gmm3d", "--data.max_gib")  # factors of 72 bytes a point
    return Reading([Split(*gmm3d(points, seed))])


SOURCES = (Source("gmm3d", _read, truth=three_dimensional_mixture),)
