"""The site or parameter that makes a loss or a gradient infinite or NaN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentmix.inference.batches import Batch
from latentmix.inference.compiled.python_state import PythonState
from latentmix.inference.isolation import RandomState, Registered
from latentmix.inference.objectives.base import samples
from latentmix.inference.svi.problem import Problem

__all__ = ["find_fault", "is_numerical", "message_of"]


def find_fault(problem: Problem, parameters: Mapping[str, Tensor], batch: Batch, wrong: str, randomness: Tensor) -> str:
    """Describe the first parameter or site whose value, log-density or gradient is not finite.

    Model and guide run once more on the minibatch, with the random numbers of the step; generators, Python values and
    gradients are restored afterwards, buffers are not.

    Args:
        problem: The problem.
        parameters: The leaves by name.
        batch: The minibatch.
        wrong: What is not finite, such as "the loss nan" or "a gradient", or the error of the step.
        randomness: State of torch's generator before the step.

    Returns:
        A part of a sentence, such as "the loss nan, because the log-density of site 'x' is nan".
    """
    with _repeated(problem, parameters, randomness):
        try:
            reason = next(_faults(problem, parameters, batch), None)
        except Exception as error:  # of a distribution whose arguments are not finite
            reason = None if message_of(error) in wrong else message_of(error)
    if reason is None:
        bad = next((name for name, leaf in parameters.items() if _bad(leaf.grad)), None)
        reason = None if bad is None else f"the gradient in {bad!r} is not finite"
    unusual = next((_shown(tensor) for tensor in batch if _bad(tensor)), None)
    where = "" if unusual is None else f", in a minibatch with {unusual} among its data"
    return f"{wrong}{where}" if reason is None else f"{wrong}, because {reason}{where}"


def is_numerical(
    error: Exception, problem: Problem, parameters: Mapping[str, Tensor], batch: Batch, randomness: Tensor
) -> bool:
    """Whether the error of a step comes from its numbers: a decomposition has failed, or some value was NaN before.

    The step is repeated with the same random numbers, unless the error tells; what it changes is restored as by
    `find_fault`. Data may have NaN by design, such as missing values: they are the cause if the error is none with
    zeros in their place.

    Args:
        error: The error.
        problem: The problem.
        parameters: The leaves by name.
        batch: The minibatch.
        randomness: State of torch's generator before the step.
    """
    failed = isinstance(error, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
    if failed or any(map(_bad, parameters.values())):
        return True

    def fails(batch: Batch) -> tuple[bool, bool]:
        """Whether the step fails, and whether some value was NaN."""
        with _repeated(problem, parameters, randomness), _Watch() as watch:  # type: ignore[no-untyped-call]
            try:
                problem.objective.backward(problem.model, problem.guide, *batch)
            except Exception:
                return True, watch.found
        return False, watch.found

    bad = any(map(_bad, batch))
    failed, found = fails(tuple(tensor.nan_to_num(0.0, 0.0, 0.0) for tensor in batch) if bad else batch)
    return found if failed else bad and fails(batch)[0]


def message_of(error: Exception) -> str:
    """The message of an error, on one line, without the shapes of sites that Pyro appends.

    Args:
        error: The error.
    """
    return " ".join(str(error).partition("Trace Shapes:")[0].split())[:200] or type(error).__name__


@contextmanager
def _repeated(problem: Problem, parameters: Mapping[str, Tensor], randomness: Tensor) -> Iterator[None]:
    """A block with the random numbers of a step; generators, Python values and gradients are restored after it."""
    present, python = RandomState.capture(), PythonState.of(problem.model, problem.guide)
    gradients = {name: leaf.grad for name, leaf in parameters.items()}
    try:
        torch.set_rng_state(randomness)
        yield
    finally:
        python.restore()
        present.restore()
        for name, leaf in parameters.items():
            leaf.grad = gradients[name]


class _Watch(TorchDispatchMode):
    """Notes whether an operator has returned NaN, other than of memory without values."""

    found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if not self.found and "empty" not in str(func):
            self.found = any(
                isinstance(each, Tensor) and each.is_floating_point() and bool(each.isnan().any())
                for each in tree_leaves(results)
            )
        return results


def _faults(problem: Problem, parameters: Mapping[str, Tensor], batch: Batch) -> Iterator[str]:
    for parameter, leaf in parameters.items():
        if _bad(leaf):
            yield f"the parameter {parameter!r} is not finite"
    with Registered():
        guide = poutine.trace(problem.guide).get_trace(*batch)
        model = poutine.trace(poutine.replay(problem.model, trace=guide)).get_trace(*batch)
    for trace in (guide, model):
        for name, site in samples(trace):
            if not site_is_subsample(site) and not site["is_observed"] and _bad(site["value"]):
                yield f"the value of site {name!r} is {_shown(site['value'])}"
    densities: list[tuple[str, str, Tensor]] = []
    for role, trace in (("the guide's", guide), ("the model's", model)):
        for name, site in samples(trace):
            if site_is_subsample(site):
                continue
            with torch.enable_grad():
                density = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
                density = scale_and_mask(density, mask=site["mask"])
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
