"""Twins of Pyro's ELBOs, built on Pyro's traces, in mean nats per datum.

A twin equals its ELBO in value and gradient. It never leaves the device (no `.item()`), so that it can be
traced and compiled, and it splits the bound into the expected log-likelihood and the divergence from the prior.
"""

from __future__ import annotations

import math
import os
import warnings
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from opt_einsum import shared_intermediates
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import RenyiELBO
from pyro.infer.elbo import ELBO
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.infer.util import Dice, MultiFrameTensor, get_dependent_plate_dims, is_validation_enabled, torch_sum
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import SampleRing
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from latentmix.inference.isolation import Registered
from latentmix.inference.objectives.terms import Objective, Stochastic, Terms, data_count, samples

__all__ = ["RenyiTwin", "TraceEnumTwin", "TraceMeanFieldTwin", "TraceTwin", "Twin", "check_sampled", "describe"]

_OWN = f"{Path(__file__).parents[1]}{os.sep}"


class Twin(Objective):
    """Twin of an ELBO whose particles are traces of guide and model.

    Args:
        elbo: Pyro's own, which runs guide and model.
    """

    def __init__(self, elbo: ELBO) -> None:
        self.elbo = elbo

    def bound(self) -> Objective:
        """See `Objective.bound`."""
        return self

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.backward`."""
        with Registered():
            return super().backward(model, guide, *batch)

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        particles = []
        count: float = len(batch[0])
        for model_trace, guide_trace in self.traces(model, guide, *batch):
            count = data_count(model_trace.nodes.values(), len(batch[0]))
            particles.append(self.particle(model_trace, guide_trace))
        weight = 1.0 / (count * self.elbo.num_particles)
        loss, elbo, log_likelihood = (weight * sum(part) for part in zip(*particles, strict=True))
        return reported(loss, elbo, log_likelihood)

    def traces(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Iterator[tuple[Trace, Trace]]:
        """Traces of model and guide, one pair a particle, or one for all where they are vectorised."""
        traces: Iterator[tuple[Trace, Trace]] = self.elbo._get_traces(model, guide, batch, {})
        return traces

    @abstractmethod
    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """Loss (for the gradient), bound and log-likelihood of one particle, summed over the data."""


def reported(loss: Tensor, elbo: Tensor, log_likelihood: Tensor) -> Terms:
    """Terms without gradients but the loss's."""
    elbo, log_likelihood = elbo.detach(), log_likelihood.detach()
    return Terms(loss, elbo, log_likelihood, log_likelihood - elbo)


class _SampledTwin(Twin):
    """Twin of an ELBO that enumerates nothing, and would sample what the model means to have enumerated."""

    def traces(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Iterator[tuple[Trace, Trace]]:
        for model_trace, guide_trace in super().traces(model, guide, *batch):
            check_sampled(model_trace, guide_trace, type(self.elbo).__name__)
            yield model_trace, guide_trace


def check_sampled(model_trace: Trace, guide_trace: Trace, elbo: str) -> None:
    """Refuse a latent of the model that only enumeration could give a value of."""
    for name, site in samples(model_trace):
        if site["infer"].get("enumerate") and not site["is_observed"] and name not in guide_trace:
            raise ValueError(
                f"Expected an ELBO that enumerates {name!r}, which the model marks and the guide lacks; got {elbo}: "
                "use TraceEnum_ELBO, or the collapsed form of the model."
            )


class TraceTwin(_SampledTwin):
    """Twin of `Trace_ELBO`: pathwise gradients, score-function terms where a site has no pathwise one."""

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """See `Twin.particle`."""
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


class TraceMeanFieldTwin(_SampledTwin):
    """Twin of `TraceMeanField_ELBO`; it refuses a pair without closed form instead of sampling silently."""

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """See `Twin.particle`."""
        log_likelihood: Any = torch.zeros(())
        divergence: Any = 0.0
        for name, site in samples(model_trace):
            if site["is_observed"]:
                log_likelihood = log_likelihood + site["log_prob_sum"]
                continue
            q: Any = guide_trace.nodes[name]
            _check_pathwise(name, q, "TraceMeanField_ELBO")
            try:
                kl = kl_divergence(q["fn"], site["fn"])
            except NotImplementedError as error:
                raise ValueError(
                    f"Expected an analytic KL divergence at site {name!r} for TraceMeanField_ELBO; got "
                    f"{describe(q['fn'])} against {describe(site['fn'])}: use Trace_ELBO."
                ) from error
            kl = torch.as_tensor(scale_and_mask(kl, scale=q["scale"], mask=q["mask"]))
            divergence = divergence + kl.expand(q["fn"].batch_shape).sum()
        for name, q in samples(guide_trace):
            if name not in model_trace:
                divergence = divergence + q["score_parts"].entropy_term.sum()
        elbo = log_likelihood - divergence
        return -elbo, elbo, log_likelihood


class RenyiTwin(_SampledTwin):
    """Twin of `RenyiELBO` for reparameterised guides; alpha = 0 is the importance-weighted bound.

    The loss is the negative bound (Li and Turner, *Rényi Divergence Variational Inference*, 2016, equation 7;
    Burda et al., *Importance Weighted Autoencoders*, 2016, equation 8), weighed per datum where every site lies in
    the data's plate, as Pyro does. What is reported is the ordinary ELBO, estimated from the same particles. A scale,
    such as that of a subsampled plate, multiplies log-weights, as in Pyro too: the power mean is then no Rényi bound.
    """

    elbo: RenyiELBO

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        particles = []
        log_weights = []
        count: float = len(batch[0])
        for model_trace, guide_trace in self.traces(model, guide, *batch):
            count = data_count(model_trace.nodes.values(), len(batch[0]))
            particles.append(self.particle(model_trace, guide_trace))
            log_weights.append(_log_weight(model_trace, guide_trace))
        size = self.elbo.num_particles
        stacked = log_weights[0] if self.elbo.vectorize_particles and size > 1 else torch.stack(log_weights)
        order = 1.0 - self.elbo.alpha
        bounds = (torch.logsumexp(order * stacked, dim=0) - math.log(size)) / order
        _, elbo, log_likelihood = (sum(part) / (count * size) for part in zip(*particles, strict=True))
        return reported(-bounds.sum() / count, elbo, log_likelihood)

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """See `Twin.particle`."""
        log_likelihood: Any = torch.zeros(())
        elbo: Any = 0.0
        for _, site in samples(model_trace):
            elbo = elbo + site["log_prob_sum"]
            if site["is_observed"]:
                log_likelihood = log_likelihood + site["log_prob_sum"]
        for name, site in samples(guide_trace):
            _check_pathwise(name, site, "RenyiELBO")
            elbo = elbo - site["log_prob_sum"]
        return -elbo, elbo, log_likelihood


def _log_weight(model_trace: Trace, guide_trace: Trace) -> Any:
    """log p - log q, summed over the plates that not all sites share."""
    summed = get_dependent_plate_dims(model_trace.nodes.values())
    log_weight: Any = 0.0
    for _, site in samples(model_trace):
        log_weight = log_weight + torch_sum(site["log_prob"], summed)
    for _, site in samples(guide_trace):
        log_weight = log_weight - torch_sum(site["log_prob"], summed)
    return log_weight


class TraceEnumTwin(Twin):
    """Twin of `TraceEnum_ELBO`.

    What the enumerated variables of the model sum to belongs to the log-likelihood where something observed depends
    on them, and else, as with the components of a mixture prior, to the latents. A guide that enumerates, or that
    samples without a pathwise gradient, takes Pyro's Dice estimator, which cannot be compiled. Where nothing is
    enumerated, a warning says so once (but for `strict_enumeration_warning=False`); a discrete latent that is neither
    enumerated nor in the guide is refused.
    """

    def __init__(self, elbo: ELBO) -> None:
        super().__init__(elbo)
        self._warns = elbo.strict_enumeration_warning
        elbo.strict_enumeration_warning = False  # Pyro's own warning, several at each fit

    def traces(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Iterator[tuple[Trace, Trace]]:
        """See `Twin.traces`."""
        for model_trace, guide_trace in super().traces(model, guide, *batch):
            if is_validation_enabled():
                problem = _nothing_enumerated(model_trace, guide_trace)
                if problem and self._warns:
                    warnings.warn(problem, stacklevel=2, skip_file_prefixes=(_OWN,))
                self._warns = False
            yield model_trace, guide_trace

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """See `Twin.particle`."""
        costs, log_factors, ordering, sum_dims, scale = _compute_model_factors(model_trace, guide_trace)
        observed = [site["packed"]["log_prob"] for _, site in samples(model_trace) if site["is_observed"]]
        dependent = _connected(log_factors, sum_dims, {dim for cost in observed for dim in cost._pyro_dims})
        evidence: _Costs = OrderedDict()
        prior: _Costs = OrderedDict()
        for ordinal, group in costs.items():
            for cost in group:
                part = evidence if any(cost is other for other in observed) else prior
                part.setdefault(ordinal, []).append(cost)
        for part, dims in ((evidence, dependent), (prior, sum_dims - dependent)):
            for ordinal, term in _marginals(log_factors, dims, scale):
                part.setdefault(ordinal, []).append(term)
        pathwise = True
        for name, site in samples(guide_trace):
            prior.setdefault(ordering[name], []).append(packed.neg(site["packed"]["log_prob"]))
            enumerated = site["infer"].get("_enumerate_dim") is not None or "_enum_total" in site["infer"]
            pathwise = pathwise and is_identically_zero(site["score_parts"].score_function) and not enumerated
        expectation = _total if pathwise else Dice(guide_trace, ordering).compute_expectation
        log_likelihood = torch.zeros(()) + expectation(evidence)
        elbo = log_likelihood + expectation(prior)
        return -elbo, elbo, log_likelihood


def _nothing_enumerated(model_trace: Trace, guide_trace: Trace) -> str:
    """A sentence where no site is enumerated, else nothing."""
    discrete = [
        name
        for name, site in samples(model_trace)
        if not site["is_observed"] and not site["infer"].get("enumerate") and site["fn"].has_enumerate_support
    ]
    for name in discrete:
        if name not in guide_trace:
            raise ValueError(
                f"Expected {name!r}, a discrete latent of the model, to be enumerated or in the guide; got neither: "
                "mark it infer={'enumerate': 'parallel'}."
            )
    if any(site["infer"].get("enumerate") for trace in (model_trace, guide_trace) for _, site in samples(trace)):
        return ""
    if discrete:
        return (
            f"TraceEnum_ELBO enumerates nothing: {discrete[0]!r} is discrete but not marked, so that it is sampled, "
            "with gradients of a high variance: mark it infer={'enumerate': 'parallel'} in the guide, or in the model "
            "alone."
        )
    return "TraceEnum_ELBO enumerates nothing, as no site is marked infer={'enumerate': ...}: Trace_ELBO is the same."


_Costs = OrderedDict[frozenset[str], list[Any]]


def _connected(log_factors: _Costs, sum_dims: set[str], start: set[str]) -> set[str]:
    """The enumerated dimensions that factors, or chains of factors, join to those in `start`."""
    factors = [sum_dims.intersection(factor._pyro_dims) for group in log_factors.values() for factor in group]
    found = sum_dims & start
    while (wider := found.union(*(factor for factor in factors if not found.isdisjoint(factor)))) != found:
        found = wider
    return found


def _marginals(log_factors: _Costs, sum_dims: set[str], scale: Any) -> Iterator[tuple[frozenset[str], Any]]:
    """Sum `sum_dims` out of the factors that have them: the logarithms of what is left, each with its ordinal."""
    chosen: _Costs = OrderedDict()
    sizes: dict[str, int] = {}
    for ordinal, group in log_factors.items():
        for factor in group:
            if not sum_dims.isdisjoint(factor._pyro_dims):
                chosen.setdefault(ordinal, []).append(factor)
                sizes.update(zip(factor._pyro_dims, factor.shape, strict=True))
    if len(chosen) == len(sum_dims) == 1:
        ((ordinal, factors),), (dim,) = chosen.items(), sum_dims
        yield ordinal, packed.scale_and_mask(_summed(factors, dim), scale=scale)
        return
    with shared_intermediates() as cache:
        ring: Any = SampleRing(cache=cache, dim_to_size=sizes)
        contracted = contract_tensor_tree(chosen, sum_dims, ring=ring)
    for ordinal, terms in contracted.items():
        for term in terms:
            yield ordinal, packed.scale_and_mask(term, scale=scale)


def _summed(factors: list[Any], dim: str) -> Any:
    """Log of the sum over one dimension that all factors have: one pass, where a contraction takes several."""
    factors = packed.broadcast_all(*factors)
    dims = factors[0]._pyro_dims
    term = sum(factors).logsumexp(dims.index(dim))
    term._pyro_dims = dims.replace(dim, "")
    return term


def _total(costs: _Costs) -> Any:
    return sum(cost.sum() for group in costs.values() for cost in group)


def _check_pathwise(name: str, site: Any, elbo: str) -> None:
    if not is_identically_zero(site["score_parts"].score_function):
        raise ValueError(
            f"Expected a reparameterised guide at site {name!r} for {elbo}; got {describe(site['fn'])}: use Trace_ELBO."
        )


def describe(distribution: Any) -> str:
    """Name of a distribution, beneath what only reshapes it."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return type(distribution).__name__
