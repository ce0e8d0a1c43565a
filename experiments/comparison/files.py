"""Files of a comparison of runs: `compare.json`, with all of it, and `compare.csv`, the table of its groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from latentmix.experiments.comparison.results import RunComparison
from latentmix.experiments.comparison.text import as_markdown, as_text
from latentmix.experiments.runs.folders import make_folder
from latentmix.models.process_state import kept_filters

__all__ = ["printed", "write_files"]


def printed(comparison: RunComparison, form: Literal["table", "json", "csv", "markdown"] = "table") -> str:
    """A comparison as text, ending with a new line.

    Args:
        comparison: The comparison.
        form: `table`, of a hundred columns; `json`, as in `compare.json`; `csv`, the table of the groups; `markdown`.
    """
    if form == "json":
        return json.dumps(comparison.to_dict(), indent=1, allow_nan=False) + "\n"
    if form == "csv":
        with kept_filters():
            text: str = comparison.table.to_csv(lineterminator="\n")
        return text
    return as_markdown(comparison) if form == "markdown" else as_text(comparison) + "\n"


def write_files(comparison: RunComparison, out: Path) -> None:
    """Make a new folder with `compare.json` and `compare.csv`.

    Args:
        comparison: The comparison.
        out: The folder; it must be new, or empty.

    Raises:
        ValueError: If it holds something.
    """
    files = {"compare.json": printed(comparison, "json"), "compare.csv": printed(comparison, "csv")}
    make_folder(out, {name: text.encode() for name, text in files.items()})
