"""Reports of a run: `report.html` in one self-contained file, and tables for the terminal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from latentmix.experiments.options.names import FIT_NAMES, fit_name
from latentmix.experiments.presets import presets
from latentmix.experiments.reading.options import read_options
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.captions import calibration_notes, class_names, things
from latentmix.experiments.runs.estimates_table import (
    BY_CONSTRUCTION,
    accuracy_sentences,
    estimates_rows,
    estimates_text,
    posterior_notes,
)
from latentmix.experiments.runs.page import number, typeset, write_page
from latentmix.experiments.runs.page_contents import run_pictures
from latentmix.experiments.runs.page_map import map_scripts, map_section
from latentmix.experiments.runs.page_walk import walk_scripts, walk_section
from latentmix.experiments.runs.provenance import describe
from latentmix.inference.tables import aligned
from latentmix.models.files import inside
from latentmix.models.reading import read_text
from latentmix.models.words import plural

__all__ = ["closing_words", "headline", "summary_table", "write_report"]

Row = tuple[str, str, dict[str, Any]]

BUDGET_WORDS = {
    "none": "no label: k-means from k-means++ seeds, components matched to classes one to one",
    "few": "a few labelled {things} per class initialize the fit: means over draws of them",
    "all": "all labels: the fit without labels, each component standing for its majority class",
}
MOST_ESTIMATES = 12  # of the table that is open
COLUMNS = ("accuracy", "precision", "recall", "f1")


def summary_table(summary: Mapping[str, Any]) -> str:
    """The figures of the mixtures as aligned text, one line per label budget and fit.

    Args:
        summary: The contents of `summary.json`; missing figures are shown as a dash.
    """
    head = [
        "labels",
        "fit",
        "mean log p(z)",
        "iterations",
        "seconds",
        "accuracy",
        "precision",
        "recall",
        "F1",
    ]
    lines = [
        [
            budget,
            fit,
            number(row.get("log_likelihood"), 4),
            number(row.get("iterations"), 0) + ("" if row.get("converged", True) else "*"),
            number(row.get("seconds"), 2),
            *(number(row.get(name), 3) for name in COLUMNS),
        ]
        for budget, fit, row in _rows(summary)
    ]
    note = ["* not converged"] if any(line[3].endswith("*") for line in lines) else []
    return "\n".join([aligned(head, lines, left=2), *note])


def headline(figures: Mapping[str, Any]) -> str:
    """The figures of an autoencoder on one split, in a line.

    Args:
        figures: The figures of `measure_vae`.
    """
    parts = [f"MSE {figures['mse']:.4f}"]
    if "ssim" in figures:
        parts.append(f"SSIM {figures['ssim']:.4f}")
    parts.append(f"ELBO {figures['elbo']:.2f} nats")
    if "iw_log_likelihood" in figures:
        parts.append(f"log p(x) {figures['iw_log_likelihood']:.2f} nats by importance weighting")
    if "bits_per_dimension" in figures:
        parts.append(f"{figures['bits_per_dimension']:.3f} bits per dimension")
    return ", ".join(parts)


def closing_words(summary: Mapping[str, Any]) -> str:
    """The figures that end a run on the terminal: the table of the mixtures, the estimates of posteriors,
    then lines on the test data.

    Args:
        summary: The contents of `summary.json`.
    """
    estimates = estimates_text(summary)
    lines = [
        f"{summary_table(summary)}\n",
        *([f"{estimates}\n"] if estimates else []),
        f"test: {headline(summary['test'])}; {plural(summary['parameters'], 'parameter')}, trained in "
        f"{summary['seconds']['train']:.1f} s",
    ]
    if "coverage" in summary:
        coverage = summary["coverage"]
        lines.append(
            f"samples: {coverage['covered']} of {plural(coverage['components'], 'component')} covered, "
            f"{100 * coverage['outside']:.1f}% in none; energy distance {coverage['energy']['statistic']:.4f}, p = "
            f"{coverage['energy']['p_value']:.3f}"
        )
    return "\n".join(lines)


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder from the files there.

    The page contains its pictures, its style, its decoder and its map of the latents with the scripts that run them,
    runs no other script and refers to nothing outside itself; sections without data are omitted. Links in the
    folder are not followed.

    Args:
        folder: The folder, with `summary.json`, and optionally `config.yaml`, `metrics.jsonl`, the weights in
            `checkpoints/`, pictures in `figures/*.png`, `figures/walk.json` and `figures/map.json`.

    Returns:
        The path of the page.

    Raises:
        ValueError: If there is no `summary.json`, it holds something else than the figures of a run, or a file or
            folder among them is a link.
    """
    run = RunFolder(folder)
    summary, history = run.read_summary(complete=False), run.read_metrics()
    try:
        return write_page(inside(folder, "report.html"), "report.html", _values(folder, summary, history))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected the figures of a run in {folder / 'summary.json'}; got others, which make no report: {error}."
        ) from error


def _values(folder: Path, summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The variables of the template."""
    rows = _rows(summary)
    kind, config, walk = things(summary), inside(folder, "config.yaml"), walk_section(folder, summary)
    latent_map, description = map_section(folder, summary), _description(config, summary)
    walk_code = walk_scripts() if walk and not walk["reason"] else []
    map_code = map_scripts() if latent_map and not latent_map["reason"] else []
    return {
        "summary": summary,
        "name": summary.get("preset") or folder.name,
        "description": description,
        "origin": _origin(folder, summary),
        "model": summary.get("model") or {},
        "things": kind,
        "thing": kind[:-1],
        "classes": class_names(summary),
        "splits": _splits(summary),
        "headlines": _headlines(summary),
        "history": history,
        "skipped": sum(record.get("skipped", 0) for record in history),
        "rows": rows,
        "classified": any("accuracy" in row for _, _, row in rows),
        "budgets": {budget: BUDGET_WORDS.get(budget, budget).format(things=kind) for budget, _, _ in rows},
        "per_class": _per_class(rows),
        "calibration": _calibration(rows),
        "n_draws": next((row["calibration"]["n_draws"] for _, _, row in rows if "calibration" in row), 0),
        "calibration_notes": calibration_notes(summary),
        "agreement": _agreement(summary),
        "estimates": _estimates(summary),
        "posterior_notes": posterior_notes(summary),
        "pictures": run_pictures(folder, summary, history),
        "walk": walk,
        "latent_map": latent_map,
        "walk_scripts": walk_code,
        "map_scripts": map_code,
        "scripts": [*walk_code, *map_code],
        "config": _listing(config, description),
    }


def _description(config: Path, summary: Mapping[str, Any]) -> str:
    """The description of a run; empty if it is a preset's and no configuration tells whether it holds."""
    description = str(summary.get("description") or "")
    if description not in presets().values():
        return description
    try:
        return describe(description, read_options(config))
    except (ValueError, OSError):
        return ""


def _listing(config: Path, description: str) -> str:
    """The configuration as it is written, without a description that does not hold of the run as it stands."""
    text = read_text(config, "a configuration") if config.exists() else ""
    entry = re.search(r"^description:.*\n?(?:[ \t].*\n?)*", text, re.MULTILINE)
    if entry is None or " ".join(description.split()) in " ".join(entry[0].split()):
        return text
    return text[: entry.start()] + text[entry.end() :]


def _origin(folder: Path, summary: Mapping[str, Any]) -> dict[str, str]:
    """Date, command and folder of a run; a path that the user did not type is shortened to its last part."""
    origin: dict[str, str] = {}
    with suppress(KeyError, TypeError, ValueError):
        origin["finished"] = f"{datetime.fromisoformat(summary['date']):%Y-%m-%d, %H:%M (%Z)}".replace(" ()", "")
    command = summary.get("command")
    if isinstance(command, list) and command:
        origin["command"] = shlex.join(map(str, command))
    origin["folder"] = folder.resolve().name if folder.is_absolute() else str(folder)
    return origin


def _rows(summary: Mapping[str, Any]) -> list[Row]:
    """Label budget, fit and figures of each fitted mixture, by budget and then by fit."""
    mixtures: dict[str, Mapping[str, dict[str, Any]]] = dict(summary.get("mixtures") or {})
    if "prior" in summary:
        mixtures["prior"] = {"all": summary["prior"]}
    budgets = [*BUDGET_WORDS, *sorted({budget for fits in mixtures.values() for budget in fits} - set(BUDGET_WORDS))]
    return [
        (budget, fit_name(fit), mixtures[fit][budget])
        for budget in budgets
        for fit in [*FIT_NAMES, *sorted(set(mixtures) - set(FIT_NAMES))]
        if budget in mixtures.get(fit, {})
    ]


def _headlines(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and unit of the figures at the top of the page."""
    test: Mapping[str, Any] = summary.get("test") or {}
    coverage, kind = summary.get("coverage"), things(summary)
    wanted = [
        ("Test ELBO", typeset(test.get("elbo"), 2), f"nats per {kind[:-1]}"),
        ("Test log p(x)", typeset(test.get("iw_log_likelihood"), 2), "nats, importance-weighted"),
        ("Test MSE", typeset(test.get("mse"), 4), "per pixel" if kind == "images" else "per value"),
        ("Test SSIM", typeset(test.get("ssim"), 3), "1 at best"),
    ]
    if coverage:
        wanted.append(("Components covered", str(coverage["covered"]), f"of {coverage['components']}"))
    rows = _rows(summary)
    budget = "few" if any(row[0] == "few" for row in rows) else "none"
    wanted += [
        (f"Accuracy, {fit}", typeset(row.get("accuracy"), 3), {"few": "few labels"}.get(budget, "no label"))
        for name, fit, row in rows
        if name == budget
    ]
    wanted += [
        ("Parameters", typeset(summary.get("parameters"), 0), "of the VAE"),
        ("Training", typeset((summary.get("seconds") or {}).get("train"), 1), "seconds"),
    ]
    return [headline for headline in wanted if headline[1] != "−"]


SPLIT_COLUMNS = {
    "ELBO": ("elbo", 2),
    "log p(x), importance-weighted": ("iw_log_likelihood", 2),
    "distortion": ("log_likelihood", 2),
    "rate": ("kl", 2),
    "bits per dimension": ("bits_per_dimension", 3),
    "active units": ("active_units", 0),
    "MSE": ("mse", 4),
    "SSIM": ("ssim", 4),
}


def _splits(summary: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """The figures of the autoencoder by split, without empty columns."""
    measured = {split: summary[split] for split in ("validation", "test") if summary.get(split)}
    columns = {
        title: place
        for title, place in SPLIT_COLUMNS.items()
        if any(number(figures.get(place[0]), 1) != "-" for figures in measured.values())
    }
    return [
        (
            split,
            {
                title: typeset(-figures[name] if title == "distortion" else figures.get(name), digits)
                for title, (name, digits) in columns.items()
            },
        )
        for split, figures in measured.items()
    ]


def _per_class(
    rows: Sequence[tuple[str, str, dict[str, Any]]],
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Figures by budget, class (its name, or label in runs of earlier versions) and fit."""
    tables: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for budget, fit, row in rows:
        for label, figures in (row.get("per_class") or {}).items():
            tables.setdefault(budget, {}).setdefault(label, {})[fit] = figures
    return tables


def _calibration(rows: Sequence[Row]) -> dict[str, list[tuple[str, list[str]]]]:
    """Accuracy, ECE and NLL of each fit, each plug-in, averaged over draws and under noise, by budget."""
    tables: dict[str, list[tuple[str, list[str]]]] = {}
    for budget, fit, row in rows:
        if "calibration" in row:
            ways = [row["calibration"].get(way, {}) for way in ("plug_in", "draws", "noise")]
            cells = [typeset(way.get(name), 3) for name in ("accuracy", "ece", "nll") for way in ways]
            tables.setdefault(budget, []).append((fit, cells))
    return tables


def _estimates(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Estimates side by side, those in which posteriors differ most from EM first; empty without any."""
    fits, differing, total = estimates_rows(summary, MOST_ESTIMATES, typeset)
    if not differing:
        return {}
    whole = estimates_rows(summary, None, typeset)[1] if total > len(differing) else []
    figures = summary["estimates"]
    note = f"EM: {figures['note']}." if figures.get("note") else ""
    return {
        "fits": fits,
        "differing": differing,
        "all": whole,
        "total": total,
        "sentence": figures["sentence"],
        "accuracies": accuracy_sentences(summary),
        "by_construction": BY_CONSTRUCTION,
        "errors": "sd" in figures["fits"].get("em", {}),
        "note": note,
    }


def _agreement(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Distances of weights, means and covariances, and the fraction of equal assignments, by budget."""
    tables = {}
    for budget, figures in (summary.get("agreement") or {}).items():
        distances = [typeset(figures.get(name), 4) for name in ("weights", "means", "covariances")]
        alike = figures.get("assigned_alike")
        tables[budget] = [*distances, "−" if alike is None else f"{typeset(100 * alike, 1)}%"]
    return tables
