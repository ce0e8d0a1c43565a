"""Mutations of nested values and of bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

__all__ = ["ODD", "deep_json", "mutated_bytes", "mutated_tree", "places"]

ODD: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 0,
    lambda: 3,
    lambda: 1.5,
    lambda: -0.5,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: 10**30,
    lambda: -(10**400),
    lambda: "",
    lambda: "words of no kind",
    lambda: "../../etc/passwd",
    lambda: "\x00\ud7ff\N{SNOWMAN}",
    lambda: "1e3",
    list,
    dict,
    lambda: [1, "two", None],
    lambda: {"class_path": "os.system", "init_args": {"command": "true"}},
    lambda: {"class_path": 3},
    lambda: {"a": {"b": {"c": []}}},
    lambda: [[[[]]]],
    lambda: [1_000_000_000],
    lambda: {1: 2},
]


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within nested lists and mappings, the whole excepted."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


def mutated_tree(tree: Any, random: random.Random, *, kept: Callable[[tuple[Any, ...]], bool] = lambda _: False) -> Any:
    """A copy of nested values with one to three changes: another value, a deletion, an insertion or a move.

    Args:
        tree: The values.
        random: The draws.
        kept: Paths that are not changed.
    """
    tree = copy.deepcopy(tree)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        known = [place for place in places(tree) if not kept(place)]
        if not known:
            return tree
        *path, last = random.choice(known)
        parent = tree
        for key in path:
            parent = parent[key]
        action = random.choice(["replace", "replace", "replace", "delete", "insert", "swap"])
        if action == "replace":
            parent[last] = random.choice(ODD)()
        elif action == "delete":
            del parent[last]
        elif action == "insert" and isinstance(parent, dict):
            parent[random.choice(["unknown", "class_path", "init_args", "latent_dim", ""])] = random.choice(ODD)()
        elif action == "insert":
            parent.insert(0, random.choice(ODD)())
        else:
            *other, key = random.choice(places(tree))
            there = tree
            for step in other:
                there = there[step]
            parent[last] = copy.deepcopy(there[key])
    return tree


def mutated_bytes(data: bytes, random: random.Random) -> bytes:
    """A copy of some bytes that is cut, emptied, doubled, flipped here and there, or replaced."""
    place = random.randrange(len(data) + 1)
    action = random.randrange(9)
    if action == 0:
        return data[:place]
    if action == 1:
        return b""
    if action == 2:
        return data[:place] + random.randbytes(random.randrange(1, 40)) + data[place:]
    if action in (3, 4):
        flipped = bytearray(data)
        for _ in range(random.choice([1, 3, 30])):
            if flipped:
                flipped[random.randrange(min(len(flipped), random.choice([16, 200, len(flipped)])))] = random.randrange(
                    256
                )
        return bytes(flipped)
    if action == 5:
        return random.randbytes(random.randrange(1, 2000))
    if action == 6:
        return data[place:]
    if action == 7:
        return b"\xff\xfe" + data
    return random.choice(
        [b"[]", b"{}", b"null", b"3", b"text", b"\n\n", b"[" * 100_000, b'{"a":' * 50_000, b"- " * 3000]
    )


def deep_json(tree: Any, random: random.Random) -> bytes:
    """JSON of mutated values, with what JSON has no words for as words."""
    return json.dumps(mutated_tree(tree, random), default=str, skipkeys=True).encode("utf-8", "surrogatepass")
