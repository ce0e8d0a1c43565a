"""Options under the names that they had in earlier versions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_loader
from jsonargparse._loaders_dumpers import yaml_load as _yaml_load
from yaml import SafeDumper, YAMLError, dump, safe_load

from latentmix.experiments.reading.options import check_yaml, read_options

__all__ = ["ExperimentParser", "refuse_earlier_names", "renewed"]

_ALGORITHMS = {
    "svi": {"svi_steps": "epochs", "guide": "guide", "optimizer": "optimizer"},
    "nuts": {f"nuts_{name}": name for name in ("draws", "chains", "warmup", "processes", "max_tree_depth")},
}
_NOW = {
    f"mixture.{earlier}": f"mixture.{algorithm}.{name}"
    for algorithm, names in _ALGORITHMS.items()
    for earlier, name in names.items()
}


def renewed(config: Any) -> Any:
    """A configuration with options of mixtures under today's names.

    Example:
        >>> from latentmix.experiments.options.earlier import renewed
        >>> renewed({"mixture": {"n_init": 3, "svi_steps": 50, "nuts_draws": 0}})
        {'mixture': {'n_init': 3, 'svi': {'epochs': 50}, 'nuts': {'draws': 0}}}

    Raises:
        ValueError: If those of a mixture, or of one of its algorithms, are no mapping.
    """
    if not isinstance(config, dict):
        return config
    config = {_today(name): value for name, value in config.items()}
    if "mixture" not in config:
        return config
    mixture = dict(_mapping("mixture", config["mixture"]))
    for algorithm, names in _ALGORITHMS.items():
        moved = {name: mixture.pop(earlier) for earlier, name in names.items() if earlier in mixture}
        given = _mapping(f"mixture.{algorithm}", mixture.get(algorithm, {}))
        if moved:
            mixture[algorithm] = {**moved, **given}
    return {**config, "mixture": mixture} if mixture != config["mixture"] else config


def _mapping(option: str, value: Any) -> Mapping[str, Any]:
    """Options as they are, or those of the file, or of the YAML, that a word stands for."""
    options = value
    if isinstance(value, str) and os.path.isfile(value):
        options = read_options(Path(value))
    elif isinstance(value, str):
        with suppress(YAMLError, ValueError, RecursionError):
            check_yaml(value)
            options = safe_load(value)
    if isinstance(options, Namespace):
        return vars(options)
    if not isinstance(options, Mapping):
        raise ValueError(f"Expected options of {option} by their names, or a file of them; got {value!r:.80}.")
    return options


def _today(name: str) -> str:
    """An option's name of today; `mixture.optimizer.lr` is that of a part."""
    for earlier, now in _NOW.items():
        if name == earlier or str(name).startswith(f"{earlier}."):
            return f"{now}{name.removeprefix(earlier)}"
    return name


def refuse_earlier_names(names: Iterable[str]) -> None:
    """Refuse an option that has another name now.

    Args:
        names: Names of options, without dashes.

    Raises:
        ValueError: If there is one; the message says how it is called.
    """
    for name in names:
        if (now := _today(name)) != name:
            raise ValueError(f"Expected --{now}; got --{name}, its earlier name.")


class _Quoted(SafeDumper):
    """Dumps words in quotes, so that they stay words."""


_Quoted.add_representer(str, lambda dumper, word: dumper.represent_scalar("tag:yaml.org,2002:str", word, style='"'))


def _load(text: str) -> Any:
    """The value of YAML, wherever it stands, within the limits on files of options."""
    if len(text) > 100 or not _SHORT.isdisjoint(text):
        check_yaml(text)
    parse: Any = _yaml_load
    value = parse(text)
    _check_classes(value)
    return value


def _check_classes(tree: Any, place: str = "") -> None:
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
        _check_classes(value, f"{place}{name}.")


_SHORT = set("&*!\n")
_MODE = "latentmix"
set_loader(_MODE, _load, exceptions=(YAMLError, RecursionError))


class ExperimentParser(ArgumentParser):
    """A parser that also reads files of earlier versions."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"parser_mode": _MODE, **options})

    def parse_object(self, obj: Namespace | dict[str, Any], *arguments: Any, **options: Any) -> Namespace:
        _check_classes(obj)
        return super().parse_object(renewed(obj), *arguments, **options)

    def parse_string(self, content: str, *arguments: Any, **options: Any) -> Namespace:
        loaded = None
        with suppress(YAMLError, ValueError, RecursionError):  # the parser's own message names the place
            check_yaml(content)
            loaded = safe_load(content)
        if (today := renewed(loaded)) != loaded:
            content = dump(today, Dumper=_Quoted, sort_keys=False)
        return super().parse_string(content, *arguments, **options)
