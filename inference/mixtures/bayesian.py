"""Bayesian Gaussian mixtures with scikit-learn's interface, by variational Bayes."""

from __future__ import annotations

import math
import time
from numbers import Real
from typing import Any, ClassVar, Literal, Self, final

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from latentmix.inference.mixtures.base import MixtureEstimator, as_kept
from latentmix.inference.mixtures.em.conjugate import ConjugatePrior, VariationalPosterior, WeightPrior
from latentmix.inference.mixtures.em.density import log_joint
from latentmix.inference.mixtures.em.e_step import EStep, ExactEStep
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import StartMethod, initialize
from latentmix.inference.mixtures.em.missing import (
    log_joint_with_missing,
    marginalizing,
)
from latentmix.inference.mixtures.em.predictive import log_predictive
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.em.variational import DegenerateMixture, VariationalResult, fit_variational
from latentmix.inference.mixtures.points.arrays import Array, as_tensor, returned
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.progress import Progress, warn
from latentmix.models.mixture.covariances import CovarianceStructure, covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.words import plural

__all__ = ["BayesianGaussianMixture"]


@final
class BayesianGaussianMixture(MixtureEstimator):
    """A Gaussian mixture under conjugate priors with scikit-learn's interface, by variational Bayes.

    The weights follow a Dirichlet process, truncated at `n_components`, or a Dirichlet distribution; superfluous
    components keep next to no weight (Bishop, *Pattern Recognition and Machine Learning*, 2006, section 10.2; Blei and
    Jordan, *Variational inference for Dirichlet process mixtures*, 2006). NumPy arrays and torch tensors are accepted,
    and results are of the same kind.

    Args:
        n_components: Greatest number of components `K`.
        covariance_type: "full", "diag", "tied" or "spherical"; scikit-learn's priors have no form for "tied_diag".
        tol: The fit ends when the bound changes by less, in nats.
        reg_covar: Added to the diagonals of the covariances in every iteration, before the prior.
        max_iter: Greatest number of iterations.
        n_init: Number of starts; the fit with the highest bound is kept.
        init_params: "kmeans", "k-means++", "random" or "random_from_data".
        weight_concentration_prior_type: "dirichlet_process" or "dirichlet_distribution".
        weight_concentration_prior: Concentration of the process, or of every component; by default `1 / K`. Less of
            it leaves more components empty.
        mean_precision_prior: Number of points that the prior mean counts for; by default 1.
        mean_prior: `(D,)` prior mean; by default that of the points.
        degrees_of_freedom_prior: Of the Wishart distribution of the precisions, above `D - 1`; by default `D`.
        covariance_prior: Inverse scale of the Wishart distribution: `D x D` (full, tied), `(D,)` (diag) or a number
            (spherical); by default the covariance of the points.
        random_state: Seed or `RandomState`; with `None`, `fit` and `sample` draw one seed from NumPy's global state,
            so that `numpy.random.seed` repeats them, as in scikit-learn. Several processes use the first one's.
        warm_start: Whether `fit` resumes from the last fit.
        verbose: 0, 1 or 2: how much is printed.
        verbose_interval: Iterations between prints.
        missing: "marginalize" treats NaN and masked values as entries missing at random; by default they are refused.
        device: Device of the computation; by default that of the points.
        dtype: Dtype that the points are converted to; statistics are always in float64.

    Attributes:
        weights_: `(K,)` expected weights.
        means_: `K x D`.
        covariances_: `K x D x D` (full), `D x D` (tied), `K x D` (diag) or `(K,)` (spherical); inverses of the
            expected precisions.
        precisions_: Their inverses.
        precisions_cholesky_: Upper factors of the precisions.
        weight_concentration_: `(K,)` of the Dirichlet distribution; for the process the two `(K,)` parameters of the
            Beta distributions of the sticks.
        mean_precision_: `(K,)` numbers of points that the means count for.
        degrees_of_freedom_: `(K,)`; a number where tied.
        weight_concentration_prior_: The prior, with defaults filled in; so are `mean_precision_prior_`,
            `mean_prior_`, `degrees_of_freedom_prior_` and `covariance_prior_`.
        converged_: Whether the best fit converged.
        n_iter_: Its iterations.
        lower_bound_: Its last bound without the constants, in nats, as in scikit-learn; with `reg_covar=0` it never
            falls.
        lower_bounds_: The bound of each iteration.
        evidence_lower_bound_: The bound on the log-evidence with every constant, in nats; see
            `evidence_lower_bound`, by which models of different `K`, covariances and priors are compared; the last
            stick of a Dirichlet process takes the rest here, but not in `lower_bound_`. NaN without an iteration, or
            where the prior is singular.
        n_features_in_: Number of features `D`.
        seconds_: Time of the whole fit, every start included.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
        >>> x = torch.cat([torch.randn(50, 2) - 4, torch.randn(50, 2) + 4])
        >>> mixture = BayesianGaussianMixture(n_components=4, weight_concentration_prior=0.01, random_state=0).fit(x)
        >>> mixture.predict_proba(x).shape
        torch.Size([100, 4])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **MixtureEstimator._parameter_constraints,
        "weight_concentration_prior_type": [StrOptions({"dirichlet_process", "dirichlet_distribution"})],
        "weight_concentration_prior": [Interval(Real, 0.0, None, closed="neither"), None],
        "mean_precision_prior": [Interval(Real, 0.0, None, closed="neither"), None],
        "mean_prior": ["array-like", None],
    }

    def __init__(
        self,
        *,
        n_components: int = 1,
        covariance_type: str | CovarianceStructure = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: StartMethod = "kmeans",
        weight_concentration_prior_type: WeightPrior = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Array | None = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Array | float | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        missing: Literal["marginalize"] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.missing = missing
        self.device = device
        self.dtype = dtype

    @torch.inference_mode(False)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the mixture.

        Args:
            X: `n x D` points, or batches of them that can be iterated repeatedly, alone or in pairs with their weights.
            y: Ignored, as in scikit-learn.
            sample_weight: `(n,)` weights, not negative, not all zero: an integer counts as that many points.

        Raises:
            ValueError: If an option, a prior, the data or the weights are not as described, there are fewer
                points than components, or from every start a component's covariance is singular in double precision.
        """
        began = time.perf_counter()
        points, like = self._points(X, sample_weight, check=self._validate_params)
        e_step = marginalizing(points) if self._missing else ExactEStep(points)
        prior = self._prior(e_step)
        best = self._best(e_step, prior)
        self._adopt(best, prior, points, like)
        self.seconds_ = time.perf_counter() - began
        return self

    def score_samples(self, X: Any) -> Any:
        """Log of the expected-log mixture at `n x D` points, which is no log-density: `(n,)`.

        As in scikit-learn, it is the log of the sum over the components of the exponential of the posterior mean of the
        log of weight times density, the normaliser of `predict_proba`. By Jensen's inequality it lies below the
        posterior predictive, `predictive_log_density`, and its exponential integrates to less than 1.
        """
        return super().score_samples(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean of `score_samples`, in nats, of points and weights as for `fit`; it is no mean log-density."""
        return super().score(X, y, sample_weight)

    def predictive_log_density(self, X: Any) -> Any:
        """Log of the posterior predictive density of `n x D` points: `(n,)`.

        The density of a point, averaged over the variational posterior, is a mixture of Student-t distributions with
        the weights `weights_`, see `log_predictive`. With `missing="marginalize"` it is that of the observed entries.
        """
        x, weights, posterior = self._checked(X), self.parameters_.weights, self._posterior
        return self._by_rows(
            x, X, lambda part, _: log_predictive(part, posterior.to(part.device), weights.to(part.device)).logsumexp(1)
        )

    def _best(self, e_step: EStep, prior: ConjugatePrior) -> VariationalResult:
        again = self.warm_start and hasattr(self, "converged_")
        random_state = self._random_state()
        best: VariationalResult | None = None
        failure: DegenerateMixture | None = None
        for attempt in range(1 if again else self.n_init):
            progress = Progress(int(self.verbose), self.verbose_interval)
            progress.begin(attempt)
            try:
                result = fit_variational(
                    e_step,
                    self._posterior.to(e_step.points.device) if again else self._start(e_step, prior, random_state),
                    prior,
                    reg_covar=self.reg_covar,
                    tol=self.tol,
                    max_iter=self.max_iter,
                    previous=self.lower_bound_ if again else -math.inf,
                    report=progress.step if progress.verbose else None,
                )
            except DegenerateMixture as error:
                failure = error
                continue
            progress.end(result.lower_bound, result.converged)
            if best is None or result.lower_bound > best.lower_bound:
                best = result
        if best is None:
            assert failure is not None
            raise failure
        if failure is not None:
            warn(f"Starts were skipped, the last of them for: {failure}")
        if not best.converged and self.max_iter > 0:
            warn(
                "The best of the starts did not converge: raise max_iter or tol, try another start, or check for "
                "degenerate data."
            )
        return best

    def _start(self, e_step: EStep, prior: ConjugatePrior, random_state: np.random.RandomState) -> VariationalPosterior:
        seed = initialize(
            e_step,
            self.n_components,
            prior.structure,
            method=self.init_params,
            random_state=random_state,
            reg_covar=self.reg_covar,
        )
        return prior.posterior(SufficientStatistics.of_parameters(seed, e_step.points.weight))

    def _validate_params(self) -> None:
        super()._validate_params()
        structure = covariance_structure(self.covariance_type)
        if structure.shared and not structure.correlated:
            raise ValueError(
                f"Expected covariance_type 'full', 'diag', 'tied' or 'spherical' in a BayesianGaussianMixture; got "
                f"{structure.name!r}, for whose shared variances it has no prior: take GaussianMixture."
            )

    def _prior(self, e_step: EStep) -> ConjugatePrior:
        points = e_step.points
        structure, size = covariance_structure(self.covariance_type), points.n_features
        degrees = size if self.degrees_of_freedom_prior is None else self.degrees_of_freedom_prior
        if not degrees > size - 1:
            raise ValueError(
                f"The parameter 'degrees_of_freedom_prior' should be greater than {size - 1}, but got {degrees:.3f}."
            )
        concentration, precision = self.weight_concentration_prior, self.mean_precision_prior
        mean = _given(self.mean_prior, "means", (size,), points.location)
        shape = structure.single_shape(size)
        name = f"{structure.name} covariance_prior"
        covariance = _given(self.covariance_prior, name, shape, points.location)
        if covariance is None:
            covariance = self._covariance(e_step).reshape(shape)
        elif not bool(structure.precisions_cholesky(covariance).isfinite().all()) or not torch.allclose(
            covariance,
            covariance.mT if covariance.ndim == 2 else covariance,
            atol=1e-8 * float(covariance.abs().max()),
        ):
            raise ValueError(
                f"Expected the parameter '{name}' to be symmetric and positive definite; got one that is not."
                if len(shape) == 2
                else f"Expected the parameter '{name}' to be positive; got values that are not."
            )
        return ConjugatePrior(
            weight_prior=self.weight_concentration_prior_type,
            weight_concentration=1 / self.n_components if concentration is None else float(concentration),
            mean=points.location if mean is None else mean,
            mean_precision=1.0 if precision is None else float(precision),
            degrees_of_freedom=degrees,
            covariance=covariance,
            structure=structure,
        )

    def _covariance(self, e_step: EStep) -> Tensor:
        """Covariance of the points, unbiased where weights count them; the likeliest one where entries are missing."""
        structure = covariance_structure(self.covariance_type)
        structure = covariance_structure("full") if structure.correlated else structure
        points = e_step.points
        each = points.location.new_ones(1)
        wide = structure.regularize(each.new_zeros(structure.covariance_shape(1, points.n_features)), points.variance)
        guess = MixtureParameters(each, points.location[None], wide, structure)
        if not e_step.exact:
            guess = fit_em(e_step, guess, reg_covar=0.0, tol=1e-6, max_iter=100).parameters
        statistics = e_step(guess)
        biased = structure.estimate(statistics.counts, statistics.scatter, statistics.sums / statistics.counts[:, None])
        return biased * (points.weight / max(points.weight - 1, points.weight / 2))

    def _adopt(self, best: VariationalResult, prior: ConjugatePrior, points: Points, like: Any) -> None:
        posterior = best.posterior
        empty = torch.empty(0, dtype=points.dtype, device=points.device)
        self._learn(posterior.parameters, empty, like)
        self._kept = posterior
        self.weight_concentration_prior_ = prior.weight_concentration
        self.mean_precision_prior_ = prior.mean_precision
        self.mean_prior_ = returned(prior.mean.to(empty), like)
        self.degrees_of_freedom_prior_ = prior.degrees_of_freedom
        self.covariance_prior_ = (
            float(prior.covariance) if prior.covariance.ndim == 0 else returned(prior.covariance.to(empty), like)
        )
        concentration = returned(posterior.weight_concentration.to(empty), like)
        self.weight_concentration_ = concentration if concentration.ndim == 1 else (concentration[0], concentration[1])
        self.mean_precision_ = returned(posterior.mean_precision.to(empty), like)
        degrees = posterior.degrees_of_freedom
        self.degrees_of_freedom_ = (
            float(degrees[0]) if posterior.structure.shared else returned(degrees.to(empty), like)
        )
        self.converged_ = best.converged
        self.n_iter_ = best.n_iter
        self.lower_bounds_ = best.lower_bounds
        self.lower_bound_ = best.lower_bound
        self.evidence_lower_bound_ = best.evidence

    @property
    def _posterior(self) -> VariationalPosterior:
        """The posterior of the attributes: the fitted one, in full precision, unless they have been set by hand.

        Raises:
            ValueError: If their numbers of components differ.
        """
        check_is_fitted(self)
        kept: VariationalPosterior | None = getattr(self, "_kept", None)
        structure = covariance_structure(self.covariance_type)
        process = self.weight_concentration_prior_type == "dirichlet_process"
        concentration: Any = self.weight_concentration_
        means, degrees = as_tensor(self.means_), as_tensor(self.degrees_of_freedom_)
        factors = getattr(self, "precisions_cholesky_", None)
        if factors is None:
            factors = structure.precisions_cholesky(self.parameters_.covariances)
        held = {
            "weight_concentration_": torch.stack([*map(as_tensor, concentration)])
            if process
            else as_tensor(concentration),
            "mean_precision_": as_tensor(self.mean_precision_),
            "means_": means,
            "degrees_of_freedom_": degrees.expand(len(means)) if degrees.ndim == 0 else degrees,
            "precisions_cholesky_": as_tensor(factors),
        }
        size = (len(means),)
        shapes = {
            "weight_concentration_": (2, *size) if process else size,
            "mean_precision_": size,
            "means_": (*size, self.n_features_in_),
            "degrees_of_freedom_": size,
            "precisions_cholesky_": structure.covariance_shape(*means.shape),
        }
        for name, shape in shapes.items():
            if held[name].shape != shape:
                raise ValueError(
                    f"Expected {name} of shape {shape}, as means_ has {plural(len(means), 'component')}; got "
                    f"{tuple(held[name].shape)}: set all of these attributes together."
                )
        fitted = [None] * 5 if kept is None else [*_parts(kept)]
        parts = [as_kept(part, value) for part, value in zip(fitted, held.values(), strict=True)]
        if kept is not None and all(part is own for part, own in zip(parts, fitted, strict=True)):
            return kept
        weights, precision, centres, nu, factors = (part.to(means.device) for part in parts)
        inverse = structure.covariances(*structure.factors(factors))
        return VariationalPosterior(
            self.weight_concentration_prior_type, weights, precision, centres, nu, inverse, structure, factors
        )

    def _log_joint(self, x: Tensor) -> Tensor:
        posterior = self._posterior.to(x.device)
        if self._missing:
            return log_joint_with_missing(x, posterior.effective) + posterior.log_scale
        return log_joint(x, posterior.effective) + posterior.log_scale

    @property
    def _expected(self) -> MixtureParameters:
        return self._posterior.effective


def _parts(posterior: VariationalPosterior) -> tuple[Tensor, ...]:
    """The tensors of a posterior that predictions depend on."""
    factors = posterior.parameters.precisions_cholesky
    return (
        posterior.weight_concentration,
        posterior.mean_precision,
        posterior.means,
        posterior.degrees_of_freedom,
        factors,
    )


def _given(value: Any, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
    if value is None:
        return None
    array = as_tensor(value).detach()
    if tuple(array.shape) != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {tuple(array.shape)}.")
    if not bool(array.isfinite().all()):
        raise ValueError(f"Expected the parameter '{name}' to be finite; got NaN or infinity.")
    return array.to(like)
