"""Algorithms: SVI and its objectives, evaluation, and the mixture's estimators."""

from latentmix.inference.evaluation import Bound, evaluate
from latentmix.inference.objectives import Objective, Terms, as_objective
from latentmix.inference.svi import SVIResult, fit
from latentmix.inference.training import Callback, DivergenceError, EarlyStopping, EpochRecord, TrainingState

__all__ = [
    "Bound",
    "Callback",
    "DivergenceError",
    "EarlyStopping",
    "EpochRecord",
    "Objective",
    "SVIResult",
    "Terms",
    "TrainingState",
    "as_objective",
    "evaluate",
    "fit",
]
