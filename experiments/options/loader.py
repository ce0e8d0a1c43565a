"""The option parser's loader of YAML, in a word or a file: within the limits on files of options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jsonargparse import Namespace, set_loader
from jsonargparse._loaders_dumpers import yaml_load as _yaml_load
from yaml import YAMLError

from latentmix.experiments.reading.options import check_yaml

__all__ = ["MODE", "check_classes", "load"]

MODE = "latentmix"
_SHORT = set("&*!\n")


def load(text: str) -> Any:
    """The value of YAML, wherever it stands, within the limits on files of options."""
    if len(text) > 100 or not _SHORT.isdisjoint(text):
        check_yaml(text)
    parse: Any = _yaml_load
    value = parse(text)
    check_classes(value)
    return value


def check_classes(tree: Any, place: str = "") -> None:
    """Refuse classes whose `class_path` is no word, or whose `init_args` are no mapping, at any depth.

    Raises:
        ValueError: If there is one; the message names its place.
    """
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(tree, Namespace):
        tree = vars(tree)
    if isinstance(tree, Mapping):
        items = tree.items()
        for name, kind, expected in (("class_path", str, "a word"), ("init_args", Mapping | Namespace, "a mapping")):
            if name in tree and not isinstance(tree[name], kind):
                raise ValueError(f"Expected {expected} as {place}{name}; got {tree[name]!r:.60}.")
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    for name, value in items:
        check_classes(value, f"{place}{name}.")


set_loader(MODE, load, exceptions=(YAMLError, RecursionError))
