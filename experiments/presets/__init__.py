"""Presets: files of options by name."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

import yaml

__all__ = ["preset_path", "presets"]


def presets() -> dict[str, str]:
    """The presets by name, each with its description."""
    files = sorted(resources.files(__name__).iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".yaml"): yaml.safe_load(file.read_text())["description"]
        for file in files
        if file.name.endswith(".yaml")
    }


def preset_path(name: str) -> Path:
    """The file of a preset, or of a YAML file of options.

    Raises:
        ValueError: If it is neither.
    """
    if name.endswith((".yaml", ".yml")):
        if Path(name).exists():
            return Path(name)
        raise ValueError(f"Expected a file with options; got {name!r}, which is not there.")
    if name not in presets():
        if Path(name).is_file():
            return Path(name)
        meant = [
            file for file in (f"{name}.yaml", f"{name}.yml", str(Path(name) / "config.yaml")) if Path(file).is_file()
        ]
        meant += difflib.get_close_matches(name.lower(), presets(), n=1)
        hint = f": did you mean {meant[0]}?" if meant else "."
        raise ValueError(f"Expected a preset out of {', '.join(presets())}, or a .yaml file; got {name!r}{hint}")
    return Path(str(resources.files(__name__) / f"{name}.yaml"))
