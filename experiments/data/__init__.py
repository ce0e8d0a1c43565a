"""Data sets."""

from latentmix.experiments.data.datasets import Data, DynamicBinarization, ToFloat

__all__ = ["Data", "DynamicBinarization", "ToFloat"]
