"""Evaluation on held-out data: no optimizer, no step, evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

from latentmix.inference.batches import Transform, as_batch, transformed
from latentmix.inference.effects import Modules, isolated
from latentmix.inference.objectives import Objective, Stochastic, as_objective

__all__ = ["Bound", "evaluate"]


@dataclass(frozen=True)
class Bound:
    """The evidence lower bound at beta = 1, in nats per datum, averaged over data.

    Attributes:
        loss: The negative ELBO, `kl - log_likelihood`.
        log_likelihood: Expected log-likelihood of the data under the guide; NaN where the objective does not say.
        kl: Divergence of the guide from the prior; NaN where the objective does not say.
    """

    loss: float
    log_likelihood: float
    kl: float

    @property
    def elbo(self) -> float:
        """The bound itself."""
        return -self.loss

    @classmethod
    def from_totals(cls, totals: Tensor) -> Bound:
        """Means from sums of ELBO, log-likelihood and KL, and the number of data, in this order."""
        elbo, log_likelihood, kl, count = totals.tolist()
        return cls(-elbo / count, log_likelihood / count, kl / count)


def evaluate(
    model: Stochastic,
    guide: Stochastic,
    data: Tensor | Sequence[Tensor],
    *,
    objective: Objective | ELBO = Trace_ELBO(),
    batch_size: int = 1024,
    transform: Transform | None = None,
    store: Any | None = None,
    seed: int = 0,
) -> Bound:
    """Measure the ELBO of data under a fitted model and guide.

    The latents that are drawn, and a random `transform`, depend on `seed` alone, so that epochs and fits are
    compared on the same noise. The first chunk is validated.

    Args:
        model: Pyro callable.
        guide: Pyro callable.
        data: A tensor, or several that are sliced together.
        objective: An ELBO that says its terms.
        batch_size: Data a chunk.
        transform: Applied to every chunk.
        store: Fitted values of `pyro.param` statements, as `SVIResult.store` has them; modules hold their own.
        seed: Seed of the draws.

    Returns:
        The bound, averaged over the data.

    Raises:
        ValueError: If the data disagree in length or are empty, the data or arguments are invalid, the objective
            does not say its bound, or the value of a `pyro.param` statement is not in `store`.
    """
    tensors = as_batch(data)
    if batch_size < 1:
        raise ValueError(f"Expected a batch_size of at least 1; got {batch_size}.")
    goal = as_objective(objective)
    totals = torch.zeros(4, dtype=torch.float64, device=tensors[0].device)
    known = None if store is None else {kind: dict(part) for kind, part in store.items()}
    with (
        isolated(seed=seed, validation=True, params=store),
        Modules(model, guide),
        torch.no_grad(),
    ):
        for start in range(0, len(tensors[0]), batch_size):
            batch = transformed(tuple(tensor[start : start + batch_size] for tensor in tensors), transform)
            terms = goal.terms(model, guide, *batch)
            if terms.elbo is None:
                raise ValueError(f"Expected an objective that says its ELBO; got {type(goal).__name__}.")
            totals += terms.totals(len(batch[0]))
            if start == 0:
                _check_store(known)
                pyro.enable_validation(False)
    return Bound.from_totals(totals)


def _check_store(store: Any | None) -> None:
    """Refuse to measure a `pyro.param` statement at the value it starts from."""
    fitted = {} if store is None else store["params"]
    for name, leaf in pyro.get_param_store().named_parameters():
        if name not in fitted and not isinstance(leaf, nn.Parameter):
            raise ValueError(f"Expected the fitted value of parameter {name!r}; got none: pass store=result.store.")
