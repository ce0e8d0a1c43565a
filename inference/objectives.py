"""Objectives of SVI: twins of Pyro's ELBOs, built on Pyro's traces, in mean nats per datum.

A twin equals its ELBO in value and gradient. It never leaves the device (no `.item()`), so that it can be
traced and compiled, and it splits the bound into the expected log-likelihood and the divergence from the prior.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from opt_einsum import shared_intermediates
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from pyro.infer.traceenum_elbo import _compute_dice_elbo, _compute_model_factors
from pyro.infer.util import MultiFrameTensor
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import SampleRing
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from latentmix.inference.effects import Modules, Registered

__all__ = ["CallableObjective", "Objective", "Terms", "as_objective", "data_plate"]

Stochastic = Callable[..., Any]


class Terms(NamedTuple):
    """An objective on one minibatch, in nats per datum; scalars.

    Attributes:
        loss: What is minimised; the only one with a gradient.
        elbo: The evidence lower bound at beta = 1.
        log_likelihood: Its first part, the expected log-likelihood of what is observed.
        kl: Its second part, `log_likelihood - elbo`.
    """

    loss: Tensor
    elbo: Tensor | None
    log_likelihood: Tensor | None
    kl: Tensor | None

    def totals(self, count: int) -> Tensor:
        """ELBO, log-likelihood and KL summed over `count` data, and `count`: a float64 tensor of 4."""
        unknown = torch.full((), math.nan, device=self.loss.device)
        parts = [unknown if part is None else part for part in (self.elbo, self.log_likelihood, self.kl)]
        means = torch.stack([part.detach().double() for part in parts])
        return torch.cat([means * count, means.new_full((1,), count)])


class Objective(ABC):
    """A loss of SVI, `objective(model, guide, *batch)`: a scalar in mean nats per datum."""

    @abstractmethod
    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """Evaluate the loss and the parts that are reported."""

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """Evaluate, and accumulate gradients in the leaves.

        Raises:
            ValueError: If the loss depends on no leaf.
        """
        terms = self.terms(model, guide, *batch)
        if not terms.loss.requires_grad:
            raise ValueError("Expected a loss that depends on parameters; got a constant.")
        terms.loss.backward()
        return terms

    def __call__(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Tensor:
        """Evaluate the loss alone."""
        return self.terms(model, guide, *batch).loss


def as_objective(objective: Objective | ELBO | Callable[..., Tensor]) -> Objective:
    """Make an objective from one of Pyro's ELBOs or from a callable.

    `Trace_ELBO`, `TraceMeanField_ELBO` and `TraceEnum_ELBO` get their twin; another ELBO, and a subclass of
    these, runs as it is. A callable `(model, guide, *batch) -> scalar loss` gives its own unit.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, ELBO):
        return _TWINS.get(type(objective), _PyroELBO)(copy.copy(objective))
    if callable(objective):
        return CallableObjective(objective)
    raise ValueError(f"Expected an objective, a Pyro ELBO or a callable; got {type(objective).__name__}.")


def bound_of(objective: Objective) -> Objective:
    """What measures the ELBO at beta = 1 that belongs to an objective: itself where it is a twin of an ELBO."""
    if isinstance(objective, _TraceTwin):
        return objective
    if isinstance(objective, _PyroELBO) and isinstance(objective.elbo, TraceEnum_ELBO):
        return _TraceEnum(TraceEnum_ELBO(max_plate_nesting=objective.elbo.max_plate_nesting))
    return _Trace(Trace_ELBO())


def data_plate(sites: Iterable[Any], length: int) -> Any | None:
    """The plate over the data: of the minibatch's length, around what the model observes.

    Of several, it is the one named `data`, else one that scales, else the outermost.

    Args:
        sites: Sites of a model's trace.
        length: Number of data in the minibatch.

    Returns:
        Pyro's `CondIndepStackFrame`, with `full_size`, or None where the model has no such plate.
    """
    frames = [
        frame
        for site in sites
        if site["type"] == "sample" and site["is_observed"]
        for frame in site["cond_indep_stack"]
        if frame.vectorized and frame.size == length and frame.name != "num_particles_vectorized"
    ]
    named = [frame for frame in frames if frame.name == "data"]
    scaled = [frame for frame in frames if frame.full_size not in (None, frame.size)]
    return min(named or scaled or frames, key=lambda frame: frame.dim, default=None)


def data_count(sites: Iterable[Any], batch: tuple[Tensor, ...]) -> int:
    """How many data the densities count: all of a subsampled plate's, else the minibatch's."""
    length = len(batch[0])
    frame = data_plate(sites, length)
    return length if frame is None or frame.full_size is None else int(frame.full_size)


def samples(trace: Trace) -> Iterator[tuple[str, Any]]:
    """The sample sites of a trace."""
    return ((name, site) for name, site in trace.nodes.items() if site["type"] == "sample")


class CallableObjective(Objective):
    """A user's own loss; it says nothing about the bound, which `fit` then measures by its `monitor`.

    Args:
        function: `(model, guide, *batch) -> scalar loss`, differentiable.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        loss = self.function(model, guide, *batch)
        if not isinstance(loss, Tensor) or loss.dim():
            raise ValueError(f"Expected a scalar tensor from the objective; got {loss!r:.80}.")
        return Terms(loss, None, None, None)


class _Sites(poutine.messenger.Messenger):
    """Keeps the sample sites and the leaves of whatever runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[Any] = []
        self.leaves: list[Tensor] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        self.sites.append({key: msg[key] for key in ("type", "is_observed", "cond_indep_stack")})

    def _pyro_post_param(self, msg: Any) -> None:
        self.leaves.append(msg["value"].unconstrained())


class _PyroELBO(Objective):
    """An ELBO that has no twin: Pyro's own estimate and gradients, divided by the number of data."""

    def __init__(self, elbo: Any) -> None:
        self.elbo = elbo

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        with _Sites() as seen, torch.no_grad():
            loss = self.elbo.loss(model, guide, *batch)
        return self._per_datum(loss, data_count(seen.sites, batch))

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        with _Sites() as seen, Modules(model, guide, evaluation=False) as modules:
            loss = self.elbo.loss_and_grads(model, guide, *batch)
        count = data_count(seen.sites, batch)
        leaves = [*seen.leaves, *(leaf for module in modules.found.values() for leaf in module.parameters())]
        for leaf in {id(leaf): leaf for leaf in leaves}.values():
            if leaf.grad is not None:
                leaf.grad /= count
        return self._per_datum(loss, count)

    @staticmethod
    def _per_datum(loss: float | Tensor, count: int) -> Terms:
        value = torch.as_tensor(loss, dtype=torch.float64).detach() / count
        return Terms(value, -value, None, None)


class _TraceTwin(Objective):
    """Twin of an ELBO whose particles are independent traces of guide and model."""

    def __init__(self, elbo: ELBO) -> None:
        self.elbo = elbo

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        with Registered():
            return super().backward(model, guide, *batch)

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        particles = []
        count = len(batch[0])
        for model_trace, guide_trace in self.elbo._get_traces(model, guide, batch, {}):
            count = data_count(model_trace.nodes.values(), batch)
            particles.append(self.particle(model_trace, guide_trace))
        weight = 1.0 / (count * self.elbo.num_particles)
        loss, elbo, log_likelihood = (weight * sum(part) for part in zip(*particles, strict=True))
        elbo, log_likelihood = elbo.detach(), log_likelihood.detach()
        return Terms(loss, elbo, log_likelihood, log_likelihood - elbo)

    @abstractmethod
    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (for the gradient), bound and log-likelihood of one particle, summed over the data."""


class _Trace(_TraceTwin):
    """Twin of `Trace_ELBO`: pathwise gradients, score-function terms where a site has no pathwise one."""

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        log_likelihood: Any = torch.zeros(())
        elbo: Any = 0.0
        for _, site in samples(model_trace):
            elbo = elbo + site["log_prob_sum"]
            if site["is_observed"]:
                log_likelihood = log_likelihood + site["log_prob_sum"]
        surrogate = elbo
        log_r = None
        for _, site in samples(guide_trace):
            elbo = elbo - site["log_prob_sum"]
            _, score_function, entropy = site["score_parts"]
            if not is_identically_zero(entropy):
                surrogate = surrogate - entropy.sum()
            if not is_identically_zero(score_function):
                log_r = _log_ratio(model_trace, guide_trace) if log_r is None else log_r
                weight = log_r.sum_to(site["cond_indep_stack"])
                surrogate = surrogate + (weight * score_function).sum()
        return surrogate.detach() - elbo.detach() - surrogate, elbo, log_likelihood


def _log_ratio(model_trace: Trace, guide_trace: Trace) -> MultiFrameTensor:
    """log p - log q per plate, the weight of the score-function terms."""
    log_r = MultiFrameTensor()
    for _, site in samples(model_trace):
        log_r.add((site["cond_indep_stack"], site["log_prob"].detach()))
    for name, site in samples(guide_trace):
        if name in model_trace:
            log_r.add((site["cond_indep_stack"], -site["log_prob"].detach()))
    return log_r


class _TraceMeanField(_TraceTwin):
    """Twin of `TraceMeanField_ELBO`; it refuses a pair without closed form instead of sampling silently."""

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        log_likelihood: Any = torch.zeros(())
        divergence: Any = 0.0
        for name, site in samples(model_trace):
            if site["is_observed"]:
                log_likelihood = log_likelihood + site["log_prob_sum"]
                continue
            q: Any = guide_trace.nodes[name]
            if not is_identically_zero(q["score_parts"].score_function):
                raise ValueError(
                    f"Expected a reparameterised guide at site {name!r} for TraceMeanField_ELBO; got "
                    f"{_describe(q['fn'])}: use Trace_ELBO."
                )
            try:
                kl = kl_divergence(q["fn"], site["fn"])
            except NotImplementedError as error:
                raise ValueError(
                    f"Expected an analytic KL divergence at site {name!r} for TraceMeanField_ELBO; got "
                    f"{_describe(q['fn'])} against {_describe(site['fn'])}: use Trace_ELBO."
                ) from error
            kl = torch.as_tensor(scale_and_mask(kl, scale=q["scale"], mask=q["mask"]))
            divergence = divergence + kl.expand(q["fn"].batch_shape).sum()
        for name, q in samples(guide_trace):
            if name not in model_trace:
                divergence = divergence + q["score_parts"].entropy_term.sum()
        elbo = log_likelihood - divergence
        return -elbo, elbo, log_likelihood


def _describe(distribution: Any) -> str:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return type(distribution).__name__


class _TraceEnum(_TraceTwin):
    """Twin of `TraceEnum_ELBO` for variables enumerated in the model under a reparameterised guide.

    A guide that enumerates, or that samples without a pathwise gradient, needs the Dice estimator: that is Pyro's
    own, and says no more than the bound.
    """

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        for _, site in samples(guide_trace):
            pathwise = is_identically_zero(site["score_parts"].score_function)
            if not pathwise or site["infer"].get("_enumerate_dim") is not None or "_enum_total" in site["infer"]:
                elbo: Any = _compute_dice_elbo(model_trace, guide_trace)
                return -elbo, elbo, elbo.new_tensor(math.nan)
        costs, log_factors, _, sum_dims, scale = _compute_model_factors(model_trace, guide_trace)
        marginal: Any = torch.zeros(())
        if log_factors:
            sizes: dict[str, int] = {}
            for terms in log_factors.values():
                for term in terms:
                    sizes.update(zip(term._pyro_dims, term.shape, strict=True))
            with shared_intermediates() as cache:
                ring: Any = SampleRing(cache=cache, dim_to_size=sizes)
                contracted = contract_tensor_tree(log_factors, sum_dims, ring=ring)
            for terms in contracted.values():
                for term in terms:
                    marginal = marginal + packed.scale_and_mask(term, scale=scale).sum()
        elbo = marginal + sum(cost.sum() for group in costs.values() for cost in group)
        observed = [
            site["log_prob_sum"]
            for _, site in samples(model_trace)
            if site["is_observed"] and sum_dims.isdisjoint(site["packed"]["log_prob"]._pyro_dims)
        ]
        log_likelihood = marginal + sum(observed)
        for _, site in samples(guide_trace):
            elbo = elbo - site["log_prob_sum"]
        return -elbo, elbo, log_likelihood


_TWINS: dict[type, Callable[[ELBO], Objective]] = {
    Trace_ELBO: _Trace,
    TraceMeanField_ELBO: _TraceMeanField,
    TraceEnum_ELBO: _TraceEnum,
}
