"""Cells of a sweep that differ by their seed alone: their means, and intervals over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from latentmix.inference.rank_ranges import rank_ranges
from latentmix.inference.diagnostics.stub_intervals import t_interval

__all__ = ["LEVEL", "SEED", "Estimate", "Row", "as_json", "ranks_of", "rows_over_seeds", "vary_by_seed"]

Record = dict[str, Any]

SEED = "seed"
LEVEL = 0.9


@final
@dataclass(frozen=True)
class Estimate:
    """The mean of a figure over seeds, with a Student t interval of `LEVEL`.

    Attributes:
        mean: The mean; with one seed its figure.
        low: Lower end of the interval; the mean itself where all seeds agree, minus infinity with one seed.
        high: Upper end, likewise.
        seeds: Number of seeds that have the figure.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def half(self) -> float:
        """Half the width of the interval; infinite with one seed."""
        return (self.high - self.low) / 2


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
    def seconds(self) -> float:
        """Mean seconds of a cell."""
        return math.fsum(record["seconds"] for record in self.records) / len(self.records)

    @cached_property
    def values(self) -> dict[str, list[float]]:
        """The figures of all cells, by name."""
        names = dict.fromkeys(name for record in self.records for name in record["figures"])
        return {
            name: [record["figures"][name] for record in self.records if name in record["figures"]] for name in names
        }

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """The mean of every figure, with its interval."""
        return {name: _estimate(values) for name, values in self.values.items()}


def _estimate(values: Sequence[float]) -> Estimate:
    if len(values) < 2:
        return Estimate(float(values[0]), -math.inf, math.inf, 1)
    interval = t_interval(values, LEVEL)
    return Estimate(interval.mean, interval.low, interval.high, len(values))


def rows_over_seeds(records: Sequence[Record]) -> list[Row]:
    """Finished cells, those in a row that are alike but for `seed`.

    Cells are alike whose `settings`, a digest of the configuration without its seed, are; without it, as in files of
    earlier versions, those whose options are.

    Args:
        records: Cells of `sweep.json`.

    Returns:
        Rows in the order of their first cells.
    """
    alike: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if record["status"] == "done":
            options = {name: value for name, value in record["options"].items() if name != SEED}
            key = record.get("settings") or tuple(sorted(options.items()))
            alike.setdefault((key, record["group"]), []).append(record)
    rows = []
    for members in alike.values():
        shared: dict[str, str] = {}
        for record in members:
            shared = {**record["options"], **shared}
        rows.append(Row({name: value for name, value in shared.items() if name != SEED}, tuple(members)))
    return rows


def vary_by_seed(rows: Sequence[Row]) -> bool:
    """Whether some row has several seeds."""
    return any(len(row.records) > 1 for row in rows)


def ranks_of(rows: Sequence[Row], name: str = "elbo") -> list[tuple[int, int]]:
    """The best and the worst rank that the mean of a figure may have among rows, 1 for the highest.

    Rows whose intervals overlap share ranks, and a row of one seed, about whose mean nothing is known, may have any.
    """
    estimates = [row.estimates[name] for row in rows]
    return rank_ranges([(estimate.low, estimate.high) for estimate in estimates])


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain values: options, group, seeds, identifiers of the cells, and every figure's mean and interval."""
    return [
        {
            "options": dict(row.options),
            "group": row.records[0]["group"],
            "cells": [record["id"] for record in row.records],
            "seeds": len(row.records),
            "level": LEVEL,
            "seconds": row.seconds,
            "figures": {
                name: {"mean": estimate.mean, "seeds": estimate.seeds, **_ends(estimate)}
                for name, estimate in row.estimates.items()
            },
        }
        for row in rows
    ]


def _ends(estimate: Estimate) -> dict[str, float]:
    return {"low": estimate.low, "high": estimate.high} if estimate.seeds > 1 else {}
