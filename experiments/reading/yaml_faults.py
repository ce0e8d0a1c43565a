"""Faults of YAML in words; torch is not imported for them."""

from __future__ import annotations

import yaml
from yaml.reader import ReaderError

__all__ = ["yaml_fault"]


def yaml_fault(error: yaml.YAMLError) -> str:
    """The fault in a YAML text and its place, in one line."""
    if isinstance(error, ReaderError):
        return f"the character U+{error.character:04X} at position {error.position:,}, which YAML does not allow"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())[:120]
    return str(problem) if mark is None else f"a fault in line {mark.line + 1}, column {mark.column + 1}: {problem}"
