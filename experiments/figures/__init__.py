"""Figures, as functions from plain arrays to matplotlib figures without global state.

Every function takes NumPy arrays, tensors or lists, and returns a `Figure` that pyplot does not know. With `ax=` it
draws into axes of a figure that the caller has, and returns that figure: one `Axes` for a picture of one panel, else
one for each panel, in reading order, as `plt.subplots` makes them. Of that figure nothing but these axes is changed.
Legends stand within the first of them; captions and titles over several panels are omitted.

Example:
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from latentmix.experiments import figures
    >>> left, right = Figure(figsize=(8, 4)).subplots(1, 2)
    >>> z = np.random.default_rng(0).normal(size=(90, 2))
    >>> figure = figures.latent_scatter(z, np.arange(90) % 3, ax=left)
    >>> figures.latent_usage([2.0, 0.01], [True, False], ax=right) is figure
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentmix.experiments.figures.aggregate import prior_against_posterior
    from latentmix.experiments.figures.arviz_figures import arviz_style
    from latentmix.experiments.figures.calibration import ecdf_differences
    from latentmix.experiments.figures.comparison import em_against_svi
    from latentmix.experiments.figures.confusion import confusion_matrices
    from latentmix.experiments.figures.decoded_means import decoded_components
    from latentmix.experiments.figures.faces import attribute_vectors, interpolations
    from latentmix.experiments.figures.forest import posterior_forest
    from latentmix.experiments.figures.groups import group_means, paired_differences
    from latentmix.experiments.figures.latents import latent_map, latent_usage
    from latentmix.experiments.figures.learning import learning_curves
    from latentmix.experiments.figures.mixtures import Components, latent_scatter
    from latentmix.experiments.figures.points import coverage, points_in_space, points_pairwise
    from latentmix.experiments.figures.rate_distortion_plane import rate_distortion
    from latentmix.experiments.figures.reliability_diagrams import reliability
    from latentmix.experiments.figures.selection import selection_panels
    from latentmix.experiments.figures.style import save
    from latentmix.experiments.figures.sweep import sweep_overview
    from latentmix.experiments.figures.traversing import traversals
    from latentmix.experiments.figures.vae import decoded_grid, generated, losses, reconstructions
    from latentmix.experiments.figures.worst import worst_reconstructions

__all__ = [
    "Components",
    "arviz_style",
    "attribute_vectors",
    "confusion_matrices",
    "coverage",
    "decoded_components",
    "decoded_grid",
    "ecdf_differences",
    "em_against_svi",
    "generated",
    "group_means",
    "interpolations",
    "latent_map",
    "latent_scatter",
    "latent_usage",
    "learning_curves",
    "losses",
    "paired_differences",
    "points_in_space",
    "points_pairwise",
    "posterior_forest",
    "prior_against_posterior",
    "rate_distortion",
    "reconstructions",
    "reliability",
    "save",
    "selection_panels",
    "sweep_overview",
    "traversals",
    "worst_reconstructions",
]

_HOMES = {
    "Components": "mixtures",
    "arviz_style": "arviz_figures",
    "attribute_vectors": "faces",
    "confusion_matrices": "confusion",
    "coverage": "points",
    "decoded_components": "decoded_means",
    "decoded_grid": "vae",
    "ecdf_differences": "calibration",
    "em_against_svi": "comparison",
    "generated": "vae",
    "group_means": "groups",
    "interpolations": "faces",
    "latent_map": "latents",
    "latent_scatter": "mixtures",
    "latent_usage": "latents",
    "learning_curves": "learning",
    "losses": "vae",
    "paired_differences": "groups",
    "points_in_space": "points",
    "points_pairwise": "points",
    "posterior_forest": "forest",
    "prior_against_posterior": "aggregate",
    "rate_distortion": "rate_distortion_plane",
    "reconstructions": "vae",
    "reliability": "reliability_diagrams",
    "save": "style",
    "selection_panels": "selection",
    "sweep_overview": "sweep",
    "traversals": "traversing",
    "worst_reconstructions": "worst",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access, with what it alone needs."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
