"""Algorithms that fit a mixture to points: their interface, the best of several starts, and EM."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, final

from torch import Tensor

from latentmix.inference.mixtures.em.e_step import EStep
from latentmix.inference.mixtures.em.em import EMResult, fit_em
from latentmix.inference.mixtures.parameter_object import ParameterObject
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.progress import Progress, warn
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.words import plural

__all__ = ["EM", "Algorithm", "FitOptions", "MixtureResult", "Starts", "all_points", "plain_points"]


class MixtureResult(Protocol):
    """Outcome of an algorithm.

    Attributes:
        parameters: The mixture, in float64.
        lower_bounds: Bounds on the way, nats per datum.
        lower_bound: The bound that outcomes are compared by; minus infinity without an iteration.
        converged: Whether the fit converged.
        n_iter: Number of iterations, epochs or draws.
        posterior: Draws of the mixture's posterior, a `MixturePosterior`; None of a point estimate.
    """

    @property
    def parameters(self) -> MixtureParameters: ...

    @property
    def lower_bounds(self) -> list[float]: ...

    @property
    def lower_bound(self) -> float: ...

    @property
    def converged(self) -> bool: ...

    @property
    def n_iter(self) -> int: ...

    @property
    def posterior(self) -> Any: ...


@dataclass(frozen=True)
class FitOptions:
    """Options of an estimator that its algorithm reads.

    Args:
        reg_covar: Variance added to the diagonals of the covariances.
        tol: Change of EM's bound, in nats per datum, below which it has converged.
        max_iter: Most iterations of EM.
        covariance_prior: Scale of a prior of the covariances, see `CovariancePrior`.
        degrees_of_freedom_prior: Its degrees of freedom.
        previous: The bound of the fit that is resumed.
        seed: Seed of the fit.
        progress: Prints the progress of the fit.
        given: Which of `sample_weight`, `noise_covariance`, `missing='marginalize'`, `distributed=True` and
            `covariance_prior` are given; an algorithm refuses those that it does not take.
    """

    reg_covar: float = 1e-6
    tol: float = 1e-3
    max_iter: int = 100
    covariance_prior: Any = None
    degrees_of_freedom_prior: float | None = None
    previous: float = -math.inf
    seed: int = 0
    progress: Progress = field(default_factory=Progress)
    given: frozenset[str] = frozenset()


class Starts(Protocol):
    """Mixtures to start from, one for each attempt, drawn when the attempt begins.

    Attributes:
        resumed: Whether the only start is an earlier fit.
    """

    resumed: bool

    def __len__(self) -> int:
        """Number of attempts."""

    def draw(self) -> MixtureParameters:
        """A start, in the data's coordinates."""

    def seed(self) -> int:
        """A seed for the attempt."""


class Algorithm(ParameterObject, ABC):
    """An algorithm that fits a mixture, with options of its own.

    It is a parameter object of scikit-learn's kind: the constructor stores its options, `get_params`, `set_params` and
    `clone` work, and grids reach them through an estimator as `inference__epochs`. Fitting leaves it as it is.

    Attributes:
        name: The word for the algorithm with its default options, and its name in messages.
        accepts: Which of `sample_weight`, `batches`, `noise_covariance`, `missing='marginalize'`, `distributed=True`
            and `covariance_prior` it takes.
        seeded: Whether a fit draws random numbers.
        starts_from_seeds: Whether a fit may start from seeds alone, narrow as they are, as EM's first E step does; see
            `em.initialization.initialize`.
    """

    name: ClassVar[str] = "own"
    accepts: ClassVar[frozenset[str]] = frozenset()
    seeded: ClassVar[bool] = False
    starts_from_seeds: ClassVar[bool] = False

    @abstractmethod
    def fit(
        self, points: Tensor | Points | EStep, start: MixtureParameters, options: FitOptions = FitOptions()
    ) -> MixtureResult:
        """Fit a mixture to points, from a start in the data's coordinates."""

    def check(self, points: Points, structure: CovarianceStructure, n_components: int, options: FitOptions) -> None:
        """Refuse options and points that the algorithm does not take, before any work.

        Raises:
            ValueError: If there are any; the message names the option.
        """
        for name in sorted(options.given - self.accepts):
            raise ValueError(f"Expected no {name} for inference={self.name!r}; got one: take inference='em'.")
        if "batches" not in self.accepts:
            all_points(points, f"inference={self.name!r}")

    def fit_best(self, points: Points | EStep, starts: Starts, options: FitOptions) -> MixtureResult:
        """The fit with the highest bound over all starts; warns where it has not converged."""
        best = self.best_of(points, starts, options)
        if not best.converged:
            self._warn_of(best, options)
        return best

    def best_of(self, points: Points | EStep, starts: Starts, options: FitOptions) -> MixtureResult:
        """The fit with the highest bound over all starts."""
        best: MixtureResult | None = None
        progress = options.progress
        for attempt in range(len(starts)):
            progress.begin(attempt)
            start = starts.draw()
            seeded = replace(options, seed=starts.seed()) if self.seeded else options
            result = self.fit(points, start, seeded)
            progress.end(result.lower_bound, result.converged)
            # Without an iteration there is no bound, and the last start counts, as in scikit-learn.
            if best is None or result.lower_bound > best.lower_bound or not result.lower_bounds:
                best = result
        assert best is not None
        return best

    def _warn_of(self, result: MixtureResult, options: FitOptions) -> None:
        """Warn of a fit that has not converged, and say what helps."""
        warn(f"The best of the {self.name} fits did not converge in {plural(result.n_iter, 'iteration')}.")


@final
class EM(Algorithm):
    """Expectation maximisation (Dempster, Laird and Rubin, 1977); its options are those of scikit-learn's estimator.

    Example:
        >>> import torch
        >>> from latentmix.inference import EM, GaussianMixture
        >>> GaussianMixture(2, inference=EM(), random_state=0).fit(torch.randn(50, 2)).means_.shape
        torch.Size([2, 2])
    """

    name = "em"
    starts_from_seeds = True
    accepts: ClassVar[frozenset[str]] = frozenset(
        {
            "sample_weight",
            "batches",
            "noise_covariance",
            "missing='marginalize'",
            "distributed=True",
            "covariance_prior",
        }
    )

    def fit(
        self, points: Tensor | Points | EStep, start: MixtureParameters, options: FitOptions = FitOptions()
    ) -> EMResult:
        """Fit a mixture to points, or by their E step, from a start in the data's coordinates; see `fit_em`."""
        return fit_em(
            points,
            start,
            reg_covar=options.reg_covar,
            covariance_prior=options.covariance_prior,
            degrees_of_freedom_prior=options.degrees_of_freedom_prior,
            tol=options.tol,
            max_iter=options.max_iter,
            previous=options.previous,
            report=options.progress.step if options.progress.verbose else None,
        )

    def _warn_of(self, result: MixtureResult, options: FitOptions) -> None:
        if options.max_iter > 0:
            warn(
                "Best performing initialization did not converge. Try different init parameters, or increase max_iter, "
                "tol, or check for degenerate data."
            )


def all_points(points: Tensor | Points | EStep, purpose: str) -> Tensor:
    """All points as one tensor.

    Raises:
        ValueError: If they come in batches; the message names the purpose.
    """
    if isinstance(points, Tensor):
        return points
    return (points.points if isinstance(points, EStep) else points).tensor(purpose)[0]


def plain_points(points: Tensor | Points | EStep, name: str) -> Tensor:
    """All points as one tensor, for an algorithm that takes no weights, missing values or noise.

    Raises:
        ValueError: If they have any of these, or come in batches; the message names the algorithm.
    """
    if isinstance(points, EStep) and not points.exact:
        raise ValueError(f"Expected complete points without noise for inference={name!r}; got {type(points).__name__}.")
    held = points.points if isinstance(points, EStep) else points
    if isinstance(held, Points) and held.weighted:
        raise ValueError(f"Expected no sample_weight for inference={name!r}; got one: take inference='em'.")
    return all_points(points, f"inference={name!r}")
