"""Limits on what files may unpack to, which options raise, and on counts; errors name the option.

| limit | default | raised by |
|---|---|---|
| pixels of a picture before it is resized | 64 million | `--data.max_pixels`; `--max_pixels` of `classify`, `encode` |
| memory of one array, or bytes of a table | 2 GiB | `--data.max_gib`; `--max_gib` of `classify`, `encode`, `select` |
| memory of the latents and draws that `encode` writes as npz or netCDF | 2 GiB | `--max_gib` of `encode` |
| memory of the networks' weights | 4 GiB | `--max_gib` of `run` and `sweep` |
| values of a file of options, aliases counted where they stand | 100,000 | `--max_yaml_values` of any command |
| bytes of a file of options | 16 MiB | `--max_yaml_mib` of any command |
| levels of nested values in a file of options | 100 | nothing: Python's own limit is near |
| counts: epochs, data of a step, components, draws, samples, seeds, ... | 2**31 - 1 | nothing |
| components that `select` compares | 10,000 | nothing |
| bytes of the posterior of a run | 64 MiB, and 2 GiB unpacked | nothing |
| bytes of a figure of each test datum of a run, for comparisons | 1 GiB | nothing |
| draws of each datum that `classify` and `encode` average over | 100,000 | nothing |
| jobs at a time | 1,024 | nothing |

Any file of a run is read by any command, and by worker processes: the limits on files of options are read from the
environment, where the command line puts the values of these options while the command runs. The variables are internal:
the options are the way to raise the limits.
"""

from __future__ import annotations

import os

__all__ = [
    "MAX_COUNT",
    "MAX_DEPTH",
    "MAX_DRAWS",
    "MAX_GIB",
    "MAX_NETWORK_GIB",
    "MAX_PIXELS",
    "YAML_LIMITS",
    "check_count",
    "limit_variable",
    "raised_yaml_limits",
    "refuse_larger",
    "yaml_limit",
]

MAX_PIXELS = 64_000_000
MAX_GIB = 2.0
MAX_NETWORK_GIB = 4.0
MAX_DEPTH = 100
MAX_DRAWS = 100_000
MAX_COUNT = 2**31 - 1
YAML_LIMITS = {"max_yaml_values": 100_000, "max_yaml_mib": 16}


def limit_variable(name: str) -> str:
    """The environment variable that raises a limit on files of options."""
    return f"LATENTMIX_{name.upper()}"


def yaml_limit(name: str) -> int:
    """A limit on files of options, as the environment raises it.

    Args:
        name: One of `YAML_LIMITS`.

    Raises:
        ValueError: If the environment holds no whole number above 0.

    Example:
        >>> from latentmix.experiments.reading.limits import yaml_limit
        >>> yaml_limit("max_yaml_values")
        100000
    """
    value = os.environ.get(limit_variable(name), str(YAML_LIMITS[name]))
    if not (value.isascii() and value.isdecimal() and 0 < len(value) < 16 and int(value) > 0):
        raise ValueError(f"Expected a whole number above 0 for --{name}; got {value!r}.")
    return int(value)


def raised_yaml_limits() -> list[str]:
    """The options that raise limits on files of options for the command that runs, as words of the command line."""
    typed = {name: os.environ.get(limit_variable(name)) for name in YAML_LIMITS}
    return [word for name, value in typed.items() if value is not None for word in (f"--{name}", value)]


def check_count(option: str, count: int, least: int | None = 1) -> None:
    """Refuse a count out of its range.

    Args:
        option: The option, with dashes.
        count: Its value.
        least: The least that it may be; `None` if there is none.

    Raises:
        ValueError: If it is less, or more than `MAX_COUNT`.

    Example:
        >>> from latentmix.experiments.reading.limits import check_count
        >>> check_count("--epochs", 10**19)
        Traceback (most recent call last):
            ...
        ValueError: Expected --epochs of at most 2,147,483,647; got 10,000,000,000,000,000,000.
    """
    if least is not None and count < least:
        raise ValueError(f"Expected {option} of at least {least}; got {count}.")
    if count > MAX_COUNT:
        raise ValueError(f"Expected {option} of at most {MAX_COUNT:,}; got {count:,}.")


def refuse_larger(size: float, max_gib: float, what: str, where: object, option: str) -> None:
    """Refuse more bytes than a limit allows.

    Args:
        size: The number of bytes.
        max_gib: The limit, in GiB.
        what: What would take them.
        where: The file.
        option: The option that raises the limit; empty if there is none.

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
        remedy = f": allow more by {option}" if option else ""
        raise ValueError(f"Expected {what} of at most {max_gib:g} GiB in {where}; got {size / 2**30:.3g} GiB{remedy}.")
