"""Objectives with a weighted or clamped divergence from the prior: beta, warm-up and free bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_MMD, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from latentmix.inference.isolation import Registered
from latentmix.inference.objectives.base import Objective, Stochastic, Terms, WrappedObjective, data_count, samples
from latentmix.inference.objectives.conversion import IMPORTANCE_WEIGHTED, as_objective
from latentmix.inference.objectives.divergences import kl_per_dimension
from latentmix.inference.objectives.elbos import MeanFieldObjective, describe

__all__ = ["FreeBits", "Weighted"]


@final
class Weighted(WrappedObjective):
    r"""An objective with a weighted divergence from the prior,
    :math:`\mathbb E_q \log p(x \mid z) - \beta\, \mathrm{KL}(q \,\|\, p)`.

    Every latent site is scaled in model and guide, as `pyro.poutine.scale` around them does (Higgins et al.,
    *beta-VAE*, 2017, equation 4). With a warm-up the weight grows linearly with the steps, from `beta / T` at the
    first of the `T` steps of the first `warmup` epochs to `beta` at the last (Sønderby et al., *Ladder Variational
    Autoencoders*, 2016, section 2.3). Reported values are always at beta = 1.

    Args:
        objective: The objective to weight, or an ELBO of Pyro.
        beta: The weight.
        warmup: Epochs until the weight is reached, a fraction allowed; without effect outside `fit`.

    Raises:
        ValueError: If `beta` is not positive, `warmup` is negative, or the objective has importance weights
            (`RenyiELBO`, `ReweightedWakeSleep`, ...) or no KL divergence (`Trace_MMD`).

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from latentmix.inference import Weighted
        >>> objective = Weighted(Trace_ELBO(), beta=4.0, warmup=10)
        >>> objective.begin_step(2.5)
        >>> objective.weight
        1.0
    """

    def __init__(
        self, objective: Objective | ELBO | Callable[..., Tensor], beta: float = 1.0, warmup: float = 0.0
    ) -> None:
        if not (beta > 0 and math.isfinite(beta)):
            raise ValueError(f"Expected a weight beta > 0; got {beta}.")
        if not (warmup >= 0 and math.isfinite(warmup)):
            raise ValueError(f"Expected a warmup of at least 0 epochs; got {warmup}.")
        super().__init__(as_objective(objective))
        innermost = self.objective
        while isinstance(innermost, Weighted):
            innermost = innermost.objective
        elbo = getattr(innermost, "elbo", None)
        if (beta != 1 or warmup > 0) and isinstance(elbo, (*IMPORTANCE_WEIGHTED, Trace_MMD)):
            why = "has no KL divergence" if isinstance(elbo, Trace_MMD) else "weighs particles by all of p / q"
            raise ValueError(
                f"Expected beta=1 and warmup=0 for {type(elbo).__name__}, which {why}; got beta={beta} and "
                f"warmup={warmup}: use Trace_ELBO."
            )
        self.beta = beta
        self.warmup = warmup
        with torch.inference_mode(False):  # updated in place during training
            self._weight = torch.tensor(float(beta), dtype=torch.float64)

    @property
    def weight(self) -> float:
        """The weight of the present step."""
        return float(self._weight)

    @property
    def warmup_epochs(self) -> float:
        """See `Objective.warmup_epochs`."""
        return max(float(self.warmup), super().warmup_epochs)

    def begin_step(self, epochs: float) -> None:
        """See `Objective.begin_step`."""
        super().begin_step(epochs)
        self._weight.fill_(self.beta * min(1.0, epochs / self.warmup) if self.warmup else self.beta)

    def rehearse(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> None:
        """See `Objective.rehearse`."""
        self.objective.rehearse(*self._scaled(model, guide), *batch)

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        return self._at_one(self.objective.terms(*self._scaled(model, guide), *batch))

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.backward`."""
        return self._at_one(self.objective.backward(*self._scaled(model, guide), *batch))

    def _scaled(self, model: Stochastic, guide: Stochastic) -> tuple[Stochastic, Stochastic]:
        if self.beta == 1 and not self.warmup:
            return model, guide
        weight = self._weight if self.warmup else self.beta
        return _ScaledLatents(weight)(model), poutine.scale(guide, scale=weight)

    def _at_one(self, terms: Terms) -> Terms:
        if terms.kl is None or terms.log_likelihood is None:
            return Terms(terms.loss, None, None, None)
        kl = terms.kl / (self._weight.to(terms.kl.dtype) if self.warmup else self.beta)
        return Terms(terms.loss, terms.log_likelihood - kl, terms.log_likelihood, kl)


class _ScaledLatents(Messenger):
    """Scales the log-density of every latent site of a model.

    Args:
        weight: The scale; a tensor, if it changes, since a number would be a constant of a compiled graph.
    """

    def __init__(self, weight: float | Tensor) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg.setdefault("_unweighted", msg["scale"])  # not in `infer`, which a replay replaces
            msg["scale"] = self.weight * msg["scale"]


@final
class FreeBits(Objective):
    r"""The bound with :math:`\lambda` free nats of divergence in every dimension of the latent,
    :math:`\mathbb E_q \log p(x \mid z) - \sum_d \max(\lambda, \overline{\mathrm{KL}}_d)`.

    :math:`\overline{\mathrm{KL}}_d` is the minibatch's mean in dimension :math:`d`, in closed form: a dimension has
    no gradient towards the prior before it carries :math:`\lambda` nats (Kingma et al., *Improved Variational
    Inference with Inverse Autoregressive Flow*, 2016, equation 15 and appendix C.8). The reported ELBO is without the
    clamp.

    Args:
        free_bits: Nats per dimension, :math:`\lambda`.
        num_particles: Samples of the latent for the expected log-likelihood.

    Raises:
        ValueError: If an argument is out of range. At the first minibatch: if prior or guide does not factorise into
            Normals, so that there is no divergence per dimension.

    Example:
        >>> from latentmix.inference import FreeBits, Weighted
        >>> objective = Weighted(FreeBits(0.5), warmup=10)
    """

    def __init__(self, free_bits: float, num_particles: int = 1) -> None:
        if not (free_bits >= 0 and math.isfinite(free_bits)):
            raise ValueError(f"Expected free_bits of at least 0 nats; got {free_bits}.")
        if num_particles < 1:
            raise ValueError(f"Expected at least one particle; got {num_particles}.")
        self.free_bits = free_bits
        self.num_particles = num_particles
        self._elbo = MeanFieldObjective(TraceMeanField_ELBO(num_particles=num_particles))

    @property
    def gradients_of_loss(self) -> bool:
        """See `Objective.gradients_of_loss`."""
        return True

    def bound(self) -> Objective:
        """See `Objective.bound`."""
        return self._elbo

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.backward`."""
        with Registered():
            return super().backward(model, guide, *batch)

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        log_likelihood: Any = torch.zeros(())
        divergences: dict[str, Any] = {}
        floors: dict[str, Any] = {}
        for model_trace, guide_trace in self._elbo.traces(model, guide, *batch):
            weight = 1.0 / (data_count(model_trace.nodes.values(), len(batch[0])) * self.num_particles)
            for name, site in samples(model_trace):
                if site["is_observed"]:
                    log_likelihood = log_likelihood + weight * site["log_prob_sum"]
                    continue
                kl, free = _summed(name, guide_trace.nodes[name], site)
                divergences[name] = divergences.get(name, 0.0) + weight * kl
                floors[name] = floors.get(name, 0.0) + weight * self.free_bits * free
        clamped = sum(torch.maximum(kl, floors[name].expand_as(kl)).sum() for name, kl in divergences.items())
        kl = sum(divergence.sum() for divergence in divergences.values())
        return Terms.of(clamped - log_likelihood, log_likelihood - kl, log_likelihood)


def _summed(name: str, q: Any, p: Any) -> tuple[Tensor, Tensor]:
    """KL per dimension, `(D,)`, and the number of latents, `()`: sums over plates, with the site's scale and mask."""
    kl = kl_per_dimension(q["fn"], p["fn"])
    if kl is None:
        raise ValueError(
            f"Expected products of Normals in prior and guide at site {name!r} for FreeBits; got {describe(q['fn'])} "
            f"against {describe(p['fn'])}, which have no KL per dimension: use Trace_ELBO or TraceMeanField_ELBO."
        )
    scaled = scale_and_mask(kl.movedim(-1, 0), scale=q["scale"], mask=q["mask"])
    free = scale_and_mask(kl.new_ones(q["fn"].batch_shape), scale=q["scale"], mask=q["mask"])
    return scaled.reshape(kl.shape[-1], -1).sum(-1), free.sum()
