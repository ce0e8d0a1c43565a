"""Data sets: sources, splits, label budgets, and pixels as a likelihood needs them."""

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.pixels import DynamicBinarization, ToFloat

__all__ = ["Data", "DynamicBinarization", "ToFloat"]
