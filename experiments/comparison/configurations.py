"""Configurations of runs side by side: the options in which they differ, and the runs that differ by seeds alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from latentmix.experiments.comparison.results import Difference
from latentmix.experiments.options.calls import as_call

__all__ = ["SEEDS", "config_digest", "configuration_groups", "differences_of", "group_names"]

SEEDS = ("seed", "data.seed")
IMMATERIAL = frozenset(
    {
        *("name", "description", "loggers", "max_gib", "device", "compile"),
        *("data.root", "data.download", "data.cache", "data.max_corrupt", "data.max_pixels", "data.max_gib"),
        "mixture.nuts.processes",
    }
)


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of the options of a configuration that can change a figure, its seeds among them."""
    return hashlib.sha256(_key(_without(config, ())).encode()).hexdigest()


def differences_of(configs: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """The options in whose values configurations differ, without those that cannot change a figure.

    Args:
        configs: Complete configurations by the name of the run.

    Returns:
        Options by dotted name, with each run's value in words: parts as calls. Parts that a call shows alike are told
        by the arguments in which they differ.
    """
    flat = {name: dict(_flat(config)) for name, config in configs.items()}
    options = list(dict.fromkeys(option for values in flat.values() for option in values))
    found: list[Difference] = []
    for option in options:
        values = {name: options_of.get(option) for name, options_of in flat.items()}
        if option in IMMATERIAL or len({_key(value) for value in values.values()}) == 1:
            continue
        words = {name: as_call(value) for name, value in values.items()}
        if len(set(words.values())) > 1:
            found.append(Difference(option, words))
            continue
        arguments = {name: dict(_arguments(value)) for name, value in values.items()}
        for argument in dict.fromkeys(each for known in arguments.values() for each in known):
            inner = {name: known.get(argument) for name, known in arguments.items()}
            if len({_key(value) for value in inner.values()}) > 1:
                words = {name: as_call(value) for name, value in inner.items()}
                found.append(Difference(f"{option}.{argument}", words))
    return found


def configuration_groups(configs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The names of runs that are alike in everything but their seeds, in the order of their first runs.

    The seed of training is one of these; that of the data is another where it changes with the first, each run having
    its own: else runs of other splits are other groups.

    Args:
        configs: Complete configurations by the name of the run.
    """
    alike: dict[str, list[str]] = {}
    for name, config in configs.items():
        alike.setdefault(_key(_without(config, SEEDS)), []).append(name)
    groups: list[list[str]] = []
    for names in alike.values():
        seeds = [(configs[name].get("seed"), configs[name].get("data", {}).get("seed")) for name in names]
        if len({data for _, data in seeds}) == 1 or len({seed for seed, _ in seeds}) == len(names) == len(
            {data for _, data in seeds}
        ):
            groups.append(names)
            continue
        by_data: dict[Any, list[str]] = {}
        for name, (_, data) in zip(names, seeds, strict=True):
            by_data.setdefault(data, []).append(name)
        groups += by_data.values()
    order = {name: place for place, name in enumerate(configs)}
    return sorted(groups, key=lambda names: order[names[0]])


def group_names(
    groups: Sequence[Sequence[str]], configs: Mapping[str, Mapping[str, Any]], differences: Sequence[Difference]
) -> tuple[list[str], list[dict[str, str]]]:
    """A name of each group, and the values by which groups differ.

    Args:
        groups: Names of the runs of each.
        configs: Complete configurations by the name of the run.
        differences: As `differences_of` gives them.

    Returns:
        Unique names, the preset with the options in which groups of this preset differ; and the values of all options
        in which any groups differ, by dotted name.
    """
    firsts = [names[0] for names in groups]
    varying = [each for each in differences if len({each.values[name] for name in firsts}) > 1]
    if len(groups) > 1:
        varying = [each for each in varying if each.option != "seed"]
    options = [{each.option: each.values[name] for each in varying} for name in firsts]
    presets = [str(configs[name].get("name") or "run") for name in firsts]
    names = []
    for place, preset in enumerate(presets):
        same = [other for other, theirs in enumerate(presets) if theirs == preset]
        telling = [each for each in varying if len({each.values[firsts[other]] for other in same}) > 1]
        words = [f"{each.option}={_brief(each, firsts[place], [firsts[other] for other in same])}" for each in telling]
        names.append(", ".join([preset, *words]))
    return _unique(names), options


def _brief(difference: Difference, run: str, runs: Sequence[str]) -> str:
    """A value in words, without the arguments of a call where its class tells it from those of the other runs."""
    whole = {difference.values[each] for each in runs}
    brief = {value.partition("(")[0] for value in whole}
    value = difference.values[run]
    return value.partition("(")[0] if len(brief) == len(whole) else value


def _unique(names: Sequence[str]) -> list[str]:
    """Names, each after the first of its kind with a number."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options by dotted name, parts whole."""
    for name, value in config.items():
        if isinstance(value, Mapping) and "class_path" not in value and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _arguments(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield "class_path", value.get("class_path")
        given = value.get("init_args")
        yield from (given or {}).items()


def _without(config: Mapping[str, Any], seeds: Sequence[str]) -> dict[str, Any]:
    left_out = {*IMMATERIAL, *seeds}
    return {name: value for name, value in _flat(config) if name not in left_out}


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
