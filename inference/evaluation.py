"""Evaluation on held-out data: no optimizer, no step, evaluation mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

from latentmix.inference.batches import Data, Transform, as_batch, transformed
from latentmix.inference.isolation import Modules, isolated, plain_errors
from latentmix.inference.objectives.base import Objective, Stochastic
from latentmix.inference.objectives.conversion import reporter_of
from latentmix.inference.support import SupportCheck
from latentmix.models.likelihoods import Likelihood

__all__ = ["Bound", "bits_per_dimension", "check_comparable", "check_store", "evaluate"]


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
    data: Data,
    *,
    objective: Objective | ELBO = Trace_ELBO(),
    batch_size: int = 1024,
    transform: Transform | None = None,
    store: Any | None = None,
    seed: int = 0,
) -> Bound:
    """Measure the ELBO of data under a fitted model and guide.

    The latents that are drawn, and a random `transform`, depend on `seed` alone, so that epochs and fits are
    compared on the same noise. Arguments of distributions are validated on the first chunk, the data on every one.

    Args:
        model: Pyro callable.
        guide: Pyro callable.
        data: A tensor, several that are sliced together, or a `DataLoader` of these, as `fit` takes it.
        objective: An ELBO of Pyro, or an objective that says its ELBO; where its loss is another quantity (a Rényi
            bound, wake-sleep, a weighed ELBO), the ELBO at beta = 1 is measured.
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
    goal = reporter_of(objective)
    known = None if store is None else {kind: dict(part) for kind, part in store.items()}
    with (
        plain_errors(),
        isolated(seed=seed, validation=True, params=store),
        Modules(model, guide),
        torch.no_grad(),
        SupportCheck() as check,
    ):
        totals = torch.zeros(4, dtype=torch.float64, device=tensors[0].device)
        for start in range(0, len(tensors[0]), batch_size):
            check.first_row = start
            batch = transformed(tuple(tensor[start : start + batch_size] for tensor in tensors), transform)
            terms = goal.terms(model, guide, *batch)
            if terms.elbo is None:
                raise ValueError(f"Expected an objective that says its ELBO; got {type(goal).__name__}.")
            totals += terms.totals(len(batch[0]))
            if start == 0:
                check_store(known, "pass store=result.store")
                pyro.enable_validation(False)
    return Bound.from_totals(totals)


def bits_per_dimension(nats: float, likelihood: Likelihood, shape: Sequence[int]) -> float:
    """Bits that a code spends on each value of a datum, `-nats / (log(2) D)`.

    Args:
        nats: ELBO or log-likelihood, nats per datum.
        likelihood: What it was measured under.
        shape: Shape of one datum.

    Raises:
        ValueError: If the likelihood is a density: only a probability mass is a length of code.

    Example:
        >>> from latentmix.inference import bits_per_dimension
        >>> from latentmix.models import Bernoulli
        >>> round(bits_per_dimension(-90.0, Bernoulli(), (1, 28, 28)), 4)
        0.1656
    """
    if not likelihood.discrete:
        raise ValueError(
            f"Expected a likelihood that gives probabilities, for bits per dimension; got {type(likelihood).__name__} "
            f"({likelihood.measure}): use Bernoulli on binary or DiscretizedLogistic on 256-level data."
        )
    return -nats / (math.log(2.0) * math.prod(shape))


def check_comparable(likelihoods: Mapping[str, Likelihood | str]) -> None:
    """Refuse to rank ELBOs or log-likelihoods that are taken against different measures.

    Args:
        likelihoods: By the name of each contestant its likelihood, or the likelihood's `measure`.

    Raises:
        ValueError: If there is more than one measure.

    Example:
        >>> from latentmix.inference import check_comparable
        >>> from latentmix.models import Bernoulli
        >>> check_comparable({"one": Bernoulli(), "other": "mass on {0, 1}"})
    """
    measures = {
        name: likelihood if isinstance(likelihood, str) else likelihood.measure
        for name, likelihood in likelihoods.items()
    }
    if len(set(measures.values())) > 1:
        found = ", ".join(f"{name} ({measure})" for name, measure in measures.items())
        raise ValueError(
            f"Expected likelihoods of one measure to rank by ELBO or log-likelihood; got {found}: compare them by mean "
            "squared error, rate or accuracy."
        )


def check_store(store: Any | None, remedy: str) -> None:
    """Refuse a `pyro.param` statement that has the value it starts from: one that `store` does not hold."""
    fitted = {} if store is None else store["params"]
    for name, leaf in pyro.get_param_store().named_parameters():
        if name not in fitted and not isinstance(leaf, nn.Parameter):
            raise ValueError(f"Expected the fitted value of parameter {name!r}; got none: {remedy}.")
