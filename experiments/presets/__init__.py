"""Presets: files of options by name."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from latentmix.experiments.hints import did_you_mean

__all__ = ["is_preset", "preset_path", "presets"]


@cache
def presets() -> dict[str, str]:
    """The presets by name, each with its description."""
    return {name: yaml.safe_load(file.read_text())["description"] for name, file in _files().items()}


def is_preset(name: str) -> bool:
    """Whether a preset has that name."""
    return name in _files()


@cache
def _files() -> dict[str, Path]:
    """The files of the presets by name, ascending."""
    files = (Path(str(file)) for file in resources.files(__name__).iterdir() if file.name.endswith(".yaml"))
    return {file.stem: file for file in sorted(files)}


def preset_path(name: str) -> Path:
    """The file of a preset, or of a YAML file of options.

    Raises:
        ValueError: If it is neither.
    """
    if name.endswith((".yaml", ".yml")):
        if Path(name).exists():
            return Path(name)
        raise ValueError(f"Expected a file with options; got {name!r}, which is not there.")
    known = _files()
    if name not in known:
        if Path(name).is_file():
            return Path(name)
        meant = [
            file for file in (f"{name}.yaml", f"{name}.yml", str(Path(name) / "config.yaml")) if Path(file).is_file()
        ]
        hint = f": did you mean {meant[0]}?" if meant else did_you_mean(name.lower(), known)
        raise ValueError(f"Expected a preset out of {', '.join(known)}, or a .yaml file; got {name!r}{hint}")
    return known[name]
