"""Pyro's normal guides of a mixture, fitted from the posterior's curvature at its mode, and the best of several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoGuide,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor

from latentmix.guides.mixture import global_guide
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.potential.mode import (
    PROBES,
    curvature,
    curvature_diagonal,
    posterior_mode,
    variances_of,
    widths_of,
)
from latentmix.inference.mixtures.potential.potential import MixturePotential
from latentmix.inference.mixtures.potential.unconstrained import Array
from latentmix.inference.mixtures.standardised import StandardisedModel
from latentmix.inference.mixtures.svi.normal import (
    DRAWS,
    NormalFit,
    averaged,
    diagonal,
    fit_normal,
    full_rank,
    low_rank,
)
from latentmix.models.display import Displayed
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["NORMAL_GUIDES", "TriedGuide", "class_of", "fit_guides", "is_normal", "work"]

NORMAL_GUIDES = (AutoNormal, AutoLowRankMultivariateNormal, AutoMultivariateNormal)
_KINDS: tuple[type[AutoGuide], ...] = (*NORMAL_GUIDES, AutoDiagonalNormal)
_STEPS = 300
_LARGEST = 3000  # unconstrained values whose curvature is held as a matrix
_GRADIENTS = 2000  # of the curvatures that are averaged
_MODE = 300  # gradients of the quasi-Newton steps to the mode, about
_WITH_MATRICES = (AutoLowRankMultivariateNormal, AutoMultivariateNormal)
_PER_NUMBER = 16  # entries of a matrix that are multiplied in the time of a number of `work`


@final
@dataclass(frozen=True, repr=False)
class TriedGuide(Displayed):
    """A guide that was fitted, and whether it was taken.

    Attributes:
        guide: Name of its class.
        bound: Its ELBO, nats per datum in the data's coordinates; NaN if it was not fitted.
        error: Standard error of the bound.
        seconds: Time of its fit, beside that of the mode and the curvature, which all share.
        converged: Whether a further natural-gradient step would gain less than 0.05 nats per unconstrained value, and
            no guide before it has a higher bound by more than two standard errors.
        used: Whether it is the guide of the result: that of the highest bound.
        note: Why it was not fitted or has not converged; else empty.
    """

    guide: str
    bound: float
    error: float
    seconds: float
    converged: bool
    used: bool = False
    note: str = ""

    def shown(self) -> dict[str, Any]:
        return {
            "guide": f"{self.guide}{' (used)' if self.used else ''}",
            "bound": f"{self.bound:.6g} +/- {self.error:.1g} nats per datum",
            "converged": f"{self.converged}{f': {self.note}' if self.note else ''}",
            "seconds": f"{self.seconds:.1f}",
        }


def class_of(family: Callable[..., AutoGuide]) -> Any:
    """The class that a class of guides, or a `functools.partial` of one, makes."""
    return getattr(family, "func", family)


def is_normal(family: Callable[..., AutoGuide]) -> bool:
    """Whether a class of guides is one of Pyro's normal ones, of any rank, with a width that may be replaced."""
    given = getattr(family, "keywords", {})  # of a functools.partial
    return class_of(family) in _KINDS and set(given) <= {"rank"}


def work(families: Sequence[Callable[..., AutoGuide]], size: int, numbers: int, steps: int) -> int:
    """Numbers that `fit_guides` computes with at most, about: 5 to 10 nanoseconds each on one core.

    Args:
        families: Classes of guides.
        size: Number of unconstrained values.
        numbers: Points times components times features, of which three more stand for what is done once.
        steps: Most steps of each guide.
    """
    rich = [family for family in families if size <= _LARGEST and class_of(family) in _WITH_MATRICES]
    each = 2 * min(steps, _STEPS) + DRAWS
    gradients = _MODE + (size if size <= _LARGEST else PROBES) + len(families) * each
    if AutoMultivariateNormal in map(class_of, rich):
        gradients += each + max(_GRADIENTS, 2 * size)
    return gradients * (numbers + (size**2 // _PER_NUMBER if rich else 0))


def fit_guides(
    made: StandardisedModel,
    x: Tensor,
    start: MixtureParameters,
    families: Sequence[Callable[..., AutoGuide]],
    *,
    epochs: int,
    seed: int,
) -> tuple[AutoGuide, list[float], tuple[TriedGuide, ...]]:
    """Fit normal guides of a mixture's posterior, each from the mode that is reached from a start.

    Args:
        made: The model of the standardised data, under proper priors.
        x: `n x D` points, in the data's coordinates.
        start: A mixture, in the data's coordinates.
        families: Classes of guides, poorer ones first.
        epochs: Most steps; 300 are enough.
        seed: Seed of the draws.

    Returns:
        The guide of the highest bound, its estimates of the bound at each step, nats per datum, and all guides.

    Raises:
        ValueError: If no guide could be fitted.
    """
    potential = MixturePotential(made.model, made.points(x))
    mode = posterior_mode(potential, made, start)
    large = potential.size > _LARGEST
    second = None if large else curvature(potential, mode)
    widths = None if second is None else widths_of(second)
    variances = variances_of(curvature_diagonal(potential, mode, seed) if second is None else np.diag(second))
    built: list[tuple[AutoGuide, NormalFit] | None] = []
    tried: list[TriedGuide] = []
    for family in families:
        began = time.perf_counter()
        name = class_of(family).__name__
        if large and class_of(family) not in (AutoNormal, AutoDiagonalNormal):
            note = f"not fitted for {potential.size} unconstrained values, as for more than {_LARGEST}"
            tried.append(TriedGuide(name, np.nan, np.nan, 0.0, False, note=note))
            built.append(None)
            continue
        guide = global_guide(made.model, family=family, start=made.sites(start))
        with isolated(seed=seed):
            guide(made.points(x[:1]))  # makes its parameters
        fitted = _fitted(potential, guide, mode, variances, widths, min(epochs, _STEPS), seed)
        _write(guide, potential, fitted)
        bound = fitted.bound / len(x) - made.log_jacobian
        error = fitted.error / len(x)
        better = [each for each in tried if each.bound > bound + 2 * math.hypot(error, each.error)]
        note = f"ended below {better[0].guide}" if better else ""
        if not fitted.settled and not note:
            note = f"a further step promises {fitted.gain:.3g} nats"
        seconds = time.perf_counter() - began
        tried.append(TriedGuide(name, bound, error, seconds, not note, note=note))
        built.append((guide, fitted))
    best = int(np.nanargmax([each.bound for each in tried])) if any(built) else None
    if best is None or (pair := built[best]) is None:
        raise ValueError(
            f"Expected a guide that can be fitted; got {tried[0].guide}, {tried[0].note}: take AutoNormal."
        )
    tried[best] = replace(tried[best], used=True)
    bounds = [bound / len(x) - made.log_jacobian for bound in pair[1].bounds]
    return pair[0], bounds, tuple(tried)


def _fitted(
    potential: MixturePotential,
    guide: AutoGuide,
    mode: Array,
    variances: Array,
    widths: Array | None,
    steps: int,
    seed: int,
) -> NormalFit:
    generator = np.random.default_rng(seed)
    if isinstance(guide, AutoNormal | AutoDiagonalNormal) or widths is None:
        return fit_normal(potential, diagonal(mode, variances), steps, generator)
    if isinstance(guide, AutoLowRankMultivariateNormal):
        rank = min(guide.cov_factor.shape[1], potential.size)
        return fit_normal(potential, low_rank(mode, widths, rank), steps, generator)
    fitted = fit_normal(potential, full_rank(mode, widths), steps, generator)
    if fitted.settled:
        return fitted
    pairs = max(1, _GRADIENTS // (2 * potential.size))
    improved = full_rank(fitted.guide.mean, averaged(potential, fitted.guide, pairs, generator))
    again = fit_normal(potential, improved, steps, generator)
    return again if again.bound > fitted.bound else fitted


def _write(guide: Any, potential: MixturePotential, fitted: NormalFit) -> None:
    """Set the parameters of one of Pyro's guides."""
    normal = fitted.guide
    spread = np.exp(normal.log_scale)
    mean = torch.from_numpy(normal.mean)
    with torch.no_grad():
        if isinstance(guide, AutoNormal):
            scales = torch.from_numpy(normal.basis * spread)
            for name, loc, scale in zip(
                potential.priors, potential.unflattened(mean), potential.unflattened(scales), strict=True
            ):
                getattr(guide.locs, name).copy_(loc)
                setattr(guide.scales, name, scale.to(getattr(guide.scales, name)))
            return
        guide.loc.copy_(mean)
        if isinstance(guide, AutoLowRankMultivariateNormal):
            root = np.sqrt(normal.noise.unique)
            _assign(guide, scale=normal.basis * spread * root)
            guide.cov_factor.zero_()
            guide.cov_factor[:, : normal.noise.factor.shape[1]] = torch.from_numpy(normal.noise.factor / root[:, None])
        elif isinstance(guide, AutoMultivariateNormal):
            lower = normal.basis * spread
            diagonal_of_lower = np.diag(lower).copy()
            _assign(guide, scale=diagonal_of_lower, scale_tril=lower / diagonal_of_lower[:, None])
        else:
            _assign(guide, scale=normal.basis * spread)


def _assign(guide: Any, **values: Array) -> None:
    for name, value in values.items():
        setattr(guide, name, torch.from_numpy(value).to(guide.loc))
