"""Starts of chains: fits by EM, and the search for a mode of greater posterior mass."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import from_labels, start
from latentmix.inference.mixtures.potential.mode import curvature_basis, posterior_mode
from latentmix.inference.mixtures.potential.potential import MixturePotential
from latentmix.inference.mixtures.potential.unconstrained import Array
from latentmix.inference.mixtures.standardised import StandardisedModel, location_and_scale
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.process_state import kept_warnings

__all__ = ["em_starts", "improved_mode"]

_STARTS = 5
_PATIENCE = 20
_MOST_SPLITS = 100


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
