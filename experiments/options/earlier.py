"""Options under the names that they had in earlier versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from jsonargparse import Namespace
from yaml import YAMLError

from latentmix.experiments.reading.options import parse_yaml

__all__ = ["refuse_earlier_names", "renewed"]

_TENSORBOARD = "latentmix.experiments.loggers.TensorBoard"
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
    """A configuration with options under today's names.

    Example:
        >>> from latentmix.experiments.options.earlier import renewed
        >>> renewed({"mixture": {"n_init": 3, "svi_steps": 50, "nuts_draws": 0}})
        {'mixture': {'n_init': 3, 'svi': {'epochs': 50}, 'nuts': {'draws': 0}}}
        >>> renewed({"tensorboard": True})
        {'loggers': [{'class_path': 'latentmix.experiments.loggers.TensorBoard'}]}

    Raises:
        ValueError: If those of a mixture, or of one of its algorithms, are no mapping.
    """
    if not isinstance(config, dict):
        return config
    config = _with_loggers({_today(name): value for name, value in config.items()})
    if "mixture" not in config:
        return config
    mixture = dict(_mapping("mixture", config["mixture"]))
    for algorithm, names in {**_ALGORITHMS, "posterior": {}}.items():
        moved = {name: mixture.pop(earlier) for earlier, name in names.items() if earlier in mixture}
        given = _mapping(f"mixture.{algorithm}", mixture.get(algorithm, {}))
        if moved:
            mixture[algorithm] = {**moved, **given}
    return {**config, "mixture": mixture} if mixture != config["mixture"] else config


def _mapping(option: str, value: Any) -> Mapping[str, Any]:
    """Options as they are, or those of the YAML that a word stands for."""
    options = value
    if isinstance(value, str):
        with suppress(YAMLError, ValueError, RecursionError):
            options = parse_yaml(value)
    if isinstance(options, Namespace):
        return vars(options)
    if not isinstance(options, Mapping):
        raise ValueError(f"Expected options of {option} by their names, or a file of them; got {value!r:.80}.")
    return options


def _with_loggers(config: dict[str, Any]) -> dict[str, Any]:
    """The option `tensorboard: true` as the logger that it is now."""
    if "tensorboard" not in config:
        return config
    config, asked = dict(config), config["tensorboard"]
    del config["tensorboard"]
    if not isinstance(asked, bool):
        raise ValueError(f"Expected tensorboard, an earlier option, to be true or false; got {asked!r:.80}.")
    return {"loggers": [{"class_path": _TENSORBOARD}], **config} if asked else config


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
        if name == "tensorboard":
            raise ValueError("Expected --loggers TensorBoard; got --tensorboard, its earlier name.")
        if (now := _today(name)) != name:
            raise ValueError(f"Expected --{now}; got --{name}, its earlier name.")
