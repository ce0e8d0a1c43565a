r"""Standard errors of a Gaussian mixture at its maximum of the likelihood.

With scores :math:`s_i`, information :math:`I = -\sum_i \nabla^2 \log p(x_i)` and :math:`B = \sum_i s_i s_i^\top` the
estimate has covariance :math:`I^{-1}` if the model is true, and :math:`I^{-1} B I^{-1}` in general
(Huber, 1967; White, *Maximum likelihood estimation of misspecified models*, 1982). Derivatives are taken in weights,
means and covariances themselves, of which :math:`\pi_K` and the upper triangles depend linearly on the others: at a
maximum this equals the delta method from any other coordinates.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.inference.mixtures.analysis.comparison import align
from latentmix.inference.mixtures.analysis.information import REMEDY, Layout, derivatives, inverse_information
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.statistics import moments
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.inference.mixtures.points.points import as_points
from latentmix.inference.mixtures.points.validation import as_random_state, check_weights
from latentmix.inference.mixtures.progress import warn
from latentmix.inference.workers import tied
from latentmix.models.arguments import check_n_jobs
from latentmix.models.display import Displayed
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.process_state import kept_warnings

__all__ = ["StandardErrors", "standard_errors"]

Array = NDArray[Any] | Tensor
Method = Literal["sandwich", "information", "bootstrap"]

_FAR = 0.1  # greatest distance of an estimate from the maximum, in standard errors


@dataclass(frozen=True, repr=False)
class StandardErrors(Displayed):
    """Standard errors of the parameters of a mixture, in their units and shapes.

    Attributes:
        weights: `(K,)`.
        means: `K x D`.
        covariances: In the stored shape of the covariances.
        covariance: `p x p` covariance of the free parameters: the first `K - 1` weights, the means, and the
            covariances (of matrices the lower triangles, row by row).
        method: "sandwich", "information" or "bootstrap".
        distance: Distance of the estimate from the maximum by a Newton step, in standard errors; NaN for the bootstrap.
        n_bootstrap: Number of refits of the bootstrap, else 0.
        n_unsettled: Number of refits that did not converge or re-initialized a component; they are included.
    """

    weights: Array
    means: Array
    covariances: Array
    covariance: Array
    method: Method
    distance: float
    n_bootstrap: int = 0
    n_unsettled: int = 0


@torch.inference_mode(False)
def standard_errors(
    mixture: GaussianMixture | MixtureParameters,
    x: Array,
    *,
    method: Method = "sandwich",
    sample_weight: Array | None = None,
    n_bootstrap: int = 200,
    random_state: int | np.random.RandomState | None = 0,
    n_jobs: int | None = None,
) -> StandardErrors:
    """Standard errors of a maximum-likelihood fit, from the points that it was fitted to.

    They describe one optimum, and do not account for other optima of the likelihood (`modes`). The bootstrap draws
    points with replacement, refits from the estimate and aligns the components with it (Efron, 1979; O'Hagan, Murphy,
    Scrucca and Gormley, 2019).

    Args:
        mixture: A fitted mixture, well converged (`tol=1e-6` or less), with a negligible `reg_covar`.
        x: `n x D` points.
        method: "sandwich", valid even if the points do not come from a mixture; "information", valid if they do; or
            "bootstrap".
        sample_weight: `(n,)` weights; a weight of 2 counts as the point twice, so that weights which sum to `n` keep
            the number of points, and the errors are proportional to the inverse square root of their sum.
        n_bootstrap: Number of refits.
        random_state: Seed of the bootstrap; `None` draws one from NumPy's global state.
        n_jobs: Number of refits at a time, as joblib takes it.

    Returns:
        The standard errors, as arrays or tensors like `x`.

    Raises:
        ValueError: If the points do not match the mixture, the weights sum to less than the number of free parameters,
            or the information is singular: if components coincide, hold hardly more points than they have parameters,
            or lie on a floor.

    Warns:
        ConvergenceWarning: If the estimate is more than a tenth of a standard error from the maximum.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.mixtures.gaussian import GaussianMixture
        >>> from latentmix.inference.mixtures.analysis.standard_errors import standard_errors
        >>> x = np.random.RandomState(0).randn(400, 1) + np.repeat([[-3.0], [3.0]], 200, 0)
        >>> mixture = GaussianMixture(2, tol=1e-8, random_state=0).fit(x)
        >>> standard_errors(mixture, x).means.shape
        (2, 1)
    """
    if method not in ("sandwich", "information", "bootstrap"):
        raise ValueError(f"Expected method in ['sandwich', 'information', 'bootstrap']; got {method!r}.")
    check_n_jobs(n_jobs)
    if n_bootstrap < 2:
        raise ValueError(f"Expected n_bootstrap >= 2; got {n_bootstrap}.")
    points = as_tensor(x).detach()
    given = mixture if isinstance(mixture, MixtureParameters) else mixture.parameters_
    parameters = given.to(torch.empty(0, dtype=torch.float64, device=points.device))
    size = parameters.means.shape[1]
    if points.ndim != 2 or points.shape[1] != size or not bool(points.isfinite().all()):
        raise ValueError(f"Expected finite points of shape (n, {size}); got {tuple(points.shape)} or NaN.")
    weight = check_weights(sample_weight, points)
    fewest = parameters.n_parameters()
    if weight is not None and float(weight.sum()) < fewest:
        raise ValueError(
            f"Expected sample_weight as counts of points, in all as many as the {fewest} free parameters or more; "
            f"got a sum of {float(weight.sum()):.3g}: scale normalised weights to sum to the number of points."
        )
    if method == "bootstrap":
        floor = float(getattr(mixture, "reg_covar", 0.0))
        errors = _bootstrap(points, parameters, weight, floor, n_bootstrap, as_random_state(random_state), n_jobs)
    else:
        errors = _asymptotic(points, parameters, weight, method)
    if not errors.distance <= _FAR and method != "bootstrap":
        warn(
            f"The estimate is {errors.distance:.2g} standard errors from the maximum of the likelihood: fit with a "
            "smaller tol and reg_covar, or the standard errors are those of another point."
        )
    return errors if isinstance(x, Tensor) else _numpy(errors)


def _asymptotic(x: Tensor, parameters: MixtureParameters, weight: Tensor | None, method: Method) -> StandardErrors:
    location, variance = moments(x, weight)
    variance = variance.mean().expand_as(variance) if parameters.structure.isotropic else variance
    scale = variance.sqrt()
    layout = Layout.of(parameters)
    inside = parameters.affine(1 / scale, -location / scale)
    if bool(inside.singular.any()):
        raise ValueError(f"Expected positive definite covariances; got one that is not: {REMEDY}.")
    score, outer, information = derivatives(x, inside, layout, location, scale, weight)
    inverse = inverse_information(information, inside, float(x.shape[0] if weight is None else weight.sum()))
    step = inverse @ score
    covariance = inverse if method == "information" else inverse @ outer @ inverse
    units = _units(layout, scale, len(step))
    covariance = covariance * units[:, None] * units
    errors = []
    for change in layout.natural(torch.eye(len(step), dtype=torch.float64, device=x.device)):
        flat = change.flatten(1)
        variances = ((covariance @ flat) * flat).sum(0).clamp_min(0.0)
        errors.append(variances.sqrt().reshape(change.shape[1:]))
    distance = math.sqrt(max(float(score @ step), 0.0))
    return StandardErrors(errors[0], errors[1], errors[2], covariance, method, distance)


def _units(layout: Layout, scale: Tensor, count: int) -> Tensor:
    """Units of the free parameters, in the data's coordinates per standardised one: `(p,)`."""
    k = layout.n_components
    rows, columns = layout.places
    squares = scale[rows] * scale[columns]
    squares = squares[:1] if layout.structure.isotropic else squares
    repeats = (count - (k - 1) - k * len(scale)) // len(squares)
    return torch.cat([scale.new_ones(k - 1), scale.repeat(k), squares.repeat(repeats)])


def _bootstrap(
    x: Tensor,
    parameters: MixtureParameters,
    weight: Tensor | None,
    reg_covar: float,
    n_bootstrap: int,
    random_state: np.random.RandomState,
    n_jobs: int | None,
) -> StandardErrors:
    seeds = random_state.randint(2**31, size=n_bootstrap)
    jobs = (delayed(tied(_refit))(x, parameters, weight, reg_covar, int(seed)) for seed in seeds)
    refits = Parallel(n_jobs=n_jobs)(jobs)
    fits = [fit for fit, _ in refits]
    layout = Layout.of(parameters)
    free = torch.stack([layout.free(fit) for fit in fits])
    errors = [torch.stack([getattr(fit, name) for fit in fits]).std(0) for name in ("weights", "means", "covariances")]
    unsettled = sum(not settled for _, settled in refits)
    covariance = torch.cov(free.T).reshape(free.shape[1], free.shape[1])
    return StandardErrors(errors[0], errors[1], errors[2], covariance, "bootstrap", math.nan, n_bootstrap, unsettled)


def _refit(
    x: Tensor, parameters: MixtureParameters, weight: Tensor | None, reg_covar: float, seed: int
) -> tuple[MixtureParameters, bool]:
    """A fit to points drawn with replacement, with components in the order of `parameters`, and whether it settled."""
    chances = np.full(len(x), 1 / len(x)) if weight is None else (weight / weight.sum()).cpu().numpy()
    size = len(x) if weight is None else max(1, round(float(weight.sum())))
    counts = torch.from_numpy(np.random.RandomState(seed).multinomial(size, chances)).to(x.device)
    drawn = counts > 0
    with kept_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = fit_em(
            as_points(x[drawn], counts[drawn].double()), parameters, reg_covar=reg_covar, tol=1e-7, max_iter=500
        )
    order = torch.from_numpy(align(parameters, result.parameters)).to(x.device)
    return result.parameters.permuted(order), result.converged and not result.n_reseeded and not result.n_repaired


def _numpy(errors: StandardErrors) -> StandardErrors:
    names = ("weights", "means", "covariances", "covariance")
    arrays: dict[str, Any] = {name: torch.as_tensor(getattr(errors, name)).cpu().numpy() for name in names}
    return replace(errors, **arrays)
