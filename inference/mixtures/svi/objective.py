"""The objective of a mixture's SVI: `TraceEnum_ELBO`, regularized as EM is."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.elbo import ELBO
from pyro.poutine import Trace
from torch import Tensor

from latentmix.inference.objectives.base import Stochastic, Terms
from latentmix.inference.objectives.elbos import EnumObjective
from latentmix.models.mixture.model import MixtureModel

__all__ = ["Noiseless", "RegularizedEnum"]


class RegularizedEnum(EnumObjective):
    r"""`TraceEnum_ELBO` regularized as EM is.

    An M step of EM that adds `reg_covar` to the variances maximises the expected log-density less
    :math:`\tfrac12 \sum_k N_k \operatorname{tr}(\Sigma_k^{-1} \epsilon)`, with the sums :math:`N_k` of
    responsibilities as they are. So does the loss here: it is stationary where EM ends, whatever the floor. The ELBO
    that is reported lacks that term, as EM's bound does.

    Args:
        elbo: Pyro's own.
        model: The mixture, without a floor.
        regularization: `(D,)` variances :math:`\epsilon` that are added.
    """

    def __init__(self, elbo: ELBO, model: MixtureModel, regularization: Tensor) -> None:
        super().__init__(elbo)
        self._structure = model.structure
        self._regularization = regularization if bool((regularization > 0).any()) else None

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """See `ELBOObjective.particle`."""
        loss, elbo, log_likelihood = super().particle(model_trace, guide_trace)
        if self._regularization is None:
            return loss, elbo, log_likelihood
        sites = model_trace.nodes
        correlation = sites["correlation_cholesky"]["value"] if "correlation_cholesky" in sites else None
        scales: Any = sites["scales"]["value"]
        traces = self._structure.precision_traces(scales, correlation, self._regularization)
        with torch.no_grad():
            joint = sites["assignment"]["unscaled_log_prob"] + sites["x"]["unscaled_log_prob"]
            counts = joint.softmax(0).sum(1) * sites["x"]["scale"]
        return loss + 0.5 * (counts * traces).sum(), elbo, log_likelihood


class Noiseless(RegularizedEnum):
    """The objective of a point-mass guide and all the data, of one fit.

    `fit` asks for the terms more than once before its first step: they are kept until the next gradient, as no
    parameter moves before, unless steps are to be compiled.

    Args:
        elbo: As `RegularizedEnum` takes it.
        model: Likewise.
        regularization: Likewise.
        keeps: Whether terms are kept.
    """

    def __init__(self, elbo: ELBO, model: MixtureModel, regularization: Tensor, *, keeps: bool = True) -> None:
        super().__init__(elbo, model, regularization)
        self._kept: dict[tuple[int, bool], Terms] = {}
        self._keeps = keeps
        self._value = torch.full((), torch.nan, dtype=torch.float64, device=regularization.device)

    @property
    def value(self) -> float:
        """The loss when it was evaluated last, in nats per datum."""
        return float(self._value)

    @property
    def gradients_of_loss(self) -> bool:
        """See `Objective.gradients_of_loss`."""
        return not self._keeps

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        key = (len(batch[0]), torch.is_grad_enabled())
        terms = self._kept.get(key)
        if terms is None:
            terms = super().terms(model, guide, *batch)
            if self._keeps:
                self._kept[key] = terms
        self._value.copy_(terms.loss.detach())  # in place, as compiled steps change tensors
        return terms

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.backward`."""
        terms = super().backward(model, guide, *batch)
        self._kept.clear()
        return terms
