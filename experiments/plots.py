"""Every figure of a run, as functions of arrays that give matplotlib figures and touch no global state."""

from latentmix.experiments.figures_comparison import em_against_svi
from latentmix.experiments.figures_mixtures import Components, confusion_matrices, latent_scatter
from latentmix.experiments.figures_style import save
from latentmix.experiments.figures_vae import decoded_grid, generated, losses, reconstructions

__all__ = [
    "Components",
    "confusion_matrices",
    "decoded_grid",
    "em_against_svi",
    "generated",
    "latent_scatter",
    "losses",
    "reconstructions",
    "save",
]
