"""Origin of a run: its command, its date, its model and its description in words, for its summary and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from latentmix.experiments.options.calls import as_call
from latentmix.experiments.options.command_line import UNDESCRIBED, parse_experiment
from latentmix.experiments.options.earlier import renewed
from latentmix.experiments.options.experiment import experiment_parser, plain
from latentmix.experiments.options.parts import PARTS
from latentmix.experiments.presets import presets
from latentmix.experiments.runs.artifacts import RunFolder

__all__ = ["describe", "provenance", "record_command"]

FILE = "command.json"


def record_command(folder: RunFolder, command: Sequence[str] | None) -> None:
    """Write the words of the command line that starts a run to `command.json`, so that `resume` keeps them.

    Args:
        folder: The run.
        command: The words as typed; `None` for a run that Python code starts.
    """
    if command is not None:
        folder.write_json(FILE, {"command": list(command)})


def provenance(folder: RunFolder, config: Mapping[str, Any]) -> dict[str, Any]:
    """The command of a run as a list of words (`None` if none was recorded), the current time, and its model.

    Args:
        folder: The run.
        config: Its complete configuration.

    Returns:
        `command`, `date` in ISO 8601 with the offset from UTC, and `model`: `latent_dim` and every part in call form.
    """
    parts = {part: as_call(config[part]) for part in (*PARTS, "objective")}
    return {
        "command": _command(folder),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "model": {"latent_dim": config["latent_dim"], **parts},
    }


def describe(description: str, config: Mapping[str, Any]) -> str:
    """The description of a run; that of a preset is followed by the options that differ from the preset's.

    Args:
        description: The run's own.
        config: The configuration of the run, complete or empty.

    Example:
        >>> from latentmix.experiments.runs.provenance import describe
        >>> describe("The digits that I wrote.", {})
        'The digits that I wrote.'
    """
    preset = next((name for name, words in presets().items() if words == description), None)
    if preset is None:
        return description
    own = _flat(plain(experiment_parser(), parse_experiment(preset, [])))
    changed = {name: value for name, value in _flat(renewed(config)).items() if name not in UNDESCRIBED}
    changed = {name: value for name, value in changed.items() if value != own.get(name)}
    if not changed:
        return description
    listed = "; ".join(f"{name} {_shown(value)}" for name, value in changed.items())
    return f"The preset {preset}: {description} Here with {listed}."


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their names on the command line, a class with its arguments being one."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        nested = isinstance(value, Mapping) and "class_path" not in value
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def _shown(value: Any) -> str:
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return ", ".join(map(_shown, value)) if isinstance(value, list) else as_call(value)


def _command(folder: RunFolder) -> Any:
    """The recorded command; `None` where there is none that can be read, which stops no run."""
    with suppress(ValueError, LookupError, TypeError):
        return folder.read_json(FILE)["command"]
    return None
