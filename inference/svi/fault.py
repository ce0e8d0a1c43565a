"""Where a loss or a gradient that is not finite comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from latentmix.inference.batches import Batch
from latentmix.inference.isolation import RandomState, Registered
from latentmix.inference.objectives.base import samples
from latentmix.inference.svi.problem import Problem

__all__ = ["find_fault"]


def find_fault(
    problem: Problem, parameters: Mapping[str, Tensor], batch: Batch, loss: float, randomness: Tensor
) -> str:
    """Describe the first parameter or site whose value, log-density or gradient is not finite.

    Model and guide run once more on the minibatch, with the random numbers of the step.

    Args:
        problem: The problem.
        parameters: The leaves by name.
        batch: The minibatch.
        loss: Its loss.
        randomness: State of torch's generator before the step.

    Returns:
        A part of a sentence, such as "the loss nan, because the log-density of site 'x' is nan".
    """
    what = f"the loss {loss:.4g}" if loss != loss or loss in (float("inf"), -float("inf")) else "a gradient"
    present = RandomState.capture()
    gradients = {name: leaf.grad for name, leaf in parameters.items()}
    try:
        torch.set_rng_state(randomness)
        reason = next(_faults(problem, parameters, batch), None)
    except Exception as error:  # of a distribution whose arguments are not finite
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    finally:
        present.restore()
        for name, leaf in parameters.items():
            leaf.grad = gradients[name]
    if reason is None:
        wrong = [name for name, gradient in gradients.items() if gradient is not None and _bad(gradient)]
        reason = f"that of {wrong[0]!r} is not finite" if wrong else ""
    return f"{what}, because {reason}" if reason else what


def _faults(problem: Problem, parameters: Mapping[str, Tensor], batch: Batch) -> Iterator[str]:
    for parameter, leaf in parameters.items():
        if _bad(leaf):
            yield f"the parameter {parameter!r} is not finite"
    with Registered():
        guide = poutine.trace(problem.guide).get_trace(*batch)
        model = poutine.trace(poutine.replay(problem.model, trace=guide)).get_trace(*batch)
    for trace in (guide, model):
        for name, site in samples(trace):
            if _bad(site["value"]):
                yield f"the value of site {name!r} is {_shown(site['value'])}"
    densities: list[tuple[str, str, Tensor]] = []
    for role, trace in (("the guide's", guide), ("the model's", model)):
        for name, site in samples(trace):
            with torch.enable_grad():
                density = site["fn"].log_prob(site["value"])
            if _bad(density):
                yield f"{role} log-density of site {name!r} is {_shown(density)}"
            densities.append((role, name, density))
    for role, name, density in densities:
        if not density.requires_grad:
            continue
        found = torch.autograd.grad(density.sum(), list(parameters.values()), allow_unused=True, retain_graph=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None and _bad(gradient):
                yield f"the gradient of {role} log-density of site {name!r} is not finite in {parameter!r}"


def _bad(value: Any) -> bool:
    return isinstance(value, Tensor) and not bool(value.isfinite().all())


def _shown(value: Tensor) -> str:
    """The first value that is not finite."""
    return f"{float(value.detach()[~value.isfinite()].flatten()[0]):.4g}"
