"""Limits on what files may unpack to; options raise those on data, and errors name the option.

| limit | default | raised by |
|---|---|---|
| pixels of a picture before it is resized | 64 million | `--data.max_pixels`, or `--max_pixels` of `classify` |
| memory of one array, or text of a table | 2 GiB | `--data.max_gib`, or `--max_gib` of `classify` and `select` |
| memory of the networks' weights | 4 GiB | `--max_gib` of `run` and `sweep` |
| values of a file of options, aliases counted where they stand | 100,000 | nothing |
| levels of nested values in a file of options | 100 | nothing |
| bytes of a file of options | 16 MiB | nothing |
"""

from __future__ import annotations

__all__ = ["MAX_DEPTH", "MAX_GIB", "MAX_NETWORK_GIB", "MAX_OPTIONS_BYTES", "MAX_PIXELS", "MAX_VALUES", "refuse_larger"]

MAX_PIXELS = 64_000_000
MAX_GIB = 2.0
MAX_NETWORK_GIB = 4.0
MAX_VALUES = 100_000
MAX_DEPTH = 100
MAX_OPTIONS_BYTES = 16 * 2**20


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
