"""A comparison of runs as text of a hundred columns, and in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

from latentmix.experiments.comparison.labels import decimals_of, label_of
from latentmix.experiments.comparison.results import Pair, RunComparison, RunGroup
from latentmix.experiments.comparison.wording import chance_words, difference_words, letters, test_data_of, with_names
from latentmix.experiments.options.names import fit_name
from latentmix.inference.intervals import MeanInterval
from latentmix.inference.tables import aligned
from latentmix.models.words import plural

__all__ = ["as_markdown", "as_text"]

WIDTH = 100
DIRECTIONS = (
    "Higher is better for the ELBO, log p(x), SSIM and accuracies; lower for bits/dim, MSE and ECE (calibration error)."
)
SHOWN = ("elbo", "iw_log_likelihood", "bits_per_dimension", "kl", "mse", "ssim", "active_units")
LAST = ("parameters", "seconds")


def as_text(comparison: RunComparison) -> str:
    """The groups, the options in which they differ, figures with intervals, paired differences, and what is left out.

    F1, log losses and accuracies of each run stand in `compare.csv` and `compare.json`.
    """
    short = letters(comparison)
    blocks = [_groups(comparison, short), _differences(comparison, short), _figures(comparison, short)]
    blocks += [_pairs(comparison, short), _mcnemar(comparison, short), _loo(comparison)]
    if comparison.refusals:
        lines = [_wrapped(with_names(sentence, short), "  - ") for sentence in comparison.refusals]
        blocks.append("\n".join(["Not compared:", *lines]))
    return "\n\n".join(block for block in blocks if block)


def as_markdown(comparison: RunComparison) -> str:
    """The means of the table of groups, with intervals, in Markdown."""
    names = _shown(comparison)
    head = ["figure", *(group.name for group in comparison.groups)]
    rows = [[label_of(name), *(_cell(group.figures.get(name), name) for group in comparison.groups)] for name in names]
    paired = [[label_of(pair.figure), pair.group, pair.reference, *_words(pair)] for pair in comparison.pairs]
    points = "Accuracies are in percentage points."
    lines = ["# Comparison of runs", "", _pipes(head), _pipes(["---"] * len(head)), *map(_pipes, rows)]
    if paired:
        head = ["figure", "group", "less", "difference ± standard error", f"{comparison.level:.0%} interval", "p"]
        lines += [
            "",
            "## Paired differences",
            "",
            points,
            "",
            _pipes(head),
            _pipes(["---"] * len(head)),
            *map(_pipes, paired),
        ]
    if comparison.refusals:
        lines += ["", "## Not compared", "", *(f"- {sentence}" for sentence in comparison.refusals)]
    return "\n".join(lines) + "\n"


def _groups(comparison: RunComparison, short: Mapping[str, str]) -> str:
    """The groups by their letters, with their runs."""
    seeds = {run.name: run.seed for run in comparison.runs}
    lines = []
    for group in comparison.groups:
        of = f"seeds {', '.join(str(seeds[run]) for run in group.runs)}" if len(group.runs) > 1 else group.runs[0]
        mark = "  (reference)" if group.name == comparison.reference and len(comparison.groups) > 1 else ""
        lines.append(_wrapped(f"{group.name}: {of}{mark}", f"  {short[group.name]:<3} "))
    return "\n".join([f"{plural(len(comparison.runs), 'run')} in {plural(len(comparison.groups), 'group')}:", *lines])


def _differences(comparison: RunComparison, short: Mapping[str, str]) -> str:
    """The options in which the groups, or the runs of one, differ."""
    lines = []
    for difference in comparison.differences:
        values: dict[str, list[str]] = {}
        for group in comparison.groups:
            for run in group.runs:
                whose = values.setdefault(difference.values[run], [])
                whose += [] if short[group.name] in whose else [short[group.name]]
        everywhere = all(len(whose) == len(comparison.groups) for whose in values.values())
        told = [value if everywhere else f"{value} ({', '.join(whose)})" for value, whose in values.items()]
        lines.append(_wrapped(f"{difference.option}: {'; '.join(told)}", "  "))
    return "\n".join(["They differ in:", *lines]) if lines else ""


def _figures(comparison: RunComparison, short: Mapping[str, str]) -> str:
    def cell(group: RunGroup, name: str) -> str:
        return _cell(group.figures.get(name), name)

    rows = _shown(comparison)
    several = any(len(group.runs) > 1 for group in comparison.groups)
    interval = f", with {comparison.level:.0%} t intervals over seeds" if several else ""
    measures = {group.measure for group in comparison.groups}
    told = [_wrapped(DIRECTIONS, "")]
    if len(measures) > 1:
        told.append("ELBOs and log p(x) cannot be ranked across measures:")
        for measure in dict.fromkeys(group.measure for group in comparison.groups):
            of = [short[group.name] for group in comparison.groups if group.measure == measure]
            told.append(_wrapped(f"{measure}: {', '.join(of)}", "  "))
    data, reference = test_data_of(comparison), comparison.reference
    others = [name for name in data if name != reference and data[name] != data[reference]]
    for known, words in ((True, "are others than"), (False, "are not known to be")):
        of = [short[name] for name in others if all((data[name], data[reference])) is known]
        if of:
            sentence = (
                f"The test data of {', '.join(of)} {words} those of {short[reference]}: do not rank their figures."
            )
            told.append(_wrapped(sentence, ""))
    blocks = _matrix(rows, comparison.groups, cell, short)
    return "\n".join([f"Figures of the test data{interval}:", *blocks, *told])


def _pairs(comparison: RunComparison, short: Mapping[str, str]) -> str:
    if not comparison.pairs:
        return ""
    known = {(pair.group, pair.figure): pair for pair in comparison.pairs}
    groups = [group for group in comparison.groups if any(pair.group == group.name for pair in comparison.pairs)]

    def cell(group: RunGroup, name: str) -> str:
        pair = known.get((group.name, name))
        if pair is None:
            return "-"
        mark = "*" if pair.interval.low > 0 or pair.interval.high < 0 else " "
        return f"{_words(pair)[0]}{mark}"

    over = {pair.interval.over_seeds for pair in comparison.pairs}
    source = "seeds and test data" if over == {True} else "test data"
    source += ", and seeds where there are several" if len(over) > 1 else ""
    reference = short[comparison.reference]
    head = (
        f"Differences from {reference} on the same test data ({short[groups[0].name]} less {reference}), ± standard "
        f"errors over {source}, accuracies in percentage points (* the {comparison.level:.0%} interval excludes 0):"
    )
    rows = list(dict.fromkeys(pair.figure for pair in comparison.pairs))
    few = any(name.startswith("accuracy_") and name.endswith("_few") for name in rows)
    notes = (
        ["With few labels, accuracies here are of the first draw of these, and means over draws above."] if few else []
    )
    if any(pair.interval.over_seeds and 2 in pair.interval.n_seeds for pair in comparison.pairs):
        notes.append("With two seeds, intervals can cover less than they claim: three or more are better.")
    notes += [_wrapped(sentence, "") for sentence in [chance_words(comparison)] if sentence]
    return "\n".join([_wrapped(head, ""), *_matrix(rows, groups, cell, short), *notes])


def _mcnemar(comparison: RunComparison, short: Mapping[str, str]) -> str:
    if not comparison.mcnemar:
        return ""
    known = {(each.group, f"{each.fit} {each.budget}"): each.test for each in comparison.mcnemar}
    names = {
        f"{each.fit} {each.budget}": label_of("_".join(filter(None, ("accuracy", each.fit, each.budget))))
        for each in comparison.mcnemar
    }
    groups = [group for group in comparison.groups if any(each.group == group.name for each in comparison.mcnemar)]

    def cell(group: RunGroup, name: str) -> str:
        test = known.get((group.name, name))
        return "-" if test is None else f"{test.only_first}:{test.only_second}, p={test.p_value:.2g}"

    head = (
        f"McNemar's exact test against {short[comparison.reference]}: the test data that each alone classifies "
        "rightly, and the p-value of equal accuracies:"
    )
    return "\n".join([_wrapped(head, ""), *_matrix(list(names), groups, cell, short, names)])


def _loo(comparison: RunComparison) -> str:
    if not comparison.loo:
        return ""
    rows = [
        [
            row.run,
            fit_name(row.fit),
            f"{row.elpd:.1f} ({row.se:.1f})",
            "-" if row.rank == 0 else f"{row.difference:.1f} ({row.difference_se:.1f})",
            f"{row.weight:.2f}",
            f"{row.high_k} of {row.n}",
        ]
        for row in comparison.loo
    ]
    head = ["run", "fit", "elpd (se)", "less the best (se)", "weight", "unreliable"]
    table = _indented(aligned(head, rows, left=2, rule=False))
    return f"LOO of mixtures of the same latents, in nats; unreliable where Pareto k is high:\n{table}"


def _matrix(
    names: Sequence[str],
    groups: Sequence[RunGroup],
    cell: Callable[[RunGroup, str], str],
    short: Mapping[str, str],
    labels_of: Mapping[str, str] | None = None,
) -> list[str]:
    """Tables with a row a figure and a column a group, of as many groups as a hundred columns hold."""
    labels = [label_of(name) if labels_of is None else labels_of[name] for name in names]
    left = max(map(len, labels), default=0)
    tables: list[str] = []
    waiting = [(short[group.name], [cell(group, name) for name in names]) for group in groups]
    while waiting:
        width, chosen = left + 2, 0
        for letter, words in waiting:
            width += 2 + max(len(letter), *map(len, words))
            if chosen and width > WIDTH:
                break
            chosen += 1
        part, waiting = waiting[:chosen], waiting[chosen:]
        rows = [[label, *(words[row] for _, words in part)] for row, label in enumerate(labels)]
        tables.append(_indented(aligned(["", *(letter for letter, _ in part)], rows, rule=False)))
    return tables


def _shown(comparison: RunComparison) -> list[str]:
    """The figures of the table: those of the VAE, accuracies, ECE of fits without or with few labels, and costs."""
    known = comparison.figures
    classified = [name for name in known if name.startswith("accuracy_")]
    calibrated = [name for name in known if name.startswith("ece_") and not name.endswith("_all")]
    every = [*(name for name in SHOWN if name in known), *classified, *calibrated, *LAST]
    return [name for name in every if any(name in group.figures for group in comparison.groups)]


def _cell(interval: MeanInterval | None, name: str) -> str:
    if interval is None:
        return "-"
    if not interval.bounded or interval.sd == 0 or name in LAST:
        return _number(interval.mean, name)
    return f"{_number(interval.mean, name)} [{_number(interval.low, name)}, {_number(interval.high, name)}]"


def _words(pair: Pair) -> tuple[str, str, str]:
    """The difference and its standard error, its interval, and its p-value."""
    difference, ends, _ = (word.replace("−", "-") for word in difference_words(pair.figure, pair.interval))
    return difference, ends, f"{pair.interval.p_value:.2g}"


def _number(value: float, name: str) -> str:
    return f"{value:,.{decimals_of(name)}f}"


def _indented(text: str) -> str:
    return textwrap.indent(text, "  ")


def _wrapped(text: str, prefix: str) -> str:
    indent = " " * (len(prefix) if prefix.strip() else len(prefix) + 2 * bool(prefix))
    return textwrap.fill(
        text, WIDTH, initial_indent=prefix, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _pipes(words: Sequence[str]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"
