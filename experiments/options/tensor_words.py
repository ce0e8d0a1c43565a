"""Refusals of torch's distributions in one sentence: the site, what is allowed, and the range of the values."""

from __future__ import annotations

import math
import re

__all__ = ["tensor_fault"]

_SITE = re.compile(r"Error while computing log_prob at site '([^']*)'")
_VALUE = re.compile(
    r"Expected value argument \(.*?\) to be within the support \((.*?)\) of the distribution (\w+).*?"
    r"but found invalid values:(.*)",
    re.DOTALL,
)
_PARAMETER = re.compile(
    r"Expected parameter (\w+) \(.*?\) of distribution (\w+).*? to satisfy the constraint (.*?), "
    r"but found invalid values:(.*)",
    re.DOTALL,
)
_NUMBER = re.compile(r"(?<![\w.])-?(?:inf|nan|\d+\.?\d*(?:e[+-]?\d+)?)(?![\w.]*\w)")
_PLAIN = {"Boolean": "zeros and ones", "Real": "finite numbers", "NonNegativeInteger": "whole numbers from 0 on"}
_BOUNDED = {
    "GreaterThan": "greater than {}",
    "GreaterThanEq": "at least {}",
    "LessThan": "less than {}",
    "Interval": "in [{}, {}]",
    "IntegerInterval": "whole numbers in [{}, {}]",
    "HalfOpenInterval": "in [{}, {})",
    "IntegerGreaterThan": "whole numbers from {} on",
}


def tensor_fault(text: str) -> str | None:
    """The sentence for an error of torch's validation, which prints whole tensors; `None` for any other text.

    Example:
        >>> import torch
        >>> from latentmix.experiments.options.tensor_words import tensor_fault
        >>> try:
        ...     torch.distributions.Beta(1.0, 1.0).log_prob(torch.tensor([0.5, 3.0]))
        ... except ValueError as error:
        ...     print(tensor_fault(str(error)))
        Expected values in the support of Beta, in [0, 1]; got 0.5 ... 3: rescale the data, or choose a likelihood \
for them.
    """
    site = _SITE.search(text)
    place = f" at site {site[1]!r}" if site else ""
    if (match := _VALUE.search(text)) is not None:
        support, kind, values = match.groups()
        return (
            f"Expected values in the support of {kind}{place}, {_support(support)}; got {_range(values)}: rescale the "
            "data, or choose a likelihood for them."
        )
    if (match := _PARAMETER.search(text)) is not None:
        name, kind, support, values = match.groups()
        return (
            f"Expected {name} of {kind}{place} in its range, {_support(support)}; got {_range(values)}: rescale the "
            "data to the order of 1, or lower --optimizer.lr."
        )
    return None


def _support(text: str) -> str:
    inner = re.sub(r"^IndependentConstraint\((.*), \d+\)$", r"\1", text.strip())
    name, _, arguments = inner.partition("(")
    bounds = [f"{float(bound):g}" for bound in re.findall(r"bound=(-?[\d.e+-]+)", arguments)]
    words = _BOUNDED.get(name, "")
    return words.format(*bounds) if words and words.count("{}") == len(bounds) else _PLAIN.get(name, name)


def _range(text: str) -> str:
    """The range of the numbers in the text of a tensor, with NaN where there is one."""
    body = re.split(r"\], (?:grad_fn|dtype|device)|\]\)", text)[0].partition("tensor(")[2] or text
    numbers = [float(word) for word in _NUMBER.findall(body)]
    plain = sorted(number for number in numbers if not math.isnan(number))
    words = [f"{plain[0]:.4g} ... {plain[-1]:.4g}" if len(set(plain)) > 1 else f"{plain[0]:.4g}"] if plain else []
    return " and ".join([*words, *(["NaN"] if len(plain) < len(numbers) else [])]) or "others"
