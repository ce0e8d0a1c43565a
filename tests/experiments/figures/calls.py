"""A call of every picture function, of plain arrays alone, for tests that hold of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from latentmix.experiments import figures
from latentmix.inference.mixtures.analysis.selected import Selection
from latentmix.inference.mixtures.analysis.selection import select

__all__ = ["CALLS", "Call"]


@dataclass(frozen=True)
class Call:
    """A call of a picture function.

    Args:
        arrays: Its arrays by the name of the argument, or mappings of them.
        panels: Number of panels.
        options: Other arguments.
        spoilt: Argument whose array may not hold NaN; empty if the function has no such array.
        projection: Projection of the panels.
    """

    arrays: Mapping[str, Any]
    panels: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    spoilt: str = ""
    projection: str | None = None

    def draw(self, name: str, convert: Callable[[Any], Any] = lambda array: array, **options: Any) -> Any:
        """Call the function, with every array converted."""
        arrays = {argument: _each(value, convert) for argument, value in self.arrays.items()}
        return getattr(figures, name)(**arrays, **self.options, **options)


def _each(value: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _each(part, convert) for key, part in value.items()}
    return convert(value) if isinstance(value, np.ndarray) else value


@cache
def selection() -> Selection:
    points = np.random.RandomState(0).randn(60, 2)
    return select(points, [1, 2], ["diag"], criteria=["bic", "icl"], n_init=1)


RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(size=(12, 1, 6, 6))
PLANE = RANDOM.normal(size=(60, 2))
SPACE = RANDOM.normal(size=(40, 3))
OWNERS = np.arange(40) % 2
LABELS = np.arange(60) % 3
BINS = {"count": np.array([2.0, 8.0]), "confidence": np.array([0.4, 0.9]), "accuracy": np.array([0.5, 0.8])}
CURVE = {"bins": BINS, "ece": 0.1}
COMPONENTS = figures.Components(np.zeros((2, 3)), np.stack([np.eye(3)] * 2))
NUTS = {name: np.array(values) for name, values in {"point": [0.4, 0.6], "sd": [0.1] * 2}.items()}
NUTS |= {"low": np.array([0.3, 0.5]), "high": np.array([0.5, 0.7])}
AXES = {"likelihood": ["Bernoulli", "Gaussian"], "prior": ["StandardNormal", "MixturePrior"]}
CELLS = [
    {
        "options": {"likelihood": likelihood, "prior": prior},
        "status": "done",
        "group": "mass on {0, 1}" if likelihood == "Bernoulli" else "density",
        "figures": {"elbo": [-100.0 + k, -99.5 - k], "mse": 0.01 * (k + 1)},
    }
    for k, (likelihood, prior) in enumerate(product(*AXES.values()))
]

CALLS: dict[str, Call] = {
    "attribute_vectors": Call(
        {"originals": IMAGES[:3], "rows": {"Smiling": np.stack([IMAGES[:5]] * 3)}},
        options={"steps": [-2, -1, 0, 1, 2]},
        spoilt="originals",
    ),
    "confusion_matrices": Call({"matrices": {"EM": np.eye(3) * 7, "SVI": np.eye(3)}}, 2, {"classes": [1, 4, 8]}),
    "coverage": Call(
        {"fractions": np.array([0.5, 0.01]), "expected": np.array([0.5, 0.5]), "covered": np.array([True, False])},
        spoilt="fractions",
    ),
    "decoded_components": Call({"images": IMAGES[:3], "weights": np.array([0.5, 0.3, 0.2])}, spoilt="weights"),
    "decoded_grid": Call(
        {"images": IMAGES[:6], "first": np.array([-1.0, 0.0, 1.0]), "second": np.array([0.0, 1.0])}, spoilt="images"
    ),
    "ecdf_differences": Call(
        {"reports": {"mean": RANDOM.integers(0, 20, 50), "scale": RANDOM.integers(0, 20, 50)}}, 2, {"n_draws": 19}
    ),
    "em_against_svi": Call(
        {
            "traces": {"em": np.array([-3.0, -2.5]), "svi": np.array([-3.0, -2.6, -2.5])},
            "weights": {"em": np.array([0.5, 0.5]), "svi": np.array([0.4, 0.6])},
            "mean_distances": np.array([0.1, 0.2]),
        },
        3,
        {"mixtures": {}, "assigned_alike": 0.97},
        spoilt="mean_distances",
    ),
    "generated": Call({"images": IMAGES}, spoilt="images"),
    "group_means": Call(
        {
            "values": {
                "elbo": {"narrow": np.array([-101.2, -100.8]), "wide": np.array([-99.0])},
                "mse": {"wide": np.array([0.1])},
            },
            "intervals": {"elbo": {"narrow": np.array([-101.6, -100.4])}},
        },
        4,
        {"measures": {"narrow": "density", "wide": "mass on {0, 1}"}},
    ),
    "interpolations": Call(
        {"endpoints": IMAGES[:2], "straight": IMAGES[:8], "spherical": IMAGES[:8]}, 4, spoilt="straight"
    ),
    "latent_map": Call(
        {"projections": {"PCA": PLANE, "t-SNE": PLANE}, "values": LABELS}, 2, {"axes": ("first", "second")}
    ),
    "latent_scatter": Call({"latents": PLANE, "labels": LABELS}, spoilt="latents"),
    "latent_usage": Call({"kl_per_dim": np.array([2.0, 0.01]), "active": np.array([True, False])}, spoilt="kl_per_dim"),
    "learning_curves": Call(
        {
            "curves": {
                "narrow": {"training": np.array([[120.0, 110.0]]), "validation": np.array([[122.0, 111.0]])},
                "wide": {"training": np.array([[8.0, 7.0], [9.0, 6.0]]), "validation": np.array([[8.5, 7.5]])},
            }
        },
        4,
        {"measures": {"narrow": "density", "wide": "mass on {0, 1}"}},
    ),
    "losses": Call({"history": {"training": np.array([3.0, 2.0, 1.5]), "validation": np.array([3.1, 2.2, np.nan])}}),
    "paired_differences": Call(
        {"differences": {"elbo": {"wide": np.array([1.2, 0.6, 1.8])}, "mse": {"wide": np.array([-0.1, -0.2, 0.1])}}},
        2,
        {"reference": "narrow", "p_values": {"elbo": {"wide": 0.01}}},
    ),
    "points_in_space": Call(
        {"real": SPACE, "sampled": SPACE, "components_real": OWNERS, "components_sampled": OWNERS},
        2,
        spoilt="real",
        projection="3d",
    ),
    "points_pairwise": Call(
        {"real": SPACE, "sampled": SPACE, "components_real": OWNERS, "components_sampled": OWNERS},
        6,
        {"mixture": COMPONENTS},
        spoilt="sampled",
    ),
    "posterior_forest": Call(
        {"fits": {"EM": {"point": np.array([0.41, 0.59])}, "NUTS": NUTS}},
        1,
        {"quantities": [("weight", 0, None), ("weight", 1, None)], "components": ["a", "b"]},
    ),
    "prior_against_posterior": Call({"posterior": PLANE, "prior": PLANE + 0.5}, 2, spoilt="prior"),
    "rate_distortion": Call({"points": {"one": np.array([25.0, 80.0]), "two": np.array([12.0, 99.0])}}),
    "reconstructions": Call({"originals": IMAGES, "means": IMAGES}, spoilt="means"),
    "reliability": Call({"fits": {"EM": {"n_draws": 100, "plug_in": CURVE, "draws": CURVE}}}, 2),
    "selection_panels": Call({}, 2, {"selection": selection()}),
    "sweep_overview": Call({}, 2, {"cells": CELLS, "axes": AXES}),
    "traversals": Call({"images": IMAGES.reshape(2, 6, 1, 6, 6), "values": np.linspace(-2, 2, 6)}, spoilt="values"),
    "worst_reconstructions": Call({"originals": IMAGES, "means": IMAGES * 0.8}, 2, spoilt="originals"),
}
