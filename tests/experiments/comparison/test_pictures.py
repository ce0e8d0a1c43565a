"""Pictures of a comparison: which there are, what they show, and what their texts say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from latentmix.experiments.comparison.pictures import (
    ComparisonPicture,
    comparison_pictures,
    headline_figures,
    paired_figures,
)
from latentmix.experiments.comparison.results import RunComparison
from latentmix.experiments.figures.style import WIDTH

from tests.experiments.comparison.comparisons import points, seeds, single, sweep
from tests.experiments.figures.layout import overlapping

STEMS = ["means", "differences", "learning_curves", "confusion", "reliability"]


def drawn(comparison: RunComparison) -> dict[str, ComparisonPicture]:
    return {picture.stem: picture for picture in comparison_pictures(comparison)}


@pytest.fixture(scope="module")
def of_seeds() -> dict[str, ComparisonPicture]:
    return drawn(seeds())


@pytest.mark.parametrize(("make", "stems"), [(single, STEMS), (sweep, STEMS), (points, STEMS[:3])])
def test_pictures_have_room_and_words(make: Callable[[], RunComparison], stems: list[str]) -> None:
    pictures = drawn(make())
    assert list(pictures) == stems
    for picture in pictures.values():
        assert not overlapping(picture.figure)
        assert picture.figure.get_size_inches()[0] <= WIDTH + 1e-9
        assert picture.name
        assert picture.caption.endswith(".")
        assert picture.alternative.endswith(".")


def test_a_comparison_without_pairs_curves_or_classes_has_one_picture() -> None:
    bare = replace(seeds(), pairs=(), mcnemar=(), curves=(), confusions=(), reliabilities=())
    assert list(drawn(bare)) == ["means"]


def test_headlines_and_paired_figures_name_one_label_budget() -> None:
    assert headline_figures(seeds()) == ["elbo", "mse", "ssim", "accuracy_em_few"]
    assert paired_figures(seeds()) == ["elbo", "squared_error", "accuracy_em_few"]
    assert headline_figures(points()) == ["elbo", "mse"]


def test_matrices_of_a_group_are_summed_over_its_runs(of_seeds: dict[str, ComparisonPicture]) -> None:
    comparison = seeds()
    members = set(comparison.groups[0].runs)
    counts = sum(row.counts for row in comparison.confusions if row.run in members)
    axes = of_seeds["confusion"].figure.axes[0]
    written = {tuple(map(round, text.get_position()[::-1])): int(text.get_text()) for text in axes.texts}
    assert written == {place: count for place, count in np.ndenumerate(counts) if count}
    share = np.trace(counts) / counts.sum()
    assert f"digits {share:.1%}" in of_seeds["confusion"].alternative


def test_bins_of_a_group_are_those_of_all_its_runs(of_seeds: dict[str, ComparisonPicture]) -> None:
    panel = of_seeds["reliability"].figure.axes[0]
    curve = next(line for line in panel.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-")
    np.testing.assert_allclose(curve.get_xydata(), [[0.4, 0.5], [0.9, 0.8]])
    assert "digits 0.100 and 0.100" in of_seeds["reliability"].alternative  # (10 * .1 + 40 * .1) / 50


def test_groups_of_other_classes_are_left_out_of_the_matrices() -> None:
    comparison = seeds()
    others = set(comparison.groups[1].runs)
    rows = [
        replace(row, classes=("a", "b"), counts=np.eye(2, dtype=int)) if row.run in others else row
        for row in comparison.confusions
    ]
    picture = drawn(replace(comparison, confusions=tuple(rows)))["confusion"]
    assert "Left out, as their classes are others: digits_mlp2." in picture.caption


def test_numbers_in_cells_are_told_where_they_are_drawn(of_seeds: dict[str, ComparisonPicture]) -> None:
    assert "counts as numbers" in of_seeds["confusion"].caption
    picture = drawn(sweep())["confusion"]
    assert ("counts as numbers" in picture.caption) == any(axes.texts for axes in picture.figure.axes)
    rows = [replace(row, counts=row.counts * 10**6) for row in seeds().confusions]
    large = drawn(replace(seeds(), confusions=tuple(rows)))["confusion"]
    assert ("counts as numbers" in large.caption) == any(axes.texts for axes in large.figure.axes)


def test_figures_of_other_test_data_have_axes_of_their_own() -> None:
    comparison = sweep()
    measures = {group.name: group.measure for group in comparison.groups}
    runs = [replace(run, test_data=measures[run.group]) for run in comparison.runs]
    assert len(_limits(comparison, "MSE")) == 1
    assert len(_limits(replace(comparison, runs=tuple(runs)), "MSE")) == 2


def _limits(comparison: RunComparison, title: str) -> set[tuple[float, float]]:
    """Ranges of the panels below a title."""
    axes = drawn(comparison)["means"].figure.axes
    left = next(each.get_position().x0 for each in axes if each.get_title() == title)
    top = next(each.get_position().y0 for each in axes if each.get_title() == title)
    below = [each for each in axes if abs(each.get_position().x0 - left) < 1e-6 and each.get_position().y0 <= top]
    return {tuple(each.get_xlim()) for each in below[:2]}


def test_the_best_means_are_told_within_one_measure() -> None:
    comparison = sweep()
    means = {group.name: group.figures["elbo"].mean for group in comparison.groups}
    for measure in {group.measure for group in comparison.groups}:
        best = max(means[group.name] for group in comparison.groups if group.measure == measure)
        assert f"{best:,.2f}".replace("-", "−") in drawn_means(comparison)


def drawn_means(comparison: RunComparison) -> str:
    bare = replace(comparison, pairs=(), mcnemar=(), curves=(), confusions=(), reliabilities=())
    return drawn(bare)["means"].alternative
