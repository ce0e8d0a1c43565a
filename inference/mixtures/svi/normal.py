r"""Normal guides of a mixture's unconstrained values, with the correlations of the posterior's curvature.

A guide is the distribution of :math:`u = c + B (a + e^{d} \odot \eta)`: of a centre :math:`c`, a basis :math:`B`, a
shift :math:`a` and log-scales :math:`d`, with noise :math:`\eta \sim \mathcal N(0, \operatorname{diag}(\psi) + C
C^\top)`. Centre and basis start at the posterior's mode and its Laplace approximation: :math:`B B^\top = H^{-1}` of a
full-rank guide, :math:`B^2 = \operatorname{diag}(H^{-1})` of a low-rank one, whose :math:`C` comes from factor analysis
of the correlations (Rubin and Thayer, 1982), and :math:`B^2 = 1 / \operatorname{diag}(H)` of a mean-field one.

Shift and log-scales maximise the ELBO, by gradients whose noise vanishes where the guide is the posterior (Roeder, Wu
and Duvenaud, 2017), in antithetic pairs. Their number, and so their noise, is that of a mean-field guide; the noise of
Adam's steps on all the correlations of a full-rank guide costs hundreds of nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

import numpy as np

from latentmix.inference.mixtures.potential.mode import curvature, widths_of
from latentmix.inference.mixtures.potential.potential import MixturePotential
from latentmix.inference.mixtures.potential.unconstrained import Array
from latentmix.models.mixture.covariances import LOG_TWO_PI

__all__ = ["DRAWS", "Noise", "NormalFit", "NormalGuide", "averaged", "diagonal", "fit_normal", "full_rank", "low_rank"]

DRAWS = 200  # of the bound that is reported
_RATE = 0.05  # of Adam, in standard deviations
# Nats per unconstrained value that a natural-gradient step may still gain: those of 0.3 standard deviations of each.
_SETTLED = 0.05
_LEAST_UNIQUE = 0.01


@final
@dataclass(frozen=True)
class Noise:
    """A centred normal distribution with the covariance `diag(unique) + factor @ factor.T`.

    Attributes:
        factor: `P x r`.
        unique: `(P,)`.
    """

    factor: Array
    unique: Array

    def draw(self, generator: np.random.Generator) -> tuple[Array, Array]:
        """A draw, and the precision times it."""
        size, rank = self.factor.shape
        drawn = np.sqrt(self.unique) * generator.standard_normal(size)
        if rank == 0:
            return drawn, drawn / self.unique
        drawn = drawn + self.factor @ generator.standard_normal(rank)
        return drawn, drawn / self.unique - self._spread @ (self._inverse @ (self._spread.T @ drawn))

    @cached_property
    def log_scale(self) -> float:
        """Half the log-determinant of the covariance."""
        return 0.5 * float(np.log(self.unique).sum() - np.linalg.slogdet(self._inverse)[1])

    @cached_property
    def _spread(self) -> Array:
        return self.factor / self.unique[:, None]

    @cached_property
    def _inverse(self) -> Array:
        inverse: Array = np.linalg.inv(np.eye(self.factor.shape[1]) + self.factor.T @ self._spread)
        return inverse


@final
@dataclass(frozen=True)
class NormalGuide:
    """A normal distribution of unconstrained values.

    Attributes:
        centre: `(P,)`.
        basis: `P x P` lower triangular, or `(P,)`: a diagonal.
        noise: The noise, with variances near one.
        shift: `(P,)`, in units of the basis.
        log_scale: `(P,)`.
    """

    centre: Array
    basis: Array
    noise: Noise
    shift: Array
    log_scale: Array

    def push(self, value: Array) -> Array:
        """A vector of units of the basis in unconstrained values."""
        pushed: Array = self.basis * value if self.basis.ndim == 1 else self.basis @ value
        return pushed

    def pull(self, gradient: Array) -> Array:
        """The transpose of `push`."""
        pulled: Array = self.basis * gradient if self.basis.ndim == 1 else self.basis.T @ gradient
        return pulled

    @property
    def mean(self) -> Array:
        """`(P,)`."""
        return self.centre + self.push(self.shift)

    @property
    def entropy(self) -> float:
        """In nats."""
        diagonal = self.basis if self.basis.ndim == 1 else np.diag(self.basis)
        log_det = float(np.log(diagonal).sum() + self.log_scale.sum())
        return self.noise.log_scale + log_det + 0.5 * len(self.centre) * (LOG_TWO_PI + 1)


@final
@dataclass(frozen=True)
class NormalFit:
    """A fitted normal guide.

    Attributes:
        guide: The guide.
        bounds: Estimates of the ELBO at each step, nats.
        bound: The ELBO by draws of its own, nats.
        error: Its standard error.
        gain: Nats that a natural-gradient step of mean, scales and, at full rank, correlations promises.
    """

    guide: NormalGuide
    bounds: list[float] = field(default_factory=list)
    bound: float = -math.inf
    error: float = math.nan
    gain: float = math.inf

    @property
    def settled(self) -> bool:
        """Whether a further step would gain less than 0.05 nats per unconstrained value."""
        return math.isfinite(self.bound) and self.gain < _SETTLED * len(self.guide.centre)


def diagonal(centre: Array, variances: Array) -> NormalGuide:
    """The mean-field normal about a centre."""
    size = len(centre)
    nothing = np.zeros(size)
    return NormalGuide(centre, np.sqrt(variances), Noise(np.zeros((size, 0)), np.ones(size)), nothing, nothing)


def full_rank(centre: Array, widths: Array) -> NormalGuide:
    """The normal about a centre of the covariance `widths @ widths.T`."""
    return replace(diagonal(centre, np.ones(len(centre))), basis=np.linalg.cholesky(widths @ widths.T))


def low_rank(centre: Array, widths: Array, rank: int) -> NormalGuide:
    """The normal about a centre whose correlations are those of `widths @ widths.T` by factor analysis."""
    scales = np.sqrt(np.square(widths).sum(1))
    root = widths / scales[:, None]
    left, values, _ = np.linalg.svd(root, full_matrices=False)
    factor = left[:, :rank] * values[:rank]
    unique = np.maximum(1 - np.square(factor).sum(1), _LEAST_UNIQUE)
    correlation = root @ root.T
    for _ in range(30):
        spread = factor / unique[:, None]
        regression = np.linalg.solve(np.eye(factor.shape[1]) + factor.T @ spread, spread.T)
        cross = correlation @ regression.T
        second = np.eye(factor.shape[1]) - regression @ factor + regression @ cross
        factor = np.linalg.solve(second, cross.T).T
        unique = np.maximum(1 - (factor * cross).sum(1), _LEAST_UNIQUE)
    return replace(diagonal(centre, np.square(scales)), noise=Noise(factor, unique))


def averaged(potential: MixturePotential, guide: NormalGuide, pairs: int, generator: np.random.Generator) -> Array:
    """Inverse root of the curvature averaged over draws: its fixed point is optimal (Opper and Archambeau, 2009)."""
    total = np.zeros((potential.size, potential.size))
    for _ in range(pairs):
        offset = guide.push(np.exp(guide.log_scale) * guide.noise.draw(generator)[0])
        total += curvature(potential, guide.mean + offset) + curvature(potential, guide.mean - offset)
    return widths_of(total / (2 * pairs))


def fit_normal(
    potential: MixturePotential, guide: NormalGuide, steps: int, generator: np.random.Generator
) -> NormalFit:
    """Maximise the ELBO over shift and log-scales, by Adam with a cosine schedule, and estimate it by new draws."""
    place = np.concatenate([guide.shift, guide.log_scale])
    first, second = np.zeros_like(place), np.zeros_like(place)
    bounds = []
    for step in range(steps):
        guide = _at(guide, place)
        noise, _ = drawn = guide.noise.draw(generator)
        (upper, pull), (lower, other) = (_evaluated(potential, guide, *drawn, sign) for sign in (1.0, -1.0))
        bounds.append(guide.entropy - (upper + lower) / 2)
        by_log_scale = np.exp(guide.log_scale) * noise * (pull - other) / 2
        gradient = np.concatenate([(pull + other) / 2, by_log_scale])
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * np.square(gradient)
        scale = np.sqrt(second / (1 - 0.99 ** (step + 1))) + 1e-12
        rate = _RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        place = place - rate * first / (1 - 0.9 ** (step + 1)) / scale
    return _measured(potential, _at(guide, place), bounds, generator)


def _at(guide: NormalGuide, place: Array) -> NormalGuide:
    shift, log_scale = np.split(place, 2)
    return replace(guide, shift=shift, log_scale=log_scale)


def _evaluated(
    potential: MixturePotential, guide: NormalGuide, noise: Array, weighed: Array, sign: float
) -> tuple[float, Array]:
    """The potential at a draw, and the path gradient of `log q - log p` by the shift."""
    spread = np.exp(guide.log_scale)
    energy, gradient = potential.value_and_gradient(guide.centre + guide.push(guide.shift + spread * sign * noise))
    if not math.isfinite(energy):
        return math.inf, np.zeros_like(noise)
    return energy, guide.pull(gradient) - sign * weighed / spread


def _measured(
    potential: MixturePotential, guide: NormalGuide, bounds: list[float], generator: np.random.Generator
) -> NormalFit:
    noises, pulls, values = [], [], []
    spread = np.exp(guide.log_scale)
    for _ in range(DRAWS):
        noise, weighed = guide.noise.draw(generator)
        energy, pull = _evaluated(potential, guide, noise, weighed, 1.0)
        # The integrand log p - log q, whose spread is the least where the guide is close to the posterior.
        values.append(guide.entropy - energy + 0.5 * (float(noise @ weighed) - len(noise)))
        noises.append(noise)
        pulls.append(spread * pull)
    white, eps = np.stack(pulls), np.stack(noises)
    with np.errstate(invalid="ignore"):
        bound, error = float(np.mean(values)), float(np.std(values) / math.sqrt(DRAWS))
    halves = np.arange(DRAWS) % 2 == 0
    means = [white[half].mean(0) for half in (halves, ~halves)]
    outer = [white[half].T @ eps[half] / half.sum() for half in (halves, ~halves)]
    gain = 0.5 * float(means[0] @ means[1]) + 0.25 * float(np.diag(outer[0]) @ np.diag(outer[1]))
    if guide.basis.ndim == 2:
        gain += 0.5 * float((np.tril(outer[0], -1) * np.tril(outer[1], -1)).sum())
    return NormalFit(guide, bounds, bound, error, gain)
