"""The contract of an objective of SVI, and the number of data that a minibatch counts for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

__all__ = [
    "Objective",
    "Stochastic",
    "Terms",
    "Totals",
    "WrappedObjective",
    "data_count",
    "data_plate",
    "local_sites",
    "samples",
]

Stochastic = Callable[..., Any]
Totals = tuple[float, float, float, float]


class Terms(NamedTuple):
    """An objective on one minibatch: scalar tensors, in nats per datum.

    Attributes:
        loss: The loss; the only part with a gradient.
        elbo: The evidence lower bound at beta = 1; None where the objective does not measure it.
        log_likelihood: Its first part, the expected log-likelihood of the observed values.
        kl: Its second part, `log_likelihood - elbo`, the divergence from the prior.
    """

    loss: Tensor
    elbo: Tensor | None
    log_likelihood: Tensor | None
    kl: Tensor | None

    @classmethod
    def of(cls, loss: Tensor, elbo: Tensor, log_likelihood: Tensor) -> Self:
        """Terms whose reported parts are detached, with `kl` as their difference."""
        elbo, log_likelihood = elbo.detach(), log_likelihood.detach()
        return cls(loss, elbo, log_likelihood, log_likelihood - elbo)

    def totals(self, count: int, before: Totals | None = None) -> Totals:
        """ELBO, log-likelihood and KL in nats, summed over `count` data, and `count`.

        Args:
            count: Number of data.
            before: Totals of other data, to which these are added.
        """
        elbo, log_likelihood, kl = (
            math.nan if part is None else float(part) * count for part in (self.elbo, self.log_likelihood, self.kl)
        )
        if before is None:
            return elbo, log_likelihood, kl, float(count)
        return before[0] + elbo, before[1] + log_likelihood, before[2] + kl, before[3] + count


class Objective(ABC):
    """A loss of SVI, `objective(model, guide, *batch)`: a scalar in mean nats per datum.

    A new objective is a subclass, of which an instance is passed to `fit`. Only `terms` is abstract. Override as well

    - `bound`, if the ELBO at beta = 1 is measured by the objective itself, or by one other than `Trace_ELBO`'s;
    - `begin_step` and `warmup_epochs`, if the loss changes during training;
    - `backward`, if the gradients are not those of the loss;
    - `rehearse`, if a model and a guide may be refused for other reasons than that `terms` raises.

    An objective that remembers anything from step to step keeps it in buffers of `modules`, which belong to the state
    of training.

    Attributes:
        modules: Modules of the objective's own.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyro import poutine
        >>> from pyro.infer.autoguide import AutoDelta
        >>> from latentmix.inference import Objective, Terms, fit
        >>> class PenalizedLikelihood(Objective):
        ...     def terms(self, model, guide, *batch):
        ...         guide_trace = poutine.trace(guide).get_trace(*batch)
        ...         trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
        ...         return Terms(-trace.log_prob_sum() / len(batch[0]), None, None, None)
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> len(fit(model, AutoDelta(model), torch.ones(10), epochs=2, objective=PenalizedLikelihood()).losses)
        2
    """

    modules: Sequence[nn.Module] = ()

    @property
    def warmup_epochs(self) -> float:
        """Number of epochs in which the loss still changes; early stopping waits until they are over."""
        return 0.0

    @property
    def gradients_of_loss(self) -> bool:
        """Whether `backward` gives the gradients of the loss of `terms`, so that a compiled step can take its place."""
        return type(self).backward is Objective.backward

    @abstractmethod
    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """Evaluate the loss and the reported parts.

        Args:
            model: Pyro callable.
            guide: Pyro callable.
            *batch: Tensors of one minibatch, with the data on the first dimension.
        """

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

    def rehearse(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> None:
        """Refuse a model or a guide that cannot be trained; called by `fit` once, before training.

        Raises:
            ValueError: If the objective does not accept the model or the guide.
        """
        self(model, guide, *batch)

    def begin_step(self, epochs: float) -> None:  # noqa: B027
        """Prepare the next step; called by `fit`, in a resumed fit with the same values.

        Args:
            epochs: Passes over the data when the step is done: `t / T` at step `t` of `T` an epoch, from `1 / T` on.
        """

    def bound(self) -> Objective | None:
        """The objective that measures the ELBO at beta = 1 on held-out data; None for that of `Trace_ELBO`."""
        return None

    def __call__(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Tensor:
        """Evaluate the loss alone."""
        return self.terms(model, guide, *batch).loss


class WrappedObjective(Objective):
    """An objective that is another one in all that a subclass does not override.

    Args:
        objective: The other one.

    Attributes:
        objective: Likewise.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.modules = objective.modules

    @property
    def gradients_of_loss(self) -> bool:
        """See `Objective.gradients_of_loss`."""
        return self.objective.gradients_of_loss

    @property
    def warmup_epochs(self) -> float:
        """See `Objective.warmup_epochs`."""
        return self.objective.warmup_epochs

    def begin_step(self, epochs: float) -> None:
        """See `Objective.begin_step`."""
        self.objective.begin_step(epochs)

    def bound(self) -> Objective | None:
        """See `Objective.bound`."""
        return self.objective.bound()

    def rehearse(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> None:
        """See `Objective.rehearse`."""
        self.objective.rehearse(model, guide, *batch)

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        return self.objective.terms(model, guide, *batch)

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.backward`."""
        return self.objective.backward(model, guide, *batch)


def data_plate(sites: Iterable[Any], length: int) -> Any | None:
    """The plate over the data: of the minibatch's length, around observed sites.

    Of several such plates, the one named `data`, else one that subsamples, else the outermost.

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


def data_count(sites: Iterable[Any], length: int) -> float:
    """Number of data that the densities count for: the full size of a subsampled plate, or length times scale.

    A scale counts where it is above 1 and common to all sites of single data, latents included.

    Args:
        sites: Sites of a model's trace.
        length: Number of data in the minibatch.
    """
    sites = list(sites)
    frame = data_plate(sites, length)
    if frame is not None and frame.full_size not in (None, frame.size):
        return int(frame.full_size)
    count = length * _common_scale(sites, length)
    return round(count) if math.isclose(count, round(count), rel_tol=1e-6) else count


def local_sites(sites: Iterable[Any], length: int) -> list[Any]:
    """The sites of single data: within the data's plate; without such a plate, with the data on the first dimension."""
    sites = [site for site in sites if site["type"] == "sample" and not site_is_subsample(site)]
    sites = [site for site in sites if not site["infer"].get("_deterministic")]
    frame = data_plate(sites, length)
    if frame is None:
        return [site for site in sites if _has_data_first(site, length)]
    return [site for site in sites if frame.name in [other.name for other in site["cond_indep_stack"]]]


def _has_data_first(site: Any, length: int) -> bool:
    """Whether the first dimension is that of the data; a latent's values must be independent, or have a scale."""
    if not isinstance(site["value"], Tensor) or site["value"].shape[:1] != (length,):
        return False
    scale = site.get("_unweighted", site["scale"])
    return site["is_observed"] or site["fn"].batch_shape[:1] == (length,) or isinstance(scale, Tensor) or scale != 1


def _common_scale(sites: list[Any], length: int) -> float:
    """The scale above 1 of all sites of single data, or 1."""
    observed = [site["scale"] for site in sites if site["type"] == "sample" and site["is_observed"]]
    if all(isinstance(scale, int | float) and scale <= 1 for scale in observed):
        return 1.0
    local = {site["name"]: site for site in local_sites(sites, length)}.values()
    scales = [site.get("_unweighted", site["scale"]) for site in local]
    if not local or any(isinstance(scale, Tensor) and scale.dim() for scale in scales):
        return 1.0
    least, most = (float(extreme(map(float, scales))) for extreme in (min, max))
    return most if least > 1 and math.isclose(least, most, rel_tol=1e-6) else 1.0


def samples(trace: Trace) -> Iterator[tuple[str, Any]]:
    """The sample sites of a trace."""
    return ((name, site) for name, site in trace.nodes.items() if site["type"] == "sample")
