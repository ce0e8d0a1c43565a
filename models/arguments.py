"""Checks of arguments: sizes, data types, and tensors by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import index
from typing import NamedTuple, SupportsIndex

from torch import Tensor

__all__ = ["Mismatch", "check_floating", "check_n_jobs", "check_positive", "first_mismatch", "positive_number"]


def check_positive(**values: int | Sequence[int]) -> None:
    """Refuse sizes that are not positive integers.

    Args:
        **values: A size, or a sequence of sizes, by the argument's name.

    Raises:
        ValueError: If a size is not an integer, or is below 1; the message names the argument.

    Example:
        >>> from latentmix.models.arguments import check_positive
        >>> check_positive(latent_dim=2, hidden=(64, 32))
    """
    for name, value in values.items():
        sizes = value if isinstance(value, Sequence) else [value]
        if any(not hasattr(size, "__index__") or size < 1 for size in sizes):
            raise ValueError(f"Expected {name} to hold positive integers; got {value!r}.")


def check_n_jobs(n_jobs: object, name: str = "n_jobs") -> None:
    """Refuse a number of jobs at a time that joblib does not take.

    Args:
        n_jobs: The argument; `None` leaves the choice to joblib's configuration.
        name: Its name, for the message.

    Raises:
        ValueError: If it is 0, more than 1,024, or no whole number; below 0, joblib counts cores: -1 is all of them, -2
            all but one.

    Example:
        >>> from latentmix.models.arguments import check_n_jobs
        >>> check_n_jobs(0)
        Traceback (most recent call last):
            ...
        ValueError: Expected n_jobs of 1 to 1,024, or below 0, as joblib counts cores (-1 for all of them); got 0.
    """
    if n_jobs is None:
        return
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, SupportsIndex) or not index(n_jobs) or index(n_jobs) > 1024:
        raise ValueError(
            f"Expected {name} of 1 to 1,024, or below 0, as joblib counts cores (-1 for all of them); got {n_jobs!r}."
        )


def positive_number(value: object, expectation: str) -> float:
    """Refuse anything but a positive finite number, and return it as a float.

    Args:
        value: The argument.
        expectation: The expectation in the message.

    Raises:
        ValueError: If it is no number, not positive, or infinite.

    Example:
        >>> from latentmix.models.arguments import positive_number
        >>> positive_number(2, "a positive scale")
        2.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"Expected {expectation}; got {value!r}.")
    return float(value)


def check_floating(x: Tensor) -> None:
    """Refuse integers and booleans, whose scale a density cannot know.

    Args:
        x: A tensor of any shape.

    Raises:
        ValueError: If its dtype is not a floating-point one.
    """
    if not x.is_floating_point():
        raise ValueError(f"Expected floating-point data; got {x.dtype}: convert them, as by transform=ToFloat().")


class Mismatch(NamedTuple):
    """A tensor whose shape is not the expected one.

    Attributes:
        name: Its name.
        expected: The expected shape; None where no tensor of that name is expected.
        given: The given shape; None where none is given.
    """

    name: str
    expected: tuple[int, ...] | None
    given: tuple[int, ...] | None


def first_mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Mismatch | None:
    """Compare names and shapes of tensors, such as a module's and those of a file.

    Args:
        expected: Tensors by name.
        given: Tensors by name.

    Returns:
        The first name that is absent from one side, or whose shapes differ; None if all agree.

    Example:
        >>> import torch
        >>> from latentmix.models.arguments import first_mismatch
        >>> first_mismatch({"loc": torch.zeros(3)}, {"loc": torch.zeros(2)})
        Mismatch(name='loc', expected=(3,), given=(2,))
    """
    for name in {**expected, **given}:
        shapes = [tuple(side[name].shape) if name in side else None for side in (expected, given)]
        if shapes[0] != shapes[1]:
            return Mismatch(name, *shapes)
    return None
