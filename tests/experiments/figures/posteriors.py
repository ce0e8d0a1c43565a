"""Trees for ArviZ of made-up draws: of mixtures, and of eight schools."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["mixture_tree", "schools_tree"]


def mixture_tree(components: int, features: int, by: str = "mcmc", *, draws: int = 60, points: int = 24) -> xr.DataTree:
    """A tree with every group that a plot needs; `by` "svi" it has one chain, and densities of the draws."""
    random, chains = np.random.default_rng(0), 1 if by == "svi" else 2
    places = {"component": np.arange(components), "feature": np.arange(features)}
    centres = random.normal(size=(components, features)) * 4

    def sites(chains: int, draws: int, spread: float) -> xr.Dataset:
        weights = random.dirichlet(np.full(components, 20.0), (chains, draws))
        means = centres + random.normal(size=(chains, draws, components, features)) * spread
        scales = np.exp(random.normal(size=means.shape) * 0.2)
        return xr.Dataset(
            {
                "weights": (("chain", "draw", "component"), weights),
                "means": (("chain", "draw", "component", "feature"), means),
                "scales": (("chain", "draw", "component", "feature"), scales),
            },
            coords={"chain": np.arange(chains), "draw": np.arange(draws), **places},
        )

    x = centres[np.arange(points) % components] + random.normal(size=(points, features))
    replicates = centres[np.arange(points) % components] + random.normal(size=(chains, draws, points, features))
    density = -0.5 * random.chisquare(features, (chains, draws, points))
    data = {"point": np.arange(points), "feature": places["feature"]}
    of_draws = {"chain": np.arange(chains), "draw": np.arange(draws)}
    groups = {
        "posterior": sites(chains, draws, 0.3),
        "sample_stats": statistics(by, chains, draws),
        "log_likelihood": xr.Dataset(
            {"x": (("chain", "draw", "point"), density)}, {**of_draws, "point": data["point"]}
        ),
        "posterior_predictive": xr.Dataset(
            {"x": (("chain", "draw", "point", "feature"), replicates)}, {**of_draws, **data}
        ),
        "observed_data": xr.Dataset({"x": (("point", "feature"), x)}, data),
        "prior": sites(1, 100, 5.0),
    }
    return marked(groups, by)


def schools_tree(by: str = "mcmc", *, draws: int = 60) -> xr.DataTree:
    """A tree of scalars and of a variable of eight schools with long names, its prior of heavy tails."""
    random, chains = np.random.default_rng(1), 1 if by == "svi" else 4
    names = ["Choate", "Deerfield", "Phillips Andover", "Phillips Exeter", "Hotchkiss", "Lawrenceville", "St. Paul's"]
    school = np.array([*names, "Mt. Hermon"])

    def sites(chains: int, draws: int, tau: NDArray[np.float64]) -> xr.Dataset:
        mu = random.normal(4, 3, (chains, draws))
        theta = mu[..., None] + tau[..., None] * random.normal(size=(chains, draws, 8))
        return xr.Dataset(
            {
                "mu": (("chain", "draw"), mu),
                "tau": (("chain", "draw"), tau),
                "theta": (("chain", "draw", "school"), theta),
            },
            coords={"chain": np.arange(chains), "draw": np.arange(draws), "school": school},
        )

    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    of_draws = {"chain": np.arange(chains), "draw": np.arange(draws), "school": school}
    shape, dims = (chains, draws, 8), ("chain", "draw", "school")
    groups = {
        "posterior": sites(chains, draws, np.abs(random.normal(0, 3, (chains, draws)))),
        "sample_stats": statistics(by, chains, draws),
        "log_likelihood": xr.Dataset({"y": (dims, random.normal(-4, 0.3, shape))}, of_draws),
        "posterior_predictive": xr.Dataset({"y": (dims, random.normal(5, 12, shape))}, of_draws),
        "observed_data": xr.Dataset({"y": ("school", y)}, {"school": school}),
        "prior": sites(1, 200, np.abs(random.standard_cauchy((1, 200)))),
    }
    return marked(groups, by)


def statistics(by: str, chains: int, draws: int) -> xr.Dataset:
    """Statistics of the draws of Markov chains, two of them divergent; or densities by SVI."""
    random, dims = np.random.default_rng(2), ("chain", "draw")
    values: dict[str, Any] = {"log_p": random.normal(-50, 0.3, (chains, draws))}
    values["log_q"] = values["log_p"] + random.normal(0, 0.3, (chains, draws))
    if by != "svi":
        diverging = np.zeros((chains, draws), dtype=bool)
        diverging[0, [3, 7]] = True
        values = {"energy": random.normal(50, 3, (chains, draws)), "diverging": diverging}
        values["reached_max_tree_depth"] = np.zeros_like(diverging)
    coords = {"chain": np.arange(chains), "draw": np.arange(draws)}
    return xr.Dataset({name: (dims, value) for name, value in values.items()}, coords)


def marked(groups: dict[str, xr.Dataset], by: str) -> xr.DataTree:
    tree = xr.DataTree.from_dict(groups)
    tree.attrs.update({"inference": by, "guide": "AutoNormal"} if by == "svi" else {"inference": by, "kernel": "NUTS"})
    return tree
