"""Pictures of a comparison of runs, with their captions and alternative texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from matplotlib.figure import Figure

from latentmix.experiments import figures
from latentmix.experiments.comparison.labels import NATS, better_of, decimals_of
from latentmix.experiments.comparison.results import Confusion, Reliability, RunComparison
from latentmix.experiments.comparison.wording import (
    best_groups,
    difference_words,
    enumerated,
    measure_labels,
    picture_names,
    short_names,
    test_data_of,
    things_of,
    titled_figure,
    typeset_figure,
)
from latentmix.experiments.figures.tableau import Metric
from latentmix.experiments.options.names import FIT_NAMES, fit_name
from latentmix.models.words import plural

__all__ = ["ComparisonPicture", "comparison_pictures", "headline_figures", "paired_figures"]

HEADLINES = ("elbo", "iw_log_likelihood", "mse", "ssim")
ACCURACIES = ("em", "svi", "prior")
BUDGETS = ("few", "none", "all")
MOST = 12  # groups of matrices and of reliability diagrams
LIMITS = {"mse": (0.0, np.inf), "ssim": (-1.0, 1.0), "accuracy": (0.0, 1.0)}
WAYS = ("plug_in", "draws")


@final
@dataclass(frozen=True)
class ComparisonPicture:
    """A picture of a comparison.

    Attributes:
        stem: Name of its file without the ending.
        figure: The picture.
        name: Its heading.
        caption: A sentence or two below it.
        alternative: What it shows, for those who cannot see it.
    """

    stem: str
    figure: Figure
    name: str
    caption: str
    alternative: str


def headline_figures(comparison: RunComparison) -> list[str]:
    """The figures of a comparison that are drawn and open its table, by name.

    They are the ELBO, the importance-weighted log-likelihood, MSE, SSIM, and of the fits by EM and SVI and of a mixture
    prior the accuracy under one label budget, `few` if there is one: those that some group has.

    Args:
        comparison: The comparison.
    """
    known = {figure for group in comparison.groups for figure in group.figures}
    names = [name for name in HEADLINES if name in known]
    for fit in ACCURACIES:
        budgets = [f"accuracy_{fit}_{budget}" for budget in BUDGETS] + [f"accuracy_{fit}"]
        names += [name for name in budgets if name in known][:1]
    return names


def paired_figures(comparison: RunComparison) -> list[str]:
    """The figures whose paired differences are drawn and told: of accuracies those of `headline_figures` alone.

    Args:
        comparison: The comparison.
    """
    names = list(dict.fromkeys(pair.figure for pair in comparison.pairs))
    others = [name for name in names if not name.startswith("accuracy")]
    return others + [name for name in headline_figures(comparison) if name in names and name not in others]


def comparison_pictures(comparison: RunComparison) -> list[ComparisonPicture]:
    """Every picture of a comparison that its runs give: figures, paired differences, curves, classes and calibration.

    Args:
        comparison: The comparison.

    Returns:
        The pictures, in the order of the page. Matrices and reliability diagrams show twelve groups at most.

    Example:
        >>> from latentmix.experiments import compare_runs, comparison_pictures
        >>> comparison = compare_runs(["runs/digits", "runs/digits_mlp2"])  # doctest: +SKIP
        >>> {picture.stem: picture.figure for picture in comparison_pictures(comparison)}  # doctest: +SKIP
    """
    parts = (_means, _differences, _curves, _confusion, _reliability)
    return [picture for part in parts for picture in part(comparison)]


def _metric(comparison: RunComparison, figure: str) -> Metric:
    limits = next((ends for name, ends in LIMITS.items() if figure.startswith(name)), (-np.inf, np.inf))
    apart = figure in NATS or len(set(test_data_of(comparison).values())) > 1
    return Metric(titled_figure(figure), decimals_of(figure), better_of(figure), apart, limits)


def _several(comparison: RunComparison) -> bool:
    return any(len(group.runs) > 1 for group in comparison.groups)


def _measures(comparison: RunComparison) -> dict[str, str]:
    names, measures = picture_names(comparison), measure_labels(comparison)
    return {names[group.name]: measures[group.name] for group in comparison.groups}


def _means(comparison: RunComparison) -> Iterator[ComparisonPicture]:
    names = headline_figures(comparison)
    if not names:
        return
    runs = {run.name: run for run in comparison.runs}
    named = picture_names(comparison)
    values = {
        name: {
            named[group.name]: [runs[run].figures[name] for run in group.runs if name in runs[run].figures]
            for group in comparison.groups
        }
        for name in names
    }
    intervals = {
        name: {
            named[group.name]: (group.figures[name].low, group.figures[name].high)
            for group in comparison.groups
            if name in group.figures
        }
        for name in names
    }
    several = _several(comparison)
    lines = f"lines: {comparison.level:.0%} intervals of the mean over seeds" if several else ""
    figure = figures.group_means(
        values,
        intervals,
        metrics={name: _metric(comparison, name) for name in names},
        measures=_measures(comparison),
        heading=f"Figures of {plural(len(comparison.groups), 'configuration')} on test data",
        caption=lines,
    )
    over = "means over the runs of a group, with their intervals, and the single runs" if several else "one mark a run"
    best = [f"{titled_figure(name)}: {words}" for name in names if (words := _best(comparison, name))]
    yield ComparisonPicture(
        "means",
        figure,
        "Figures of the groups",
        f"Figures of the test data, {over}."
        + (" ELBOs and log-likelihoods compare within one measure only." if _mixed(comparison) else ""),
        f"Rows of marks for {plural(len(comparison.groups), 'group')}, a panel per figure. Best means: "
        f"{'; '.join(best)}."
        if best
        else f"Rows of marks for {plural(len(comparison.groups), 'group')}, a panel per figure.",
    )


def _mixed(comparison: RunComparison) -> bool:
    return len(set(_measures(comparison).values())) > 1


def _best(comparison: RunComparison, figure: str) -> str:
    """The groups with the best mean of a figure, one for each scale on which several are ranked."""
    short, best = short_names(comparison), best_groups(comparison, figure)
    words = [
        f"{short[group.name]} with {typeset_figure(figure, group.figures[figure].mean)}"
        for group in comparison.groups
        if group.name in best
    ]
    return enumerated(words) if words else ""


def _differences(comparison: RunComparison) -> Iterator[ComparisonPicture]:
    drawn = paired_figures(comparison)
    pairs = [pair for pair in comparison.pairs if pair.figure in drawn]
    if not pairs:
        return
    named, short = picture_names(comparison), short_names(comparison)
    table: dict[str, dict[str, tuple[float, float, float]]] = {name: {} for name in drawn}
    for pair in pairs:
        table[pair.figure][named[pair.group]] = (pair.interval.mean, pair.interval.low, pair.interval.high)
    tests: dict[str, dict[str, float]] = {}
    for row in comparison.mcnemar:
        name = f"accuracy_{row.fit}_{row.budget}" if row.budget else f"accuracy_{row.fit}"
        tests.setdefault(name, {})[named[row.group]] = row.test.p_value
    counts = sorted({pair.interval.n_data for pair in pairs})
    things = things_of(comparison)[1]
    same = f"the same {counts[0]:,} test {things}" if len(counts) == 1 else f"the same test {things}"
    figure = figures.paired_differences(
        table,
        named[comparison.reference],
        p_values=tests,
        metrics={name: _metric(comparison, name) for name in drawn},
        groups=list(named.values()),
        caption=f"lines: {comparison.level:.0%} intervals of the difference on {same}",
    )
    parts = [
        f"{short[pair.group]}, {titled_figure(pair.figure)}: {difference_words(pair.figure, pair.interval)[0]}"
        for pair in pairs
    ]
    told = (
        parts
        if len(parts) <= MOST
        else [part for part, pair in zip(parts, pairs, strict=True) if pair.figure == drawn[0]]
    )
    yield ComparisonPicture(
        "differences",
        figure,
        "Paired differences",
        f"Differences from {short[comparison.reference]} on {same}, group minus reference; an interval that leaves "
        "out the line at 0 tells the two apart.",
        f"Rows of marks with intervals about a line at 0, a panel per figure. {'; '.join(told)}.",
    )


def _curves(comparison: RunComparison) -> Iterator[ComparisonPicture]:
    by_run = {curve.run: curve for curve in comparison.curves if len(curve.epochs)}
    named, short = picture_names(comparison), short_names(comparison)
    curves = {
        named[group.name]: {
            split: [_by_epoch(by_run[run], split) for run in group.runs if run in by_run]
            for split in ("training", "validation")
        }
        for group in comparison.groups
    }
    held = {
        group: splits
        for group, splits in zip(short.values(), curves.values(), strict=True)
        if any(np.isfinite(values).any() for runs in splits.values() for values in runs)
    }
    if not held:
        return
    thing = things_of(comparison)[0]
    figure = figures.learning_curves(
        curves, measures=_measures(comparison) if _mixed(comparison) else None, thing=thing
    )
    ends = [f"{group} {words}" for group, splits in held.items() if (words := _end(splits["validation"]))]
    yield ComparisonPicture(
        "learning_curves",
        figure,
        "Learning curves",
        f"Negative ELBO (β = 1) after each epoch, in nats per {thing}: of training data as means over the "
        "epoch's minibatches, and of validation data.",
        f"Falling curves of {plural(len(held), 'group')} on training and validation data."
        + (f" At the end, on validation data: {'; '.join(ends)} nats." if ends else ""),
    )


def _by_epoch(curve: Any, split: str) -> Any:
    """Losses by epoch from 1, NaN where there is none."""
    values = np.full(int(curve.epochs.max()), np.nan)
    values[curve.epochs - 1] = getattr(curve, split)
    return values


def _end(runs: Sequence[Any]) -> str:
    ends = [values[np.isfinite(values)][-1] for values in runs if np.isfinite(values).any()]
    return f"{np.mean(ends):,.2f}".replace("-", "−") if ends else ""


def _chosen(results: Sequence[Confusion] | Sequence[Reliability]) -> tuple[str, str] | None:
    """The fit and label budget that most runs have, EM's with few labels first."""
    counts: dict[tuple[str, str], int] = {}
    for row in results:
        counts[row.fit, row.budget] = counts.get((row.fit, row.budget), 0) + 1
    fits = list(FIT_NAMES)

    def place(key: tuple[str, str]) -> tuple[int, int, int]:
        fit, budget = key
        at = BUDGETS.index(budget) if budget in BUDGETS else len(BUDGETS)
        return -counts[key], fits.index(fit) if fit in fits else len(fits), at

    return min(counts, key=place, default=None)


def _fit_words(fit: str, budget: str) -> str:
    return ", ".join([fit_name(fit), *([f"labels: {budget}"] if budget else [])])


def _shown(groups: Sequence[str]) -> str:
    return f" Of {len(groups)} groups, the first {MOST}." if len(groups) > MOST else ""


def _confusion(comparison: RunComparison) -> Iterator[ComparisonPicture]:
    chosen = _chosen(comparison.confusions)
    if chosen is None:
        return
    by_run = {row.run: row for row in comparison.confusions if (row.fit, row.budget) == chosen}
    classes = next(iter(by_run.values())).classes
    named, short, matrices, others = picture_names(comparison), short_names(comparison), {}, []
    for group in comparison.groups:
        rows = [by_run[run] for run in group.runs if run in by_run]
        if rows and all(row.classes == classes for row in rows):
            matrices[group.name] = np.sum([row.counts for row in rows], axis=0)
        elif rows:
            others.append(short[group.name])
    drawn = dict(list(matrices.items())[:MOST])
    things = things_of(comparison)[1]
    figure = figures.confusion_matrices(
        {named[name]: counts for name, counts in drawn.items()},
        range(len(classes)),
        names=classes,
        heading=f"Confusion matrices: {_fit_words(*chosen)}",
        abreast=_abreast(len(drawn)),
    )
    shares = [f"{short[name]} {np.trace(counts) / max(counts.sum(), 1):.1%}" for name, counts in drawn.items()]
    summed = " Counts are summed over the runs of a group." if _several(comparison) else ""
    other = f" Left out, as their classes are others: {enumerated(others)}." if others else ""
    first = " With few labels, of the first draw of these." if chosen[1] == "few" else ""
    yield ComparisonPicture(
        "confusion",
        figure,
        "Confusion matrices",
        f"Test {things} by their true class in rows and by the class of their component in columns, "
        f"{_fit_words(*chosen)}: {'counts as numbers, ' if figure.axes[0].texts else ''}shares of the true class as "
        f"shades.{summed}{first}"
        f"{_shown(list(matrices))}{other}",
        f"Confusion matrices of {plural(len(drawn), 'group')} side by side. On the diagonal: {'; '.join(shares)}.",
    )


def _abreast(count: int) -> int:
    return 2 if count in (2, 4) else 3


def _reliability(comparison: RunComparison) -> Iterator[ComparisonPicture]:
    rows = [row for row in comparison.reliabilities if row.way in WAYS]
    chosen = _chosen(rows)
    if chosen is None:
        return
    by_run: dict[str, dict[str, Reliability]] = {}
    for row in rows:
        if (row.fit, row.budget) == chosen:
            by_run.setdefault(row.run, {})[row.way] = row
    pooled = {}
    for group in comparison.groups:
        members = [by_run[run] for run in group.runs if len(by_run.get(run, {})) == len(WAYS)]
        if members and len({len(ways[way].count) for ways in members for way in WAYS}) == 1:
            pooled[group.name] = {way: _pooled([ways[way] for ways in members]) for way in WAYS}
    if not pooled:
        return
    drawn = dict(list(pooled.items())[:MOST])
    named, short = picture_names(comparison), short_names(comparison)
    thing, things = things_of(comparison)
    figure = figures.reliability(
        {named[name]: ways for name, ways in drawn.items()},
        heading=f"Accuracy by confidence: {_fit_words(*chosen)}",
        thing=thing,
        abreast=_abreast(len(drawn)),
    )
    errors = [
        f"{short[name]} {ways['plug_in']['ece']:.3f} and {ways['draws']['ece']:.3f}" for name, ways in drawn.items()
    ]
    joined = " Bins are those of all runs of a group together." if _several(comparison) else ""
    yield ComparisonPicture(
        "reliability",
        figure,
        "Calibration",
        f"Accuracy of the test {things} by their confidence, {_fit_words(*chosen)}, at the mean of q (plug-in) and "
        f"averaged over draws of q.{joined}{_shown(list(pooled))}",
        f"Reliability diagrams of {plural(len(drawn), 'group')} side by side. Expected calibration error, plug-in and "
        f"averaged over draws: {'; '.join(errors)}.",
    )


def _pooled(rows: Sequence[Reliability]) -> Mapping[str, Any]:
    """The bins of several runs together, and their expected calibration error."""
    count = np.sum([row.count for row in rows], axis=0)
    held = np.maximum(count, 1)
    confidence, accuracy = (
        np.sum([row.count * getattr(row, part) for row in rows], axis=0) / held for part in ("confidence", "accuracy")
    )
    ece = rows[0].ece if len(rows) == 1 else float(count @ np.abs(accuracy - confidence) / max(count.sum(), 1))
    return {"ece": ece, "bins": {"count": count, "confidence": confidence, "accuracy": accuracy}}
