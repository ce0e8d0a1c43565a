"""Where chains start: modes of a mixture's posterior, and the curvature there."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.inference.mixtures.alignment import permuted_draws
from latentmix.inference.mixtures.em import fit_em
from latentmix.inference.mixtures.potential import MixturePotential
from latentmix.inference.mixtures.standardised import StandardisedModel
from latentmix.inference.mixtures.starts import start
from latentmix.inference.mixtures.unconstrained import Array
from latentmix.models.parameters import MixtureParameters
from latentmix.models.turns import kept_warnings

__all__ = ["curvature_basis", "em_starts", "posterior_mode"]

_STARTS = 5


def em_starts(made: StandardisedModel, x: Tensor, seed: int) -> list[MixtureParameters]:
    """Mixtures that EM finds from several starts, their variances at least a thousandth of the data's."""
    model = made.model
    spread = x.double().var(0, correction=0)
    location, scale = x.double().mean(0), torch.where(spread > 0, spread, torch.ones_like(spread)).sqrt()
    scale = scale.square().mean().sqrt().expand_as(scale) if model.structure.isotropic else scale
    points = (x.double() - location) / scale
    found = []
    with kept_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for attempt in range(1 if model.n_components == 1 else _STARTS):
            random_state = np.random.RandomState((seed + attempt) % 2**32)
            begin = start(points, model.n_components, model.structure, method="k-means++", random_state=random_state)
            fitted = fit_em(points, begin, reg_covar=1e-3, tol=1e-4, max_iter=200).parameters
            found.append(fitted.affine(scale, location))
    return found


def posterior_mode(potential: MixturePotential, made: StandardisedModel, begin: MixtureParameters) -> Array:
    """Unconstrained values at the mode of the density over them that is found from a mixture."""
    sites = {name: value.cpu().double() for name, value in made.sites(begin).items()}
    n_components = made.model.n_components
    if n_components <= 6:
        orders = torch.tensor(list(itertools.permutations(range(n_components))))
    else:
        orders = torch.stack([torch.arange(n_components), sites["means"][:, 0].argsort()])
    several = {name: value.expand(len(orders), *value.shape) for name, value in sites.items()}
    several = permuted_draws(several, orders, begin)
    likely = int(potential.log_prior(several).nan_to_num(nan=-math.inf).argmax())
    position = potential.position({name: value[likely] for name, value in several.items()}).numpy()
    position = np.where(np.isfinite(position), position, 0.0)
    found = minimize(
        lambda at: potential.value_and_gradient(at), position, jac=True, method="L-BFGS-B", options={"maxiter": 500}
    )
    best = found.x if math.isfinite(found.fun) else position
    if not math.isfinite(potential.value_and_gradient(best)[0]):
        raise ValueError("Expected a start of positive density under the model; got one of none.")
    return np.asarray(best, dtype=np.float64)


def curvature_basis(potential: MixturePotential, centre: Array) -> Array:
    """Inverse root of the curvature at a mode; no direction is taken to be wider than three."""
    steps = 1e-4 * np.eye(len(centre))
    slopes = [
        potential.value_and_gradient(centre + step)[1] - potential.value_and_gradient(centre - step)[1]
        for step in steps
    ]
    curvature = np.stack(slopes) / 2e-4
    values, axes = np.linalg.eigh((curvature + curvature.T) / 2)
    basis: Array = axes / np.sqrt(np.maximum(np.abs(values), 1 / 9))
    return basis
