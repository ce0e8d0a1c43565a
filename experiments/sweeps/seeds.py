"""Cells of a sweep that differ by their seed alone: their means, and intervals over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

from latentmix.experiments.options.names import LEVEL
from latentmix.inference.rank_ranges import rank_ranges

if TYPE_CHECKING:
    from latentmix.inference.intervals import MeanInterval

__all__ = ["SEED", "Row", "as_json", "ranks_of", "rows_over_seeds", "vary_by_seed"]

Record = dict[str, Any]

SEED = "seed"


@final
@dataclass(frozen=True)
class Row:
    """Finished cells that differ by their seed alone; one cell, if no other differs from it so.

    Attributes:
        options: The values that they share, as written in the grid.
        records: The cells, as in `sweep.json`.
    """

    options: Mapping[str, str]
    records: tuple[Record, ...]

    @property
    def group(self) -> str:
        """The group whose ELBOs are comparable."""
        return str(self.records[0]["group"])

    @property
    def seconds(self) -> float:
        """Mean seconds of a cell."""
        return math.fsum(record["seconds"] for record in self.records) / len(self.records)

    @cached_property
    def values(self) -> dict[str, list[float]]:
        """The figures of the cells that have them, by name."""
        names = dict.fromkeys(name for record in self.records for name in record["figures"])
        cells = [record["figures"] for record in self.records]
        return {name: [figures[name] for figures in cells if name in figures] for name in names}

    @cached_property
    def means(self) -> dict[str, MeanInterval]:
        """The mean of every figure, with its interval of `LEVEL`."""
        from latentmix.inference.intervals import mean_interval  # scipy, which refusals of a command do not need

        return {name: mean_interval(values, LEVEL) for name, values in self.values.items()}


def rows_over_seeds(records: Sequence[Record]) -> list[Row]:
    """Finished cells, those in a row that are alike but for `seed`.

    Cells are alike whose `settings` are, digests of their configurations without the seed; without these, as in files
    of earlier versions, those whose options are.

    Args:
        records: Cells of `sweep.json`.

    Returns:
        Rows in the order of their first cells.
    """
    alike: dict[tuple[Any, str], list[Record]] = {}
    for record in records:
        if record["status"] == "done":
            settings = record.get("settings") or tuple(sorted(_without_seed(record["options"]).items()))
            alike.setdefault((settings, record["group"]), []).append(record)
    rows = []
    for members in alike.values():
        shared: dict[str, str] = {}
        for record in members:
            shared = {**record["options"], **shared}
        rows.append(Row(_without_seed(shared), tuple(members)))
    return rows


def _without_seed(options: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if name != SEED}


def vary_by_seed(rows: Sequence[Row]) -> bool:
    """Whether some row has several seeds."""
    return any(len(row.records) > 1 for row in rows)


def ranks_of(rows: Sequence[Row], name: str = "elbo") -> list[tuple[int, int]]:
    """The best and the worst rank that the mean of a figure may have among rows, 1 for the highest.

    Rows whose intervals overlap share ranks, and a row of one seed, about whose mean nothing is known, may have any.
    """
    means = [row.means[name] for row in rows]
    return rank_ranges([(mean.low, mean.high) if mean.bounded else (-math.inf, math.inf) for mean in means])


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain values: options, group, identifiers of the cells, number of seeds, and every figure's interval."""
    return [
        {
            "options": dict(row.options),
            "group": row.group,
            "cells": [record["id"] for record in row.records],
            "seeds": len(row.records),
            "level": LEVEL,
            "seconds": row.seconds,
            "figures": {name: mean.to_dict() for name, mean in row.means.items()},
        }
        for row in rows
    ]
