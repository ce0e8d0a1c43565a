"""Grids of options: the values of every option that varies, and their product."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from latentmix.experiments.options.calls import split
from latentmix.experiments.options.classes import CLASSES, find_class
from latentmix.experiments.options.earlier import refuse_earlier_names
from latentmix.experiments.options.experiment import experiment_parser
from latentmix.experiments.options.parts import LINKED
from latentmix.experiments.options.unknown import unknown_option

__all__ = ["Grid", "cells_of", "check_names", "parse_grid", "with_seeds", "words_of"]

Grid = dict[str, list[str]]


def parse_grid(items: Sequence[str]) -> Grid:
    """The values of every option that varies.

    Args:
        items: `NAME=V1,V2,...` each; commas within brackets, parentheses and quotes separate nothing.

    Raises:
        ValueError: If an item has another form, or a value is empty, or a value or a name is repeated.

    Example:
        >>> from latentmix.experiments.options.grids import parse_grid
        >>> parse_grid(["likelihood=Bernoulli,Gaussian(0.1)", "decoder.hidden=[256],[128,64]"])
        {'likelihood': ['Bernoulli', 'Gaussian(0.1)'], 'decoder.hidden': ['[256]', '[128,64]']}
    """
    grid: Grid = {}
    for item in items:
        name, equals, text = item.partition("=")
        name = name.strip().removeprefix("--")
        if not equals or not name:
            raise ValueError(f"Expected --grid NAME=V1,V2,...; got {item!r}.")
        if name in grid:
            raise ValueError(f"Expected every option once in the grid; got --grid {name}=... twice.")
        values = split(text)
        if not all(values):
            raise ValueError(f"Expected values without an empty one, as in --grid {name}=V1,V2; got {item!r}.")
        if len(set(values)) < len(values):
            raise ValueError(f"Expected different values of {name} in the grid; got {item!r}.")
        grid[name] = values
    if not grid:
        raise ValueError("Expected at least one --grid NAME=V1,V2,...; got none.")
    return grid


def with_seeds(grid: Grid, count: int, base: Mapping[str, Any]) -> Grid:
    """A grid in which every cell is run with several seeds: that of the base, and those that follow it.

    Args:
        grid: The values of every other option that varies; it may be empty.
        count: Number of seeds.
        base: The configuration that the grid varies.

    Raises:
        ValueError: If the grid varies the seed already.

    Example:
        >>> from latentmix.experiments.options.grids import with_seeds
        >>> with_seeds({"latent_dim": ["2", "10"]}, 3, {"seed": 7})
        {'latent_dim': ['2', '10'], 'seed': ['7', '8', '9']}
    """
    if "seed" in grid:
        raise ValueError(
            f"Expected one of --seeds and --grid seed=...; got both, --seeds {count} beside a grid of seeds."
        )
    return {**grid, "seed": [str(base["seed"] + place) for place in range(count)]}


def check_names(grid: Grid, base: Mapping[str, Any]) -> None:
    """Refuse names that are no options of an experiment.

    Args:
        grid: The values of every option that varies.
        base: The configuration that the grid varies.

    Raises:
        ValueError: If an option is unknown, follows from others, or is an argument that no class of its part has.
    """
    refuse_earlier_names(grid)
    known = {name[2:] for action in experiment_parser()._actions for name in action.option_strings}
    for name in grid:
        owner = max((option for option in CLASSES if name.startswith(f"{option}.")), key=len, default=None)
        if name == "config" or (owner is None and name not in known):
            raise ValueError(unknown_option(experiment_parser(), [f"--{name}"]))
        if owner is None:
            continue
        argument = name[len(owner) + 1 :].split(".")[0]
        if argument in LINKED:
            raise ValueError(
                f"Expected no {name} in the grid: {argument} follows from the experiment (--latent_dim, the data, "
                "the likelihood) for every part."
            )
        present: Any = base
        for part in owner.split("."):
            present = (present.get(part) or {}) if isinstance(present, Mapping) else {}
        values = grid.get(owner) or [present.get("class_path", "")]
        kinds = [find_class(value.split("(")[0].strip(), owner) for value in values]
        if all(kind is not None and not _accepts(kind, argument) for kind in kinds):
            raise ValueError(
                f"Expected {owner}.NAME in the grid to name an argument of {', '.join(values)}; got {argument!r}."
            )


def cells_of(grid: Grid) -> Iterator[dict[str, str]]:
    """The cells of the product: a value of every option each, the last option varying fastest.

    Example:
        >>> from latentmix.experiments.options.grids import cells_of
        >>> [tuple(cell.values()) for cell in cells_of({"latent_dim": ["2", "3"], "epochs": ["1", "5"]})]
        [('2', '1'), ('2', '5'), ('3', '1'), ('3', '5')]
    """
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def words_of(options: Mapping[str, str]) -> list[str]:
    """The options of one cell as words of the command line, a part before its arguments."""
    names = sorted(options, key=lambda name: name.count("."))
    return [word for name in names for word in (f"--{name}", options[name])]


def _accepts(kind: type, argument: str) -> bool:
    """Whether a constructor, or one that it may pass arguments on to, has an argument of that name."""
    return any(argument in inspect.signature(base).parameters for base in kind.__mro__ if base is not object)
