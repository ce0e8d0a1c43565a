from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text

from latentmix.experiments.figures.calibration import ecdf_differences
from latentmix.inference.diagnostics.calibration import CalibrationReport, Replicate


def report(n_quantities: int = 7, shift: float = 0.0) -> CalibrationReport:
    """Ranks of 200 truths among 39 draws; those of the first quantity are shifted."""
    generator = np.random.default_rng(0)
    ranks = generator.integers(0, 40, (200, n_quantities))
    ranks[:, 0] = np.minimum(ranks[:, 0] * (1 - shift), 39).astype(int)
    names = [f"quantity_{index}" for index in range(n_quantities)]
    return CalibrationReport(
        tuple(
            Replicate(index, dict(zip(names, map(int, row), strict=True)), ("r_hat",) * (index < 3), None, None, 0.0)
            for index, row in enumerate(ranks)
        ),
        39,
        0.01,
    )


@pytest.mark.parametrize("n_quantities", [1, 5, 7])
def test_every_quantity_has_a_panel_and_a_verdict(n_quantities: int) -> None:
    rc = dict(matplotlib.rcParams)
    figure = ecdf_differences({"calibrated": report(n_quantities), "shifted": report(n_quantities, 0.5)})
    figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.findobj(Text) if text.get_visible()]
    assert texts.count("quantity_0") == 1
    assert texts.count("quantity_0 (outside)") == 1
    assert all(texts.count(f"quantity_{index}") == 2 for index in range(1, n_quantities))
    assert f"calibrated: 0 of {n_quantities} outside, 3 not converged" in texts
    assert f"shifted: 1 of {n_quantities} outside, 3 not converged" in texts
    assert dict(matplotlib.rcParams) == rc


def test_flagged_curves_leave_the_band() -> None:
    shown = report(3, 0.5)
    figure = ecdf_differences(shown)
    for name, axes in zip(shown.ranks, figure.findobj(matplotlib.axes.Axes), strict=False):
        (curve,) = (line for line in axes.lines if len(line.get_xdata()) == 39)
        at, difference = np.asarray(curve.get_data())
        assert np.allclose(difference, [(shown.ranks[name] < 40 * z - 1e-9).mean() - z for z in at])
        low, high = shown.band.lower / 200 - at, shown.band.upper / 200 - at
        bottom, top = axes.get_ylim()
        assert bottom < difference.min() < difference.max() < top
        assert (name in shown.flagged) == bool(((difference < low - 1e-12) | (difference > high + 1e-12)).any())
    assert shown.flagged == ["quantity_0"]


def test_reports_of_different_quantities_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected reports with ranks of the same quantities"):
        ecdf_differences({"one": report(2), "other": report(3)})
    with pytest.raises(ValueError, match="Expected reports with ranks of the same quantities"):
        ecdf_differences(CalibrationReport((), 39, 0.01))
