"""Tables of a sweep: figures of its cells, ranked within one measure only."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from latentmix.experiments.runs.stored import measure_of
from latentmix.inference.tables import aligned

__all__ = ["as_csv", "as_markdown", "as_text", "counts_of", "figures_of", "group_of", "reasons_of"]

Record = dict[str, Any]

RANKED = (
    "ELBOs are ranked within a group and not across groups: those of a density and of a mass, or of different data, "
    "are not comparable."
)
COLUMNS = {
    "elbo": ("ELBO", 2),
    "log_likelihood": ("E_q log p(x|z)", 2),
    "kl": ("KL(q, prior)", 2),
    "iw_log_likelihood": ("log p(x)", 2),
    "mse": ("MSE", 4),
    "ssim": ("SSIM", 3),
    "accuracy_em_none": ("accuracy EM none", 3),
    "accuracy_em_few": ("accuracy EM few", 3),
    "accuracy_svi_none": ("accuracy SVI none", 3),
    "accuracy_svi_few": ("accuracy SVI few", 3),
    "accuracy_prior": ("accuracy prior", 3),
    "parameters": ("parameters", 0),
}
LEGEND = (
    "Figures of the test data. In nats per datum: the ELBO, which is the expected log-likelihood E_q log p(x|z) (minus "
    "the distortion) less KL(q, prior), the divergence of q(z|x) from the prior (the rate); and log p(x), estimated by "
    "importance weighting. MSE and SSIM are those of reconstructions. Accuracies are those of the mixture fitted by EM "
    "and by SVI, without labels (none) and with few, and of a mixture prior's own components."
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
        for budget in ("none", "few"):
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


def grouped(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Finished cells by group, in descending order of the ELBO."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record["status"] == "done":
            groups.setdefault(record["group"], []).append(record)
    return {name: sorted(groups[name], key=lambda record: -record["figures"]["elbo"]) for name in sorted(groups)}


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

    Args:
        results: The contents of `sweep.json`.
    """
    counts = ", ".join(f"{count} {status}" for status, count in results["counts"].items() if count)
    lines = [f"# Sweep of {results['preset']}", "", f"{len(results['cells'])} cells: {counts}.", "", RANKED, "", LEGEND]
    for name, records in grouped(results["cells"]).items():
        head, *rows = rows_of(records, list(results["grid"]))
        lines += ["", f"## {name}", "", _pipes(head), _pipes(["---"] * len(head)), *map(_pipes, rows)]
    for status in ("refused", "failed"):
        if results["counts"][status]:
            reasons = reasons_of(results["cells"], status)
            lines += ["", f"## {status.capitalize()}", "", "| cells | reason | where |", "| --- | --- | --- |"]
            lines += [_pipes([str(count), reason, where]) for count, reason, where in reasons]
    return "\n".join(lines) + "\n"


def as_text(results: Mapping[str, Any], *, most: int = 8) -> str:
    """The tables for the terminal: the best cells of each group, and the reasons of refusals and failures."""
    blocks = []
    for name, records in grouped(results["cells"]).items():
        head, *rows = rows_of(records[:most], list(results["grid"]))
        more = [f"... and {len(records) - most} more"] if len(records) > most else []
        blocks.append("\n".join([f"{name}:", aligned(head, rows, left=0, rule=False), *more]))
    for status in ("refused", "failed"):
        reasons = [f"  {count:>4}  {reason}" for count, reason, _ in reasons_of(results["cells"], status)]
        if reasons:
            blocks.append("\n".join([f"{status}:", *reasons]))
    return "\n\n".join([*blocks, RANKED])


def rows_of(records: Sequence[Record], options: Sequence[str]) -> list[list[str]]:
    """A table as words, its head first, without empty columns."""
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


def _pipes(words: Sequence[str]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"
