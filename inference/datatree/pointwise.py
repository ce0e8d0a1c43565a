"""Pointwise log likelihood of a trace, with enumerated local variables summed out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from latentmix.inference.datatree.sites import is_deterministic, is_variable, plates_of

__all__ = ["Term", "pointwise_log_prob", "pointwise_terms", "share_scale", "term_log_prob"]


@dataclass(frozen=True)
class Term:
    """A variable of the pointwise log likelihood.

    Attributes:
        observed: The observed sites whose density it is; several where they share an enumerated variable.
        enumerated: The enumerated sites that are summed out, with their prior.
        conditional_on: Latents that have a value of their own for each datum, on which the density conditions.
    """

    observed: tuple[str, ...]
    enumerated: tuple[str, ...]
    conditional_on: tuple[str, ...]

    @property
    def name(self) -> str:
        """The observed site's name; of several, their names with a plus between."""
        return "+".join(self.observed)


def pointwise_log_prob(node: Any) -> Tensor:
    """Log density of a site, without its scale and with its mask: zero where a datum is masked."""
    return scale_and_mask(node["unscaled_log_prob"], mask=node["mask"])


def pointwise_terms(trace: Any) -> list[Term]:
    """The variables of the pointwise log likelihood of a model.

    An observed site depends on the enumerated sites whose dimension its log density has, and on those that these depend
    on. They can be summed out datum by datum where they lie in the same plates.

    Args:
        trace: A trace with enumerated sites and log densities.

    Raises:
        ValueError: If an enumerated site lies in other plates than the observed site, or in a Markov chain.
    """
    nodes = {name: node for name, node in trace.nodes.items() if is_variable(node) and not is_deterministic(node)}
    observed = [name for name, node in nodes.items() if node["is_observed"]]
    enumerated_dims = {node["infer"]["_enumerate_dim"] for node in nodes.values() if _is_enumerated(node)}
    dims = {name: _dims_among(enumerated_dims, node["unscaled_log_prob"].shape) for name, node in nodes.items()}
    terms: dict[tuple[str, ...], Term] = {}
    for name in observed:
        component = _component(name, dims)
        enumerated = tuple(other for other in component if _is_enumerated(nodes[other]))
        for other in enumerated:
            _check_enumerated(name, nodes[name], other, nodes[other])
        for other in component:
            if not nodes[other]["is_observed"] and other not in enumerated:
                raise ValueError(
                    f"Expected the enumerated {_listed(enumerated)} to have no other dependents than observed sites; "
                    f"got {other!r}, and so no pointwise log likelihood of {name!r}: pass log_likelihood=False."
                )
        together = tuple(other for other in component if nodes[other]["is_observed"])
        terms.setdefault(together, Term(together, enumerated, _latents_per_datum(nodes[name], nodes)))
    return list(terms.values())


def term_log_prob(term: Term, trace: Any, batch_shape: Sequence[int]) -> Tensor:
    """Log density of each datum, of shape `batch_shape`, without scale.

    Masks apply to observed sites alone, as in `pyro.infer.TraceEnum_ELBO`: the prior of what is summed out counts
    nothing where no datum depends on it.

    Args:
        term: The variable.
        trace: A trace with enumerated sites and log densities.
        batch_shape: The batch shape of the observed site.
    """
    total = sum((pointwise_log_prob(trace.nodes[name]) for name in term.observed), torch.zeros(()))
    for name in term.enumerated:
        total = total + trace.nodes[name]["unscaled_log_prob"]
    for name in term.enumerated:
        dim = trace.nodes[name]["infer"]["_enumerate_dim"]
        if -dim <= total.dim():
            total = total.logsumexp(dim, keepdim=True)
    while total.dim() > len(batch_shape) and total.shape[0] == 1:
        total = total.squeeze(0)
    return total.expand(torch.broadcast_shapes(total.shape, tuple(batch_shape)))


def share_scale(term: Term, trace: Any) -> bool:
    """Whether all sites of a variable have the same scale."""
    scales = [torch.as_tensor(trace.nodes[name]["scale"]) for name in (*term.observed, *term.enumerated)]
    return all(bool((scale == scales[0]).all()) for scale in scales[1:])


def _is_enumerated(node: Any) -> bool:
    return node["infer"].get("_enumerate_dim") is not None


def _dims_among(dims: Iterable[int], shape: Sequence[int]) -> frozenset[int]:
    return frozenset(dim for dim in dims if -dim <= len(shape) and shape[dim] > 1)


def _component(name: str, dims: Mapping[str, frozenset[int]]) -> list[str]:
    """Sites linked with one by enumerated dimensions, in the order of the model."""
    linked, reached = {name}, set(dims[name])
    while True:
        more = {other for other, own in dims.items() if own & reached} - linked
        if not more:
            return [other for other in dims if other in linked]
        linked |= more
        reached |= set().union(*(dims[other] for other in more))


def _check_enumerated(name: str, node: Any, other: str, enumerated: Any) -> None:
    remedy = "pass log_likelihood=False"
    if enumerated["infer"].get("_markov_depth"):
        raise ValueError(
            f"Expected data that are independent given the parameters; got {other!r}, enumerated in a Markov chain, "
            f"and so no pointwise log likelihood of {name!r}: {remedy}."
        )
    plates, own = plates_of(node), plates_of(enumerated)
    if plates != own or not own:
        where = f"in plates {_listed(plate for plate, _ in own)}" if own else "global, outside of every plate"
        raise ValueError(
            f"Expected enumerated sites in the plates of the observed {name!r}; got {other!r}, which is {where}, and "
            f"so links its data: {remedy}."
        )


def _latents_per_datum(node: Any, nodes: Mapping[str, Any]) -> tuple[str, ...]:
    """Latents that lie in all plates of an observed site and are not summed out."""
    plates = plates_of(node)
    return tuple(
        name
        for name, other in nodes.items()
        if plates and not other["is_observed"] and not _is_enumerated(other) and plates_of(other) >= plates
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(set(names)))
