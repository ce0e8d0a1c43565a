"""Limits on what files may unpack to, and on counts; options raise those on data, and errors name the option.

| limit | default | raised by |
|---|---|---|
| pixels of a picture before it is resized | 64 million | `--data.max_pixels`, or `--max_pixels` of `classify` |
| memory of one array, or text of a table | 2 GiB | `--data.max_gib`, or `--max_gib` of `classify` and `select` |
| memory of the networks' weights | 4 GiB | `--max_gib` of `run` and `sweep` |
| values of a file of options, aliases counted where they stand | 100,000 | nothing |
| levels of nested values in a file of options | 100 | nothing |
| bytes of a file of options | 16 MiB | nothing |
| counts: epochs, data of a step, components, draws, samples, seeds, ... | 2**31 - 1 | nothing |
| processes at a time | 1,024 | nothing |
"""

from __future__ import annotations

__all__ = [
    "MAX_COUNT",
    "MAX_DEPTH",
    "MAX_GIB",
    "MAX_JOBS",
    "MAX_NETWORK_GIB",
    "MAX_OPTIONS_BYTES",
    "MAX_PIXELS",
    "MAX_VALUES",
    "check_count",
    "check_jobs",
    "refuse_larger",
]

MAX_PIXELS = 64_000_000
MAX_GIB = 2.0
MAX_NETWORK_GIB = 4.0
MAX_VALUES = 100_000
MAX_DEPTH = 100
MAX_OPTIONS_BYTES = 16 * 2**20
MAX_COUNT = 2**31 - 1
MAX_JOBS = 1024


def check_count(option: str, count: int, least: int = 1) -> None:
    """Refuse a count out of its range.

    Args:
        option: The option, with dashes.
        count: Its value.
        least: The least that it may be.

    Raises:
        ValueError: If it is less, or more than `MAX_COUNT`.

    Example:
        >>> from latentmix.experiments.reading.limits import check_count
        >>> check_count("--epochs", 10**19)
        Traceback (most recent call last):
            ...
        ValueError: Expected --epochs of at most 2,147,483,647; got 10,000,000,000,000,000,000.
    """
    if count < least:
        raise ValueError(f"Expected {option} of at least {least}; got {count}.")
    if count > MAX_COUNT:
        raise ValueError(f"Expected {option} of at most {MAX_COUNT:,}; got {count:,}.")


def check_jobs(n_jobs: int) -> None:
    """Refuse a number of processes of `--n-jobs` that is 0, which means nothing, or more than `MAX_JOBS`.

    Raises:
        ValueError: If it is one.
    """
    if n_jobs == 0 or n_jobs > MAX_JOBS:
        raise ValueError(
            f"Expected --n-jobs of 1 to {MAX_JOBS:,}, or -1 for as many as there are cores; got {n_jobs:,}."
        )


def refuse_larger(size: float, max_gib: float, what: str, where: object, option: str) -> None:
    """Refuse more bytes than a limit allows.

    Args:
        size: The number of bytes.
        max_gib: The limit, in GiB.
        what: What would take them.
        where: The file.
        option: The option that raises the limit.

    Raises:
        ValueError: If there are more.

    Example:
        >>> from latentmix.experiments.reading.limits import refuse_larger
        >>> refuse_larger(3 * 2**30, 2.0, "an array", "images.npz", "--data.max_gib")
        Traceback (most recent call last):
            ...
        ValueError: Expected an array of at most 2 GiB in images.npz; got 3 GiB: allow more by --data.max_gib.
    """
    if size > max_gib * 2**30:
        raise ValueError(
            f"Expected {what} of at most {max_gib:g} GiB in {where}; got {size / 2**30:.3g} GiB: allow more by "
            f"{option}."
        )
