"""`latentmix list`: the presets."""

from __future__ import annotations

from latentmix.experiments.commands import Usage, command_parser
from latentmix.experiments.presets import presets

USAGE = Usage(40, "list", "the presets")


def main(words: list[str]) -> None:
    """Print every preset with its description."""
    command_parser("list").parse_args(words)
    width = max(map(len, presets()))
    for name, description in presets().items():
        print(f"{name:{width}}  {description}")
