r"""Stepwise EM: a mixture learnt from batches that are seen once, as by `partial_fit`.

The statistics per datum follow :math:`s_t = (1 - \gamma_t) s_{t-1} + \gamma_t \hat s_t`, where :math:`\hat s_t` are
those of batch t under the parameters so far, :math:`\gamma_1 = 1`, and from the second batch on
:math:`\gamma_t = (t - 1 + t_0)^{-\kappa}`, at most 1; the parameters are the M step
of :math:`s_t` (Cappé and Moulines, *Online expectation-maximization algorithm for latent data models*, 2009,
https://doi.org/10.1111/j.1467-9868.2009.00698.x; Liang and Klein, *Online EM for unsupervised models*, 2009).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.e_step import EStep, ExactEStep
from latentmix.inference.mixtures.em.empty import reset_empty
from latentmix.inference.mixtures.em.m_step import keep_empty, maximize, repair
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import Points, as_points
from latentmix.models.display import Displayed
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.words import plural

__all__ = ["StepwiseEM"]


@final
@dataclass(frozen=True, repr=False)
class StepwiseEM(Displayed):
    r"""The state of stepwise EM: `begin` makes the first, and `step` the next.

    Args:
        parameters: The mixture, in float64.
        statistics: Averaged statistics per datum about the mixture's means, whose log-likelihood is the averaged
            bound of the batches, each before its step.
        steps: Number of batches seen.
        weight: Their total weight.
        exponent: :math:`\kappa`, above 0.5, where noise averages out, to 1, where at a delay of 1 all batches of one
            size count alike.
        delay: :math:`t_0`, not negative: the greater, the less the first steps move; at 0 the second batch replaces
            the first.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.stepwise import StepwiseEM
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> means, full = torch.tensor([[-1.0], [1.0]]), covariance_structure("full")
        >>> start = MixtureParameters(torch.ones(2) / 2, means, torch.ones(2, 1, 1), full)
        >>> first, second = torch.randn(2, 50, 1)
        >>> StepwiseEM.begin(first, start).step(second).steps
        2
    """

    parameters: MixtureParameters
    statistics: SufficientStatistics
    steps: int
    weight: float
    exponent: float = 0.6
    delay: float = 2.0

    @classmethod
    def begin(
        cls,
        points: Tensor | Points,
        start: MixtureParameters,
        *,
        sample_weight: Tensor | None = None,
        reg_covar: float = 1e-6,
        exponent: float = 0.6,
        delay: float = 2.0,
    ) -> Self:
        """One step of EM on the first batch.

        Args:
            points: `n x D` points of the first batch.
            start: The mixture to start from, such as `start` makes of the first batch.
            sample_weight: `(n,)` weights.
            reg_covar: Variance added to the diagonals.
            exponent: As above.
            delay: As above.

        Raises:
            ValueError: If the exponent or the delay are out of range, the points do not fit the start, or their
                variance or log-likelihood is not finite.
        """
        if not 0.5 < exponent <= 1:
            raise ValueError(f"Expected an exponent in (0.5, 1]; got {exponent}.")
        if not delay >= 0:
            raise ValueError(f"Expected a delay that is not negative; got {delay}.")
        e_step = ExactEStep(as_points(points, sample_weight))
        parameters = start.to(torch.empty(0, dtype=torch.float64, device=e_step.points.device))
        statistics = _per_datum(e_step, parameters)
        return cls(parameters, statistics, 0, 0.0, exponent, delay)._maximized(e_step, statistics, reg_covar)

    def step(
        self, points: Tensor | Points, *, sample_weight: Tensor | None = None, reg_covar: float = 1e-6
    ) -> StepwiseEM:
        """Learn from another batch.

        A batch moves the averages by its weight in units of the mean weight of those before.

        Args:
            points: `n x D` points.
            sample_weight: `(n,)` weights.
            reg_covar: Variance added to the diagonals.

        Raises:
            ValueError: If the points are not as `as_points` takes them, have other features, or their variance or
                log-likelihood is not finite.
        """
        e_step = ExactEStep(as_points(points, sample_weight))
        batch = _per_datum(e_step, self.parameters)
        size = (self.steps + self.delay) ** -self.exponent
        rate = 1 - (1 - min(size, 1.0)) ** (e_step.points.weight * self.steps / self.weight)
        return self._maximized(e_step, self.statistics * (1 - rate) + batch * rate, reg_covar)

    def _maximized(self, e_step: EStep, statistics: SufficientStatistics, reg_covar: float) -> Self:
        parameters, _ = maximize(keep_empty(statistics), reg_covar, self.parameters.variance)
        parameters, _ = repair(parameters, parameters.variance)  # where a batch is far wider than those before
        if statistics.any_empty:
            parameters = reset_empty(e_step, parameters, statistics.empty)
            statistics = replace(
                SufficientStatistics.of_parameters(parameters, 1.0), log_likelihood=statistics.log_likelihood
            )
        else:
            statistics = statistics.about(parameters.means)
        return replace(
            self,
            parameters=parameters,
            statistics=statistics,
            steps=self.steps + 1,
            weight=self.weight + e_step.points.weight,
        )


def _per_datum(e_step: EStep, parameters: MixtureParameters) -> SufficientStatistics:
    """Statistics of a batch, per datum, about the mixture's means."""
    points = e_step.points
    if points.n_features != parameters.means.shape[1]:
        expected = plural(parameters.means.shape[1], "feature")
        raise ValueError(f"Expected points with {expected}; got {points.n_features}.")
    points.check_scale()
    statistics = e_step(parameters)
    _ = statistics.bound  # refuses what is not finite
    return statistics.about(parameters.means) * (1 / points.weight)
