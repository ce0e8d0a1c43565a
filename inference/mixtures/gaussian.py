"""Gaussian mixtures in the manner of scikit-learn, fitted by EM or by enumerated SVI."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.infer.autoguide import AutoDelta, AutoGuide
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from latentmix.inference.mixtures.deconvolution import log_joint_under_noise
from latentmix.inference.mixtures.em import EMResult, fit_em, slices
from latentmix.inference.mixtures.starts import StartMethod, from_labels, start
from latentmix.inference.mixtures.svi import MixtureSVIResult, Priors, fit_mixture_svi
from latentmix.inference.mixtures.validation import check_noise, check_options, check_weights, given_start
from latentmix.inference.training import MakeOptimizer, MakeScheduler
from latentmix.models.covariances import CovarianceType, covariance_structure
from latentmix.models.parameters import MixtureParameters

__all__ = ["GaussianMixture"]

Array = NDArray[Any] | Tensor
_LEARNED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


@final
class GaussianMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """A Gaussian mixture with scikit-learn's interface, by EM or by SVI with the component enumerated.

    NumPy arrays and torch tensors are taken, and the same kind is given back. Both algorithms start from the
    same point for the same `random_state`.

    Args:
        n_components: Number of components `K`.
        covariance_type: "full", "diag", "tied" or "spherical".
        tol: EM ends when the bound changes by less, in nats per datum.
        reg_covar: EM: added to the diagonals of the covariances; SVI: floor of the variances.
        max_iter: Most iterations of EM.
        n_init: Starts; the fit with the highest bound is kept.
        init_params: "kmeans", "k-means++", "random" or "random_from_data".
        weights_init: `(K,)` weights to start from.
        means_init: `K x D` means to start from.
        precisions_init: Precisions to start from, of the shape of `precisions_`.
        random_state: Seed or `RandomState`; `None` is a fresh seed, NumPy's global state is left alone.
        warm_start: Whether a further `fit` goes on from the last one.
        verbose: 0, 1 or 2: what is printed.
        verbose_interval: Iterations between prints.
        noise_candidates: EM with a `noise_covariance`: most components of a point, see `expectation_under_noise`.
        inference: "em" or "svi".
        svi_epochs: Most epochs of SVI.
        svi_tol: SVI without noise ends when ten epochs gained less, in nats per datum.
        priors: Priors for SVI, see `fit_mixture_svi`; by default flat: maximum likelihood.
        guide: Class of the guide for SVI: `AutoDelta`, `AutoNormal`, ...; the estimates are its medians.
        batch_size: Data a step of SVI; by default all.
        optimizer: Makes the optimizer of SVI, see `fit_mixture_svi`.
        scheduler: Makes its learning-rate schedule.

    Attributes:
        weights_: `(K,)`.
        means_: `K x D`.
        covariances_: `K x D x D` (full), `D x D` (tied), `K x D` (diag) or `(K,)` (spherical).
        precisions_: Their inverses.
        precisions_cholesky_: Upper factors of the precisions.
        converged_: Whether the best fit converged.
        n_iter_: Its iterations or epochs.
        lower_bound_: Its bound, nats per datum: EM's last one, SVI's highest one (noisy fits: the last).
        lower_bounds_: The bounds on the way.
        n_features_in_: Number of features `D`.
        seconds_: Time of the whole fit, every start included.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.gaussian import GaussianMixture
        >>> x = torch.cat([torch.randn(50, 2) - 4, torch.randn(50, 2) + 4])
        >>> mixture = GaussianMixture(2, random_state=0).fit(x)
        >>> mixture.predict(x).unique(return_counts=True)[1]
        tensor([50, 50])
    """

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
        inference: Literal["em", "svi"] = "em",
        svi_epochs: int = 1000,
        svi_tol: float = 1e-6,
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
        self.svi_epochs = svi_epochs
        self.svi_tol = svi_tol
        self.priors = priors
        self.guide = guide
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.scheduler = scheduler

    def fit(
        self,
        X: Array,
        y: Any = None,
        sample_weight: Array | None = None,
        *,
        labels: Array | None = None,
        noise_covariance: Array | None = None,
    ) -> Self:
        """Fit the mixture.

        Args:
            X: `n x D` points.
            y: Ignored, as in scikit-learn.
            sample_weight: `(n,)` weights, not negative, not all zero; for EM.
            labels: `(n,)` integers, `-1` where unknown: component `k` starts at the points labelled `k`, and
                `n_init` and `init_params` are not used.
            noise_covariance: Known covariances of Gaussian noise in the points, `n x D` variances or `n x D x D`
                matrices, or one row, `1 x D` or `1 x D x D`, for all: the mixture is fitted to the points without
                it (extreme deconvolution: Bovy, Hogg and Roweis, 2011); for EM.

        Raises:
            ValueError: If an option, the data, the weights, the labels or the noise are not as described, or
                there are fewer points than components.
        """
        self._fit(X, sample_weight, labels, noise_covariance)
        return self

    def fit_predict[A: (NDArray[Any], Tensor, Array)](
        self,
        X: A,
        y: Any = None,
        sample_weight: Array | None = None,
        *,
        labels: Array | None = None,
        noise_covariance: Array | None = None,
    ) -> A:
        """Fit, and give the most probable component of each point: `(n,)` integers."""
        self._fit(X, sample_weight, labels, noise_covariance)
        result: A = self.predict(X, noise_covariance=noise_covariance)
        return result

    def predict[A: (NDArray[Any], Tensor, Array)](self, X: A, *, noise_covariance: Array | None = None) -> A:
        """The most probable component of each of `n x D` points, with noise as `fit` takes it: `(n,)` integers."""
        result: A = self._returned(self._log_joint(X, noise_covariance).argmax(1), X)
        return result

    def predict_proba[A: (NDArray[Any], Tensor, Array)](self, X: A, *, noise_covariance: Array | None = None) -> A:
        """Probabilities of the components for `n x D` points, with noise as `fit` takes it: `n x K`."""
        result: A = self._returned(self._log_joint(X, noise_covariance).softmax(1), X)
        return result

    def score_samples[A: (NDArray[Any], Tensor, Array)](self, X: A, *, noise_covariance: Array | None = None) -> A:
        """Log-density of `n x D` points, with noise as `fit` takes it: `(n,)`."""
        result: A = self._returned(self._log_joint(X, noise_covariance).logsumexp(1), X)
        return result

    def score(self, X: Array, y: Any = None, *, noise_covariance: Array | None = None) -> float:
        """Mean log-density of `n x D` points, with noise as `fit` takes it, in nats."""
        return float(self._log_joint(X, noise_covariance).logsumexp(1).mean())

    def aic(self, X: Array) -> float:
        """Akaike information criterion on `n x D` points; lower is better."""
        return -2 * self.score(X) * len(X) + 2 * self.parameters_.n_parameters()

    def bic(self, X: Array) -> float:
        """Bayesian information criterion on `n x D` points; lower is better."""
        return -2 * self.score(X) * len(X) + self.parameters_.n_parameters() * math.log(len(X))

    def sample(self, n_samples: int = 1) -> tuple[Array, Array]:
        """Draw points, ordered by component.

        Returns:
            `n_samples x D` points and their `(n_samples,)` components.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"Expected n_samples >= 1; got {n_samples}.")
        random_state = self._random_state()
        parameters = self.parameters_
        weights = parameters.weights.cpu().numpy()
        counts = random_state.multinomial(n_samples, weights / weights.sum())
        components = torch.from_numpy(np.repeat(np.arange(len(weights)), counts)).to(parameters.means.device)
        noise = torch.from_numpy(random_state.standard_normal((n_samples, parameters.means.shape[1])))
        factors = torch.linalg.cholesky(parameters.expanded_covariances())[components]
        points = parameters.means[components] + (factors @ noise.to(factors)[..., None]).squeeze(-1)
        like = torch.as_tensor(self.means_)
        return self._returned(points.to(like), self.means_), self._returned(components, self.means_)

    @property
    def parameters_(self) -> MixtureParameters:
        """Weights, means and covariances as tensors in float64."""
        check_is_fitted(self)
        weights, means, covariances = (torch.as_tensor(getattr(self, name)).double() for name in _LEARNED[:3])
        return MixtureParameters(weights, means, covariances, covariance_structure(self.covariance_type))

    def _fit(self, X: Array, sample_weight: Array | None, labels: Array | None, noise_covariance: Array | None) -> None:
        began = time.perf_counter()
        check_options(self)
        x = self._checked(X, reset=True)
        if len(x) < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, n_samples = {len(x)}"
            )
        weight = check_weights(sample_weight, x)
        noise = check_noise(noise_covariance, x)
        for name, given in (("sample_weight", weight), ("noise_covariance", noise)):
            if given is not None and self.inference == "svi":
                raise ValueError(f"Expected no {name} for inference='svi'; got one: take inference='em'.")
        random_state = self._random_state()
        again = self.warm_start and hasattr(self, "converged_")
        best: EMResult | MixtureSVIResult | None = None
        for attempt in range(1 if again or labels is not None else self.n_init):
            if self.verbose:
                print(f"Initialization {attempt}")
            begin = self.parameters_ if again else self._start(x, weight, labels, random_state)
            result = self._run(x, begin, weight, noise, random_state, again)
            if best is None or _bound(result) > _bound(best):
                best = result
        assert best is not None
        self._learn(best, X, x)
        self.seconds_ = time.perf_counter() - began
        if not best.converged and (self.inference == "svi" or self.max_iter > 0):
            warnings.warn(
                f"The best of the {self.inference} fits did not converge in {best.n_iter} iterations: raise "
                f"{'max_iter or tol' if self.inference == 'em' else 'svi_epochs or svi_tol'}, try another start, or "
                "check for degenerate data.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _start(
        self, x: Tensor, weight: Tensor | None, labels: Array | None, random_state: np.random.RandomState
    ) -> MixtureParameters:
        structure = covariance_structure(self.covariance_type)
        given = given_start(self, x)
        if all(part is not None for part in given):
            found = None
        elif labels is not None:
            known = torch.as_tensor(labels).to(x.device)
            found = from_labels(x, known, self.n_components, structure, sample_weight=weight, reg_covar=self.reg_covar)
        else:
            found = start(
                x,
                self.n_components,
                structure,
                method=self.init_params,
                random_state=random_state,
                sample_weight=weight,
                reg_covar=self.reg_covar,
            )
        weights, means, covariances = (
            getattr(found, name) if part is None else part
            for name, part in zip(("weights", "means", "covariances"), given, strict=True)
        )
        return MixtureParameters(weights, means, covariances, structure)

    def _run(
        self,
        x: Tensor,
        begin: MixtureParameters,
        weight: Tensor | None,
        noise: Tensor | None,
        random_state: np.random.RandomState,
        again: bool,
    ) -> EMResult | MixtureSVIResult:
        if self.inference == "em":
            return fit_em(
                x,
                begin,
                sample_weight=weight,
                noise_covariance=noise,
                noise_candidates=self.noise_candidates,
                reg_covar=self.reg_covar,
                tol=self.tol,
                max_iter=self.max_iter,
                previous=self.lower_bound_ if again else -math.inf,
                report=self._report if self.verbose else None,
            )
        return fit_mixture_svi(
            x,
            begin,
            priors=self.priors,
            reg_covar=self.reg_covar,
            family=self.guide,
            epochs=self.svi_epochs,
            tol=self.svi_tol,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            seed=int(random_state.randint(2**31)),
        )

    def _learn(self, result: EMResult | MixtureSVIResult, X: Array, x: Tensor) -> None:
        fitted = result.parameters
        values = (
            fitted.weights,
            fitted.means,
            fitted.covariances,
            fitted.structure.precisions(fitted.precisions_cholesky),
            fitted.precisions_cholesky,
        )
        for name, value in zip(_LEARNED, values, strict=True):
            setattr(self, name, self._returned(value.to(x), X))
        self.converged_ = result.converged
        self.n_iter_ = result.n_iter
        self.lower_bounds_ = list(result.lower_bounds)
        self.lower_bound_ = _bound(result)

    def _checked(self, X: Array, *, reset: bool = False) -> Tensor:
        if not reset:
            check_is_fitted(self)
        array = X.detach().cpu().numpy() if isinstance(X, Tensor) else X
        array = validate_data(
            self, array, reset=reset, dtype=[np.float64, np.float32], ensure_min_samples=2 if reset else 1
        )
        x = torch.from_numpy(np.array(array, order="C") if _awkward(array) else array)
        return x.to(X.device) if isinstance(X, Tensor) else x

    def _log_joint(self, X: Array, noise_covariance: Array | None) -> Tensor:
        x = self._checked(X)
        noise = check_noise(noise_covariance, x)
        if noise is not None:
            return log_joint_under_noise(x, self.parameters_.to(x.new_empty(0, dtype=torch.float64)), noise).to(x.dtype)
        structure = covariance_structure(self.covariance_type)
        weights, means, _, _, factors = (
            torch.as_tensor(getattr(self, name)).to(x.device).double() for name in _LEARNED
        )
        parts = [
            structure.log_density(x[rows].double(), means, factors) + weights.log() for rows in slices(x, len(weights))
        ]
        return torch.cat(parts).to(x.dtype)

    def _random_state(self) -> np.random.RandomState:
        fresh = np.random.RandomState() if self.random_state is None else self.random_state
        return check_random_state(fresh)

    def _report(self, iteration: int, change: float) -> None:
        if iteration % self.verbose_interval == 0:
            print(f"  Iteration {iteration}" + (f"\t ll change {change:.5f}" if self.verbose > 1 else ""))

    @staticmethod
    def _returned(value: Tensor, like: Any) -> Any:
        if isinstance(like, Tensor):
            return value.to(like.device)
        return value.cpu().numpy()


def _bound(result: EMResult | MixtureSVIResult) -> float:
    if not result.lower_bounds:
        return -math.inf
    return result.lower_bound if isinstance(result, MixtureSVIResult) else result.lower_bounds[-1]


def _awkward(array: NDArray[Any]) -> bool:
    return not array.flags.writeable or any(stride < 0 for stride in array.strides)
