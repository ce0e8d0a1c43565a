"""The base class of the mixture estimators: scikit-learn's interface, for arrays, tensors and batches of any kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from latentmix.inference.mixtures.em.missing import impute
from latentmix.inference.mixtures.points.arrays import (
    Array,
    as_array,
    as_tensor,
    check_unmasked,
    marked,
    returned,
    slices,
)
from latentmix.inference.mixtures.points.points import Points, check_weighted
from latentmix.inference.mixtures.points.processes import Processes
from latentmix.inference.mixtures.points.sources import Source, as_source, refuse_batches
from latentmix.inference.mixtures.points.summary import check_rows, check_weights_of_rows
from latentmix.inference.mixtures.points.validation import as_random_state, check_device, check_noise, check_tensor
from latentmix.models.mixture.covariances import (
    CovarianceStructure,
    covariance_structure,
    covariance_types,
)
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.process_state import kept_filters

__all__ = ["MixtureEstimator"]

_LEARNED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
_COUNT = Interval(Integral, 1, None, closed="left")
_CHUNK = 1 << 21  # doubles of one chunk's n x (K + D)


class MixtureEstimator(DensityMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Checks of points, predictions and sampling, which mixtures with scikit-learn's interface have in common.

    A subclass sets the options named in `_parameter_constraints` in its constructor, and has `fit` and `_log_joint`.
    It takes NumPy arrays (memory-mapped ones are read in chunks), torch tensors and whatever scikit-learn takes as
    array-like; results are tensors on the device of the input if that is a tensor, else NumPy arrays.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [_COUNT],
        "covariance_type": [StrOptions(set(covariance_types())), CovarianceStructure],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [_COUNT],
        "init_params": [StrOptions({"kmeans", "random", "random_from_data", "k-means++"})],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [_COUNT],
        "missing": [StrOptions({"marginalize"}), None],
        "covariance_prior": ["array-like", Interval(Real, 0.0, None, closed="neither"), None],
        "degrees_of_freedom_prior": [Interval(Real, 0.0, None, closed="neither"), None],
        "device": [str, torch.device, None],
        "dtype": [StrOptions({"float32", "float64"}), Options(torch.dtype, {torch.float32, torch.float64}), None],
    }

    n_components: int
    covariance_type: str | CovarianceStructure
    random_state: int | np.random.RandomState | None
    device: str | torch.device | None
    dtype: str | torch.dtype | None

    def _validate_params(self) -> None:
        types = [StrOptions(set(covariance_types())), CovarianceStructure]  # those registered by now
        constraints = {**self._parameter_constraints, "covariance_type": types}
        validate_parameter_constraints(constraints, self.get_params(deep=False), caller_name=type(self).__name__)

    @abstractmethod
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the mixture to `n x D` points, with `(n,)` weights."""

    @abstractmethod
    def _log_joint(self, x: Tensor) -> Tensor:
        """Log of weight times density of `n x D` points, in float64: `n x K`."""

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and return the most probable component of each point: `(n,)` integers.

        Raises:
            ValueError: As `fit` and `predict` raise it: before the fit, if the points are batches.
        """
        self._refuse_batches(X)
        return self.fit(X, y, sample_weight).predict(X)

    def _refuse_batches(self, X: Any) -> None:
        """Refuse batches, on all processes if one of them has some."""
        self._processes().gather(lambda: refuse_batches(X))

    def predict(self, X: Any) -> Any:
        """The most probable component of each of `n x D` points: `(n,)` integers."""
        return self._evaluated(X, lambda joint: joint.argmax(1))

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the components for `n x D` points: `n x K`."""
        return self._evaluated(X, lambda joint: joint.softmax(1))

    def score_samples(self, X: Any) -> Any:
        """Log-density of `n x D` points: `(n,)`."""
        return self._evaluated(X, lambda joint: joint.logsumexp(1))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density, in nats, of points and weights as `fit` takes them: over all batches and all processes."""
        total, weight = self._log_likelihood(X, sample_weight)
        return total / weight

    def impute(self, X: Any) -> Any:
        """Replace missing entries, NaN, of `n x D` points by their expectations given the observed ones: `n x D`.

        Raises:
            ValueError: If the option `missing` is not "marginalize".
        """
        if not self._missing:
            raise ValueError("Expected missing='marginalize' for impute; got None: fit with that option.")
        x = self._checked(X)
        parameters, points = self._expected, self._tensor(x)
        filled = impute(points, parameters.to(points.new_empty(0, dtype=torch.float64)))
        return returned(filled.to(as_tensor(x[:0]).dtype), X)

    @property
    def _expected(self) -> MixtureParameters:
        """The mixture whose responsibilities are those of `predict_proba`."""
        return self.parameters_

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Draw points, ordered by component; `random_state=None` takes a seed from NumPy's global state.

        Returns:
            `n_samples x D` points and their `(n_samples,)` components, tensors or arrays as `means_` is.

        Raises:
            ValueError: If `n_samples` is not an integer, or below 1.
        """
        check_is_fitted(self)
        if isinstance(n_samples, bool) or not _COUNT.is_satisfied_by(n_samples):
            raise ValueError(f"Invalid value for 'n_samples': {n_samples!r}. Expected an integer of at least 1.")
        n_samples = int(n_samples)
        random_state = self._random_state()
        parameters = self.parameters_
        if bool(parameters.singular.any()):
            component = int(parameters.singular.nonzero()[0])
            raise ValueError(
                f"Expected positive definite covariances to sample; got a singular one, component {component}."
            )
        weights = parameters.weights.cpu().numpy()
        counts = random_state.multinomial(n_samples, weights / weights.sum())
        components = torch.from_numpy(np.repeat(np.arange(len(weights)), counts)).to(parameters.means.device)
        noise = torch.from_numpy(random_state.standard_normal((n_samples, parameters.means.shape[1])))
        factors = parameters.scale_tril
        spread = torch.empty_like(noise, device=components.device)
        for rows in slices(n_samples, _CHUNK // factors[0].numel()):
            drawn = noise[rows].to(spread)
            spread[rows] = (factors[components[rows]] @ drawn[..., None]).squeeze(-1)
        points = (parameters.means[components] + spread).to(as_tensor(self.means_).dtype)
        return returned(points, self.means_), returned(components, self.means_)

    @property
    def parameters_(self) -> MixtureParameters:
        """Weights, means and covariances as tensors in float64, of full precision even if `weights_`, ... are float32.

        They follow attributes set by hand: `weights_`, `means_`, and `covariances_`, or `precisions_cholesky_` if only
        that was set. Setting `precisions_` alone changes nothing, as in scikit-learn. A Bayesian mixture samples from
        this mixture; its predictions are of its posterior, and follow `means_`, `precisions_cholesky_`,
        `weight_concentration_`, `mean_precision_` and `degrees_of_freedom_`, as scikit-learn's do.
        """
        check_is_fitted(self)
        kept: MixtureParameters | None = getattr(self, "_parameters", None)
        held = (as_tensor(self.weights_), as_tensor(self.means_), self._covariances(kept))
        if kept is not None and all(map(_rounds_to, (kept.weights, kept.means, kept.covariances), held)):
            return kept
        weights, means, covariances = (part.double() for part in held)
        return MixtureParameters(weights, means, covariances, covariance_structure(self.covariance_type))

    @parameters_.setter
    def parameters_(self, parameters: MixtureParameters) -> None:
        """Set `weights_`, `means_`, ..., as NumPy arrays in float64, of which no digits are lost."""
        self._learn(parameters, torch.empty(0, dtype=torch.float64), None)

    def _covariances(self, kept: MixtureParameters | None) -> Tensor:
        """`covariances_`, or those of `precisions_cholesky_` if only that was set by hand."""
        if hasattr(self, "covariances_"):
            covariances = as_tensor(self.covariances_)
            factors = getattr(self, "precisions_cholesky_", None)
            if kept is None or factors is None or _rounds_to(kept.precisions_cholesky, as_tensor(factors)):
                return covariances
            if not _rounds_to(kept.covariances, covariances):
                return covariances
        structure = covariance_structure(self.covariance_type)
        return structure.covariances(*structure.factors(as_tensor(self.precisions_cholesky_).double()))

    def _n_parameters(self) -> int:
        """Number of free parameters."""
        return self.parameters_.n_parameters()

    def _learn(self, parameters: MixtureParameters, x: Tensor, like: Any) -> None:
        """Store a fitted mixture as `weights_`, ..., in the dtype of `x`; tensors or arrays as `like` is."""
        kept = self._parameters = parameters.to(x.new_empty(0, dtype=torch.float64))
        precisions = kept.structure.precisions(kept.precisions_cholesky)
        values = (kept.weights, kept.means, kept.covariances, precisions, kept.precisions_cholesky)
        for name, value in zip(_LEARNED, values, strict=True):
            setattr(self, name, returned(value.to(x.dtype), like))

    def _points(
        self, X: Any, sample_weight: Any = None, *, reset: bool = True, check: Callable[[], None] | None = None
    ) -> tuple[Points, Array]:
        """Points to fit to, checked, with their weights, and an array or tensor of the kind that results take.

        Arrays, mapped ones and batches that can be iterated again are taken, with the options `device`, `dtype`,
        `missing` and `distributed` where the estimator has them. An error of `check` on one process is raised on all.

        Raises:
            ValueError: If the points or weights are not as described, or there are fewer points than components.
        """

        def find() -> Source:
            if check is not None:
                check()
            return self._source(X, sample_weight, reset=reset)

        points = Points.measure(find, self._processes(), allow_nan=self._missing)
        if not reset:
            self._check_features(points.n_features)
            return points, points.like
        points.check_scale()
        self.n_features_in_ = points.n_features
        if not points.source.at_once:
            self.__dict__.pop("feature_names_in_", None)
        if points.count < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {points.count}"
            )
        return points, points.like

    def _check_features(self, n_features: int) -> None:
        fitted = as_tensor(self.means_).shape[1]
        if n_features != fitted:
            raise ValueError(
                f"X has {n_features} features, but {type(self).__name__} is expecting {fitted} features as input."
            )

    def _processes(self) -> Processes:
        """The processes among which the points are divided."""
        return Processes.present() if self._distributed else Processes()

    @property
    def _distributed(self) -> bool:
        return bool(getattr(self, "distributed", False))

    def _source(self, X: Any, sample_weight: Any, *, reset: bool) -> Source:
        """This process's points and their weights, in the dtype and on the device that the options ask for."""
        device = self._device
        if not reset:
            check_is_fitted(self)
        return as_source(X, sample_weight, check=lambda x: self._checked(x, reset=reset)).to(device, self._dtype)

    def _checked(self, X: Any, *, reset: bool = False) -> Array:
        """Points that come at once, as scikit-learn checks them: a tensor, or a NumPy array, a view where possible.

        Raises:
            ValueError: If they are batches or not `n x D` real numbers, finite (`missing="marginalize"` accepts NaN),
                with the features of the fit, and at least two of them for a fit.
        """
        if not reset:
            check_is_fitted(self)
        refuse_batches(X)
        X = marked(X)
        if not self._missing:
            check_unmasked(X, "X", "take missing='marginalize', or drop them")
        shared = reset and self._distributed  # then one error is raised on all processes
        least = 2 if reset and not shared else 1
        if isinstance(X, Tensor):
            x = check_tensor(as_tensor(X), least=least, missing=self._missing, finite=not shared)
            validate_data(self, x, reset=reset, skip_check_array=True)
            return x
        try:
            with kept_filters():
                array: NDArray[Any] = validate_data(
                    self,
                    as_array(X) if isinstance(X, np.ma.MaskedArray) else X,
                    reset=reset,
                    dtype=[np.float64, np.float32],
                    ensure_min_samples=least,
                    ensure_all_finite=False if shared else "allow-nan" if self._missing else True,
                )
        except ValueError as error:
            if not str(error).startswith("Input X contains NaN"):
                raise
            raise ValueError("Input X contains NaN: take missing='marginalize', or drop its rows.") from error
        return array

    @property
    def _missing(self) -> bool:
        return getattr(self, "missing", None) == "marginalize"

    @property
    def _dtype(self) -> torch.dtype | None:
        return getattr(torch, self.dtype) if isinstance(self.dtype, str) else self.dtype

    @property
    def _device(self) -> torch.device | None:
        return None if self.device is None else check_device(self.device)

    def _tensor(self, x: Array) -> Tensor:
        """Checked points, all of them, in the dtype and on the device that the options ask for."""
        tensor = as_tensor(x)
        return tensor.to(device=self._device or tensor.device, dtype=self._dtype or tensor.dtype)

    def _joint(self, x: Tensor, noise: Tensor | None, rows: slice) -> Tensor:
        """Log-joints of points, which are these rows of all, under their noise if there is any."""
        if noise is None:
            return self._log_joint(x)
        return self._log_joint_under_noise(x, (noise if len(noise) == 1 else noise[rows]).to(x.device))

    def _log_joint_under_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        raise NotImplementedError

    def _evaluated(self, X: Any, reduce: Callable[[Tensor], Tensor], noise_covariance: Any = None) -> Any:
        x = self._checked(X)
        noise = None if noise_covariance is None else check_noise(noise_covariance, as_tensor(x))
        return self._by_rows(x, X, lambda part, rows: reduce(self._joint(part, noise, rows)))

    def _by_rows(self, x: Array, like: Any, evaluate: Callable[[Tensor, slice], Tensor]) -> Any:
        """Values of chunks of checked points and their slices, in the dtype of the points and of the kind of `like`."""
        dtype = as_tensor(x[:0]).dtype
        value = torch.cat([evaluate(part, rows) for part, rows in self._parts(x)])
        return returned(value.to(dtype) if value.is_floating_point() else value, like)

    def _log_joints(self, X: Any) -> Tensor:
        """Log of weight times density of `n x D` points of any kind, in float64: `n x K`."""
        return torch.cat([self._joint(part, None, rows) for part, rows in self._parts(self._checked(X))])

    def _parts(self, x: Array) -> Iterator[tuple[Tensor, slice]]:
        """Checked points chunk by chunk, each with its rows."""
        for rows in slices(len(x), _CHUNK // (len(self.weights_) + x.shape[1])):
            yield self._tensor(x[rows]), rows

    def _log_likelihood(self, X: Any, sample_weight: Any = None, noise_covariance: Any = None) -> tuple[float, float]:
        """Weighted sum of the log-densities of points as `fit` takes them, and their weight, over all processes."""
        processes = self._processes()
        *sums, weighted, doubles = processes.sum(lambda: self._total(X, sample_weight, noise_covariance))
        check_weighted(int(weighted), processes)
        if int(doubles) not in (0, processes.size):
            raise ValueError("Expected points with the same dtype on every process; got others on some.")
        total, weight = map(float, sums)
        if not weight > 0:
            raise ValueError("Expected sample_weight not to be all zero; got zeros.")
        return total, weight

    def _total(self, X: Any, sample_weight: Any, noise_covariance: Any) -> tuple[Tensor, ...]:
        """One pass over this process's points.

        Returns:
            The weighted sum of their log-densities, their weight, and whether they have weights and are in float64.
        """
        if noise_covariance is not None and self._distributed:
            raise ValueError("Expected no noise_covariance with distributed=True; got one: take distributed=False.")
        source = self._source(X, sample_weight, reset=False)
        means = self.parameters_.means
        noise = None if noise_covariance is None else check_noise(noise_covariance, means[:1].expand(len(source), -1))
        total, mass, first = means.new_zeros(()), means.new_zeros(()), 0
        for x, weight in source.chunks(_CHUNK // (len(means) + means.shape[1])):
            self._check_features(x.shape[1])
            check_weights_of_rows(weight, first)
            density = self._joint(x, noise, slice(first, first + len(x))).logsumexp(1)
            if not bool(density.isfinite().all()):
                check_rows(x, first, allow_nan=self._missing)
            total = total.to(x.device) + (density.sum() if weight is None else weight @ density)
            mass = mass.to(x.device) + (len(x) if weight is None else weight.sum())
            first += len(x)
        if not first:
            raise ValueError("Expected points; got no rows.")
        return total, mass, mass.new_tensor(float(weight is not None)), mass.new_tensor(float(x.dtype == torch.float64))

    def _random_state(self) -> np.random.RandomState:
        return as_random_state(self.random_state)


def as_kept(kept: Tensor | None, held: Tensor) -> Tensor:
    """The value kept in full precision if the attribute `held` is still its rounding, else the attribute in float64."""
    return kept if kept is not None and _rounds_to(kept, held) else held.double()


def _rounds_to(kept: Tensor, held: Tensor) -> bool:
    return kept.shape == held.shape and held.is_floating_point() and torch.equal(kept.to(held), held)
