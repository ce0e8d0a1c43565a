"""Options of the mixtures over the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.optim import Optimizer

__all__ = ["MixtureFits"]


@dataclass(frozen=True)
class MixtureFits:
    """How mixtures are fitted to the latents of the training images.

    Args:
        n_components: Components; by default as many as there are classes.
        covariance_type: Structure of the covariances.
        latents: What of q(z given x) a mixture sees: its mean, or one sample of it.
        n_init: Starts of which the best by log-likelihood is kept, for the fit without labels.
        tol: Change of the log-likelihood per point under which EM has converged.
        max_iter: Most iterations of EM.
        reg_covar: Floor of the variances, added to the diagonals.
        svi_steps: Most steps of enumerated SVI, each on all latents.
        guide: Guide of SVI over the mixture's globals: a point mass, or a posterior, with correlations or without,
            whose medians count.
        svi_start: Where SVI starts: where EM does, or at EM's answer.
        optimizer: Optimizer of SVI; by default natural-gradient steps, whose first are EM's, and then a quasi-Newton
            method. Another one, such as Adam, takes a path of its own.
        draws: How often the labelled images of the `few` budget are drawn anew.
        nuts_draws: Draws of each NUTS chain from the posterior under the mixture model's default priors, started at
            EM's answer, whose means count; 0 leaves NUTS out. It takes minutes where EM takes seconds.
        nuts_chains: Chains of NUTS.
        nuts_warmup: Draws of each chain before these, which adapt the sampler and are left out.
        nuts_processes: Processes that run the chains; the draws are the same.
        nuts_max_tree_depth: Most doublings of a trajectory, each of which doubles the time of the longest ones.
    """

    n_components: int | None = None
    covariance_type: Literal["full", "tied", "diag", "spherical"] = "full"
    latents: Literal["mean", "sample"] = "mean"
    n_init: int = 10
    tol: float = 1e-6
    max_iter: int = 1000
    reg_covar: float = 1e-6
    svi_steps: int = 2000
    guide: Literal["AutoDelta", "AutoNormal", "AutoMultivariateNormal"] = "AutoDelta"
    svi_start: Literal["common", "em"] = "common"
    optimizer: Callable[[Iterable[Tensor]], Optimizer] | None = None
    draws: int = 20
    nuts_draws: int = 0
    nuts_chains: int = 2
    nuts_warmup: int = 500
    nuts_processes: int = 1
    nuts_max_tree_depth: int = 5

    def __post_init__(self) -> None:
        for name in (
            "n_components",
            "n_init",
            "max_iter",
            "svi_steps",
            "draws",
            "nuts_chains",
            "nuts_processes",
            "nuts_max_tree_depth",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Expected mixture.{name} of at least 1; got {value}.")
        for name in ("tol", "reg_covar", "nuts_draws", "nuts_warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Expected mixture.{name} of at least 0; got {getattr(self, name)}.")
