"""The rule of sizes by which minibatches of a fit are compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from latentmix.inference.compiled.inductor import compiler_obstacle
from latentmix.models.words import plural

__all__ = ["UNCOMPILED", "CompilePlan", "Compiling", "compile_plan"]

Compiling = bool | Literal["auto"]

# Compiling one shape of a VAE takes 13 to 16 s, with convolutions 21 to 28, and 2 to 4 s from inductor's cache. It
# saves 1.2 to 2.8 ms a step, mostly Pyro's Python, whatever the sizes are: from this number of steps on, 24 s at least.
_LEAST_STEPS = 20_000


@dataclass(frozen=True)
class CompilePlan:
    """The minibatches of a fit that are compiled.

    Attributes:
        lengths: Their lengths.
        reason: Why none do, as a clause, or which others do not, as "but for ..."; None where all do.
    """

    lengths: frozenset[int]
    reason: str | None


UNCOMPILED = CompilePlan(frozenset(), "compile=False")


def compile_plan(
    compile: Compiling,
    *,
    epochs: int,
    length: int,
    batch_size: int,
    drop_last: bool,
    device: torch.device,
) -> CompilePlan:
    """Decide by sizes, never by timing.

    With True all minibatches are compiled but an incomplete last one that comes too seldom to pay for a graph of its
    own. "auto" compiles where the number of steps pays for it, on a CPU with a C++ compiler.

    Args:
        compile: True, False or "auto".
        epochs: Passes over the data.
        length: Number of data.
        batch_size: Data a step.
        drop_last: Whether an incomplete last minibatch is left out.
        device: Device of the data.

    Raises:
        ValueError: If `compile` is something else.

    Example:
        >>> import torch
        >>> from latentmix.inference.compiled.plan import compile_plan
        >>> sizes = {"length": 1000, "batch_size": 64, "drop_last": False, "device": torch.device("cpu")}
        >>> compile_plan("auto", epochs=10, **sizes).reason
        '160 steps are fewer than the 20,000 from which compilation pays'
        >>> compile_plan(True, epochs=10, **sizes).lengths
        frozenset({64})
    """
    if compile not in (True, False, "auto") or (isinstance(compile, int) and not isinstance(compile, bool)):
        raise ValueError(f'Expected compile to be True, False or "auto"; got {compile!r}.')
    if compile is False:
        return UNCOMPILED
    steps = {batch_size: epochs * (length // batch_size)}
    if length % batch_size and not drop_last:
        steps[length % batch_size] = epochs
    frequent = frozenset(size for size, count in steps.items() if count >= _LEAST_STEPS)
    if compile is True:
        lengths = frequent | {batch_size}
    else:
        obstacle = _obstacle(steps, device)
        if obstacle is not None:
            return CompilePlan(frozenset(), obstacle)
        lengths = frequent
    rest = sum(count for size, count in steps.items() if size not in lengths)
    left = plural(rest, "incomplete minibatch", "incomplete minibatches")
    return CompilePlan(lengths, f"but for {left}" if rest else None)


def _obstacle(steps: dict[int, int], device: torch.device) -> str | None:
    """Why nothing is compiled of itself."""
    if max(steps.values()) < _LEAST_STEPS:
        total = sum(steps.values())
        counted = f"{plural(total, 'step')} {'is' if total == 1 else 'are'}"
        if total >= _LEAST_STEPS:
            counted = f"{max(steps.values()):,} steps with whole minibatches are"
        return f"{counted} fewer than the {_LEAST_STEPS:,} from which compilation pays"
    if device.type != "cpu":
        return f"from how many steps on compilation pays has not been measured on {device.type}"
    return compiler_obstacle(device)
