"""Labels, decimals and directions of the figures of runs, without what reads runs."""

from __future__ import annotations

from latentmix.experiments.options.names import fit_name

__all__ = ["NATS", "better_of", "decimals_of", "label_of"]

NATS = ("elbo", "iw_log_likelihood", "log_likelihood", "kl", "mutual_information", "marginal_kl")
LOWER = ("mse", "squared_error", "ece", "nll", "bits_per_dimension")  # figures of which less is better
NEUTRAL = ("kl", "mutual_information", "marginal_kl", "active_units", "parameters", "seconds")
DECIMALS = {
    **dict.fromkeys(NATS, 2),
    "mse": 4,
    "squared_error": 4,
    "active_units": 1,
    "parameters": 0,
    "seconds": 1,
}
LABELS = {
    "elbo": "ELBO",
    "iw_log_likelihood": "log p(x)",
    "log_likelihood": "E_q log p(x|z)",
    "kl": "KL(q, prior)",
    "mse": "MSE",
    "squared_error": "squared error",
    "ssim": "SSIM",
    "active_units": "active units",
    "bits_per_dimension": "bits/dim",
    "mutual_information": "mutual information",
    "marginal_kl": "marginal KL",
    "seconds": "seconds",
    "parameters": "parameters",
}
WORDS = {"accuracy": "accuracy", "f1": "F1", "ece": "ECE", "nll": "log loss"}


def label_of(figure: str) -> str:
    """A figure's heading in tables and pictures.

    Example:
        >>> from latentmix.experiments.comparison.labels import label_of
        >>> label_of("accuracy_em_few"), label_of("elbo"), label_of("accuracy_prior")
        ('accuracy, EM, labels: few', 'ELBO', 'accuracy, mixture prior')
    """
    name, _, rest = figure.partition("_")
    if figure in LABELS or name not in WORDS:
        return LABELS.get(figure, figure.replace("_", " "))
    fit, _, budget = rest.rpartition("_")
    return ", ".join([WORDS[name], *([fit_name(fit), f"labels: {budget}"] if fit else [fit_name(rest)])])


def better_of(figure: str) -> int:
    """Whether a higher (1) or a lower (-1) value of a figure is better, or neither (0)."""
    if figure in NEUTRAL:
        return 0
    return -1 if figure in LOWER or figure.split("_")[0] in LOWER else 1


def decimals_of(figure: str) -> int:
    """Decimals with which a figure is written."""
    return DECIMALS.get(figure, 3)
