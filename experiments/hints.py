"""Hints in refusals; torch is not imported for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6, otherwise: str = ".") -> str:
    """The end of a refusal that names the nearest known word.

    Args:
        word: The word that is not known.
        known: Words that are.
        cutoff: Least similarity, from 0 to 1, as of `difflib.get_close_matches`.
        otherwise: The end where none is near.

    Example:
        >>> from latentmix.experiments.hints import did_you_mean
        >>> did_you_mean("rnu", ["run", "sweep"])
        ': did you mean run?'
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f": did you mean {near[0]}?" if near else otherwise
