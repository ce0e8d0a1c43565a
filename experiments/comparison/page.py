"""The page of a comparison of runs: `compare.html` in one self-contained file, and its pictures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentmix.experiments.comparison.labels import better_of, label_of
from latentmix.experiments.comparison.pictures import comparison_pictures, headline_figures, paired_figures
from latentmix.experiments.comparison.results import Difference, LooRow, RunComparison, RunGroup
from latentmix.experiments.comparison.wording import (
    best_groups,
    chance_words,
    compact_names,
    difference_words,
    enumerated,
    loo_sentence,
    mcnemar_sentence,
    measure_labels,
    p_words,
    pair_sentence,
    short_names,
    things_of,
    titled_figure,
    typeset_figure,
    with_names,
)
from latentmix.experiments.figures.style import save
from latentmix.experiments.options.names import fit_name
from latentmix.experiments.runs.page import load_picture, typeset, write_page
from latentmix.inference.intervals import MeanInterval
from latentmix.models.files import inside
from latentmix.models.words import plural

__all__ = ["write_comparison"]

SENTENCES = 16  # most paired differences that are told in words
LOO = "LOO "  # begins refusals of leave-one-out cross-validation
ACROSS = 4  # most groups that are columns of a table


def write_comparison(comparison: RunComparison, out: str | Path, *, command: Sequence[str] = ()) -> list[Path]:
    """Write the pictures of a comparison, and its page.

    The page contains its pictures and its style, runs no script and refers to nothing outside itself; sections without
    data are omitted.

    Args:
        comparison: The comparison.
        out: The folder, made if it is not there; pictures go into `figures` within it.
        command: The words of the command that made the comparison; by default those that would.

    Returns:
        The paths of the pictures, and last that of `compare.html`.

    Raises:
        ValueError: If a file or folder among them is a link.

    Example:
        >>> from latentmix.experiments import compare_runs, write_comparison
        >>> comparison = compare_runs(["runs/digits", "runs/digits_mlp2"])  # doctest: +SKIP
        >>> write_comparison(comparison, "comparison")[-1]  # doctest: +SKIP
        PosixPath('comparison/compare.html')
    """
    folder = Path(out)
    folder.mkdir(exist_ok=True)
    shown, paths = {}, []
    for picture in comparison_pictures(comparison):
        path = save(picture.figure, inside(folder, f"figures/{picture.stem}.png"))
        shown[picture.stem] = load_picture(path, picture.name, picture.caption, picture.alternative)
        paths.append(path)
    values = _values(comparison, command or _command(comparison))
    return [*paths, write_page(inside(folder, "compare.html"), "compare.html", {**values, "pictures": shown})]


def _values(comparison: RunComparison, command: Sequence[str]) -> dict[str, Any]:
    """The variables of the template."""
    names = headline_figures(comparison)
    return {
        "name": _name(comparison),
        "groups": len(comparison.groups),
        "runs": len(comparison.runs),
        "level": f"{comparison.level:.0%}",
        "several": any(len(group.runs) > 1 for group in comparison.groups),
        "reference": short_names(comparison)[comparison.reference],
        "names": _explained(comparison),
        "few": len(comparison.groups) <= ACROSS,
        "most": SENTENCES,
        "thing": things_of(comparison)[0],
        "things": things_of(comparison)[1],
        "differing": _differing(comparison),
        "same_seed": _seeds(comparison),
        "options": _options(comparison),
        "members": [_member(comparison, group) for group in comparison.groups],
        "measures": list(dict.fromkeys(measure_labels(comparison).values())),
        "headings": [titled_figure(name) for name in names],
        "rows": _rows(comparison, names),
        "all_figures": _all_figures(comparison),
        "pairs": _pairs(comparison, paired_figures(comparison)),
        "all_pairs": _pairs(comparison, list(dict.fromkeys(pair.figure for pair in comparison.pairs))),
        "sentences": _sentences(comparison),
        "tests": _tests(comparison),
        "two_seeds": any(pair.interval.over_seeds and 2 in pair.interval.n_seeds for pair in comparison.pairs),
        "chance": chance_words(comparison),
        "few_labels": any(name.endswith("_few") for name in paired_figures(comparison)),
        "over_seeds": [pair.interval.over_seeds for pair in comparison.pairs],
        "loo": _loo(comparison.loo),
        "apart": [each for each in comparison.refusals if each.startswith(LOO)],
        "refusals": [
            with_names(each, short_names(comparison)) for each in comparison.refusals if not each.startswith(LOO)
        ],
        "command": shlex.join(map(str, command)),
        "versions": comparison.versions,
        "other_versions": _other_versions(comparison),
    }


def _name(comparison: RunComparison) -> str:
    runs, groups = len(comparison.runs), len(comparison.groups)
    if runs == groups:
        return f"{plural(runs, 'run')} side by side"
    return f"{plural(runs, 'run')} of {'one configuration' if groups == 1 else f'{groups} configurations'} side by side"


def _command(comparison: RunComparison) -> list[str]:
    """The command that compares the runs, less those that are in no folder."""
    first = next(group for group in comparison.groups if group.name == comparison.reference).runs[0]
    words = [str(run.path) for run in comparison.runs if run.path is not None]
    return ["latentmix", "compare", *words, *([] if comparison.runs[0].name == first else ["--reference", first])]


def _varying(comparison: RunComparison) -> list[Difference]:
    """Options in which groups differ, in the order of the configuration."""
    firsts = [group.runs[0] for group in comparison.groups]
    named = {option for group in comparison.groups for option in group.options}
    return [
        difference
        for difference in comparison.differences
        if difference.option in named and len({difference.values[run] for run in firsts}) > 1
    ]


def _explained(comparison: RunComparison) -> dict[str, str]:
    """Names of the groups by their letters; empty where names stand themselves."""
    compact = compact_names(comparison)
    return {short: "" if short == compact[name] else compact[name] for name, short in short_names(comparison).items()}


def _differing(comparison: RunComparison) -> str:
    """A sentence that names the options that differ."""
    if len(comparison.groups) == 1:
        return "The runs are alike in everything but their seed."
    options = [difference.option for difference in _varying(comparison)]
    if not options:
        return "Their configurations do not differ in an option that changes a figure."
    return f"The configurations differ in {enumerated(options)}."


def _seeds(comparison: RunComparison) -> str:
    """A sentence on the seeds of the runs of a group; empty of a single group."""
    if len(comparison.groups) == 1:
        return ""
    if all(len(group.runs) == 1 for group in comparison.groups):
        return "Each is a single run: what other seeds would give is not known."
    return "Runs of a group differ in their seed alone."


def _options(comparison: RunComparison) -> dict[str, Any]:
    """Options by group: groups are columns if they are few, else rows."""
    short = short_names(comparison)
    firsts = {short[group.name]: group.runs[0] for group in comparison.groups}
    presets = {run.name: run.preset for run in comparison.runs}
    columns = [("preset", presets), *((each.option, each.values) for each in _varying(comparison))]
    columns = [(name, values) for name, values in columns if len({values[run] for run in firsts.values()}) > 1]
    if not columns:
        return {}
    if len(firsts) <= ACROSS:
        rows = [(name, [values[run] for run in firsts.values()]) for name, values in columns]
        return {"corner": "option", "head": list(firsts), "rows": rows}
    rows = [(group, [values[run] for _, values in columns]) for group, run in firsts.items()]
    return {"corner": "group", "head": [name for name, _ in columns], "rows": rows}


def _member(comparison: RunComparison, group: RunGroup) -> dict[str, Any]:
    """A group with its runs: their seeds and folders."""
    runs = [run for run in comparison.runs if run.group == group.name]
    return {
        "name": short_names(comparison)[group.name],
        "runs": [(run.name, run.seed, run.data_seed, _folder(run.path)) for run in runs],
    }


def _folder(path: Path | None) -> str:
    """The folder of a run; a path that the user did not type is shortened to its last part."""
    if path is None:
        return "in memory"
    return path.name if path.is_absolute() else str(path)


def _cell(figure: str, interval: MeanInterval | None) -> tuple[str, str]:
    """A mean and the ends of its interval."""
    if interval is None:
        return "−", ""
    ends = [typeset_figure(figure, end) for end in (interval.low, interval.high)]
    return typeset_figure(figure, interval.mean), f"{ends[0]} to {ends[1]}" if interval.bounded else ""


def _rows(comparison: RunComparison, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Figures by measure and group, with marks on the best means."""
    best = {name: best_groups(comparison, name) for name in names}
    tables: dict[str, list[dict[str, Any]]] = {}
    labels, short = measure_labels(comparison), short_names(comparison)
    for group in comparison.groups:
        cells = [(*_cell(name, group.figures.get(name)), group.name in best[name]) for name in names]
        row = {"group": short[group.name], "n": len(group.runs), "cells": cells}
        tables.setdefault(labels[group.name], []).append(row)
    return tables


def _all_figures(comparison: RunComparison) -> list[tuple[str, list[tuple[str, str]]]]:
    """Every figure in a row, a column per group."""
    return [
        (titled_figure(name), [_cell(name, group.figures.get(name)) for group in comparison.groups])
        for name in comparison.figures
    ]


def _pairs(comparison: RunComparison, names: Sequence[str]) -> dict[str, Any]:
    """Paired differences in a table: a row per group, a column per figure."""
    if not names:
        return {}
    units = {
        name: difference_words(name, pair.interval)[2].strip() for pair in comparison.pairs for name in [pair.figure]
    }
    rows = []
    for group in dict.fromkeys(pair.group for pair in comparison.pairs):
        cells = []
        for name in names:
            pair = comparison.pair(group, name)
            if pair is None:
                cells.append(("−", "", False))
                continue
            difference, ends, _ = difference_words(name, pair.interval)
            cells.append(
                (
                    difference,
                    f"{ends}; {p_words(pair.interval.p_value)}",
                    not pair.interval.low <= 0 <= pair.interval.high,
                )
            )
        rows.append((short_names(comparison)[group], cells))
    heads = [
        (label_of(name), units[name], {1: "higher is better", -1: "lower is better"}.get(better_of(name), ""))
        for name in names
    ]
    return {"head": heads, "rows": rows}


def _sentences(comparison: RunComparison) -> list[str]:
    """Paired differences in words: those that are drawn if they are few, else the first of each group."""
    drawn = paired_figures(comparison)
    pairs = [pair for pair in comparison.pairs if pair.figure in drawn]
    if len(pairs) > SENTENCES:
        pairs = [pair for k, pair in enumerate(pairs) if pair.group not in {other.group for other in pairs[:k]}]
    return [pair_sentence(pair, f"test {things_of(comparison)[1]}", short_names(comparison)) for pair in pairs]


def _tests(comparison: RunComparison) -> list[str]:
    """McNemar's tests of the accuracies that are drawn, in words."""
    drawn = paired_figures(comparison)
    return [
        mcnemar_sentence(row, f"test {things_of(comparison)[1]}", short_names(comparison))
        for row in comparison.mcnemar
        if "_".join(part for part in ("accuracy", row.fit, row.budget) if part) in drawn
    ]


def _loo(rows: Sequence[LooRow]) -> list[dict[str, Any]]:
    """A table for each fit over the same latents, the best first, with a sentence on it."""
    tables: dict[tuple[str, str], list[LooRow]] = {}
    for row in rows:
        tables.setdefault((row.latents, row.fit), []).append(row)
    return [
        {
            "sentence": loo_sentence(alike) if len(alike) > 1 else "",
            "rows": [
                [
                    f"{row.run}, {fit_name(row.fit)}",
                    f"{typeset(row.elpd, 1)} ± {typeset(row.se, 1)}",
                    "−" if row.rank == 0 else f"{typeset(row.difference, 1)} ± {typeset(row.difference_se, 1)}",
                    typeset(row.p, 1),
                    typeset(row.weight, 2),
                    f"{row.high_k:,} of {row.n:,}",
                ]
                for row in sorted(alike, key=lambda row: row.rank)
            ],
        }
        for alike in tables.values()
    ]


def _other_versions(comparison: RunComparison) -> list[str]:
    """Packages of which runs were made with other versions than one another, or than those of the comparison."""
    sentences = []
    for package in dict.fromkeys(name for run in comparison.runs for name in run.versions):
        made = {run.versions[package] for run in comparison.runs if package in run.versions}
        if made != {comparison.versions.get(package)}:
            sentences.append(f"{package} {enumerated(sorted(made))}")
    return sentences
