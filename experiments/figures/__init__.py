"""Figures, as functions from arrays to matplotlib figures without global state."""

from latentmix.experiments.figures.comparison import em_against_svi
from latentmix.experiments.figures.confusion import confusion_matrices
from latentmix.experiments.figures.faces import attribute_vectors, interpolations
from latentmix.experiments.figures.groups import group_means, paired_differences
from latentmix.experiments.figures.latents import latent_map, latent_usage
from latentmix.experiments.figures.learning import learning_curves
from latentmix.experiments.figures.mixtures import Components, latent_scatter
from latentmix.experiments.figures.points import coverage, points_in_space, points_pairwise
from latentmix.experiments.figures.posterior_forest import posterior_forest
from latentmix.experiments.figures.rate_distortion import rate_distortion
from latentmix.experiments.figures.reliability import reliability
from latentmix.experiments.figures.style import save
from latentmix.experiments.figures.sweep import sweep_overview
from latentmix.experiments.figures.vae import decoded_grid, generated, losses, reconstructions

__all__ = [
    "Components",
    "attribute_vectors",
    "confusion_matrices",
    "coverage",
    "decoded_grid",
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
    "rate_distortion",
    "reconstructions",
    "reliability",
    "save",
    "sweep_overview",
]
