"""Points of a Gaussian mixture, for the tests of what is fitted to them."""

import numpy as np

TYPES = ("full", "diag", "tied", "spherical")


def synthetic(n=2000, seed=0, n_components=10):
    state = np.random.RandomState(seed)
    means = state.uniform(-9, 9, (n_components, 3))
    roots = state.randn(n_components, 3, 3) * 0.5
    chosen = state.choice(n_components, n, p=state.dirichlet(np.full(n_components, 5.0)))
    noise = np.einsum("nij,nj->ni", roots[chosen], state.randn(n, 3)) + 0.4 * state.randn(n, 3)
    return means[chosen] + noise
