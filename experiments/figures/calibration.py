"""Calibration: the ECDF of ranks minus that of uniform ranks, in a simultaneous band."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.experiments.figures.style import BLUE, INK, MUTED, SHADE, VERMILION, clean, new_figure, title
from latentmix.inference.diagnostics.calibration import CalibrationReport

__all__ = ["ecdf_differences"]

INSIDE, OUTSIDE, BAND = BLUE, VERMILION, SHADE


def ecdf_differences(
    reports: CalibrationReport | Mapping[str, CalibrationReport], *, heading: str | None = None
) -> Figure:
    """Draw, for each quantity, the ECDF of the true values' ranks minus that of uniform ranks, in a simultaneous band.

    A curve above the band on the left and below it on the right means draws that are too narrow, the reverse draws that
    are too wide; a curve above throughout means draws that are too large, one below throughout ones that are too small.

    Args:
        reports: A report, or several of the same quantities by name, in a row of panels each.
        heading: Title of the figure; by default the number of quantities outside their bands.

    Raises:
        ValueError: If a report has no ranks, or the quantities of the reports differ.
    """
    rows = reports if isinstance(reports, Mapping) else {"": reports}
    quantities = [list(report.ranks) for report in rows.values()]
    if not quantities or not all(quantities) or any(names != quantities[0] for names in quantities):
        raise ValueError(f"Expected reports with ranks of the same quantities; got {quantities}.")
    names = quantities[0]
    across = min(len(names), 3)
    down = -(-len(names) // across)
    figure = new_figure(2.4 * across + 0.6, 1.95 * down * len(rows) + 0.9)
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (row, report) in zip(parts, rows.items(), strict=True):
        panels = part.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes, name in zip(panels.flat, names, strict=False):
            _difference(axes, report, name)
        for axes in panels.flat[len(names) :]:
            axes.set_axis_off()
        for column in range(across):
            shown = max(index for index in range(column, len(names), across)) // across
            panels[shown, column].xaxis.set_tick_params(labelbottom=True)
        if row:
            text = f"{row}: {len(report.flagged)} of {len(names)} outside, {report.n_not_converged} not converged"
            part.suptitle(text, fontsize=11, color=INK)
        part.supxlabel("rank / number of draws", fontsize=9.5, color=MUTED)
        part.supylabel("ECDF − uniform", fontsize=9.5, color=MUTED)
    outside = sum(len(report.flagged) for report in rows.values())
    total = len(names) * len(rows)
    title(figure, heading or f"Calibration: {outside} of {total} quantities leave their simultaneous band")
    return figure


def _difference(axes: Axes, report: CalibrationReport, name: str) -> None:
    band, flagged = report.band, name in report.flagged
    at = np.arange(1, band.n_draws + 1) / (band.n_draws + 1)
    axes.fill_between(at, band.lower / band.n - at, band.upper / band.n - at, color=BAND, linewidth=0, step="mid")
    axes.axhline(0, color=MUTED, linewidth=0.7)
    colour = OUTSIDE if flagged else INSIDE
    curve = band.counts(report.ranks[name]) / band.n - at
    axes.plot(at, curve, color=colour, linewidth=2.0 if flagged else 1.4)
    axes.set_title(f"{name}{' (outside)' if flagged else ''}", color=colour if flagged else INK)
    clean(axes)
    axes.title.set_color(colour if flagged else INK)
    axes.set_xlim(0, 1)
