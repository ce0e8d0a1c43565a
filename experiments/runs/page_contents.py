"""Pictures of a run's folder, for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentmix.experiments.options.names import BUDGETS
from latentmix.experiments.runs.captions import PICTURES, alternative_text, budget_of, caption, kind_of
from latentmix.experiments.runs.page import Picture, load_picture
from latentmix.models.files import inside

__all__ = ["run_pictures"]


def run_pictures(
    folder: Path, summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]], *, prefix: str = "picture"
) -> list[Picture]:
    """The pictures of a finished run, known ones first; a name may end in the label budget.

    Args:
        folder: The folder of the run.
        summary: The contents of `summary.json`.
        history: The epochs of `metrics.jsonl`.
        prefix: Beginning of the pictures' addresses within the page.

    Raises:
        ValueError: If a picture, or their folder, is a link.
    """
    kinds, budgets = list(PICTURES), [*BUDGETS, None]

    def place(path: Path) -> tuple[int, int, str]:
        kind = kind_of(path.stem)
        return (len(kinds) if kind is None else kinds.index(kind)), budgets.index(budget_of(path.stem)), path.stem

    pictures = []
    for path in sorted(inside(folder, "figures").glob("*.png"), key=place):
        kind, budget = kind_of(path.stem), budget_of(path.stem)
        name = PICTURES[kind][0] if kind else path.stem.replace("_", " ")
        if kind and budget:
            name += f", labels: {budget}"
        text = alternative_text(path.stem, summary, history)
        pictures.append(
            load_picture(
                inside(folder, f"figures/{path.name}"),
                name,
                caption(kind, summary) if kind else "",
                text,
                prefix=prefix,
            )
        )
    return pictures
