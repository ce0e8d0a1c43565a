"""Modes of a mixture's posterior in unconstrained values, and its curvature there."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from latentmix.inference.mixtures.matching import permuted_draws
from latentmix.inference.mixtures.potential.potential import MixturePotential
from latentmix.inference.mixtures.potential.unconstrained import Array
from latentmix.inference.mixtures.standardised import StandardisedModel
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = [
    "PROBES",
    "curvature",
    "curvature_basis",
    "curvature_diagonal",
    "local_mode",
    "posterior_mode",
    "variances_of",
    "widths_of",
]

_TIE = 1e-9  # relative difference of log-priors that rounding may cause
_STEP = 1e-5
_WIDEST = 3.0
PROBES = 100


def posterior_mode(potential: MixturePotential, made: StandardisedModel, begin: MixtureParameters) -> Array:
    """Unconstrained values at the mode of their density that is reached from a mixture.

    Raises:
        ValueError: If the density is zero there.
    """
    sites = {name: value.cpu().double() for name, value in made.sites(begin).items()}
    n_components = made.model.n_components
    if n_components <= 6:
        orders = torch.tensor(list(itertools.permutations(range(n_components))))
    else:
        orders = torch.stack([torch.arange(n_components), sites["means"][:, 0].argsort()])
    several = {name: value.expand(len(orders), *value.shape) for name, value in sites.items()}
    several = permuted_draws(several, orders, begin)
    density = potential.log_prior(several).nan_to_num(nan=-math.inf)
    greatest = float(density.max())
    likeliest = int((density >= greatest - _TIE * (1 + abs(greatest))).int().argmax())
    position = potential.position({name: value[likeliest] for name, value in several.items()}).numpy()
    mode, energy = local_mode(potential, np.where(np.isfinite(position), position, 0.0))
    if not math.isfinite(energy):
        raise ValueError("Expected a start of positive density under the model; got one of none.")
    return mode


def local_mode(potential: MixturePotential, position: Array) -> tuple[Array, float]:
    """The mode that quasi-Newton steps from unconstrained values reach, and the potential there."""
    from scipy.optimize import minimize

    result = minimize(potential.value_and_gradient, position, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    mode = np.asarray(result.x if math.isfinite(result.fun) else position, dtype=np.float64)
    return mode, potential.value_and_gradient(mode)[0]


def curvature(potential: MixturePotential, centre: Array) -> Array:
    """Second derivatives of the potential, `size x size`, by forward differences of its gradient."""
    before = potential.value_and_gradient(centre)[1]
    steps = _STEP * np.eye(len(centre))
    slopes = np.stack([potential.value_and_gradient(centre + step)[1] - before for step in steps]) / _STEP
    symmetric: Array = (slopes + slopes.T) / 2
    return symmetric


def curvature_diagonal(potential: MixturePotential, centre: Array, seed: int) -> Array:
    """The diagonal of `curvature`, `(size,)`, by random signs (Bekas, Kokiopoulou and Saad, 2007)."""
    generator = np.random.default_rng(seed)
    before = potential.value_and_gradient(centre)[1]
    total = np.zeros(potential.size)
    for _ in range(PROBES):
        signs = generator.choice([-1.0, 1.0], potential.size)
        total += signs * (potential.value_and_gradient(centre + _STEP * signs)[1] - before) / _STEP
    return total / PROBES


def variances_of(diagonal: Array) -> Array:
    """Inverse of the diagonal of a curvature, with standard deviations of at most three."""
    variances: Array = 1 / np.maximum(diagonal, 1 / _WIDEST**2)
    return variances


def widths_of(curvature: Array) -> Array:
    """Inverse root of a curvature, its axes in columns, with standard deviations of at most three."""
    values, axes = np.linalg.eigh(curvature)
    basis: Array = axes / np.sqrt(np.maximum(np.abs(values), 1 / _WIDEST**2))
    return basis


def curvature_basis(potential: MixturePotential, centre: Array) -> Array:
    """Inverse root of the curvature at a mode, with standard deviations of at most three."""
    return widths_of(curvature(potential, centre))
