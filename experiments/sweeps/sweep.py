"""Sweeps: every cell of a grid as a run of its own, in parallel, resumed where it was interrupted."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from math import isfinite, prod
from pathlib import Path
from typing import Any

import joblib
import torch

from latentmix.experiments.options.earlier import renewed
from latentmix.experiments.options.grids import Grid, check_names, with_seeds
from latentmix.experiments.options.messages import one_line
from latentmix.experiments.places import remove_unfinished
from latentmix.experiments.runs.artifacts import versions
from latentmix.experiments.runs.folders import claimed
from latentmix.experiments.runs.locks import FolderLock
from latentmix.experiments.sweeps.cells import (
    Cell,
    RunCell,
    attempt,
    base_configuration,
    finished,
    plan,
    rehearse,
    run_or_resume,
    undescribed,
)
from latentmix.experiments.sweeps.seeds import as_json, rows_over_seeds, vary_by_seed
from latentmix.experiments.sweeps.tables import (
    Record,
    as_csv,
    as_markdown,
    as_text,
    counts_of,
    figures_of,
    group_of,
    reasons_of,
)
from latentmix.inference.workers import tied
from latentmix.models.arguments import check_n_jobs
from latentmix.models.files import inside, write_atomically
from latentmix.models.reading import one_sentence, read_json
from latentmix.models.words import plural

__all__ = ["sweep"]

Tell = Callable[[str], None]


def sweep(
    preset: str,
    words: Sequence[str],
    grid: Grid,
    out: Path,
    *,
    seeds: int | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    pictures: bool = False,
    trust: Sequence[str] = (),
    tell: Tell = print,
    run: RunCell | None = None,
) -> dict[str, Any]:
    """Run every cell of a grid and compare them.

    Every cell is built on its data before any is trained, and refused with a reason if that fails. Each of the
    others is a run folder `cells/ID`. `sweep.json` is updated after every cell; at the end, or after an
    interruption, `sweep.md` and `sweep.csv` are written, and at the end `sweep.png`, the figures of all cells, and
    `learning_curves.png`. Cells that differ by their seed alone are a row of the tables, of means with intervals over
    seeds. Repeating the sweep on the same folder runs only unfinished cells, and another grid over the same base adds
    its cells. The folder is locked before anything in it is read, so that one sweep at a time fills it.

    Args:
        preset: A preset, or a YAML file of options.
        words: Options of all cells, as words of the command line.
        grid: The values of every option that varies.
        out: The folder, new or that of a sweep of the same preset and options.
        seeds: Number of seeds of every cell, from the `--seed` of `words` on, in the place of a grid over `seed`.
        n_jobs: Cells at a time, -1 for as many as there are cores; with 1, cells run in this process.
        backend: joblib's back end: `loky`, `multiprocessing`, or `dask` or `ray` if installed.
        pictures: Whether every cell draws its figures and writes its report.
        trust: Modules that a file of options may import.
        tell: Called with a line on each finished cell.
        run: Runs one cell; by default `run_or_resume`.

    Returns:
        The contents of `sweep.json`: `cells` that are `done`, `refused` (with a `reason`), or `failed`, those of
        earlier grids in the folder among them; `asked` are the identifiers of the cells of this grid.

    Raises:
        ValueError: If an option, the back end or the preset is unknown, a value of the grid is none of its option, or
            the folder holds something else.
        KeyboardInterrupt: After finished cells are written; the message tells how to continue.

    Example:
        >>> from pathlib import Path
        >>> from latentmix.experiments.sweeps.sweep import sweep
        >>> sweep("digits", ["--epochs", "5"], {"latent_dim": ["2", "10"]}, Path("runs/sizes"))  # doctest: +SKIP
    """
    jobs = _jobs(n_jobs, backend)
    base = base_configuration(preset, words, trust)
    grid = grid if seeds is None else with_seeds(grid, seeds, base)
    check_names(grid, base)
    with claimed(out, "sweep.json", "a sweep") as lock:
        earlier = _earlier(out, base)
        tell(f"reading the options of {plural(prod(map(len, grid.values())), 'cell')}")
        records: dict[str, Record] = {record["id"]: record for record in earlier["cells"]}
        cells = plan(preset, words, grid, base, known=records, trust=trust)
        summaries = {cell.id: finished(cell, inside(out, f"cells/{cell.id}"), pictures) for cell in cells}
        unfinished = [cell for cell in cells if cell.status == "waiting" and summaries[cell.id] is None]
        rehearsed = {cell.id: cell for cell in rehearse(unfinished)}
        cells = [rehearsed.get(cell.id, cell) for cell in cells]
        records |= {cell.id: _record(cell, summaries[cell.id], records.get(cell.id)) for cell in cells}
        axes = {**earlier["grid"], **grid}
        results: dict[str, Any] = {
            "preset": base["name"],
            "options": list(words),
            "grid": {name: list(dict.fromkeys([*earlier["grid"].get(name, []), *axes[name]])) for name in axes},
            "base": base,
            "seeds": {"training": base["seed"], "data": base["data"]["seed"]},
            "asked": [cell.id for cell in cells],
            "versions": versions(),
            "n_jobs": jobs,
            "backend": backend,
            "threads": _threads(jobs, backend) or torch.get_num_threads(),
        }
        counts = counts_of([records[cell.id] for cell in cells])
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        tell(f"{plural(len(cells), 'cell')}: {told}")
        for count, reason, where in reasons_of([records[cell.id] for cell in cells], "refused"):
            tell(f"refused: {count} with {where}: {reason}" if where else f"refused: {count}: {reason}")
        for name in ("", "cells"):
            remove_unfinished(inside(out, name))
        _run_cells(out, results, records, cells, run or run_or_resume, pictures, tell, lock)
        _draw(out, results)
    tell(f"\n{as_text(results)}\n")
    return results


def _run_cells(
    out: Path,
    results: dict[str, Any],
    records: dict[str, Record],
    cells: Sequence[Cell],
    run: RunCell,
    pictures: bool,
    tell: Tell,
    lock: FolderLock,
) -> None:
    """Run the cells that wait, and write the tables after each."""
    jobs, backend = results["n_jobs"], results["backend"]
    waiting = [cell for cell in cells if records[cell.id]["status"] == "waiting"]
    try:
        _write(out, results, records)
        inside(out, "cells").mkdir(exist_ok=True)
        with joblib.parallel_config(backend=backend, n_jobs=jobs):
            work = joblib.Parallel(return_as="generator_unordered", batch_size=1)(
                joblib.delayed(tied(attempt))(cell, out / "cells" / cell.id, _threads(jobs, backend), pictures, run)
                for cell in waiting
            )
            with closing(work):
                for number, (cell, outcome) in enumerate(work, 1):
                    lock.check()
                    records[cell.id] = _record(cell, outcome.get("summary"), records[cell.id], outcome)
                    _write(out, results, records)
                    tell(f"[{number}/{len(waiting)}] {cell.id}: {_line(records[cell.id])}")
    except KeyboardInterrupt as interrupt:
        left = sum(records[cell.id]["status"] == "waiting" for cell in cells)
        finished = (
            f"{len(cells) - left} of {plural(len(cells), 'cell')} {'is' if len(cells) - left == 1 else 'are'} finished"
        )
        raise KeyboardInterrupt(f"; {finished}: the same command with --out {out} continues") from interrupt
    finally:
        lock.check()
        write_atomically(inside(out, "sweep.md"), as_markdown(results).encode())
        write_atomically(inside(out, "sweep.csv"), as_csv(results).encode())


def _record(
    cell: Cell,
    summary: Mapping[str, Any] | None,
    earlier: Record | None = None,
    outcome: Mapping[str, Any] | None = None,
) -> Record:
    """The entry of a cell in `sweep.json`: its outcome, that of an earlier sweep, or that it is waiting."""
    options = {**(earlier or {}).get("options", {}), **cell.options}
    if outcome is None and earlier is not None and earlier["status"] == "done" and summary is not None:
        return {**earlier, "options": options, "settings": cell.settings}
    record: Record = {
        "id": cell.id,
        "options": options,
        "settings": cell.settings,
        "status": cell.status,
        "reason": cell.reason,
        "group": "",
        "seconds": 0.0,
        "threads": None,
        "figures": {},
        "warnings": [],
    }
    record |= {name: value for name, value in (outcome or {}).items() if name != "summary"}
    if summary is None:
        return record
    figures = figures_of(summary)
    wrong = ", ".join(f"{name} {value}" for name, value in figures.items() if not isfinite(value))
    return record | {
        "status": "failed" if wrong else "done",
        "reason": f"Expected finite figures; got {wrong}." if wrong else "",
        "group": group_of(summary, options),
        "seconds": summary["seconds"]["total"],
        "threads": summary["threads"],
        "figures": {name: value for name, value in figures.items() if isfinite(value)},
    }


def _write(out: Path, results: dict[str, Any], records: Mapping[str, Record]) -> None:
    results["cells"] = list(records.values())
    rows = rows_over_seeds(results["cells"])
    results["over_seeds"] = as_json(rows) if vary_by_seed(rows) else []
    results["counts"] = counts_of(results["cells"])
    write_atomically(inside(out, "sweep.json"), json.dumps(results, indent=1).encode())


def _draw(out: Path, results: Mapping[str, Any]) -> None:
    """Draw the figures of all cells, and their learning curves."""
    from latentmix.experiments.sweeps.pictures import draw_curves, draw_overview

    draw_overview(out, results)
    draw_curves(out, results)


def _earlier(out: Path, base: Mapping[str, Any]) -> dict[str, Any]:
    """The results of an earlier sweep in the folder, which this process has locked.

    Raises:
        ValueError: If it varied another configuration, or its `sweep.json` is damaged.
    """
    if not inside(out, "sweep.json").is_file():
        return {"cells": [], "grid": {}}
    try:
        earlier: dict[str, Any] = _checked(read_json(inside(out, "sweep.json"), "the results of a sweep"))
        was, now, today = _flat(undescribed(earlier["base"])), _flat(undescribed(base)), renewed(earlier["base"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected a new folder or that of a sweep, with a sweep.json; got {out}: {one_sentence(error)}: name "
            "another folder by --out."
        ) from error
    if today != earlier["base"]:
        raise ValueError(
            f"Expected a new folder, or that of a sweep by this version; got {out}, whose options have the names of an "
            "earlier version: name another folder by --out."
        )
    other = sorted(name for name in was | now if was.get(name) != now.get(name))
    if other:
        raise ValueError(
            f"Expected the preset and options of the sweep in {out}; got another {', '.join(other[:5])}: name another "
            "folder by --out."
        )
    return earlier


def _checked(earlier: Any) -> dict[str, Any]:
    """The contents of a `sweep.json`.

    Raises:
        ValueError: If a part that tables and pictures need is missing or of another kind.
    """
    for name, kind in (("base", dict), ("grid", dict), ("cells", list)):
        if not isinstance(earlier, dict) or not isinstance(earlier.get(name), kind):
            raise ValueError(f"no {name} in its sweep.json")
    texts = ("id", "status", "reason", "group")
    for record in earlier["cells"]:
        right = (
            isinstance(record, dict)
            and all(isinstance(record.get(name), str) for name in texts)
            and all(isinstance(record.get(name), dict) for name in ("options", "figures"))
            and all(isinstance(value, str) for value in record["options"].values())
            and all(isinstance(value, int | float) for value in [record.get("seconds"), *record["figures"].values()])
        )
        if not right or (record["status"] == "done" and "elbo" not in record["figures"]):
            raise ValueError("a cell in its sweep.json that is none")
    if not all(isinstance(value, str) for values in earlier["grid"].values() for value in values):
        raise ValueError("a grid in its sweep.json that is none")
    return earlier


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _jobs(n_jobs: int, backend: str) -> int:
    """The number of cells that run at a time.

    Raises:
        ValueError: If the number is out of its range or the back end is unknown.
    """
    check_n_jobs(n_jobs, "--n-jobs")
    try:
        if backend == "ray":
            importlib.import_module("ray.util.joblib").register_ray()
        with joblib.parallel_config(backend=backend, n_jobs=n_jobs):
            joblib.Parallel(return_as="generator_unordered")
            jobs = joblib.effective_n_jobs(n_jobs)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"Expected a --backend that joblib has here, such as loky; got {backend!r}: {one_line(error)}"
        ) from error
    if backend == "threading" and jobs > 1:
        raise ValueError(
            "Expected a --backend of processes, such as loky; got 'threading': Pyro's handlers and the random states "
            "belong to the whole process."
        )
    return int(jobs)


def _threads(jobs: int, backend: str) -> int | None:
    """Threads of each worker process, to use all cores; `None` for workers that joblib does not start here."""
    own = jobs > 1 and backend in ("loky", "multiprocessing")
    return max(1, joblib.cpu_count() // jobs) if own else None


def _line(record: Record) -> str:
    if record["status"] != "done":
        return f"{record['status']}: {record['reason']}"
    figures = record["figures"]
    parts = [f"ELBO {figures['elbo']:.2f}", f"MSE {figures['mse']:.4f}"]
    parts += [f"accuracy {figures['accuracy_em_none']:.3f} (EM, no labels)"] if "accuracy_em_none" in figures else []
    return f"{', '.join(parts)}, {record['seconds']:.1f} s"
