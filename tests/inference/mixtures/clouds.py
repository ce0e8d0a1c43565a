"""Points of a Gaussian mixture, for the tests of what is fitted to them."""

import numpy as np
import torch

from latentmix.inference.mixtures.em.initialization import _from_memberships, start
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.covariances import covariance_structure

TYPES = ("full", "diag", "tied", "spherical")  # those that scikit-learn has too
ALL_TYPES = (*TYPES, "tied_diag")


def synthetic(n=2000, seed=0, n_components=10):
    state = np.random.RandomState(seed)
    means = state.uniform(-9, 9, (n_components, 3))
    roots = state.randn(n_components, 3, 3) * 0.5
    chosen = state.choice(n_components, n, p=state.dirichlet(np.full(n_components, 5.0)))
    noise = np.einsum("nij,nj->ni", roots[chosen], state.randn(n, 3)) + 0.4 * state.randn(n, 3)
    return means[chosen] + noise


def blobs(seed=0, n=300, n_features=3, n_components=4, spread=0.6):
    """Correlated clouds that overlap more, the wider they spread."""
    random = np.random.RandomState(seed)
    centres = random.uniform(-4, 4, (n_components, n_features))
    roots = random.randn(n_components, n_features, n_features) * spread
    chosen = random.randint(n_components, size=n)
    noise = np.einsum("nij,nj->ni", roots[chosen], random.randn(n, n_features))
    return torch.from_numpy(centres[chosen] + noise + 0.2 * random.randn(n, n_features))


def begin(x, covariance_type, seed=0, n_components=4, **options):
    random_state = np.random.RandomState(seed)
    return start(x, n_components, covariance_structure(covariance_type), random_state=random_state, **options)


def from_responsibilities(x, responsibilities, structure, *, sample_weight=None, reg_covar=1e-6):
    """One M step from responsibilities, `n x K`."""
    points = as_points(x, sample_weight)
    centres = points.location.expand(responsibilities.shape[1], -1)
    return _from_memberships(points, lambda: lambda _, rows: responsibilities[rows], centres, structure, reg_covar)


def from_assignments(x, assignments, n_components, structure, *, reg_covar=1e-6):
    """One M step from assignments, `(n,)`."""
    shares = torch.nn.functional.one_hot(assignments, n_components).double()
    return from_responsibilities(x, shares, structure, reg_covar=reg_covar)


def stretched(condition):
    """Four clouds, each with a covariance of that condition number, in directions of its own."""
    random = np.random.RandomState(0)
    clouds = []
    for centre in (-8.0, -3.0, 3.0, 8.0):
        axes = np.linalg.qr(random.randn(3, 3))[0]
        clouds.append(centre + random.randn(40, 3) * [1.0, condition**-0.25, condition**-0.5] @ axes.T)
    return torch.from_numpy(np.concatenate(clouds))


DEGENERATE = {
    "duplicates": lambda x: x[:5].repeat(12, 1),
    "constant column": lambda x: torch.cat([x, torch.full((60, 1), 7.0, dtype=x.dtype)], 1),
    "constant column far out": lambda x: torch.cat([x, torch.full((60, 1), 1e6, dtype=x.dtype)], 1),
    "one point": lambda x: x[:1].repeat(20, 1),
    "zeros": lambda x: 0 * x,
    "tiny": lambda x: x * 1e-9,
    "huge": lambda x: x * 1e100,
    "columns of all sizes": lambda x: x * torch.tensor([1e-6, 1.0, 1e6]).double(),
    "a copied column": lambda x: torch.cat([x, x[:, :1]], 1),
    "one more than components": lambda x: x[:5],
    "as many as components": lambda x: x[:4],
    "far out in single precision": lambda x: (x + 1e6).float(),
    "far out and tiny": lambda x: x * 1e-3 + 1e6,
    "an outlier": lambda x: torch.cat([x, torch.full((1, 3), 1e8, dtype=x.dtype)]),
    "condition 1e12": lambda x: stretched(1e12),
    "condition 1e18": lambda x: stretched(1e18),
}
