"""Pictures of a sweep: the figures of all cells, and their learning curves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentmix.experiments.figures.learning import learning_curves
from latentmix.experiments.figures.style import save
from latentmix.experiments.figures.sweep import sweep_overview
from latentmix.experiments.options.classes import CLASSES
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.sweeps.seeds import SEED, Row, rows_over_seeds, vary_by_seed
from latentmix.models.files import inside
from latentmix.models.words import plural

__all__ = ["MOST_CURVES", "draw_curves", "draw_overview"]

Record = dict[str, Any]

MOST_AXES = 4
MOST_CURVES = 12  # of groups in one picture


def draw_overview(out: Path, results: Mapping[str, Any]) -> Path | None:
    """Draw all cells into `sweep.png`, those that differ by their seed alone as one, if at most four options vary.

    Args:
        out: The folder of the sweep.
        results: The contents of `sweep.json`.

    Returns:
        The picture; `None` if there is none.
    """
    rows = rows_over_seeds(results["cells"])
    seeds = vary_by_seed(rows)
    grid = {name: values for name, values in results["grid"].items() if not (seeds and name == SEED)}
    axes = {name: values for name, values in grid.items() if len(values) > 1} or dict(list(grid.items())[:1])
    cells = _cells(results["cells"], rows if seeds else [], grid)
    heading = None
    if seeds:
        varied = ", ".join([name for name, values in grid.items() if len(values) > 1] or [SEED])
        heading = f"Sweep over {varied}: {plural(sum(len(row.records) for row in rows), 'cell')}"
    if not axes:  # the seed alone varies
        axes, cells = (
            {"preset": [results["preset"]]},
            [{**cell, "options": {"preset": results["preset"]}} for cell in cells],
        )
    drawn = [{**cell, "options": {name: cell["options"][name] for name in axes}} for cell in cells]
    if not drawn or len(axes) > MOST_AXES:
        return None
    return save(sweep_overview(drawn, axes, heading=heading), inside(out, "sweep.png"))


def _cells(records: Sequence[Record], rows: Sequence[Row], grid: Mapping[str, Any]) -> list[Record]:
    """The cells of a picture: rows over seeds, and cells of which no seed is done; without rows all cells."""
    cells: dict[tuple[str, ...], Record] = {}
    for row in rows:
        if row.options.keys() == grid.keys():
            options = tuple(row.options[name] for name in grid)
            cells[options] = {"options": row.options, "status": "done", "group": row.group, "figures": row.values}
    for record in records:
        left = record["status"] == "waiting" or (rows and record["status"] == "done")
        if not left and {*record["options"]} - ({SEED} if rows else set()) == {*grid}:
            cells.setdefault(tuple(record["options"][name] for name in grid), record)
    return list(cells.values())


def draw_curves(out: Path, results: Mapping[str, Any]) -> Path | None:
    """Draw the learning curves of cells into `learning_curves.png`, at most `MOST_CURVES`, those of the best ELBO.

    A row of several seeds is their mean, in their range. Each measure has a panel of its own.

    Args:
        out: The folder of the sweep, with the cells' `metrics.jsonl`.
        results: The contents of `sweep.json`.

    Returns:
        The picture; `None` if no cell has curves.
    """
    rows = sorted(rows_over_seeds(results["cells"]), key=lambda row: -row.means["elbo"].mean)
    curves: dict[str, list[list[float]]] = {}
    measures: dict[str, str] = {}
    for row in rows:
        label = _label(row, results)
        curves[label] = [losses for record in row.records if (losses := _losses(out, record["id"]))]
        measures[label] = row.group
    known = [label for label, runs in curves.items() if runs]
    if not known:
        return None
    kept = _first_of_each(known, measures, MOST_CURVES)
    figure = learning_curves(
        {label: {"validation": curves[label]} for label in kept},
        measures={label: measures[label] for label in kept},
        heading="Learning curves"
        if len(kept) == len(known)
        else f"Learning curves: the {len(kept)} of {len(known)} settings with the highest ELBO",
    )
    return save(figure, inside(out, "learning_curves.png"))


def _losses(out: Path, cell: str) -> list[float]:
    """The negative ELBO of a cell on validation data after each epoch; none if it left no readable history."""
    try:
        history = RunFolder(inside(out, f"cells/{cell}")).read_metrics()
    except ValueError:
        return []
    return [float(record["validation"]["loss"]) for record in history if record.get("validation")]


def _label(row: Row, results: Mapping[str, Any]) -> str:
    """The values by which a row differs from others; of the only row the preset."""
    varied = [name for name, values in results["grid"].items() if len(values) > 1 and name in row.options]
    words = [row.options[name] if name in CLASSES else f"{name}={row.options[name]}" for name in varied]
    return ", ".join(words) or str(results["preset"])


def _first_of_each(labels: Sequence[str], measures: Mapping[str, str], most: int) -> list[str]:
    """The first labels of each measure in turn, at most as many in all, in their order."""
    by_measure: dict[str, list[str]] = {}
    for label in labels:
        by_measure.setdefault(measures[label], []).append(label)
    turns = itertools.chain(*itertools.zip_longest(*by_measure.values()))
    chosen = set(itertools.islice((label for label in turns if label is not None), most))
    return [label for label in labels if label in chosen]
