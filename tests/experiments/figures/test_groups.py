"""Groups of runs in rows: means with intervals and single runs, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.experiments import figures
from latentmix.experiments.figures.style import WIDTH, group_styles

from tests.experiments.figures.layout import overlapping, texts

METRICS = {"elbo": (-258.0, 3.0), "mse": (0.011, 5e-4), "ssim": (0.82, 0.01), "accuracy_em_none": (0.85, 0.03)}
LONG = [
    f"{chr(65 + k)}: prior={prior}, likelihood={likelihood}, latent_dim={size}"
    for k, (prior, likelihood, size) in enumerate(
        (prior, likelihood, size)
        for prior in ("StandardNormal", "MixturePrior(n_components=10, covariance_type=diag)")
        for likelihood in ("Bernoulli", "Gaussian(var_x=0.1, min_var=0.0001)")
        for size in (2, 5, 10)
    )
]
SHORT = ["narrow", "wide"]


@pytest.fixture(autouse=True)
def same_matplotlib() -> Iterator[None]:
    rc, backend = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
    yield
    assert dict(matplotlib.rcParams) == rc
    assert matplotlib.get_backend(auto_select=False) == backend


def values_of(groups: list[str], runs: int) -> dict[str, dict[str, list[float]]]:
    random = np.random.default_rng(0)
    return {
        name: {group: random.normal(mean, sd, runs).tolist() for group in groups}
        for name, (mean, sd) in METRICS.items()
    }


def marks(axes: Axes, size: float) -> list[tuple[float, float]]:
    """Places of the marks of that size."""
    lines = [line for line in axes.lines if line.get_marker() not in ("None", "") and line.get_markersize() == size]
    return [(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def check(figure: Figure) -> None:
    assert not overlapping(figure)
    assert figure.get_size_inches()[0] <= WIDTH + 1e-9


@pytest.mark.parametrize("groups", [SHORT, LONG])
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("measures", [1, 2])
def test_means_have_room_for_few_and_many_groups(groups: list[str], runs: int, measures: int) -> None:
    values = values_of(groups, runs)
    intervals = {name: {group: (min(v), max(v)) for group, v in by.items()} for name, by in values.items()}
    measure = {group: ("mass on {0, 1}, binarize=dynamic", "density")[k % measures] for k, group in enumerate(groups)}
    figure = figures.group_means(values, intervals if runs > 1 else None, measures=measure, caption="lines: intervals")
    check(figure)
    assert ("ELBOs compare within one measure only" in figure.get_supxlabel().replace("\n", " ")) == (measures > 1)


def test_marks_lie_at_the_means_and_small_ones_at_the_runs() -> None:
    figure = figures.group_means(
        {"elbo": {"a": [1.0, 3.0], "b": [5.0], "c": [float("nan")]}},
        {"elbo": {"a": (0.5, 3.5), "b": (float("nan"), float("nan"))}},
    )
    (axes,) = figure.axes
    assert marks(axes, 8) == [(2.0, 0.0), (5.0, 1.0)]
    assert [x for x, _ in marks(axes, 4)] == [1.0, 3.0]
    assert all(0 < y < 0.5 for _, y in marks(axes, 4))
    (interval,) = [line for line in axes.lines if line.get_linewidth() == 2.2]
    assert list(interval.get_xdata()) == [0.5, 3.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    low, high = axes.get_xlim()
    assert low < 0.5
    assert high > 5.0


def test_elbos_of_two_measures_have_axes_of_their_own_and_errors_share_one() -> None:
    values = {"elbo": {"a": [-300.0], "b": [50.0]}, "mse": {"a": [0.03], "b": [0.01]}}
    figure = figures.group_means(values, measures={"a": "mass", "b": "density"})
    above, below = figure.axes[:4:2], figure.axes[1:4:2]
    by_title = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert set(by_title) == {"ELBO, nats", "MSE"}
    spans = [tuple(axes.get_xlim()) for axes in figure.axes]
    assert len(figure.axes) == len(above) + len(below) == 4
    assert len(set(spans)) == 3
    assert {"mass", "density"} <= set(texts(figure))


def test_colours_are_those_of_the_order_of_groups() -> None:
    figure = figures.paired_differences({"elbo": {"c": (1.0, 0.5, 1.5)}}, "a", groups=["a", "b", "c"])
    (mark,) = [line for line in figure.axes[0].lines if line.get_markersize() == 8 and line.get_marker() != "None"]
    colour, marker, _ = group_styles(3)[2]
    assert (mark.get_color(), mark.get_marker()) == (colour, marker)


def test_styles_of_groups_are_all_different() -> None:
    assert len(set(group_styles(24))) == 24


@pytest.mark.parametrize("groups", [SHORT, LONG])
@pytest.mark.parametrize("tested", [True, False])
def test_differences_have_room_for_few_and_many_groups(groups: list[str], tested: bool) -> None:
    random = np.random.default_rng(0)
    table = {
        name: {group: (d, d - sd, d + sd) for group in groups[1:] for d in [float(random.normal(0, 2 * sd))]}
        for name, (_, sd) in METRICS.items()
    }
    p_values = {"accuracy_em_none": dict.fromkeys(groups[1:], 0.0123)} if tested else None
    figure = figures.paired_differences(table, groups[0], p_values=p_values, groups=groups, caption="lines: intervals")
    check(figure)
    assert texts(figure).count("p = 0.012") == (len(groups) - 1 if tested else 0)
    assert ("p: McNemar's test" in figure.get_supxlabel()) == tested


def test_differences_and_their_line_at_zero() -> None:
    table = {"elbo": {"b": (1.5, 1.0, 2.0), "c": (float("nan"), 0.0, 0.0)}, "mse": {"c": (-0.1, -0.2, float("nan"))}}
    figure = figures.paired_differences(table, "a", p_values={"elbo": {"b": 1e-9}})
    first, second = figure.axes
    assert marks(first, 8) == [(1.5, 0.0)]
    assert marks(second, 8) == [(-0.1, 1.0)]
    assert all(axes.get_xlim()[0] < 0 < axes.get_xlim()[1] for axes in figure.axes)
    assert [text.get_text() for text in first.texts] == ["p < 0.001"]
    assert second.get_xlabel() == "← better"


def test_small_differences_keep_their_digits() -> None:
    figure = figures.paired_differences({"mse": {"b": (-4.1e-5, -1.3e-4, 4.3e-5)}}, "a")
    check(figure)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "0.00000" in labels
    assert not any("e" in text for text in labels)


def test_axes_of_a_users_own() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert figures.group_means({"elbo": {"a": [1.0], "b": [2.0]}}, ax=left) is figure
    assert figures.paired_differences({"elbo": {"b": (1.0, 0.5, 1.5)}}, "a", ax=right) is figure
    assert figure.get_suptitle() == ""
    assert marks(left, 8) == [(1.0, 0.0), (2.0, 1.0)]
    assert marks(right, 8) == [(1.0, 0.0)]
    with pytest.raises(ValueError, match=r"^Expected axes for the whole picture, 2, .* \(elbo, mse\); got 1: "):
        figures.group_means({"elbo": {"a": [1.0]}, "mse": {"a": [1.0]}}, ax=left)


def test_long_names_have_room_in_given_axes() -> None:
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(1, 2)
    figures.group_means(
        {name: {group: [0.1 * k] for k, group in enumerate(LONG)} for name in ("elbo", "mse")}, ax=panels
    )
    assert not overlapping(figure)
    names = [[label.get_text() for label in panel.get_yticklabels()] for panel in panels]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(LONG)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a finite value of a group of runs; got none"):
        figures.group_means({"elbo": {"a": [float("inf")]}})
    with pytest.raises(ValueError, match="Expected a measure for each group; got none for 'b'"):
        figures.group_means({"elbo": {"a": [1.0], "b": [1.0]}}, measures={"a": "density"})
    with pytest.raises(
        ValueError, match="Expected a finite difference of a group of runs from the reference; got none"
    ):
        figures.paired_differences({"elbo": {}}, "a")
