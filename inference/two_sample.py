"""Comparison of samples: coverage of the components of a mixture, and a test of equal distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import chi2
from torch import Tensor

from latentmix.models.display import Displayed
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.words import plural

__all__ = ["Coverage", "TwoSampleTest", "component_coverage", "energy_test"]


@dataclass(frozen=True, repr=False)
class Coverage(Displayed):
    """Coverage of the components of a mixture by a sample.

    Attributes:
        shares: Fraction of the sample inside each component's region, `(K,)`.
        expected: Its expectation for a sample of the mixture itself, if the components do not overlap, `(K,)`.
        covered: Whether the fraction is at least half of its expectation, `(K,)` booleans.
        outside: Fraction of the sample outside all regions.
    """

    shares: Tensor
    expected: Tensor
    covered: Tensor
    outside: float

    def shown(self) -> dict[str, Any]:
        covered = f"{self.n_covered} of {plural(len(self.covered), 'component')}"
        outside = f"{self.outside:.2%} of the sample is in none"
        return {"covered": covered, "outside": outside, "shares": self.shares, "expected": self.expected}

    @property
    def n_covered(self) -> int:
        """Number of covered components."""
        return int(self.covered.sum())


def component_coverage(x: Tensor, mixture: MixtureParameters, *, level: float = 0.99) -> Coverage:
    """Measure which components of a mixture a sample covers.

    A point counts for its most probable component, if it lies in the highest-density region of that component that
    holds a mass of `level`.

    Args:
        x: An `n x D` tensor.
        mixture: The mixture.
        level: Mass of a component's region.

    Raises:
        ValueError: If the points have another number of features, are none or not finite, or the level is not between
            0 and 1.

    Example:
        >>> import torch
        >>> from latentmix.inference.two_sample import component_coverage
        >>> from latentmix.models import MixtureParameters
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> means = torch.tensor([[-5.0], [5.0]])
        >>> mixture = MixtureParameters(torch.full((2,), 0.5), means, torch.ones(2), covariance_structure("spherical"))
        >>> component_coverage(torch.full((10, 1), 5.0), mixture).covered
        tensor([False,  True])
    """
    if x.ndim != 2 or x.shape[1] != mixture.means.shape[1]:
        raise ValueError(f"Expected points of shape (n, {mixture.means.shape[1]}); got {tuple(x.shape)}.")
    if not len(x) or not bool(x.isfinite().all()):
        raise ValueError(
            f"Expected finite points, at least one; got {len(x)}{' with NaN or infinity' if len(x) else ''}."
        )
    if not 0 < level < 1:
        raise ValueError(f"Expected a level between 0 and 1; got {level}.")
    points, means = x.detach().cpu().double(), mixture.means.double()
    nearest = mixture.log_joint(points).argmax(1)
    factors = torch.linalg.cholesky(mixture.expanded_covariances().double())[nearest]
    whitened = torch.linalg.solve_triangular(factors, (points - means[nearest])[..., None], upper=False)
    inside = whitened.square().sum((1, 2)) <= float(chi2.ppf(level, x.shape[1]))
    counts = torch.bincount(nearest[inside], minlength=len(means)).double()
    expected = level * mixture.weights.double()
    shares = counts / len(points)
    return Coverage(shares, expected, shares >= expected / 2, float((~inside).double().mean()))


@dataclass(frozen=True)
class TwoSampleTest:
    """Result of a two-sample test.

    Attributes:
        statistic: The energy distance, 0 for equal distributions.
        p_value: Fraction of permutations with a statistic at least as large, the observed one included.
    """

    statistic: float
    p_value: float


def energy_test(x: Tensor, y: Tensor, *, permutations: int = 199, limit: int = 1500, seed: int = 0) -> TwoSampleTest:
    r"""Test whether two samples have the same distribution: a permutation test of their energy distance.

    The statistic is :math:`2\,E|X - Y| - E|X - X'| - E|Y - Y'|` over the points of the samples, which is 0 only for
    equal distributions (Székely and Rizzo, *Testing for equal distributions in high dimension*, 2004).

    Args:
        x: An `n x D` tensor.
        y: An `m x D` tensor.
        permutations: Number of permutations.
        limit: Most points of each sample, drawn by `seed`; memory grows with the square of their number.
        seed: Seed of draws and permutations; torch's random state is unchanged.

    Raises:
        ValueError: If the samples differ in width, have fewer than two points or values that are not finite, or
            `permutations` is below 1 or `limit` below 2.

    Example:
        >>> import torch
        >>> from latentmix.inference.two_sample import energy_test
        >>> x = torch.linspace(0, 1, 50)[:, None]
        >>> energy_test(x, x + 5).p_value
        0.005
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"Expected two samples of one width with two points or more; got {tuple(x.shape)}, {tuple(y.shape)}."
        )
    if permutations < 1 or limit < 2:
        raise ValueError(f"Expected permutations of at least 1 and a limit of at least 2; got {permutations}, {limit}.")
    if not all(bool(part.isfinite().all()) for part in (x, y)):
        raise ValueError("Expected finite samples; got NaN or infinite values.")
    generator = torch.Generator().manual_seed(seed)
    parts = [part[torch.randperm(len(part), generator=generator)[:limit]].detach().cpu().double() for part in (x, y)]
    n, m = map(len, parts)
    pooled = torch.cat(parts)
    distances = torch.cdist(pooled, pooled)
    labels = torch.zeros(n + m, permutations + 1, dtype=torch.float64)
    labels[:n, 0] = 1.0
    for column in range(1, permutations + 1):
        labels[torch.randperm(n + m, generator=generator)[:n], column] = 1.0
    towards_x = distances @ labels
    within_x = (labels * towards_x).sum(0)
    between = ((1 - labels) * towards_x).sum(0)
    within_y = distances.sum() - within_x - 2 * between
    statistics = 2 * between / (n * m) - within_x / n**2 - within_y / m**2
    extreme = int((statistics >= statistics[0] - 1e-12).sum())
    return TwoSampleTest(max(0.0, float(statistics[0])), extreme / (permutations + 1))
