"""Options of the mixtures over the latents."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from jsonargparse import ArgumentParser
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor
from torch.optim import Optimizer

from latentmix.experiments.options.messages import blaming
from latentmix.experiments.reading.limits import check_count
from latentmix.inference import NORMAL_GUIDES, NUTS, SVI
from latentmix.models.mixture.covariances import covariance_structure

__all__ = ["GUIDES", "MixtureFits", "add_mixture_arguments", "unwrapped"]

GUIDES = {
    kind.__name__: kind
    for kind in (AutoDelta, AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal)
}
# the last word is that of no fit
POSTERIOR_GUIDES: dict[str, Any] = {
    "best": NORMAL_GUIDES,
    **{kind.__name__: kind for kind in NORMAL_GUIDES},
    "none": None,
}


@dataclass(frozen=True)
class MixtureFits:
    """Fits of mixtures to the latents of the training images.

    Args:
        n_components: Components; by default as many as there are classes.
        covariance_type: Structure of the covariances: full, tied, diag, spherical, tied_diag, or a registered one.
        latents: Part of q(z given x) that a mixture is fitted to: its mean, or one sample of it.
        n_init: Starts of which the best by log-likelihood is kept, for the fit without labels.
        tol: Change of the log-likelihood per point under which EM has converged.
        max_iter: Most iterations of EM.
        reg_covar: Floor of the variances, added to the diagonals.
        svi_start: Where SVI starts: where EM does, or at EM's answer.
        draws: How often the labelled images of the `few` budget are drawn anew.
        svi: Enumerated SVI.
        nuts: NUTS from the posterior under the mixture model's default priors, started at EM's answer, whose means
            count; without draws it is left out. It takes minutes where EM takes seconds.
        posterior: SVI with a density as guide from EM's answer, whose draws are kept; under the mixture model's default
            priors, where it has none of its own. `None` leaves it out.
    """

    n_components: int | None = None
    covariance_type: str = "full"
    latents: Literal["mean", "sample"] = "mean"
    n_init: int = 10
    tol: float = 1e-6
    max_iter: int = 1000
    reg_covar: float = 1e-6
    svi_start: Literal["common", "em"] = "common"
    draws: int = 20
    svi: SVI = field(default_factory=partial(SVI, epochs=2000))
    nuts: NUTS = field(default_factory=partial(NUTS, draws=0, chains=2))
    posterior: SVI | None = field(default_factory=partial(SVI, guide=NORMAL_GUIDES, epochs=300, priors={}))

    def __post_init__(self) -> None:
        for name in ("n_components", "n_init", "max_iter", "draws"):
            value = getattr(self, name)
            if value is not None:
                check_count(f"--mixture.{name}", value)
        with blaming("--mixture.covariance_type"):
            covariance_structure(self.covariance_type)
        for name in ("tol", "reg_covar"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Expected --mixture.{name} of at least 0; got {getattr(self, name)}.")
        if not self.nuts.draws >= 0:
            raise ValueError(f"Expected --mixture.nuts.draws of at least 0; got {self.nuts.draws}.")
        object.__setattr__(self, "posterior", _posterior(self.posterior))
        for name in ("svi", "nuts", "posterior"):
            if getattr(self, name) is None:
                continue
            algorithm = _plain(getattr(self, name))
            object.__setattr__(self, name, algorithm)
            left_out = isinstance(algorithm, NUTS) and algorithm.draws == 0
            for option, value in algorithm.get_params().items():
                if isinstance(value, int):
                    check_count(f"--mixture.{name}.{option}", value, None)  # `check_params` knows the least
            with blaming(f"--mixture.{name}"):
                (copy.copy(algorithm).set_params(draws=1) if left_out else algorithm).check_params()


def add_mixture_arguments(parser: ArgumentParser) -> None:
    """Add `mixture.*`, with `mixture.svi.*`, `.nuts.*` and `.posterior.*` by the algorithms' own signatures."""
    parser.add_class_arguments(MixtureFits, "mixture", skip={"svi", "nuts", "posterior"})
    defaults = MixtureFits()
    of_optimizers = {"scheduler", "tol", "patience", "batch_size"}  # which guides from the curvature do without
    for name, left_out in (("svi", set()), ("nuts", set()), ("posterior", of_optimizers)):
        algorithm = getattr(defaults, name)
        skipped = {"priors", "guide", "optimizer", *left_out}
        parser.add_class_arguments(type(algorithm), f"mixture.{name}", skip=skipped)
        plain = {
            key: value
            for key, value in algorithm.get_params().items()
            if isinstance(value, int | float) and key not in skipped
        }
        parser.set_defaults({f"mixture.{name}.{key}": value for key, value in plain.items()})
    guide = "Guide over the mixture's globals: a point mass, or a posterior, whose medians count."
    words = Literal[tuple(GUIDES)]  # type: ignore[valid-type]
    parser.add_argument("--mixture.svi.guide", type=words, default="AutoDelta", help=guide)
    guide = (
        "Guide of the posterior, started from EM's answer and the curvature there: the best, by its bound, of "
        "AutoNormal, AutoLowRankMultivariateNormal and AutoMultivariateNormal; one guide; or none, which leaves the "
        "fit out."
    )
    words = Literal[tuple(POSTERIOR_GUIDES)]
    parser.add_argument("--mixture.posterior.guide", type=words, default="best", help=guide)
    optimizer = "Optimizer of SVI; by default natural-gradient steps, EM's own at first, then a quasi-Newton method."
    parser.add_argument(
        "--mixture.svi.optimizer", type=Callable[[Iterable[Tensor]], Optimizer] | None, default=None, help=optimizer
    )


def _posterior(algorithm: SVI | None) -> SVI | None:
    """The fit of the posterior with its guide as a class, or several, under proper priors; `None` if it is left out."""
    options = {} if algorithm is None else algorithm.get_params()
    guide, priors = options.get("guide"), options.get("priors")
    if algorithm is None or guide == "none":
        return None
    if guide is AutoDelta:
        words = ", ".join(POSTERIOR_GUIDES)
        raise ValueError(
            f"Expected a guide with a density for --mixture.posterior.guide, out of {words}; got AutoDelta, a point."
        )
    guide = POSTERIOR_GUIDES.get(guide, guide) if isinstance(guide, str) else guide
    return copy.copy(algorithm).set_params(guide=guide, priors={} if priors is None else priors)


def _plain(algorithm: Any) -> Any:
    """The algorithm with callables as a user would write them: a class, or a partial of it, not the parser's own."""
    options = algorithm.get_params()
    return type(algorithm)(**{name: unwrapped(value) for name, value in options.items()})


def unwrapped(value: Any) -> Any:
    """A callable of the option parser as a user would write it: a class, or a partial of it; else the value."""
    if isinstance(value, str) and value in GUIDES:
        return GUIDES[value]
    if not isinstance(value, partial) or isinstance(value.func, type) or not value.args:
        return value
    kind = value.args[-1]
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    given = {name: each for name, each in value.keywords.items() if each != defaults.get(name)}
    return partial(kind, **given) if given else kind
