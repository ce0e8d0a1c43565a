"""Learning curves of groups of runs over one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from latentmix.experiments import figures
from latentmix.experiments.figures.style import WIDTH

from tests.experiments.figures.layout import overlapping, texts
from tests.experiments.figures.test_groups import LONG, SHORT


@pytest.fixture(autouse=True)
def same_matplotlib() -> Iterator[None]:
    rc = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == rc


def curves_of(groups: list[str], runs: int, epochs: int) -> dict[str, dict[str, Any]]:
    random = np.random.default_rng(0)
    at = np.arange(1, epochs + 1)
    return {
        group: {
            split: [250 + 5 * k + 160 * np.exp(-at / 4) + random.normal(size=epochs) for _ in range(runs)]
            for split in ("training", "validation")
        }
        for k, group in enumerate(groups)
    }


@pytest.mark.parametrize("groups", [SHORT, LONG])
@pytest.mark.parametrize(("runs", "epochs"), [(1, 1), (3, 3), (2, 40)])
@pytest.mark.parametrize("measures", [1, 2])
def test_curves_have_room_for_few_and_many_groups(groups: list[str], runs: int, epochs: int, measures: int) -> None:
    measure = {group: ("mass on {0, 1}, binarize=dynamic", "density")[k % measures] for k, group in enumerate(groups)}
    figure = figures.learning_curves(curves_of(groups, runs, epochs), measures=measure, thing="point")
    assert not overlapping(figure)
    assert figure.get_size_inches()[0] <= WIDTH + 1e-9
    assert len(figure.axes) == 2 * measures
    assert len(figure.legends[0].get_lines()) == len(groups)
    assert "negative ELBO\nnats per point" in texts(figure)


def test_a_group_is_the_mean_of_its_runs_in_their_range() -> None:
    runs = [[4.0, 3.0, 2.0], [6.0, 5.0, float("nan")], [float("nan")] * 3]
    figure = figures.learning_curves({"a": {"validation": runs}})
    (axes,) = figure.axes
    thick = [line.get_xydata().tolist() for line in axes.lines if line.get_linewidth() == 1.8]
    assert thick == [[[1.0, 5.0], [2.0, 4.0]]]
    thin = [line.get_ydata().tolist() for line in axes.lines if line.get_linewidth() == 0.6]
    assert len(thin) == 2
    (band,) = axes.collections
    assert band.get_paths()[0].get_extents().extents.tolist() == [1.0, 2.0, 3.0, 6.0]
    assert figure.legends[0].get_lines()[0].get_label() == "a (2 runs)"


def test_groups_of_two_measures_never_share_axes() -> None:
    curves = {"a": {"training": [[300.0, 290.0]]}, "b": {"training": [[-50.0, -60.0]]}, "c": {"training": [[310.0]]}}
    figure = figures.learning_curves(curves, measures={"a": "mass", "b": "density", "c": "mass"})
    above, below = figure.axes
    assert above.get_title() == "training\nmass"
    assert above.get_ylim()[0] > 280
    assert below.get_ylim()[1] < 0
    assert "negative ELBOs compare within one measure only" in figure.get_supxlabel().lower().replace("elbos", "ELBOs")


def test_first_epochs_far_above_the_others_leave_the_axis_and_the_caption_says_so() -> None:
    curve = [10_000.0, 900.0, *np.linspace(110.0, 100.0, 18)]
    figure = figures.learning_curves({"a": {"validation": [curve]}})
    assert figure.axes[0].get_ylim()[1] < 200
    assert figure.get_supxlabel() == "The first epochs lie above the axis"
    whole = figures.learning_curves({"a": {"validation": [curve[2:]]}})
    assert whole.axes[0].get_ylim()[1] > 110
    assert whole.get_supxlabel() == ""


def test_axes_of_a_users_own() -> None:
    figure = Figure()
    ax = figure.add_subplot()
    assert figures.learning_curves({"a": {"validation": [[2.0, 1.0]]}}, ax=ax) is figure
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a"]
    assert figure.get_suptitle() == ""
    with pytest.raises(
        ValueError, match=r"^Expected axes for the whole picture, 2, .* \(training, validation\); got 1"
    ):
        figures.learning_curves(curves_of(["a"], 1, 3), ax=ax)


def test_long_names_keep_within_given_axes() -> None:
    figure = Figure(figsize=(8, 3))
    axes = figure.subplots(1, 2)
    figures.learning_curves(curves_of(LONG[:3], 2, 4), ax=axes)
    assert [panel.get_ylabel() for panel in axes] == ["negative ELBO\nnats per image"] * 2
    figure.draw_without_rendering()
    legend, panel = axes[0].get_legend().get_window_extent(), axes[0].get_window_extent()
    assert panel.x0 <= legend.x0
    assert legend.x1 <= panel.x1
    assert axes[0].get_legend().get_texts()[0].get_text().endswith("(2 runs)")


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a curve with a finite value; got none"):
        figures.learning_curves({"a": {"training": [[float("nan")]], "validation": []}})
    with pytest.raises(ValueError, match="Expected a measure for each group; got none for 'b'"):
        figures.learning_curves({"a": {"training": [[1.0]]}, "b": {"training": [[1.0]]}}, measures={"a": "mass"})
