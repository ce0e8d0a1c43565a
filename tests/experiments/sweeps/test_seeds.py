"""Cells that differ by their seed alone are a row: a mean with an interval, and no best where intervals overlap."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from latentmix.experiments.sweeps.seeds import Row, ranks_of, rows_over_seeds, vary_by_seed
from latentmix.experiments.sweeps.tables import as_csv, as_markdown, as_text, figures_of

from tests.experiments.sweeps.test_sweep import stubbed, summary

SEEDS = (0, 1, 2)


def record(elbo: float, group: str = "density", status: str = "done", **options: str) -> dict[str, Any]:
    name = "-".join(f"{option}={value}" for option, value in options.items())
    figures = {**figures_of(summary(elbo)), "mse": 0.1 - elbo / 1e4} if status == "done" else {}
    fields = {"id": name, "options": options, "status": status, "reason": "" if status == "done" else "Expected more."}
    return {**fields, "group": group, "seconds": 2.0, "threads": 1, "figures": figures, "warnings": []}


def results(*records: dict[str, Any]) -> dict[str, Any]:
    grid: dict[str, list[str]] = {}
    for cell in records:
        for name, value in cell["options"].items():
            grid.setdefault(name, []).append(value)
    counts = {status: sum(cell["status"] == status for cell in records) for status in ("done", "refused", "failed")}
    unique = {name: list(dict.fromkeys(values)) for name, values in grid.items()}
    return {"preset": "digits", "grid": unique, "counts": {**counts, "waiting": 0}, "cells": list(records)}


def seeds(elbo: float, group: str = "density", spread: float = 1.0, **options: str) -> list[dict[str, Any]]:
    return [record(elbo + spread * (seed - 1), group, **options, seed=str(seed)) for seed in SEEDS]


def piped(markdown: str) -> list[list[str]]:
    """The cells of the lines of all tables, without rules."""
    return [
        line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ") and "---" not in line
    ]


def by_seed(experiment: Any, _: Path) -> dict[str, Any]:
    """The summary of a stubbed run: 10 nats a latent, 1 a seed."""
    seed = experiment.training.seed
    return {**summary(-200.0 + 10 * experiment.config["latent_dim"] + seed), "seed": seed}


def test_cells_that_differ_by_their_seed_alone_are_a_row() -> None:
    cells = [*seeds(-100.0, prior="A"), *seeds(-90.0, prior="B"), record(-80.0, prior="C", seed="0")]
    rows = rows_over_seeds(cells)
    assert [(row.options["prior"], len(row.records)) for row in rows] == [("A", 3), ("B", 3), ("C", 1)]


def test_intervals_are_those_of_student_t() -> None:
    (row,) = rows_over_seeds(seeds(-100.0, spread=4.0, prior="A"))
    low, high = stats.t.interval(0.9, 2, loc=-100.0, scale=4.0 / np.sqrt(3))
    mean = row.means["elbo"]
    np.testing.assert_allclose((mean.mean, mean.low, mean.high, mean.n), (-100.0, low, high, 3))
    assert row.seconds == 2.0


def test_unfinished_cells_and_other_measures_are_left_out_of_a_row() -> None:
    cells = [*seeds(-100.0, prior="A"), record(0.0, status="failed", prior="A", seed="3")]
    cells.append(record(700.0, "mass", prior="A", seed="4"))
    assert [(row.group, len(row.records)) for row in rows_over_seeds(cells)] == [("density", 3), ("mass", 1)]


def test_a_sweep_without_seeds_has_a_row_for_each_cell() -> None:
    rows = rows_over_seeds([record(-100.0, prior="A"), record(-90.0, prior="B")])
    assert not vary_by_seed(rows)
    text = as_text(results(record(-100.0, prior="A"), record(-90.0, prior="B")))
    assert "±" not in text
    assert "rank " not in text
    assert "One seed for each cell" in text


def test_ranks_are_shared_where_intervals_overlap() -> None:
    near = rows_over_seeds([*seeds(-100.0, prior="A"), *seeds(-99.5, prior="B"), *seeds(-120.0, prior="C")])
    assert ranks_of(near) == [(1, 2), (1, 2), (3, 3)]
    lone = rows_over_seeds([*seeds(-100.0, prior="A"), record(-50.0, prior="B", seed="0"), *seeds(-120.0, prior="C")])
    assert ranks_of(lone) == [(1, 2), (1, 3), (2, 3)]


def test_settings_that_are_alike_are_seldom_told_apart() -> None:
    random = np.random.default_rng(0)

    def row(values: Any) -> Row:
        return Row({}, tuple({"figures": {"elbo": value}} for value in values))

    apart = [ranks_of([row(random.normal(size=5)), row(random.normal(size=5))])[0] != (1, 2) for _ in range(300)]
    assert np.mean(apart) < 0.05
    apart = [ranks_of([row(random.normal(size=5)), row(random.normal(6, size=5))])[0] == (2, 2) for _ in range(50)]
    assert np.mean(apart) > 0.9


@pytest.mark.parametrize("spread", [1.0, 1e6])
def test_the_terminal_has_a_hundred_columns(spread: float) -> None:
    table = results(*(cell for prior in ("MixturePrior", "VampPrior") for cell in seeds(-9.0, spread=spread, p=prior)))
    for name, (low, high) in {f"accuracy_{fit}_none": (0.1, 0.9) for fit in ("em", "svi", "posterior")}.items():
        for place, cell in enumerate(table["cells"]):
            cell["figures"][name] = (low, high)[place % 2]
    lines = as_text(table).splitlines()
    assert max(map(len, lines)) <= 100
    assert "ELBO" in lines[1]
    assert "accuracy SVI posterior none" in as_markdown(table)


def test_tables_show_means_with_intervals_and_cells_below() -> None:
    table = results(*seeds(-100.0, prior="A"), *seeds(-99.5, prior="B"), *seeds(-120.0, prior="C"))
    text, markdown = as_text(table), as_markdown(table)
    half = stats.t.ppf(0.95, 2) / np.sqrt(3)
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    assert lines[1][:4] == ["rank", "prior", "seeds", "ELBO"]
    assert [line[:4] for line in lines[2:5]] == [
        ["1 to 2", "B", "3", f"-99.50 ± {half:.2f}"],
        ["1 to 2", "A", "3", f"-100.00 ± {half:.2f}"],
        ["3", "C", "3", f"-120.00 ± {half:.2f}"],
    ]
    assert "none of them is known to be better" in text
    assert f"| 1 to 2 | B | 3 | -99.50 ± {half:.2f} |" in markdown
    assert (
        markdown.index("## density") < markdown.index("### Single cells: density") < markdown.index("| B | 0 | -100.50")
    )
    rows = list(csv.DictReader(as_csv(table).splitlines()))
    assert [(row["prior"], row["seed"]) for row in rows] == [(name, str(k)) for name in "ABC" for k in SEEDS]


def test_figures_that_no_seed_changes_have_no_interval_and_missing_ones_a_dash() -> None:
    cells = [*seeds(-100.0, prior="A"), *seeds(-90.0, prior="B")]
    for cell in cells[:3]:
        del cell["figures"]["accuracy_em_few"]
    cells[3]["figures"]["accuracy_em_few"] = 0.5
    head, better, worse = piped(as_markdown(results(*cells)))[:3]
    assert better[head.index("parameters")] == worse[head.index("parameters")] == "1,234"
    assert better[head.index("accuracy EM few")].startswith("0.667 ± ")
    assert worse[head.index("accuracy EM few")] == "-"


def test_one_setting_is_an_upright_table_without_ranks() -> None:
    text = as_text(results(*seeds(-100.0, spread=2.0)))
    rows = {cells[0]: cells[1:] for line in text.splitlines() if len(cells := re.split(r"\s{2,}", line.strip())) > 3}
    low, high = stats.t.interval(0.9, 2, loc=-100.0, scale=2.0 / np.sqrt(3))
    assert rows["3 seeds"] == ["mean", "90% interval", "least", "greatest"]
    assert rows["ELBO"] == ["-100.00", f"{low:.2f} to {high:.2f}", "-102.00", "-98.00"]
    assert rows["parameters"] == ["1,234", "-", "1,234", "1,234"]
    assert "rank" not in text


def test_the_posterior_fit_has_columns() -> None:
    cell = record(-100.0, prior="A")
    cell["figures"] |= {"accuracy_posterior_none": 0.875, "accuracy_nuts_none": 0.25}
    head, row = piped(as_markdown(results(cell)))
    assert row[head.index("accuracy SVI posterior none")] == "0.875"
    assert row[head.index("accuracy NUTS none")] == "0.250"


def test_seeds_are_a_grid_over_the_seed(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    done, runs, lines = stubbed(out, "latent_dim=2,3", words=["--seed", "3"], seeds=3, action=by_seed)
    assert done["grid"] == {"latent_dim": ["2", "3"], "seed": ["3", "4", "5"]}
    assert done["counts"]["done"] == len(runs.options) == 6
    assert len({cell["settings"] for cell in done["cells"]}) == 2
    assert {cell["id"].rpartition("-")[0] for cell in done["cells"]} == {
        f"latent_dim={size}-seed={seed}" for size in (2, 3) for seed in (3, 4, 5)
    }
    saved = json.loads((out / "sweep.json").read_text())["over_seeds"]
    assert [(row["options"], row["seeds"], row["level"]) for row in saved] == [
        ({"latent_dim": size}, 3, 0.9) for size in ("2", "3")
    ]
    elbo = saved[0]["figures"]["elbo"]
    low, high = stats.t.interval(0.9, 2, loc=-176.0, scale=1 / np.sqrt(3))
    np.testing.assert_allclose((elbo["mean"], elbo["low"], elbo["high"], elbo["n"]), (-176.0, low, high, 3))
    assert "-166.00 ± 1.69" in lines[-1]
    typed, runs, _ = stubbed(out, "latent_dim=2,3", "seed=3,4,5", words=["--seed", "3"], action=by_seed)
    assert runs.options == []
    assert typed["cells"] == done["cells"]
    assert stubbed(out, "latent_dim=2,3", words=["--seed", "3"], seeds=4, action=by_seed)[0]["counts"]["done"] == 8


def test_seeds_join_the_cells_of_an_earlier_grid(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    stubbed(out, "latent_dim=3,2", action=by_seed)  # 2 is the preset's
    done, runs, _ = stubbed(out, "seed=0,1", action=by_seed)
    assert len(runs.options) == 1
    assert [(row["options"], row["seeds"]) for row in done["over_seeds"]] == [
        ({"latent_dim": "3"}, 1),
        ({"latent_dim": "2"}, 2),
    ]


def test_a_sweep_of_an_earlier_version_gets_its_rows(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    stubbed(out, "latent_dim=2", seeds=2, action=by_seed)
    saved = json.loads((out / "sweep.json").read_text())
    for cell in saved["cells"]:
        del cell["settings"]
    del saved["over_seeds"]
    (out / "sweep.json").write_text(json.dumps(saved))
    done, runs, _ = stubbed(out, "latent_dim=2", seeds=3, action=by_seed)
    assert len(runs.options) == 1
    assert [row["seeds"] for row in done["over_seeds"]] == [3]


def test_seeds_beside_a_grid_over_the_seed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one of --seeds and --grid seed=\.\.\.; got both"):
        stubbed(tmp_path / "sweep", "seed=0,1", seeds=2)
    assert list(tmp_path.iterdir()) == []
