"""The objectives of a mixture's SVI: `TraceEnum_ELBO`, regularized as EM is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from pyro.infer.elbo import ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from latentmix.inference.objectives.base import Objective, Stochastic, Terms
from latentmix.inference.objectives.elbos import EnumObjective
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.priors import is_improper

__all__ = ["PointMass", "RegularizedEnum"]


class RegularizedEnum(EnumObjective):
    """`TraceEnum_ELBO` regularized as EM is, see `_Floor`.

    The ELBO that is reported lacks the regularization, as EM's bound does.

    Args:
        elbo: Pyro's own.
        model: The mixture, without a floor.
        regularization: `(D,)` variances that are added.
    """

    def __init__(self, elbo: ELBO, model: MixtureModel, regularization: Tensor) -> None:
        super().__init__(elbo)
        self._floor = _Floor.of(model, regularization)

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """See `ELBOObjective.particle`."""
        loss, elbo, log_likelihood = super().particle(model_trace, guide_trace)
        if self._floor is None:
            return loss, elbo, log_likelihood
        sites = model_trace.nodes
        values: dict[str, Any] = {name: sites[name]["value"] for name in self._floor.names}
        with torch.no_grad():
            joint = sites["assignment"]["unscaled_log_prob"] + sites["x"]["unscaled_log_prob"]
        return loss + self._floor(values, joint, sites["x"]["scale"]), elbo, log_likelihood


class PointMass(Objective):
    """`RegularizedEnum` of a point-mass guide, in one pass of the model.

    The ELBO of a point mass is the log-density of the data and of the point, the assignments summed out. `fit` asks for
    that of all the data more than once before its first step, while no parameter moves.

    Args:
        model: The mixture, without a floor.
        regularization: `(D,)` variances that are added.
        keeps: Whether terms are kept until the next gradient, and `sites`: not of minibatches, nor where steps are
            compiled.

    Attributes:
        sites: Values of the guide's sites when it was evaluated last, where they are kept.
    """

    def __init__(self, model: MixtureModel, regularization: Tensor, *, keeps: bool = True) -> None:
        self._names = tuple(model.shapes)
        self._floor = _Floor.of(model, regularization)
        self._kept: dict[tuple[int, bool], Terms] = {}
        self._keeps = keeps
        self.sites: dict[str, Tensor] = {}
        self._value = torch.full((), torch.nan, dtype=torch.float64, device=regularization.device)

    @property
    def value(self) -> float:
        """The loss when it was evaluated last, in nats per datum."""
        return float(self._value)

    @property
    def gradients_of_loss(self) -> bool:
        """See `Objective.gradients_of_loss`."""
        return not self._keeps

    def bound(self) -> Objective:
        """See `Objective.bound`."""
        return self

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        key = (len(batch[0]), torch.is_grad_enabled())
        terms = self._kept.get(key)
        if terms is None:
            point = {name: getattr(guide, name) for name in self._names}
            with _LogJoint(point) as joint:
                model(*batch)
            log_likelihood = joint.of_data.logsumexp(0).sum() * joint.scale
            elbo = log_likelihood + joint.of_point
            loss = -elbo if self._floor is None else self._floor(point, joint.of_data, joint.scale) - elbo
            count = len(batch[0]) * joint.scale
            terms = Terms.of(*(part / count for part in (loss, elbo, log_likelihood)))
            if self._keeps:
                self._kept[key] = terms
                self.sites.update((name, value.detach()) for name, value in point.items())
        self._value.copy_(terms.loss.detach())  # in place, as compiled steps change tensors
        return terms

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.backward`."""
        terms = super().backward(model, guide, *batch)
        self._kept.clear()
        return terms


class _Floor:
    r"""The term by which a loss has its minimum where EM with a floor of the variances ends.

    An M step of EM that adds `reg_covar` to the variances maximises the expected log-density less
    :math:`\tfrac12 \sum_k N_k \operatorname{tr}(\Sigma_k^{-1} \epsilon)`, with the sums :math:`N_k` of
    responsibilities as they are. With that term a loss is stationary where EM ends, whatever the floor.

    Args:
        model: The mixture, without a floor.
        regularization: `(D,)` variances :math:`\epsilon` that are added.
    """

    def __init__(self, model: MixtureModel, regularization: Tensor) -> None:
        self._structure = model.structure
        self._regularization = regularization
        self.names = [name for name in model.shapes if name in ("scales", "correlation_cholesky")]

    @classmethod
    def of(cls, model: MixtureModel, regularization: Tensor) -> Self | None:
        """The term; `None` if nothing is added."""
        return cls(model, regularization) if bool((regularization > 0).any()) else None

    def __call__(self, values: Mapping[str, Tensor], joint: Tensor, scale: Any) -> Tensor:
        """The term, in nats, from values of `names` and the `K x n` log-densities of assignments and data."""
        correlation = values.get("correlation_cholesky")
        traces = self._structure.precision_traces(values["scales"], correlation, self._regularization)
        counts = joint.detach().softmax(0).sum(1) * scale
        return 0.5 * (counts * traces).sum()


class _LogJoint(Messenger):
    """Gives the globals of a mixture their values, enumerates the assignments, and keeps the log-densities.

    Attributes:
        of_point: Log-density of the values.
        of_data: `K x n` log-densities of assignments and data.
        scale: Factor by which the data's plate scales them.
    """

    def __init__(self, point: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._point = point
        self.of_point: Any = 0.0
        self.of_data: Any = 0.0
        self.scale: Any = 1.0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._point:
            msg["value"] = self._point[msg["name"]]
        elif msg["infer"].get("enumerate"):
            msg["value"] = msg["fn"].enumerate_support(expand=False)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self._point:
            if not is_improper(msg["fn"]):  # whose log-density is 0
                self.of_point = self.of_point + msg["fn"].log_prob(msg["value"]).sum()
        elif msg["name"] in ("assignment", "x"):
            self.of_data = self.of_data + msg["fn"].log_prob(msg["value"])
            self.scale = msg["scale"]
