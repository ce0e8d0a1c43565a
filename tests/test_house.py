"""The house: no circle between files, one way between rooms, and the order of the rooms within them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.verify.dependencies import ROOMS, imports

ROOT = Path(__file__).parents[1]

# Each line may import those above it, and itself.
ORDERS = {
    "": [["models"], ["guides"], ["inference"], ["experiments"]],
    "inference": [
        ["isolation", "tables", "datatree", "workers"],
        ["objectives"],
        ["compiled"],
        ["evaluation"],
        ["svi"],
        ["mixtures"],
        ["importance", "ex_post", "start_prior"],
        ["trees"],
    ],
    "experiments": [
        ["places", "presets", "benchmarks", "reading"],
        ["data"],
        ["loggers"],
        ["options"],
        ["figures"],
        ["runs"],
        ["comparison"],
        ["sweeps"],
        ["commands"],
        ["cli"],
    ],
    "inference.mixtures": [
        ["parameter_object", "progress", "points"],
        ["em"],
        ["algorithm"],
        ["standardised", "matching"],
        ["draws"],
        ["potential"],
        ["svi", "nuts"],
        ["base"],
        ["gaussian", "bayesian"],
        ["analysis"],
    ],
}


@cache
def files() -> dict[str, Path]:
    """All files by their dotted name below `latentmix`."""
    paths = {
        path: ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for path, name in paths.items()}


@cache
def graph() -> dict[str, frozenset[str]]:
    """Files that each file imports, lazily or for annotations alone included."""
    found: dict[str, frozenset[str]] = {}
    for name, path in files().items():
        targets = {file_of(imported) for imported, _ in imports(path.read_bytes())}
        found[name] = frozenset(target for target in targets if target and target != name)
    return found


def file_of(imported: str) -> str | None:
    """The file of `latentmix.room.file` or of a name in it; None of anything else."""
    prefix, _, name = imported.partition(".")
    if prefix != "latentmix":
        return None
    while name and name not in files():
        name = name.rpartition(".")[0]
    return name or None


def reached(start: str) -> list[str]:
    """A way from a file back to itself; empty where there is none."""
    ways = [[target] for target in graph()[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        if way[-1] == start:
            return [start, *way]
        if way[-1] not in seen:
            seen.add(way[-1])
            ways += [[*way, target] for target in graph()[way[-1]]]
    return []


def test_no_circle_between_files() -> None:
    circles = {name: way for name in graph() if (way := reached(name))}
    assert not circles, "; ".join(" -> ".join(way) for way in circles.values())


@pytest.mark.parametrize("folder", ORDERS)
def test_rooms_import_one_way(folder: str) -> None:
    levels = {room: level for level, rooms in enumerate(ORDERS[folder]) for room in rooms}
    prefix = f"{folder}." if folder else ""
    wrong = []
    for name, targets in graph().items():
        for target in targets:
            if name.startswith(prefix) and target.startswith(prefix):
                own, other = (each.removeprefix(prefix).partition(".")[0] for each in (name, target))
                if own != other and own in levels and other in levels and levels[other] >= levels[own]:
                    wrong.append(f"{name} imports {target}")
    assert not wrong


def test_rooms_of_the_order_are_there() -> None:
    for folder, levels in ORDERS.items():
        for room in (room for rooms in levels for room in rooms):
            name = f"{folder}.{room}" if folder else room
            assert name in files(), name
