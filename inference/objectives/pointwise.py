"""The bound of every datum, kept while an objective measures their mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from pyro.infer.elbo import ELBO
from pyro.poutine import Trace
from torch import Tensor

from latentmix.inference.objectives.base import Objective, Stochastic, Terms
from latentmix.inference.objectives.conversion import reporter_of
from latentmix.inference.objectives.elbos import ELBOObjective

__all__ = ["PointwiseBound"]


class PointwiseBound(Objective):
    """Measures exactly as another objective does, and keeps the ELBO of every datum that it has measured.

    Args:
        objective: The objective that measures the ELBO at beta = 1, or one of Pyro's ELBOs.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyro.infer import Trace_ELBO
        >>> from latentmix.inference import evaluate
        >>> from latentmix.inference.objectives.pointwise import PointwiseBound
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> measuring = PointwiseBound(Trace_ELBO())
        >>> bound = evaluate(model, guide, torch.linspace(-1, 1, 5), objective=measuring)
        >>> measuring.elbo.shape, abs(float(measuring.elbo.mean()) - bound.elbo) < 1e-6
        (torch.Size([5]), True)
    """

    def __init__(self, objective: Objective | ELBO) -> None:
        self.objective = reporter_of(objective)
        self._chunks: list[Tensor | None] = []

    @property
    def elbo(self) -> Tensor | None:
        """The ELBO of each datum in the order measured, in nats: `N` float64 values.

        `None` if the objective is no ELBO of traces, such as Pyro's `TraceGraph_ELBO`, or if its bound is no sum over
        the data.
        """
        known = [chunk for chunk in self._chunks if chunk is not None]
        return torch.cat(known) if known and len(known) == len(self._chunks) else None

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        if not isinstance(self.objective, ELBOObjective):
            self._chunks.append(None)
            return self.objective.terms(model, guide, *batch)
        objective, particles = self.objective, list[Tensor | None]()

        def kept(traces: Iterable[tuple[Trace, Trace]]) -> Iterator[tuple[Trace, Trace]]:
            for model_trace, guide_trace in traces:
                particles.append(objective.pointwise(model_trace, guide_trace, len(batch[0])))
                yield model_trace, guide_trace

        terms = objective.average(kept(objective.traces(model, guide, *batch)), len(batch[0]))
        known = [particle.detach().double() for particle in particles if particle is not None]
        size = objective.elbo.num_particles
        whole = known and len(known) == len(particles)
        self._chunks.append(sum(known[1:], known[0]) / size if whole else None)
        return terms
