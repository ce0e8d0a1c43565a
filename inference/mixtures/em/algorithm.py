"""EM as an algorithm of `GaussianMixture`."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from latentmix.inference.mixtures.algorithm import Algorithm, FitOptions, MixtureResult, all_points
from latentmix.inference.mixtures.em.em import EMResult, fit_em
from latentmix.inference.mixtures.em.missing import expectation_with_missing
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.progress import warn
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["EM"]


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

    def check(self, points: Points, structure: CovarianceStructure, n_components: int, options: FitOptions) -> None:
        super().check(points, structure, n_components, options)
        if options.noise_covariance is not None and (options.missing or options.distributed):
            raise ValueError("Expected no missing values and one process with a noise_covariance; got the option.")

    def fit(self, points: Tensor | Points, start: MixtureParameters, options: FitOptions = FitOptions()) -> EMResult:
        """Fit a mixture to points, from a start in the data's coordinates; see `fit_em`."""
        noisy = options.noise_covariance is not None
        x, weight = all_points(points, "a noise_covariance") if noisy else (points, None)
        return fit_em(
            x,
            start,
            sample_weight=weight,
            noise_covariance=options.noise_covariance,
            noise_candidates=options.noise_candidates,
            e_step=expectation_with_missing if options.missing else None,
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
