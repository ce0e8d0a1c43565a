"""Modes of a mixture's posterior, and its curvature there: starts of chains."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import from_labels, start
from latentmix.inference.mixtures.matching import permuted_draws
from latentmix.inference.mixtures.nuts.potential import MixturePotential
from latentmix.inference.mixtures.nuts.unconstrained import Array
from latentmix.inference.mixtures.standardised import StandardisedModel, location_and_scale
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.process_state import kept_warnings

__all__ = ["curvature_basis", "em_starts", "improved_mode", "local_mode", "posterior_mode"]

_STARTS = 5
_PATIENCE = 20
_MOST_SPLITS = 100
_TIE = 1e-9  # relative difference of log-priors that rounding may cause


def em_starts(made: StandardisedModel, x: Tensor, seed: int) -> list[MixtureParameters]:
    """Fits by EM from several starts, with a thousandth of the data's variance added to the covariances."""
    from sklearn.exceptions import ConvergenceWarning

    model = made.model
    location, scale = location_and_scale(x, model.structure)
    points = (x.double() - location) / scale
    fits = []
    with kept_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for attempt in range(1 if model.n_components == 1 else _STARTS):
            random_state = np.random.RandomState((seed + attempt) % 2**32)
            begin = start(points, model.n_components, model.structure, method="k-means++", random_state=random_state)
            fitted = fit_em(points, begin, reg_covar=1e-3, tol=1e-4, max_iter=200).parameters
            fits.append(fitted.affine(scale, location))
    return fits


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


def improved_mode(
    potential: MixturePotential,
    made: StandardisedModel,
    x: Tensor,
    mode: Array,
    basis: Array,
    *,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Array, Array]:
    """Search for a mode of greater posterior mass by split-and-merge moves (Ueda et al., 2000).

    The bulk of the posterior may lie far from EM's optimum, and chains that start there take thousands of draws to
    reach it. A move reassigns the points of two components to the nearer of two of these points; the mode reached
    from there is kept if its mass is greater by Laplace's approximation.

    Args:
        potential: The potential of the posterior.
        made: Its model.
        x: `n x D` points, in the data's coordinates.
        mode: Unconstrained values at the first mode.
        basis: Its `curvature_basis`.
        seed: Seed of the moves.
        progress: Whether to show a progress bar.

    Returns:
        The mode and its `curvature_basis`.
    """
    n_components = made.model.n_components
    if n_components == 1:
        return mode, basis
    generator = np.random.default_rng(seed)
    energy = potential.value_and_gradient(mode)[0]
    points = made.points(x).cpu()
    patience = min(_PATIENCE, n_components * (n_components - 1))
    failures = 0
    for _ in tqdm(range(_MOST_SPLITS), disable=not progress, desc="modes", unit=" splits", leave=False):
        if failures >= patience:
            break
        failures += 1
        labels = made.model.parameters(potential.sites(torch.from_numpy(mode))).responsibilities(points).argmax(1)
        pair = torch.from_numpy(generator.choice(n_components, 2, replace=False))
        members = torch.isin(labels, pair).nonzero().flatten()
        if len(members) < 2:
            continue
        seeds = members[torch.from_numpy(generator.choice(len(members), 2, replace=False))]
        labels[members] = pair[torch.cdist(points[members], points[seeds]).argmin(1)]
        if len(labels.unique()) < n_components:
            continue
        begin = from_labels(points, labels, n_components, made.model.structure, reg_covar=1e-3)
        try:
            candidate = posterior_mode(potential, made, begin.to(made.scale).affine(made.scale, made.location))
        except ValueError:  # zero density under the priors
            continue
        lower = potential.value_and_gradient(candidate)[0]
        if lower < energy - 0.1:
            widths = curvature_basis(potential, candidate)
            if lower - np.linalg.slogdet(widths)[1] < energy - np.linalg.slogdet(basis)[1]:
                mode, energy, basis, failures = candidate, lower, widths, 0
    return mode, basis


def curvature_basis(potential: MixturePotential, centre: Array) -> Array:
    """Inverse root of the curvature at a mode, with standard deviations of at most three."""
    steps = 1e-4 * np.eye(len(centre))
    slopes = [
        potential.value_and_gradient(centre + step)[1] - potential.value_and_gradient(centre - step)[1]
        for step in steps
    ]
    curvature = np.stack(slopes) / 2e-4
    values, axes = np.linalg.eigh((curvature + curvature.T) / 2)
    basis: Array = axes / np.sqrt(np.maximum(np.abs(values), 1 / 9))
    return basis
