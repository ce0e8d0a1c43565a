"""Contents of a run's folder for a page: its records and its pictures. Links are not followed."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentmix.experiments.options.names import BUDGETS
from latentmix.experiments.runs.captions import PICTURES, alternative_text, budget_of, kind_of, things
from latentmix.experiments.runs.page import Picture, load_picture

__all__ = ["read_own_text", "read_records", "run_pictures"]


def read_records(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The contents of `summary.json`, and the epochs of `metrics.jsonl`.

    Raises:
        ValueError: If there is no `summary.json`.
    """
    if not (folder / "summary.json").is_file():
        raise ValueError(f"Expected summary.json in {folder}; the run is not finished.")
    summary = json.loads((folder / "summary.json").read_text())
    lines = read_own_text(folder / "metrics.jsonl").splitlines()
    return summary, [json.loads(line) for line in lines if line.strip()]


def run_pictures(
    folder: Path, summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]], *, prefix: str = "picture"
) -> list[Picture]:
    """The pictures of a finished run, known ones first; a name may end in the label budget.

    Args:
        folder: The folder of the run.
        summary: The contents of `summary.json`.
        history: The epochs of `metrics.jsonl`.
        prefix: Beginning of the pictures' addresses within the page.
    """
    kinds, budgets = list(PICTURES), [*BUDGETS, None]

    def place(path: Path) -> tuple[int, int, str]:
        kind = kind_of(path.stem)
        return (len(kinds) if kind is None else kinds.index(kind)), budgets.index(budget_of(path.stem)), path.stem

    pictures = []
    for path in sorted(_own_pictures(folder / "figures"), key=place):
        kind, budget = kind_of(path.stem), budget_of(path.stem)
        name, caption = PICTURES[kind] if kind else (path.stem.replace("_", " "), "")
        if kind and budget:
            name += f", labels: {budget}"
        text = alternative_text(path.stem, summary, history)
        pictures.append(load_picture(path, name, caption.format(things=things(summary)), text, prefix=prefix))
    return pictures


def read_own_text(path: Path) -> str:
    """The text of a file of the run; empty without one, or if it is a link, which could show any file."""
    return path.read_text("utf-8") if _is_regular(path) else ""


def _own_pictures(folder: Path) -> list[Path]:
    return [] if folder.is_symlink() else [path for path in folder.glob("*.png") if _is_regular(path)]


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
