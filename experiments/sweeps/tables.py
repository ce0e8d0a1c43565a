"""Tables of a sweep: figures of its cells, ranked within one measure only."""

from __future__ import annotations

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from latentmix.experiments.comparison.labels import decimals_of, label_of
from latentmix.experiments.options.names import FIT_NAMES, LEVEL
from latentmix.experiments.runs.stored import measure_of
from latentmix.experiments.sweeps.seeds import SEED, Row, ranks_of, rows_over_seeds, vary_by_seed
from latentmix.inference.tables import aligned
from latentmix.models.words import plural

if TYPE_CHECKING:
    from latentmix.inference.intervals import MeanInterval

__all__ = ["as_csv", "as_markdown", "as_text", "counts_of", "figures_of", "group_of", "reasons_of"]

Record = dict[str, Any]

RANKED = (
    "ELBOs are ranked within a group and not across groups: those of a density and of a mass, or of different data, "
    "are not comparable."
)
OVER_SEEDS = (
    f"Means over seeds, ± half of a {100 * LEVEL:.0f}% Student t interval. Rows whose intervals of the ELBO overlap "
    "share ranks: none of them is known to be better. A row of one seed has no interval, and may have any rank."
)
ONE_SEED = "One seed for each cell: how far these figures vary from seed to seed is unknown (--seeds N tells)."
WIDTH = 100  # columns of the terminal
COMPARED = ("none", "few")  # label budgets
OF_TEST_DATA = ("elbo", "log_likelihood", "kl", "iw_log_likelihood", "mse", "ssim")
COLUMNS = {
    **{name: (label_of(name), decimals_of(name)) for name in OF_TEST_DATA},
    **{
        f"accuracy_{fit}_{budget}": (f"accuracy {name} {budget}", 3)
        for fit, name in FIT_NAMES.items()
        if fit != "prior"
        for budget in COMPARED
    },
    "accuracy_prior": ("accuracy prior", 3),
    "parameters": (label_of("parameters"), decimals_of("parameters")),
}
TERMINAL = (
    "elbo",
    "iw_log_likelihood",
    "mse",
    "ssim",
    "accuracy_em_none",
    "accuracy_em_few",
    "accuracy_posterior_none",
)
LEGEND = (
    "Figures of the test data. In nats per datum: the ELBO, which is the expected log-likelihood E_q log p(x|z) (minus "
    "the distortion) less KL(q, prior), the divergence of q(z|x) from the prior (the rate); and log p(x), estimated by "
    "importance weighting. MSE and SSIM are those of reconstructions. Accuracies are those of the mixture fitted by EM "
    "and by SVI, and of its posterior by SVI or NUTS, without labels (none) and with few, and of a mixture prior's own "
    "components."
)


def figures_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a run that a sweep compares, by name.

    Args:
        summary: The contents of `summary.json`.

    Returns:
        Every single number among the figures on test data, accuracies `accuracy_em_none` and so on, and `parameters`.
    """
    figures = {name: value for name, value in summary["test"].items() if isinstance(value, int | float)}
    for inference, budgets in summary.get("mixtures", {}).items():
        for budget in COMPARED:
            if "accuracy" in budgets.get(budget, {}):
                figures[f"accuracy_{inference}_{budget}"] = budgets[budget]["accuracy"]
    if "accuracy" in summary.get("prior", {}):
        figures["accuracy_prior"] = summary["prior"]["accuracy"]
    return {**figures, "parameters": summary["parameters"]}


def group_of(summary: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """The group whose ELBOs are comparable: the same measure, binarization and data.

    Args:
        summary: The contents of `summary.json`.
        options: The options that the sweep varies.
    """
    same = {"data.binarize", "data.labels_per_class"}  # the first is in the summary, the second changes no bound
    data = [f"{name}={value}" for name, value in options.items() if name.startswith("data.") and name not in same]
    return ", ".join([measure_of(summary), *data])


def counts_of(records: Sequence[Record]) -> dict[str, int]:
    """Numbers of cells that are done, refused, failed and waiting."""
    counts = Counter(record["status"] for record in records)
    return {status: counts[status] for status in ("done", "refused", "failed", "waiting")}


def grouped(records: Sequence[Record]) -> dict[str, list[Row]]:
    """Finished cells by group, those that differ by their seed alone in a row, in descending order of the mean ELBO."""
    groups: dict[str, list[Row]] = {}
    for row in rows_over_seeds(records):
        groups.setdefault(row.group, []).append(row)
    return {name: sorted(groups[name], key=lambda row: -row.means["elbo"].mean) for name in sorted(groups)}


def reasons_of(records: Sequence[Record], status: str) -> list[tuple[int, str, str]]:
    """Reasons of a status, the most frequent first: number of cells, reason, and the values common to them."""
    reasons: dict[str, list[Record]] = {}
    for record in records:
        if record["status"] == status:
            reasons.setdefault(record["reason"], []).append(record)
    rows = [(len(cells), reason, _common(cells)) for reason, cells in reasons.items()]
    return sorted(rows, key=lambda row: -row[0])


def _common(records: Sequence[Record]) -> str:
    """The options for which some cells have at most two values, with these."""
    names = list(dict.fromkeys(name for record in records for name in record["options"]))
    values = {name: list(dict.fromkeys(record["options"].get(name, "-") for record in records)) for name in names}
    return ", ".join(f"{name}={' or '.join(values[name])}" for name in names if len(values[name]) <= 2)


def as_markdown(results: Mapping[str, Any]) -> str:
    """The tables of a sweep in Markdown.

    Cells that differ by their seed alone are a row, and stand one by one in a second table below.

    Args:
        results: The contents of `sweep.json`.
    """
    counts = ", ".join(f"{count} {status}" for status, count in results["counts"].items() if count)
    groups, options = grouped(results["cells"]), list(results["grid"])
    lines = [
        f"# Sweep of {results['preset']}",
        "",
        f"{plural(len(results['cells']), 'cell')}: {counts}.",
        "",
        RANKED,
        "",
    ]
    lines += [*([_seeds_sentence(groups), ""] if groups else []), LEGEND]
    for name, rows in groups.items():
        lines += ["", f"## {name}", "", *_piped(_table(rows, options))]
        if vary_by_seed(rows):
            cells = [record for row in rows for record in row.records]
            lines += ["", f"### Single cells: {name}", "", *_piped(_single(cells, options))]
    for status in ("refused", "failed"):
        if results["counts"][status]:
            reasons = reasons_of(results["cells"], status)
            table = [["cells", "reason", "where"], *([str(count), reason, where] for count, reason, where in reasons)]
            lines += ["", f"## {status.capitalize()}", "", *_piped(table)]
    return "\n".join(lines) + "\n"


def as_text(results: Mapping[str, Any], *, most: int = 8) -> str:
    """The tables for the terminal: the best rows of each group, and the reasons of refusals and failures.

    Over seeds, the table has the first figures of `TERMINAL` that fit into a hundred columns, or is upright if there
    is one row.

    Args:
        results: The contents of `sweep.json`.
        most: Most rows of a group.
    """
    blocks, groups, options = [], grouped(results["cells"]), list(results["grid"])
    for name, rows in groups.items():
        upright = len(rows) == 1 and vary_by_seed(rows)
        more = [f"... and {len(rows) - most} more"] if len(rows) > most else []
        table = _aligned(_upright(rows[0]), left=1) if upright else _fitting(rows[:most], options, of=rows)
        blocks.append("\n".join([f"{name}:", table, *more]))
    for status in ("refused", "failed"):
        reasons = [f"  {count:>4}  {reason}" for count, reason, _ in reasons_of(results["cells"], status)]
        if reasons:
            blocks.append("\n".join([f"{status}:", *reasons]))
    if any(len(rows) > 1 for rows in groups.values()) or not _over_seeds(groups):
        blocks += [textwrap.fill(sentence, WIDTH) for sentence in (_seeds_sentence(groups), RANKED)] if groups else []
    return "\n\n".join([*blocks, *(["Single cells: sweep.md and sweep.csv."] if _over_seeds(groups) else [])])


def _fitting(rows: Sequence[Row], options: Sequence[str], of: Sequence[Row]) -> str:
    """A table for the terminal; of means with as many figures as fit into its width, the ELBO at least."""
    for count in range(len(TERMINAL), 0, -1):
        text = _aligned(_table(rows, options, TERMINAL[:count], of=of))
        if not vary_by_seed(of) or max(map(len, text.splitlines())) <= WIDTH:
            break
    return text


def _aligned(table: Sequence[Sequence[str]], left: int = 0) -> str:
    head, *lines = table
    return aligned(head, lines, left=left, rule=False)


def _seeds_sentence(groups: Mapping[str, Sequence[Row]]) -> str:
    return OVER_SEEDS if _over_seeds(groups) else ONE_SEED


def _over_seeds(groups: Mapping[str, Sequence[Row]]) -> bool:
    return any(map(vary_by_seed, groups.values()))


def _table(
    rows: Sequence[Row], options: Sequence[str], names: Iterable[str] = COLUMNS, *, of: Sequence[Row] | None = None
) -> list[list[str]]:
    """A table as words, its head first, without empty columns: of cells, or where some have several seeds of means.

    Args:
        rows: The rows.
        options: The options that vary.
        names: The figures of a table of means.
        of: All rows of the group, among which these are ranked; by default no others.
    """
    every = of or rows
    if not vary_by_seed(every):
        return _single([record for row in rows for record in row.records], options)
    ranks, labels = ranks_of(every)[: len(rows)], [option for option in options if option != SEED]
    columns = [name for name in names if name in COLUMNS and any(name in row.means for row in every)]
    table = [["rank", *labels, "seeds", *(COLUMNS[name][0] for name in columns), "seconds"]]
    for row, (best, worst) in zip(rows, ranks, strict=True):
        numbers = [_mean(row.means.get(name), COLUMNS[name][1]) for name in columns]
        rank = str(best) if best == worst else f"{best} to {worst}"
        words = [row.options.get(option, "-") for option in labels]
        table.append([rank, *words, str(len(row.records)), *numbers, _number(row.seconds, 1)])
    return table


def _upright(row: Row) -> list[list[str]]:
    """The means of one row as words, a figure each line, its head first."""
    columns = {name: words for name, words in COLUMNS.items() if name in row.means}
    table = [[plural(len(row.records), "seed"), "mean", f"{100 * LEVEL:.0f}% interval", "least", "greatest"]]
    for name, (title, digits) in columns.items():
        mean, values = row.means[name], row.values[name]
        interval = f"{_number(mean.low, digits)} to {_number(mean.high, digits)}" if mean.sd > 0 else "-"
        ends = [_number(end, digits) for end in (min(values), max(values))]
        table.append([title, _number(mean.mean, digits), interval, *ends])
    return [*table, ["seconds", _number(row.seconds, 1), "-", "-", "-"]]


def _single(records: Sequence[Record], options: Sequence[str]) -> list[list[str]]:
    """A table of cells as words, its head first, without empty columns."""
    columns = [name for name in COLUMNS if any(name in record["figures"] for record in records)]
    rows = [[*options, *(COLUMNS[name][0] for name in columns), "seconds"]]
    for record in records:
        labels = [record["options"].get(option, "-") for option in options]
        numbers = [_number(record["figures"].get(name), COLUMNS[name][1]) for name in columns]
        rows.append([*labels, *numbers, _number(record["seconds"], 1)])
    return rows


def as_csv(results: Mapping[str, Any]) -> str:
    """All cells as comma-separated values, one row each."""
    names = list(dict.fromkeys(name for record in results["cells"] for name in record["figures"]))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", *results["grid"], "status", "group", *names, "seconds", "reason"])
    for record in results["cells"]:
        labels = [record["options"].get(option, "") for option in results["grid"]]
        figures = [record["figures"].get(name, "") for name in names]
        table.writerow(
            [record["id"], *labels, record["status"], record["group"], *figures, record["seconds"], record["reason"]]
        )
    return text.getvalue()


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _mean(mean: MeanInterval | None, digits: int) -> str:
    """A mean with half its interval, if it has one and seeds differ."""
    if mean is None:
        return "-"
    number = _number(mean.mean, digits)
    return f"{number} ± {_number((mean.high - mean.low) / 2, digits)}" if mean.sd > 0 else number


def _piped(table: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, a line each."""
    head, *rows = table
    return [_pipes(head), _pipes(["---"] * len(head)), *map(_pipes, rows)]


def _pipes(words: Sequence[str]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"
