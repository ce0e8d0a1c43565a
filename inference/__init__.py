"""Algorithms: SVI and its objectives, evaluation, and mixtures by EM, by enumerated SVI and by MCMC."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentmix.inference.compiled.objective import compile_elbo
    from latentmix.inference.datatree.mcmc import from_pyro
    from latentmix.inference.datatree.recording import RecordingHMC, RecordingNUTS
    from latentmix.inference.datatree.renaming import renamed
    from latentmix.inference.datatree.svi import from_pyro_svi
    from latentmix.inference.evaluation import Bound, bits_per_dimension, check_comparable, evaluate
    from latentmix.inference.ex_post import ExPostFit, ex_post_prior, ex_post_priors, likelihood_moments
    from latentmix.inference.importance import log_likelihood, log_likelihoods
    from latentmix.inference.intervals import (
        McNemarTest,
        MeanInterval,
        PairedInterval,
        mcnemar_test,
        mean_interval,
        paired_interval,
    )
    from latentmix.inference.latent_usage import LatentStatistics, latent_statistics
    from latentmix.inference.mixtures.algorithm import EM, Algorithm, FitOptions
    from latentmix.inference.mixtures.analysis.comparison import (
        MixtureComparison,
        align,
        compare,
        map_by_majority,
        map_by_matching,
    )
    from latentmix.inference.mixtures.analysis.estimates import ComparedEstimates, compare_estimates
    from latentmix.inference.mixtures.analysis.modes import ModeReport, modes
    from latentmix.inference.mixtures.analysis.selected import Selection
    from latentmix.inference.mixtures.analysis.selection import select
    from latentmix.inference.mixtures.analysis.standard_errors import StandardErrors, standard_errors
    from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
    from latentmix.inference.mixtures.draws import MixturePosterior
    from latentmix.inference.mixtures.gaussian import GaussianMixture
    from latentmix.inference.mixtures.nuts.fit import NUTS, MixtureNUTSResult
    from latentmix.inference.mixtures.svi.fit import SVI, MixtureSVIResult
    from latentmix.inference.mixtures.svi.guides import NORMAL_GUIDES, TriedGuide
    from latentmix.inference.objectives.base import Objective, Terms
    from latentmix.inference.objectives.conversion import as_objective, bound_of
    from latentmix.inference.objectives.weighted import FreeBits, Weighted
    from latentmix.inference.start_prior import StartPrior
    from latentmix.inference.svi.callbacks import EarlyStopping
    from latentmix.inference.svi.closed_form_variance import ClosedFormVariance
    from latentmix.inference.svi.fit import SVIResult, fit
    from latentmix.inference.svi.state import Callback, DivergenceError, EpochRecord, TrainingState
    from latentmix.inference.trees.conversion import to_datatree
    from latentmix.inference.two_sample import Coverage, TwoSampleTest, component_coverage, energy_test

__all__ = [
    "EM",
    "NORMAL_GUIDES",
    "NUTS",
    "SVI",
    "Algorithm",
    "BayesianGaussianMixture",
    "Bound",
    "Callback",
    "ClosedFormVariance",
    "ComparedEstimates",
    "Coverage",
    "DivergenceError",
    "EarlyStopping",
    "EpochRecord",
    "ExPostFit",
    "FitOptions",
    "FreeBits",
    "GaussianMixture",
    "LatentStatistics",
    "McNemarTest",
    "MeanInterval",
    "MixtureComparison",
    "MixtureNUTSResult",
    "MixturePosterior",
    "MixtureSVIResult",
    "ModeReport",
    "Objective",
    "PairedInterval",
    "RecordingHMC",
    "RecordingNUTS",
    "SVIResult",
    "Selection",
    "StandardErrors",
    "StartPrior",
    "Terms",
    "TrainingState",
    "TriedGuide",
    "TwoSampleTest",
    "Weighted",
    "align",
    "as_objective",
    "bits_per_dimension",
    "bound_of",
    "check_comparable",
    "compare",
    "compare_estimates",
    "compile_elbo",
    "component_coverage",
    "energy_test",
    "evaluate",
    "ex_post_prior",
    "ex_post_priors",
    "fit",
    "from_pyro",
    "from_pyro_svi",
    "latent_statistics",
    "likelihood_moments",
    "log_likelihood",
    "log_likelihoods",
    "map_by_majority",
    "map_by_matching",
    "mcnemar_test",
    "mean_interval",
    "modes",
    "paired_interval",
    "renamed",
    "select",
    "standard_errors",
    "to_datatree",
]

_HOMES = {
    "compiled.objective": ("compile_elbo",),
    "datatree.mcmc": ("from_pyro",),
    "datatree.recording": ("RecordingHMC", "RecordingNUTS"),
    "datatree.renaming": ("renamed",),
    "datatree.svi": ("from_pyro_svi",),
    "evaluation": ("Bound", "bits_per_dimension", "check_comparable", "evaluate"),
    "ex_post": ("ExPostFit", "ex_post_prior", "ex_post_priors", "likelihood_moments"),
    "importance": ("log_likelihood", "log_likelihoods"),
    "intervals": (
        *("McNemarTest", "MeanInterval", "PairedInterval"),
        *("mcnemar_test", "mean_interval", "paired_interval"),
    ),
    "latent_usage": ("LatentStatistics", "latent_statistics"),
    "mixtures.algorithm": ("EM", "Algorithm", "FitOptions"),
    "mixtures.analysis.comparison": ("MixtureComparison", "align", "compare", "map_by_majority", "map_by_matching"),
    "mixtures.analysis.estimates": ("ComparedEstimates", "compare_estimates"),
    "mixtures.analysis.modes": ("ModeReport", "modes"),
    "mixtures.analysis.selected": ("Selection",),
    "mixtures.analysis.selection": ("select",),
    "mixtures.analysis.standard_errors": ("StandardErrors", "standard_errors"),
    "mixtures.bayesian": ("BayesianGaussianMixture",),
    "mixtures.draws": ("MixturePosterior",),
    "mixtures.gaussian": ("GaussianMixture",),
    "mixtures.nuts.fit": ("NUTS", "MixtureNUTSResult"),
    "mixtures.svi.fit": ("SVI", "MixtureSVIResult"),
    "mixtures.svi.guides": ("NORMAL_GUIDES", "TriedGuide"),
    "objectives.base": ("Objective", "Terms"),
    "objectives.conversion": ("as_objective", "bound_of"),
    "objectives.weighted": ("FreeBits", "Weighted"),
    "start_prior": ("StartPrior",),
    "svi.callbacks": ("EarlyStopping",),
    "svi.closed_form_variance": ("ClosedFormVariance",),
    "svi.fit": ("SVIResult", "fit"),
    "svi.state": ("Callback", "DivergenceError", "EpochRecord", "TrainingState"),
    "trees.conversion": ("to_datatree",),
    "two_sample": ("Coverage", "TwoSampleTest", "component_coverage", "energy_test"),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that options are parsed without SciPy and scikit-learn."""
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
