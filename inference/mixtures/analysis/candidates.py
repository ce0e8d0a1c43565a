"""Candidates of a selection with their figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceType
from latentmix.models.words import plural

__all__ = ["FIELDS", "Candidate", "Model"]

Model = Literal["mixture", "dirichlet_process"]


@dataclass(frozen=True, repr=False)
class Candidate(Displayed):
    """A fit with one number of components and covariance type; figures not asked for, or failed, are `None`.

    Attributes:
        model: "mixture", fitted by EM, or "dirichlet_process", whose `n_components` is its truncation.
        n_components: Number of components.
        covariance_type: Covariance type.
        n_parameters: Number of free parameters of the mixture.
        log_likelihood: Of the fit, nats per point; for a Dirichlet process, here and held out, under its expected
            parameters.
        bic: Lower is better, in nats times two.
        aic: Likewise.
        icl: Likewise.
        held_out: Log-likelihood of points that a fit has not seen, nats per point.
        held_out_error: Its standard error over points.
        loo: PSIS-LOO: leave-one-out log-density of the posterior predictive, under the weak conjugate priors of `gibbs`
            and from draws about one mode, nats per point; it does not describe the maximum-likelihood fit.
        loo_error: Its standard error over points.
        loo_parameters: Effective number of parameters.
        pareto_k: Highest Pareto k.
        n_unreliable: Number of points with a Pareto k above 0.7; if there are any, `loo` is unreliable.
        r_hat: R-hat of the log-likelihood over the chains of `loo`; above 1.1 `loo` is unreliable too.
        weights: Weights of the Dirichlet process, in descending order.
        n_effective: Number of them above `min_weight`.
        evidence_bound: Lower bound of the log-evidence of the Dirichlet process, nats; higher is better. `None`
            where its prior is singular, as in constant columns.
        converged: Whether the fit converged.
        reason: Why figures are missing, or remarks on them.
        seconds: Wall-clock time, all criteria included.
        further: Figures of criteria beyond those above, by name.
        mixture: The fitted estimator.
    """

    model: Model
    n_components: int
    covariance_type: CovarianceType
    n_parameters: int | None = None
    log_likelihood: float | None = None
    bic: float | None = None
    aic: float | None = None
    icl: float | None = None
    held_out: float | None = None
    held_out_error: float | None = None
    loo: float | None = None
    loo_error: float | None = None
    loo_parameters: float | None = None
    pareto_k: float | None = None
    n_unreliable: int | None = None
    r_hat: float | None = None
    weights: tuple[float, ...] | None = None
    n_effective: int | None = None
    evidence_bound: float | None = None
    converged: bool = False
    reason: str = ""
    seconds: float = 0.0
    further: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    mixture: GaussianMixture | BayesianGaussianMixture | None = field(default=None, repr=False, compare=False)

    def shown(self) -> dict[str, Any]:
        return {name: value for name, value in self.as_row().items() if value is not None}

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons why `loo` is unreliable, if any."""
        reasons = []
        if self.n_unreliable:
            reasons.append(f"Pareto k > 0.7 at {plural(self.n_unreliable, 'point')}")
        if self.r_hat is not None and self.r_hat > 1.1:
            reasons.append(f"chains apart, R-hat {self.r_hat:.2f}")
        return tuple(reasons)

    def figure(self, name: str) -> Any:
        """The figure of that name, be it a field or a further one; `None` if it was not measured."""
        return getattr(self, name) if name in FIELDS else self.further.get(name)

    def with_figures(self, figures: Mapping[str, Any]) -> Candidate:
        """A copy with these figures, by the names of `figure`."""
        known = {name: value for name, value in figures.items() if name in FIELDS}
        others = {name: value for name, value in figures.items() if name not in FIELDS}
        numbers = {name: None if value is None else float(value) for name, value in others.items()}
        return replace(self, **known, further={**self.further, **numbers})

    def as_row(self) -> dict[str, Any]:
        """All figures as plain values, without the estimator."""
        return {name: getattr(self, name) for name in FIELDS} | dict(self.further)


FIELDS = tuple(field.name for field in fields(Candidate) if field.name not in ("further", "mixture"))
