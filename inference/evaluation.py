"""Evaluation on held-out data: no optimizer, no step, evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor

from latentmix.inference.batches import Batch, as_batch, modules_of, transformed
from latentmix.inference.effects import isolated
from latentmix.inference.objectives import Objective, Stochastic, as_objective
from latentmix.models.vae import evaluation_mode

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


@torch.no_grad()
def evaluate(
    model: Stochastic,
    guide: Stochastic,
    data: Tensor | Sequence[Tensor],
    *,
    objective: Objective | ELBO = Trace_ELBO(),
    batch_size: int = 1024,
    transform: Callable[..., Tensor | Sequence[Tensor]] | None = None,
    seed: int = 0,
) -> Bound:
    """Measure the ELBO of data under a fitted model and guide.

    The latents that are drawn, and a random `transform`, depend on `seed` alone, so that epochs and fits are
    compared on the same noise.

    Args:
        model: Pyro callable.
        guide: Pyro callable.
        data: A tensor, or several that are sliced together.
        objective: An ELBO that says its terms.
        batch_size: Data a chunk.
        transform: Applied to every chunk.
        seed: Seed of the draws.

    Returns:
        The bound, averaged over the data.

    Raises:
        ValueError: If the data disagree in length or are empty.
    """
    tensors = as_batch(data)
    goal = as_objective(objective)
    params = pyro.get_param_store().get_state()
    totals = torch.zeros(4, dtype=torch.float64, device=tensors[0].device)
    with isolated(seed=seed, validation=False, params=params), evaluation_mode(*modules_of(model, guide)):
        for start in range(0, len(tensors[0]), batch_size):
            batch: Batch = transformed(tuple(tensor[start : start + batch_size] for tensor in tensors), transform)
            totals += goal.terms(model, guide, *batch).totals(len(batch[0]))
    return Bound.from_totals(totals)
