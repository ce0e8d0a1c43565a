"""Approximate posteriors: encoders, the amortized guide q(z given x), guides over a mixture's globals."""

from latentmix.guides.amortized import AmortizedGuide
from latentmix.guides.encoders import ConvEncoder, Encoder, MLPEncoder
from latentmix.guides.families import AutoregressiveFlow, ConditionalDistribution, DiagonalNormal, Family, FullNormal
from latentmix.guides.mixture import global_guide

__all__ = [
    "AmortizedGuide",
    "AutoregressiveFlow",
    "ConditionalDistribution",
    "ConvEncoder",
    "DiagonalNormal",
    "Encoder",
    "Family",
    "FullNormal",
    "MLPEncoder",
    "global_guide",
]
