"""Objectives equal to Pyro's ELBOs in value and gradient, on Pyro's own traces, in mean nats per datum.

Unlike Pyro's they never leave the device (no `.item()`), so that they can be traced and compiled, and they split the
bound into the expected log-likelihood and the divergence from the prior.
"""

from __future__ import annotations

import math
import os
import warnings
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from opt_einsum import shared_intermediates
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import RenyiELBO
from pyro.infer.elbo import ELBO
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.infer.util import MultiFrameTensor, get_dependent_plate_dims, is_validation_enabled, torch_sum
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import SampleRing
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from latentmix.inference.isolation import Registered
from latentmix.inference.objectives.base import Objective, Stochastic, Terms, data_count, data_plate, samples
from latentmix.inference.objectives.dice import dice_expectation

__all__ = [
    "ELBOObjective",
    "EnumObjective",
    "MeanFieldObjective",
    "RenyiObjective",
    "TraceObjective",
    "check_sampled",
    "describe",
]

_OWN = f"{Path(__file__).parents[1]}{os.sep}"


class ELBOObjective(Objective):
    """An ELBO whose particles are traces of guide and model.

    A subclass fills `particle`.

    Args:
        elbo: Pyro's ELBO, which runs guide and model.
    """

    def __init__(self, elbo: ELBO) -> None:
        self.elbo = elbo

    @property
    def gradients_of_loss(self) -> bool:
        """See `Objective.gradients_of_loss`."""
        return type(self).backward is ELBOObjective.backward

    def bound(self) -> Objective:
        """See `Objective.bound`."""
        return self

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.backward`; modules are not registered with Pyro again in every step."""
        with Registered():
            return super().backward(model, guide, *batch)

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        return self.average(self.traces(model, guide, *batch), len(batch[0]))

    def average(self, traces: Iterable[tuple[Trace, Trace]], length: int) -> Terms:
        """The terms of a minibatch of `length` data, from the traces of model and guide of its particles."""
        particles = []
        count: float = length
        for model_trace, guide_trace in traces:
            count = data_count(model_trace.nodes.values(), length)
            particles.append(self.particle(model_trace, guide_trace))
        weight = 1.0 / (count * self.elbo.num_particles)
        loss, elbo, log_likelihood = (weight * sum(part) for part in zip(*particles, strict=True))
        return Terms.of(loss, elbo, log_likelihood)

    def traces(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Iterator[tuple[Trace, Trace]]:
        """Traces of model and guide: one pair a particle, or a single pair of vectorised particles."""
        traces: Iterator[tuple[Trace, Trace]] = self.elbo._get_traces(model, guide, batch, {})
        return traces

    @abstractmethod
    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """Loss (for the gradient), bound and log-likelihood of one particle: scalars, summed over the data."""

    def pointwise(self, model_trace: Trace, guide_trace: Trace, length: int) -> Tensor | None:
        """The bound of each datum, which `particle` sums: `length` values, summed over vectorised particles.

        `None`, as by default, where the bound is not known as a sum over the data: a latent outside their plate.
        """
        return None


class _SampledObjective(ELBOObjective):
    """An ELBO without enumeration; it refuses latents that the model marks for enumeration and the guide lacks."""

    def traces(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Iterator[tuple[Trace, Trace]]:
        for model_trace, guide_trace in super().traces(model, guide, *batch):
            check_sampled(model_trace, guide_trace, type(self.elbo).__name__)
            yield model_trace, guide_trace

    def pointwise(self, model_trace: Trace, guide_trace: Trace, length: int) -> Tensor | None:
        """See `ELBOObjective.pointwise`."""
        frame = data_plate(model_trace.nodes.values(), length)
        total: Any = 0.0
        for part, stack in self.parts(model_trace, guide_trace):
            if frame is None or frame.name not in [other.name for other in stack]:
                return None
            total = total + _by_datum(part, frame.dim, length)
        return total if isinstance(total, Tensor) else None

    def parts(self, model_trace: Trace, guide_trace: Trace) -> Iterator[tuple[Tensor, Any]]:
        """The addends of one particle's bound, tensors over plates, each with its stack of plates."""
        for sign, trace in ((1, model_trace), (-1, guide_trace)):
            for _, site in samples(trace):
                yield sign * site["log_prob"], site["cond_indep_stack"]


def _by_datum(values: Tensor, dim: int, length: int) -> Tensor:
    """Sums over all dimensions but that of the data: `length` values."""
    return values.movedim(dim, -1).reshape(-1, length).sum(0)


def check_sampled(model_trace: Trace, guide_trace: Trace, elbo: str) -> None:
    """Refuse a latent that the model marks for enumeration and the guide lacks.

    Args:
        model_trace: Trace of the model.
        guide_trace: Trace of the guide.
        elbo: Name of the ELBO, for the message.

    Raises:
        ValueError: If there is such a latent.
    """
    for name, site in samples(model_trace):
        if site["infer"].get("enumerate") and not site["is_observed"] and name not in guide_trace:
            raise ValueError(
                f"Expected an ELBO that enumerates {name!r}, which the model marks and the guide lacks; got {elbo}: "
                "use TraceEnum_ELBO, or the collapsed form of the model."
            )


class TraceObjective(_SampledObjective):
    """`Trace_ELBO`: pathwise gradients, and score-function terms for sites without one."""

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """See `ELBOObjective.particle`."""
        elbo, log_likelihood = _log_joint(model_trace)
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


def _log_joint(model_trace: Trace) -> tuple[Any, Any]:
    """Log-density of all sites of the model, and that of the observed ones."""
    log_likelihood: Any = torch.zeros(())
    log_joint: Any = 0.0
    for _, site in samples(model_trace):
        log_joint = log_joint + site["log_prob_sum"]
        if site["is_observed"]:
            log_likelihood = log_likelihood + site["log_prob_sum"]
    return log_joint, log_likelihood


def _log_ratio(model_trace: Trace, guide_trace: Trace) -> MultiFrameTensor:
    """Log p - log q per plate, the weight of the score-function terms."""
    log_r = MultiFrameTensor()
    for _, site in samples(model_trace):
        log_r.add((site["cond_indep_stack"], site["log_prob"].detach()))
    for name, site in samples(guide_trace):
        if name in model_trace:
            log_r.add((site["cond_indep_stack"], -site["log_prob"].detach()))
    return log_r


class MeanFieldObjective(_SampledObjective):
    """`TraceMeanField_ELBO`; unlike Pyro's, it refuses a KL divergence without a closed form instead of sampling."""

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """See `ELBOObjective.particle`."""
        log_likelihood: Any = torch.zeros(())
        divergence: Any = 0.0
        for name, site in samples(model_trace):
            if site["is_observed"]:
                log_likelihood = log_likelihood + site["log_prob_sum"]
                continue
            divergence = divergence + _analytic_kl(name, guide_trace.nodes[name], site).sum()
        for name, q in samples(guide_trace):
            if name not in model_trace:
                divergence = divergence + q["score_parts"].entropy_term.sum()
        elbo = log_likelihood - divergence
        return -elbo, elbo, log_likelihood

    def parts(self, model_trace: Trace, guide_trace: Trace) -> Iterator[tuple[Tensor, Any]]:
        """See `_SampledObjective.parts`: divergences in closed form."""
        for name, site in samples(model_trace):
            if site["is_observed"]:
                yield site["log_prob"], site["cond_indep_stack"]
            else:
                yield -_analytic_kl(name, guide_trace.nodes[name], site), site["cond_indep_stack"]
        for name, q in samples(guide_trace):
            if name not in model_trace:
                yield -torch.as_tensor(q["score_parts"].entropy_term), q["cond_indep_stack"]


def _analytic_kl(name: str, q: Any, site: Any) -> Tensor:
    """The divergence of the guide's site from the model's, in closed form, over plates, with the site's scale."""
    _check_pathwise(name, q, "TraceMeanField_ELBO")
    try:
        kl = kl_divergence(q["fn"], site["fn"])
    except NotImplementedError as error:
        raise ValueError(
            f"Expected an analytic KL divergence at site {name!r} for TraceMeanField_ELBO; got "
            f"{describe(q['fn'])} against {describe(site['fn'])}: use Trace_ELBO."
        ) from error
    return torch.as_tensor(scale_and_mask(kl, scale=q["scale"], mask=q["mask"])).expand(q["fn"].batch_shape)


class RenyiObjective(_SampledObjective):
    """`RenyiELBO` for reparameterised guides; alpha = 0 is the importance-weighted bound.

    The loss is the negative bound (Li and Turner, *Rényi Divergence Variational Inference*, 2016, equation 7;
    Burda et al., *Importance Weighted Autoencoders*, 2016, equation 8), weighted per datum where every site lies in
    the data's plate, as in Pyro. The reported ELBO is the ordinary one, estimated from the same particles. A scale,
    such as that of a subsampled plate, multiplies log-weights, as in Pyro: the power mean is then no Rényi bound.
    """

    elbo: RenyiELBO

    def average(self, traces: Iterable[tuple[Trace, Trace]], length: int) -> Terms:
        """See `ELBOObjective.average`."""
        particles = []
        log_weights = []
        count: float = length
        for model_trace, guide_trace in traces:
            count = data_count(model_trace.nodes.values(), length)
            particles.append(self.particle(model_trace, guide_trace))
            log_weights.append(_log_weight(model_trace, guide_trace))
        size = self.elbo.num_particles
        stacked = log_weights[0] if self.elbo.vectorize_particles and size > 1 else torch.stack(log_weights)
        order = 1.0 - self.elbo.alpha
        bounds = (torch.logsumexp(order * stacked, dim=0) - math.log(size)) / order
        _, elbo, log_likelihood = (sum(part) / (count * size) for part in zip(*particles, strict=True))
        return Terms.of(-bounds.sum() / count, elbo, log_likelihood)

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """See `ELBOObjective.particle`."""
        elbo, log_likelihood = _log_joint(model_trace)
        for name, site in samples(guide_trace):
            _check_pathwise(name, site, "RenyiELBO")
            elbo = elbo - site["log_prob_sum"]
        return -elbo, elbo, log_likelihood


def _log_weight(model_trace: Trace, guide_trace: Trace) -> Any:
    """Log p - log q, summed over the plates that not all sites share."""
    summed = get_dependent_plate_dims(model_trace.nodes.values())
    log_weight: Any = 0.0
    for _, site in samples(model_trace):
        log_weight = log_weight + torch_sum(site["log_prob"], summed)
    for _, site in samples(guide_trace):
        log_weight = log_weight - torch_sum(site["log_prob"], summed)
    return log_weight


class EnumObjective(ELBOObjective):
    """`TraceEnum_ELBO`.

    The sum over enumerated variables of the model belongs to the log-likelihood where an observed site depends on
    them, and to the divergence elsewhere, as for the components of a mixture prior. A guide that enumerates, or that
    samples without a pathwise gradient, takes the Dice estimator, see `dice_expectation`. A model without enumerated
    sites raises a warning once (unless `strict_enumeration_warning=False`); a discrete latent that is
    neither enumerated nor in the guide is refused.
    """

    def __init__(self, elbo: ELBO) -> None:
        super().__init__(elbo)
        self._warns = elbo.strict_enumeration_warning
        elbo.strict_enumeration_warning = False  # Pyro would warn several times a fit

    def traces(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Iterator[tuple[Trace, Trace]]:
        """See `ELBOObjective.traces`."""
        for model_trace, guide_trace in super().traces(model, guide, *batch):
            if is_validation_enabled():
                problem = _nothing_enumerated(model_trace, guide_trace)
                if problem and self._warns:
                    warnings.warn(problem, stacklevel=2, skip_file_prefixes=(_OWN,))
                self._warns = False
            yield model_trace, guide_trace

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """See `ELBOObjective.particle`."""
        evidence, prior, ordering, pathwise = self._costs(model_trace, guide_trace)
        expectation = _total if pathwise else partial(dice_expectation, guide_trace, ordering)
        log_likelihood = torch.zeros(()) + expectation(evidence)
        elbo = log_likelihood + expectation(prior)
        return -elbo, elbo, log_likelihood

    def pointwise(self, model_trace: Trace, guide_trace: Trace, length: int) -> Tensor | None:
        """See `ELBOObjective.pointwise`; `None`, too, where the guide enumerates or is not pathwise."""
        frame = data_plate(model_trace.nodes.values(), length)
        evidence, prior, _, pathwise = self._costs(model_trace, guide_trace)
        if frame is None or not pathwise:
            return None
        symbol = model_trace.plate_to_symbol[frame.name]
        total: Any = 0.0
        for cost in (cost for part in (evidence, prior) for group in part.values() for cost in group):
            dims: str = cost._pyro_dims
            if symbol not in dims and length > 1:  # packed tensors lack dimensions of size 1
                return None
            total = total + (_by_datum(cost, dims.index(symbol), length) if length > 1 else cost.sum().reshape(1))
        return total if isinstance(total, Tensor) else None

    def _costs(self, model_trace: Trace, guide_trace: Trace) -> tuple[_Costs, _Costs, Any, bool]:
        """Addends of the log-likelihood and of the rest, their order, and whether the guide is pathwise."""
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
        return evidence, prior, ordering, pathwise


def _nothing_enumerated(model_trace: Trace, guide_trace: Trace) -> str:
    """The warning for a model without enumerated sites; empty where there are some."""
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
    """The enumerated dimensions that factors, or chains of factors, connect to those in `start`."""
    factors = [sum_dims.intersection(factor._pyro_dims) for group in log_factors.values() for factor in group]
    reached = sum_dims & start
    while (wider := reached.union(*(factor for factor in factors if not reached.isdisjoint(factor)))) != reached:
        reached = wider
    return reached


def _marginals(log_factors: _Costs, sum_dims: set[str], scale: Any) -> Iterator[tuple[frozenset[str], Any]]:
    """Sum `sum_dims` out of the factors that have them; gives the logarithms of the marginals, with their ordinals."""
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
    """Log of the sum over a dimension that all factors have: a single pass, unlike a general contraction."""
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
    """Name of a distribution without the wrappers that reshape or mask it."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return type(distribution).__name__
