"""Gaussian mixtures in the manner of scikit-learn, fitted by EM, by enumerated SVI or by NUTS."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, Literal, Self, final

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from latentmix.inference.mixtures.algorithm import EM, Algorithm, FitOptions, MixtureResult, all_points
from latentmix.inference.mixtures.base import MixtureEstimator
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.em.covariance_priors import CovariancePrior
from latentmix.inference.mixtures.em.deconvolution import NoisyEStep, log_joint_under_noise
from latentmix.inference.mixtures.em.density import log_joint
from latentmix.inference.mixtures.em.e_step import EStep, ExactEStep
from latentmix.inference.mixtures.em.initialization import StartMethod
from latentmix.inference.mixtures.em.missing import log_joint_with_missing, marginalizing
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.em.stepwise import StepwiseEM
from latentmix.inference.mixtures.nuts.fit import NUTS
from latentmix.inference.mixtures.points.arrays import Array
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.points.validation import check_distinct, check_noise
from latentmix.inference.mixtures.progress import Progress
from latentmix.inference.mixtures.starts import EstimatorStarts, as_labels, check_resumable
from latentmix.inference.mixtures.svi.fit import SVI
from latentmix.models.mixture.covariances import CovarianceStructure, covariance_structure

__all__ = ["GaussianMixture"]

ALGORITHMS: dict[str, type[Algorithm]] = {kind.name: kind for kind in (EM, SVI, NUTS)}

# Options that may differ between processes.
_PER_PROCESS = ("device", "random_state", "verbose", "verbose_interval")


@final
class GaussianMixture(MixtureEstimator):
    """A Gaussian mixture with scikit-learn's interface, by EM, by SVI or by NUTS.

    It takes the place of `sklearn.mixture.GaussianMixture`. NumPy arrays, memory-mapped ones too, torch tensors and
    batches that can be iterated again are taken, and the same kind is given back. All algorithms start from the
    same point for the same `random_state`.

    Args:
        n_components: Number of components `K`.
        covariance_type: "full", "diag", "tied", "spherical", "tied_diag" (one variance of each feature for all
            components), or another registered `CovarianceStructure`, by its name or as an object.
        tol: EM ends when the bound changes by less, in nats per datum.
        reg_covar: Added to the diagonals of the covariances, in each step of EM and, to the same effect, in the
            objective of SVI; NUTS: floor of the variances.
        max_iter: Most iterations of EM.
        n_init: Starts; the fit with the highest bound is kept.
        init_params: "kmeans", "k-means++", "random" or "random_from_data".
        weights_init: `(K,)` weights to start from.
        means_init: `K x D` means to start from.
        precisions_init: Precisions to start from, of the shape of `precisions_`.
        random_state: Seed or `RandomState`; with `None`, `fit` and `sample` draw one seed from NumPy's global state,
            so that `numpy.random.seed` repeats them, as in scikit-learn. Of several processes the first one's counts.
        warm_start: Whether a further `fit` resumes the last one.
        verbose: 0, 1 or 2: what is printed.
        verbose_interval: Iterations between prints.
        noise_candidates: EM with a `noise_covariance`: most components of a point, see `NoisyEStep`.
        inference: The algorithm: `EM()`, `SVI(...)` with the component enumerated, or `NUTS(...)`, draws from the
            posterior around its mode, each with its own options; "em", "svi" and "nuts" stand for their defaults.
        device: Where the points are taken for the fit and for predictions; by default they stay.
        dtype: "float32" or "float64", which the points and the attributes take; by default that of the points.
            Statistics are in float64 always.
        missing: "marginalize" takes NaN, and masked values, as missing, and maximises the likelihood of what is
            observed; by default they are refused. For EM.
        covariance_prior: EM: scale of an inverse Wishart prior (`D x D`: full, tied) or inverse gamma prior (`(D,)`:
            diag; a number: spherical) on the covariances, which are then the mode of their posterior, see
            `CovariancePrior`: such as `0.1 * numpy.eye(D)`.
        degrees_of_freedom_prior: Its degrees of freedom; by default `D`.
        distributed: Whether each process of torch.distributed holds a part of the points; for EM.

    Attributes:
        weights_: `(K,)`.
        means_: `K x D`.
        covariances_: `K x D x D` (full), `D x D` (tied), `K x D` (diag), `(K,)` (spherical) or `(D,)` (tied_diag).
        precisions_: Their inverses.
        precisions_cholesky_: Upper factors of the precisions.
        parameters_: Weights, means and covariances as tensors in float64.
        converged_: Whether the best fit converged.
        n_iter_: Its iterations or epochs.
        lower_bound_: Its bound, nats per datum: EM's last one, SVI's highest one (noisy fits: the last), the mean over
            NUTS's draws.
        lower_bounds_: The bounds on the way.
        result_: All that the algorithm found: an `EMResult`, a `MixtureSVIResult` with the guide, or a
            `MixtureNUTSResult` with R-hat and effective sample sizes.
        posterior_: After NUTS, or SVI with a guide that is a density, draws: a `MixturePosterior`; a mixture from the
            file of a run has some of them.
        n_features_in_: Number of features `D`.
        feature_names_in_: Their names, where the points had any.
        seconds_: Time of the whole fit, every start included.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.gaussian import GaussianMixture
        >>> x = torch.cat([torch.randn(50, 2) - 4, torch.randn(50, 2) + 4])
        >>> mixture = GaussianMixture(2, random_state=0).fit(x)
        >>> mixture.predict(x).unique(return_counts=True)[1]
        tensor([50, 50])
    """

    lower_bounds_: list[float]
    result_: MixtureResult | StepwiseEM

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **MixtureEstimator._parameter_constraints,
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "noise_candidates": [Interval(Integral, 1, None, closed="left"), None],
        "inference": [StrOptions(set(ALGORITHMS)), Algorithm],
        "distributed": ["boolean"],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str | CovarianceStructure = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: StartMethod = "kmeans",
        weights_init: Array | None = None,
        means_init: Array | None = None,
        precisions_init: Array | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        noise_candidates: int | None = None,
        inference: Literal["em", "svi", "nuts"] | Algorithm = "em",
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        missing: Literal["marginalize"] | None = None,
        covariance_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        distributed: bool = False,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.noise_candidates = noise_candidates
        self.inference = inference
        self.device = device
        self.dtype = dtype
        self.missing = missing
        self.covariance_prior = covariance_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.distributed = distributed

    def set_params(self, **params: Any) -> Self:
        """Set options, those of the algorithm as `inference__draws`.

        Raises:
            ValueError: If an option is unknown, or one of an algorithm that is given by its word.
        """
        own = [name for name in params if name.startswith("inference__")]
        algorithm = params.get("inference", self.inference)
        if own and not isinstance(algorithm, Algorithm):
            option = own[0].removeprefix("inference__")
            kinds = [kind.__name__ for kind in ALGORITHMS.values() if option in kind().get_params()]
            if not kinds and isinstance(algorithm, str) and algorithm in ALGORITHMS:
                raise ValueError(f"Expected an option of an algorithm as {own[0]}; got {option!r}, which none has.")
            raise ValueError(
                f"Expected an algorithm object to set {own[0]} of; got inference={algorithm!r}: pass "
                f"inference={' or '.join(f'{kind}({option}=...)' for kind in kinds) or 'the algorithm'}."
            )
        return super().set_params(**params)

    def _validate_params(self) -> None:
        super()._validate_params()
        self.algorithm.check_params()

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm: `inference`, or the defaults of its word.

        Raises:
            ValueError: If it is neither an algorithm nor the word for one.
        """
        if isinstance(self.inference, Algorithm):
            return self.inference
        if not isinstance(self.inference, str) or self.inference not in ALGORITHMS:
            raise ValueError(
                f"Expected inference to be an algorithm, or out of {', '.join(ALGORITHMS)}; got {self.inference!r}."
            )
        return ALGORITHMS[self.inference]()

    @torch.inference_mode(False)
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        labels: Any = None,
        noise_covariance: Any = None,
    ) -> Self:
        """Fit the mixture.

        Args:
            X: `n x D` points, or batches of them that can be iterated again and again, alone or in pairs with their
                weights.
            y: Ignored, as in scikit-learn.
            sample_weight: `(n,)` weights, not negative, not all zero; for EM.
            labels: `(n,)` integers, `-1` where unknown: component `k` starts at the points labelled `k`, and
                `n_init` and `init_params` are not used.
            noise_covariance: Known covariances of Gaussian noise in the points, `n x D` variances or `n x D x D`
                matrices, or one row, `1 x D` or `1 x D x D`, for all: the mixture is fitted to the points without
                it (extreme deconvolution: Bovy, Hogg and Roweis, 2011); for EM.

        Raises:
            ValueError: If an option, the data, the weights, the labels or the noise are not as described, there are
                fewer points than components, or, with `reg_covar=0`, points at fewer places than components.
        """
        began = time.perf_counter()
        points, like = self._points(X, sample_weight, check=self._validate_params)
        e_step, starts, options = self._prepared(points, labels, noise_covariance)
        self._adopt(self.algorithm.fit_best(e_step, starts, options), points, like)
        self.seconds_ = time.perf_counter() - began
        return self

    @torch.inference_mode(False)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from a batch that is seen once, by stepwise EM; the first one seeds the mixture, as `fit` does.

        After `fit`, or from attributes that were set by hand, it continues. `lower_bound_` is an average over the
        batches, each before its step.

        Args:
            X: `n x D` points; at first as many as components at least.
            y: Ignored.
            sample_weight: `(n,)` weights, not negative, not all zero.

        Raises:
            ValueError: If the data or the weights are not as described, or options are set that need all points at
                once.
        """
        began = time.perf_counter()
        known = hasattr(self, "means_")
        if len(set(self._processes().gather(lambda: known))) > 1:
            raise ValueError("Expected partial_fit after a fit on every process, or on none; got it on some.")
        points, like = self._points(X, sample_weight, reset=not known, check=self._check_partial)
        if known:
            result = self._as_step(points).step(points, reg_covar=self.reg_covar)
        else:
            _, starts, _ = self._prepared(points)
            result = StepwiseEM.begin(points, starts.draw(), reg_covar=self.reg_covar)
            self.lower_bounds_ = []
        self._learn(result.parameters, torch.empty(0, dtype=points.dtype, device=points.device), like)
        self.converged_ = False
        self.n_iter_ = result.steps
        self.lower_bound_ = result.statistics.bound
        self.lower_bounds_ = [*getattr(self, "lower_bounds_", ()), self.lower_bound_]
        self.result_ = result
        self._steps, self._weight = result.steps, result.weight
        self.seconds_ = time.perf_counter() - began
        return self

    def _prepared(
        self, points: Points, labels: Any = None, noise_covariance: Any = None
    ) -> tuple[EStep, EstimatorStarts, FitOptions]:
        """E step, starts and options of a fit; what does not fit the points or each other is refused."""
        algorithm, structure = self.algorithm, covariance_structure(self.covariance_type)
        last = self.parameters_ if self.warm_start and hasattr(self, "converged_") else None
        noisy = noise_covariance is not None
        self._agree(points, {"noise_covariance": noisy, "last fit to resume": last is not None})
        e_step: EStep = marginalizing(points) if self._missing else ExactEStep(points)
        known = as_labels(labels, points)
        random_state = self._random_state()
        if last is not None:
            check_resumable(last, structure, self.n_components)
        CovariancePrior.of(self.covariance_prior, self.degrees_of_freedom_prior, structure, points.location)
        given = {
            "sample_weight": points.weighted,
            "noise_covariance": noisy,
            "missing='marginalize'": self._missing,
            "distributed=True": self.distributed,
            "covariance_prior": self.covariance_prior is not None,
        }
        options = FitOptions(
            reg_covar=self.reg_covar,
            tol=self.tol,
            max_iter=self.max_iter,
            covariance_prior=self.covariance_prior,
            degrees_of_freedom_prior=self.degrees_of_freedom_prior,
            previous=-math.inf if last is None else self.lower_bound_,
            progress=Progress(int(self.verbose), self.verbose_interval),
            given=frozenset(name for name, there in given.items() if there),
        )
        algorithm.check(points, structure, self.n_components, options)
        if noisy:
            if self._missing or self.distributed:
                raise ValueError("Expected no missing values and one process with a noise_covariance; got the option.")
            noise = check_noise(noise_covariance, all_points(points, "a noise_covariance"))
            assert noise is not None
            e_step = NoisyEStep(points, noise, candidates=self.noise_candidates)
        elif self.reg_covar == 0 and self.covariance_prior is None:
            check_distinct(points, self.n_components)
        seeding = e_step if algorithm.starts_from_seeds else None
        starts = EstimatorStarts(self, points, random_state, labels=known, last=last, e_step=seeding)
        return e_step, starts, options

    def _agree(self, points: Points, given: dict[str, bool]) -> None:
        """Refuse options that differ between processes, and what is given on one of them alone."""
        if points.processes.alone:
            return
        own = {name: repr(value) for name, value in self.get_params().items() if name not in _PER_PROCESS}
        own |= {name: "one" if there else "none" for name, there in given.items()}
        every = points.gather(lambda: own)
        for name in own:
            values = [options.get(name) for options in every]
            if len(set(values)) > 1:
                raise ValueError(f"Expected the same {name} on every process; got {', '.join(map(str, values))}.")

    def _check_partial(self) -> None:
        """Refuse options that need all points at once."""
        self._validate_params()
        unwanted = {
            "inference": not isinstance(self.algorithm, EM),
            "missing": self._missing,
            "covariance_prior": self.covariance_prior is not None,
            "degrees_of_freedom_prior": self.degrees_of_freedom_prior is not None,
        }
        for name, given in unwanted.items():
            if given:
                raise ValueError(f"Expected {name} at its default for partial_fit; got another: use fit.")

    def _as_step(self, points: Points) -> StepwiseEM:
        """The last step of stepwise EM, or a step with the outcome of `fit`, of a file, or of attributes set by hand.

        A mixture of unknown data counts as a batch of the size and the bound of these points.
        """
        parameters, last = self.parameters_, getattr(self, "result_", None)
        if isinstance(last, StepwiseEM) and parameters is self._parameters:
            return last
        bound = self.lower_bound_ if hasattr(self, "lower_bound_") else ExactEStep(points)(parameters).bound
        statistics = SufficientStatistics.of_parameters(parameters, 1.0)
        statistics = replace(statistics, log_likelihood=torch.full_like(statistics.weight, bound))
        steps, weight = getattr(self, "_steps", 1), getattr(self, "_weight", points.weight)
        return StepwiseEM(parameters, statistics, steps, weight)

    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, labels: Any = None, noise_covariance: Any = None
    ) -> Any:
        """Fit, and give the most probable component of each point: `(n,)` integers.

        Raises:
            ValueError: As `fit` and `predict` raise it: before the fit, if the points are batches.
        """
        self._refuse_batches(X)
        self.fit(X, y, sample_weight, labels=labels, noise_covariance=noise_covariance)
        return self.predict(X, noise_covariance=noise_covariance)

    def predict(self, X: Any, *, noise_covariance: Any = None) -> Any:
        """The most probable component of each of `n x D` points, with noise as `fit` takes it: `(n,)` integers."""
        return self._evaluated(X, lambda joint: joint.argmax(1), noise_covariance)

    def predict_proba(self, X: Any, *, noise_covariance: Any = None) -> Any:
        """Probabilities of the components for `n x D` points, with noise as `fit` takes it: `n x K`."""
        return self._evaluated(X, lambda joint: joint.softmax(1), noise_covariance)

    def score_samples(self, X: Any, *, noise_covariance: Any = None) -> Any:
        """Log-density of `n x D` points, with noise as `fit` takes it: `(n,)`."""
        return self._evaluated(X, lambda joint: joint.logsumexp(1), noise_covariance)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None, *, noise_covariance: Any = None) -> float:
        """Mean log-density, in nats, of points, weights and noise as `fit` takes them, over batches and processes."""
        total, weight = self._log_likelihood(X, sample_weight, noise_covariance)
        return total / weight

    def aic(self, X: Any, sample_weight: Any = None, *, noise_covariance: Any = None) -> float:
        """Akaike information criterion on points, weights and noise as `fit` takes them, over all processes.

        Lower is better; a weight counts as that many points.
        """
        total, _ = self._log_likelihood(X, sample_weight, noise_covariance)
        return -2 * total + 2 * self.parameters_.n_parameters()

    def bic(self, X: Any, sample_weight: Any = None, *, noise_covariance: Any = None) -> float:
        """Bayesian information criterion on points, weights and noise as `aic` takes them; lower is better."""
        total, weight = self._log_likelihood(X, sample_weight, noise_covariance)
        return -2 * total + self.parameters_.n_parameters() * math.log(weight)

    @property
    def posterior_(self) -> MixturePosterior:
        """Draws of the posterior, or of the guide in its place; these are made at the first call, and kept.

        Its `predictive_log_density` is the log of the mean density over the draws, where `score_samples` is the
        log-density of one mixture, at their mean or median.
        """
        result = getattr(self, "result_", None)
        posterior: MixturePosterior | None = getattr(self, "_posterior", None) if result is None else None
        if result is None and posterior is None and hasattr(self, "means_"):
            raise AttributeError(
                "Expected a fit, or a file with draws, for posterior_; got a mixture from a file that holds no draws, "
                "or set by hand."
            )
        if result is not None and not isinstance(result, StepwiseEM):
            posterior = result.posterior
        if posterior is not None:
            return posterior
        raise AttributeError(
            "Expected a fit with inference='nuts', or inference='svi' and a guide such as AutoNormal, for posterior_; "
            "got none."
        )

    @posterior_.setter
    def posterior_(self, posterior: MixturePosterior) -> None:
        self._posterior = posterior

    def _adopt(self, result: MixtureResult, points: Points, like: Any) -> None:
        self._learn(result.parameters, torch.empty(0, dtype=points.dtype, device=points.device), like)
        self.converged_ = result.converged
        self.n_iter_ = result.n_iter
        self.lower_bounds_ = list(result.lower_bounds)
        self.lower_bound_ = result.lower_bound
        self.result_ = result
        self._steps, self._weight = 1, points.weight

    def _log_joint(self, x: Tensor) -> Tensor:
        parameters = self.parameters_.to(x.new_empty(0, dtype=torch.float64))
        return log_joint_with_missing(x, parameters) if self._missing else log_joint(x, parameters)

    def _log_joint_under_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        return log_joint_under_noise(x, self.parameters_.to(x.new_empty(0, dtype=torch.float64)), noise)
