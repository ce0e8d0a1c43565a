"""Origin of a run: its command, its date and its model in words, for its summary and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from latentmix.experiments.options.calls import as_call
from latentmix.experiments.options.parts import PARTS
from latentmix.experiments.runs.artifacts import RunFolder

__all__ = ["provenance", "record_command"]

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


def _command(folder: RunFolder) -> Any:
    """The recorded command; `None` where there is none that can be read, which stops no run."""
    with suppress(ValueError, LookupError, TypeError):
        return folder.read_json(FILE)["command"]
    return None
