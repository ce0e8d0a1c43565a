"""Calibration: the ECDF of ranks minus that of uniform ranks, in a simultaneous band."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    BLUE,
    INK,
    MUTED,
    SHADE,
    VERMILION,
    as_array,
    check_same_length,
    clean,
)
from latentmix.inference.diagnostics.calibration import CalibrationReport, Replicate
from latentmix.models.words import plural

__all__ = ["ecdf_differences"]

INSIDE, OUTSIDE, BAND = BLUE, VERMILION, SHADE


def ecdf_differences(
    reports: CalibrationReport | Mapping[str, CalibrationReport] | Mapping[str, ArrayLike | Tensor],
    *,
    n_draws: int | None = None,
    false_alarm: float = 0.01,
    heading: str | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw, for each quantity, the ECDF of the true values' ranks minus that of uniform ranks, in a simultaneous band.

    A curve above the band on the left and below it on the right means draws that are too narrow, the reverse draws that
    are too wide; a curve above throughout means draws that are too large, one below throughout ones that are too small.

    Args:
        reports: A report, or several of the same quantities by name, in a row of panels each; or plain ranks: by the
            name of the quantity n whole numbers, of n simulated data sets, from 0 to `n_draws`.
        n_draws: Number of draws that each true value was ranked among; for plain ranks only.
        false_alarm: Bound on the probability that any quantity of calibrated draws leaves its band; for plain ranks
            only.
        heading: Title of the figure; by default the number of quantities outside their bands.
        ax: Axes of the caller's figure to draw into, one for each quantity of each report.

    Raises:
        ValueError: If a report has no ranks, the quantities of the reports differ, plain ranks are none from 0 to
            `n_draws`, or the axes are not as many.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import ecdf_differences
        >>> ranks = np.random.default_rng(0).integers(0, 20, size=100)
        >>> ecdf_differences({"mean": ranks, "scale": ranks // 2}, n_draws=19).axes[1].get_title()
        'scale (outside)'
    """
    rows = _reports(reports, n_draws, false_alarm)
    quantities = [list(report.ranks) for report in rows.values()]
    if not quantities or not all(quantities) or any(names != quantities[0] for names in quantities):
        raise ValueError(f"Expected reports with ranks of the same quantities; got {quantities}.")
    names = quantities[0]
    across = min(len(names), 3)
    down = -(-len(names) // across)

    def make(figure: Figure) -> list[Axes]:
        made: list[Axes] = []
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, (row, report) in zip(parts, rows.items(), strict=True):
            panels = part.subplots(down, across, sharex=True, sharey=True, squeeze=False)
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
            made.extend(panels.flat[: len(names)])
        return made

    sheet = Sheet(ax, 2.4 * across + 0.6, 1.95 * down * len(rows) + 0.9)
    panels = sheet.panels(len(names) * len(rows), make, what=", ".join(names))
    for place, axes in enumerate(panels):
        row, name = list(rows)[place // len(names)], names[place % len(names)]
        _difference(axes, rows[row], name)
        if not sheet.own:
            axes.set(xlabel="rank / number of draws", ylabel="ECDF − uniform")
            axes.set_title(f"{row}: {axes.get_title()}" if row else axes.get_title())
    outside = sum(len(report.flagged) for report in rows.values())
    counted = plural(len(names) * len(rows), "quantity", "quantities")
    leave = "leaves" if outside == 1 else "leave"
    sheet.title(heading or f"Calibration: {outside} of {counted} {leave} their simultaneous band")
    return sheet.figure


def _reports(
    reports: CalibrationReport | Mapping[str, CalibrationReport] | Mapping[str, ArrayLike | Tensor],
    n_draws: int | None,
    false_alarm: float,
) -> Mapping[str, CalibrationReport]:
    """Reports by their name; of plain ranks one without a name."""
    if isinstance(reports, CalibrationReport):
        return {"": reports}
    values: Mapping[str, Any] = reports
    named = {name: report for name, report in values.items() if isinstance(report, CalibrationReport)}
    if len(named) == len(values):
        return named
    ranks = {name: as_array(each).ravel() for name, each in values.items() if name not in named}
    if named or n_draws is None:
        raise ValueError("Expected reports, or ranks by quantity together with n_draws; got others.")
    check_same_length(**ranks)
    for name, each in ranks.items():
        if not len(each) or not np.isin(each, np.arange(n_draws + 1)).all():
            raise ValueError(f"Expected whole ranks from 0 to {n_draws} for {name}; got others.")
    columns = np.stack(list(ranks.values()), axis=1).astype(int)
    replicates = [
        Replicate(index, dict(zip(ranks, map(int, row), strict=True)), (), None, None, 0.0)
        for index, row in enumerate(columns)
    ]
    return {"": CalibrationReport(tuple(replicates), n_draws, false_alarm)}


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
