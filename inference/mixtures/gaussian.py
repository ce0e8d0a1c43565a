"""Gaussian mixtures in the manner of scikit-learn, fitted by EM, by enumerated SVI or by NUTS."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self, final

import numpy as np
import torch
from pyro.infer.autoguide import AutoDelta, AutoGuide
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from latentmix.inference.mixtures.base import MixtureEstimator
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.em.deconvolution import log_joint_under_noise
from latentmix.inference.mixtures.em.density import log_joint
from latentmix.inference.mixtures.em.initialization import StartMethod
from latentmix.inference.mixtures.em.missing import log_joint_with_missing
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.em.stepwise import StepwiseEM
from latentmix.inference.mixtures.fitting import Fitting, Result, bound_of
from latentmix.inference.mixtures.nuts.fit import MixtureNUTSResult
from latentmix.inference.mixtures.points.arrays import Array
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.standardised import Priors
from latentmix.inference.mixtures.svi.fit import MixtureSVIResult
from latentmix.inference.svi.optimizers import MakeOptimizer, MakeScheduler, as_optimizer, as_scheduler
from latentmix.models.mixture.covariances import CovarianceType

__all__ = ["GaussianMixture"]


@final
class GaussianMixture(MixtureEstimator):
    """A Gaussian mixture with scikit-learn's interface, by EM, by SVI or by NUTS.

    It takes the place of `sklearn.mixture.GaussianMixture`. NumPy arrays, memory-mapped ones too, torch tensors and
    batches that can be iterated again are taken, and the same kind is given back. All algorithms start from the
    same point for the same `random_state`.

    Args:
        n_components: Number of components `K`.
        covariance_type: "full", "diag", "tied" or "spherical".
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
        warm_start: Whether a further `fit` goes on from the last one.
        verbose: 0, 1 or 2: what is printed.
        verbose_interval: Iterations between prints.
        noise_candidates: EM with a `noise_covariance`: most components of a point, see `NoisyPoints`.
        inference: "em"; "svi": with the component enumerated; "nuts": draws from the posterior, around its mode.
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
        svi_epochs: Most epochs of SVI.
        svi_tol: SVI without noise ends when ten epochs gained less, in nats per datum; with the default optimizer also
            when the bound changed by less over two.
        nuts_chains: Chains of NUTS.
        nuts_draws: Draws of each, after the warmup.
        nuts_warmup: Draws that adapt the sampler.
        nuts_processes: Processes that run the chains.
        nuts_max_tree_depth: Most doublings of a trajectory, see `fit_mixture_nuts`.
        priors: Priors for SVI and NUTS on `weights`, `means`, `scales` and `correlations`, in the data's coordinates;
            by default SVI's are flat: maximum likelihood, and NUTS's those of `MixtureModel`.
        guide: Class of the guide for SVI: `AutoDelta`, `AutoNormal`, ..., see `fit_mixture_svi`; the estimates are its
            medians.
        batch_size: Data a step of SVI; by default all.
        optimizer: Makes the optimizer of SVI, see `fit_mixture_svi`.
        scheduler: Makes its learning-rate schedule.

    Attributes:
        weights_: `(K,)`.
        means_: `K x D`.
        covariances_: `K x D x D` (full), `D x D` (tied), `K x D` (diag) or `(K,)` (spherical).
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
        posterior_: After NUTS, or SVI with a guide that is a density, draws: a `MixturePosterior`.
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
    result_: Result | StepwiseEM

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **MixtureEstimator._parameter_constraints,
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "noise_candidates": [Interval(Integral, 1, None, closed="left"), None],
        "inference": [StrOptions({"em", "svi", "nuts"})],
        "distributed": ["boolean"],
        "svi_epochs": [Interval(Integral, 1, None, closed="left")],
        "svi_tol": [Interval(Real, 0.0, None, closed="left")],
        "nuts_chains": [Interval(Integral, 1, None, closed="left")],
        "nuts_draws": [Interval(Integral, 1, None, closed="left")],
        "nuts_warmup": [Interval(Integral, 0, None, closed="left")],
        "nuts_processes": [Interval(Integral, 1, None, closed="left")],
        "nuts_max_tree_depth": [Interval(Integral, 1, None, closed="left")],
        "priors": [Mapping, None],
        "guide": [callable],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "optimizer": [object],  # see `_validate_params`
        "scheduler": [object],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: CovarianceType = "full",
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
        inference: Literal["em", "svi", "nuts"] = "em",
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        missing: Literal["marginalize"] | None = None,
        covariance_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        distributed: bool = False,
        svi_epochs: int = 1000,
        svi_tol: float = 1e-6,
        nuts_chains: int = 4,
        nuts_draws: int = 1000,
        nuts_warmup: int = 500,
        nuts_processes: int = 1,
        nuts_max_tree_depth: int = 5,
        priors: Priors | None = None,
        guide: Callable[..., AutoGuide] = AutoDelta,
        batch_size: int | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
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
        self.svi_epochs = svi_epochs
        self.svi_tol = svi_tol
        self.nuts_chains = nuts_chains
        self.nuts_draws = nuts_draws
        self.nuts_warmup = nuts_warmup
        self.nuts_processes = nuts_processes
        self.nuts_max_tree_depth = nuts_max_tree_depth
        self.priors = priors
        self.guide = guide
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.scheduler = scheduler

    def _validate_params(self) -> None:
        super()._validate_params()
        if self.optimizer is not None:
            as_optimizer(self.optimizer)
        if self.scheduler is not None:
            as_scheduler(self.scheduler)

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
        self._adopt(Fitting(self, points, labels, noise_covariance).best(), points, like)
        self.seconds_ = time.perf_counter() - began
        return self

    @torch.inference_mode(False)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from a batch that is seen once, by stepwise EM; the first one seeds the mixture, as `fit` does.

        After `fit`, or where attributes were set by hand, it goes on from there. `lower_bound_` is an average over the
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
        known = hasattr(self, "result_")
        if len(set(self._processes().gather(known))) > 1:
            raise ValueError("Expected partial_fit after a fit on every process, or on none; got it on some.")
        points, like = self._points(X, sample_weight, reset=not known, check=self._check_partial)
        if known:
            result = self._as_step().step(points, reg_covar=self.reg_covar)
        else:
            begin = Fitting(self, points, None, None).start()
            result = StepwiseEM.begin(points, begin, reg_covar=self.reg_covar)
            self.lower_bounds_ = []
        self._learn(result.parameters, torch.empty(0, dtype=points.dtype, device=points.device), like)
        self.converged_ = False
        self.n_iter_ = result.steps
        self.lower_bound_ = result.statistics.bound
        self.lower_bounds_ = [*self.lower_bounds_, self.lower_bound_]
        self.result_ = result
        self.seconds_ = time.perf_counter() - began
        return self

    def _check_partial(self) -> None:
        """Refuse options that need all points at once."""
        self._validate_params()
        unwanted = {
            "inference": self.inference != "em",
            "missing": self._missing,
            "covariance_prior": self.covariance_prior is not None,
            "degrees_of_freedom_prior": self.degrees_of_freedom_prior is not None,
        }
        for name, given in unwanted.items():
            if given:
                raise ValueError(f"Expected {name} at its default for partial_fit; got another: use fit.")

    def _as_step(self) -> StepwiseEM:
        """The last step of stepwise EM; of what `fit` found, or somebody set by hand, as if a step had given it."""
        parameters, last = self.parameters_, self.result_
        if isinstance(last, StepwiseEM) and parameters is self._parameters:
            return last
        statistics = SufficientStatistics.of_parameters(parameters, 1.0)
        bound = torch.full_like(statistics.weight, self.lower_bound_)
        statistics = replace(statistics, log_likelihood=bound)
        if isinstance(last, StepwiseEM):
            return replace(last, parameters=parameters, statistics=statistics)
        return StepwiseEM(parameters, statistics, 1, self._weight)

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
        if isinstance(result, MixtureNUTSResult):
            return result.posterior
        if isinstance(result, MixtureSVIResult) and not isinstance(result.guide, AutoDelta):
            return result.posterior
        raise AttributeError(
            "Expected a fit with inference='nuts', or inference='svi' and a guide such as AutoNormal, for posterior_; "
            "got none."
        )

    def _adopt(self, result: Result, points: Points, like: Any) -> None:
        self._learn(result.parameters, torch.empty(0, dtype=points.dtype, device=points.device), like)
        self.converged_ = result.converged
        self.n_iter_ = result.n_iter
        self.lower_bounds_ = list(result.lower_bounds)
        self.lower_bound_ = bound_of(result)
        self.result_ = result
        self._weight = points.weight

    def _log_joint(self, x: Tensor) -> Tensor:
        parameters = self.parameters_.to(x.new_empty(0, dtype=torch.float64))
        return log_joint_with_missing(x, parameters) if self._missing else log_joint(x, parameters)

    def _log_joint_under_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        return log_joint_under_noise(x, self.parameters_.to(x.new_empty(0, dtype=torch.float64)), noise)
