"""Algorithms: SVI and its objectives, evaluation, and mixtures by EM and by enumerated SVI."""

from latentmix.inference.comparison import MixtureComparison, align, compare, map_by_majority, map_by_matching
from latentmix.inference.estimators import GaussianMixture
from latentmix.inference.evaluation import Bound, evaluate
from latentmix.inference.mixture_svi import MixtureSVIResult, fit_mixture_svi
from latentmix.inference.objectives import Objective, Terms, as_objective
from latentmix.inference.svi import SVIResult, fit
from latentmix.inference.training import Callback, DivergenceError, EarlyStopping, EpochRecord, TrainingState

__all__ = [
    "Bound",
    "Callback",
    "DivergenceError",
    "EarlyStopping",
    "EpochRecord",
    "GaussianMixture",
    "MixtureComparison",
    "MixtureSVIResult",
    "Objective",
    "SVIResult",
    "Terms",
    "TrainingState",
    "align",
    "as_objective",
    "compare",
    "evaluate",
    "fit",
    "fit_mixture_svi",
    "map_by_majority",
    "map_by_matching",
]
