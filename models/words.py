"""Numbers of things in messages."""

from __future__ import annotations

__all__ = ["plural"]


def plural(count: int, thing: str, several: str = "") -> str:
    """A number of things.

    Args:
        count: The number.
        thing: The noun in the singular.
        several: Its plural, if it does not end in s alone.

    Example:
        >>> from latentmix.models.words import plural
        >>> plural(1, "step"), plural(20_000, "step"), plural(0, "class", "classes")
        ('1 step', '20,000 steps', '0 classes')
    """
    return f"{count:,} {thing if count == 1 else several or f'{thing}s'}"
