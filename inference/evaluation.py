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
from torch import nn

from latentmix.inference.batches import Data, Transform, as_batch, chunks
from latentmix.inference.isolation import Modules, isolated, plain_errors
from latentmix.inference.objectives.base import Objective, Stochastic, Totals
from latentmix.inference.objectives.conversion import reporter_of
from latentmix.inference.support import SupportCheck
from latentmix.models.likelihoods import Likelihood

__all__ = ["Bound", "bits_per_dimension", "check_comparable", "check_store", "evaluate"]


@dataclass(frozen=True)
class Bound:
    """The evidence lower bound at beta = 1, in nats per datum, averaged over data.

    Attributes:
        loss: The negative ELBO, `kl - log_likelihood`.
        log_likelihood: Expected log-likelihood of the data under the guide; NaN where the objective does not report it.
        kl: Divergence of the guide from the prior; NaN where the objective does not report it.
    """

    loss: float
    log_likelihood: float
    kl: float

    @property
    def elbo(self) -> float:
        """The bound itself."""
        return -self.loss

    @classmethod
    def from_totals(cls, totals: Totals) -> Bound:
        """The bound from sums of ELBO, log-likelihood and KL, and the number of data."""
        elbo, log_likelihood, kl, count = totals
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

    Draws of latents and of `transform` depend on `seed` alone, so that epochs and fits are compared on the same noise.
    Arguments of distributions are validated on the first chunk, the data on every chunk.

    Args:
        model: Pyro callable.
        guide: Pyro callable.
        data: A tensor, several that are sliced together, or a `DataLoader` of these, as in `fit`.
        objective: An ELBO of Pyro, or an objective that reports its ELBO; where its loss is another quantity (a Rényi
            bound, wake-sleep, a weighted ELBO), the ELBO at beta = 1 is measured.
        batch_size: Data a chunk.
        transform: Applied to every chunk.
        store: Fitted values of `pyro.param` statements, as in `SVIResult.store`; modules hold their own.
        seed: Seed of the draws.

    Returns:
        The bound, averaged over the data.

    Raises:
        ValueError: If the data disagree in length or are empty, data or arguments are invalid, the objective does not
            report an ELBO, or the value of a `pyro.param` statement is not in `store`.
    """
    tensors = as_batch(data)
    if batch_size < 1:
        raise ValueError(f"Expected a batch_size of at least 1; got {batch_size}.")
    reporter = reporter_of(objective)
    known = None if store is None else {kind: dict(part) for kind, part in store.items()}
    with (
        plain_errors(),
        isolated(seed=seed, validation=True, params=store),
        Modules(model, guide),
        torch.no_grad(),
        SupportCheck() as check,
    ):
        totals = None
        for check.first_row, batch in chunks(tensors, batch_size, transform):
            terms = reporter.terms(model, guide, *batch)
            if terms.elbo is None:
                raise ValueError(f"Expected an objective that says its ELBO; got {type(reporter).__name__}.")
            totals = terms.totals(len(batch[0]), totals)
            if check.first_row == 0:
                check_store(known, "pass store=result.store")
                pyro.enable_validation(False)
    assert totals is not None  # as there is a datum
    return Bound.from_totals(totals)


def bits_per_dimension(nats: float, likelihood: Likelihood, shape: Sequence[int]) -> float:
    """Code length in bits per value of a datum, `-nats / (log(2) D)`.

    Args:
        nats: ELBO or log-likelihood, nats per datum.
        likelihood: The likelihood of the model.
        shape: Shape of one datum.

    Raises:
        ValueError: If the likelihood is a density: only a probability mass has a code length.

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
    """Refuse to rank ELBOs or log-likelihoods with respect to different measures.

    Args:
        likelihoods: Likelihoods, or their `measure`, by the name of each model.

    Raises:
        ValueError: If there is more than one measure.

    Example:
        >>> from latentmix.inference import check_comparable
        >>> from latentmix.models import Bernoulli
        >>> check_comparable({"first": Bernoulli(), "second": "mass on {0, 1}"})
    """
    measures = {
        name: likelihood if isinstance(likelihood, str) else likelihood.measure
        for name, likelihood in likelihoods.items()
    }
    if len(set(measures.values())) > 1:
        named = ", ".join(f"{name} ({measure})" for name, measure in measures.items())
        raise ValueError(
            f"Expected likelihoods of one measure to rank by ELBO or log-likelihood; got {named}: compare them by mean "
            "squared error, rate or accuracy."
        )


def check_store(store: Any | None, remedy: str) -> None:
    """Refuse `pyro.param` statements without a fitted value.

    Args:
        store: The state of Pyro's parameter store after the fit.
        remedy: The end of the message.

    Raises:
        ValueError: If Pyro's present store holds a parameter of no module that `store` does not hold.
    """
    fitted = {} if store is None else store["params"]
    for name, leaf in pyro.get_param_store().named_parameters():
        if name not in fitted and not isinstance(leaf, nn.Parameter):
            raise ValueError(f"Expected the fitted value of parameter {name!r}; got none: {remedy}.")
