"""Pyro's Dice estimator of an expectation under a guide that enumerates, or samples without a pathwise gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import opt_einsum
import torch
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.poutine import Trace
from torch import Tensor

__all__ = ["dice_expectation"]


def dice_expectation(
    guide_trace: Trace, ordering: Mapping[str, Any], costs: Mapping[frozenset[str], Sequence[Tensor]]
) -> Any:
    """The sum of costs, each weighted by the probability of its values (Foerster et al., *DiCE*, 2018).

    Equal to `compute_expectation` of Pyro's `Dice` in value and gradient. It has fixed shapes, so that it can be
    compiled: Pyro selects the values of positive probability, while here the others' costs count as zero.

    Args:
        guide_trace: Trace of the guide, packed.
        ordering: Plates of each site.
        costs: Costs by their plates, packed tensors.
    """
    dice = Dice(guide_trace, ordering)
    total: Any = 0.0
    for ordinal, terms in costs.items():
        parts = dice._get_log_factors(ordinal)
        scale = math.exp(sum(part for part in parts if not isinstance(part, Tensor)))
        factors = [part for part in parts if isinstance(part, Tensor)]
        probabilities: dict[str, Tensor] = {}
        for cost in terms:
            dims: str = cost._pyro_dims  # type: ignore[attr-defined]
            if dims not in probabilities:
                probabilities[dims] = _marginal(factors, cost, ordinal)
            weight, value = packed.broadcast_all(probabilities[dims], cost)
            total = total + scale * (weight * torch.where(weight > 0, value, 0.0)).sum()
    return total


def _marginal(factors: Sequence[Any], cost: Any, ordinal: frozenset[str]) -> Tensor:
    """The probability of the values along the dimensions of a cost, with all others but plates summed out."""
    kept = {*cost._pyro_dims, *ordinal}
    outputs = "".join(sorted({dim for factor in factors for dim in factor._pyro_dims if dim in kept}))
    if all(set(factor._pyro_dims) <= set(outputs) for factor in factors):
        together: list[Any] = list(packed.broadcast_all(*factors)) if factors else []
        marginal: Any = sum(together[1:], together[0]).exp() if together else cost.new_ones(())
        marginal._pyro_dims = together[0]._pyro_dims if together else ""
        return marginal
    equation = ",".join(factor._pyro_dims for factor in factors) + "->" + outputs
    marginal = opt_einsum.contract(equation, *(factor.exp() for factor in factors), backend="torch")
    marginal._pyro_dims = outputs
    return marginal
