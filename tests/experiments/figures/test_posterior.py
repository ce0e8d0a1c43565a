"""Pictures of posteriors: every plot, of few and many quantities; texts have room, and the process is left alone."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from arviz_plots.backend.matplotlib import core
from matplotlib.figure import Figure

from latentmix.experiments.figures.arviz_figures import arviz_style
from latentmix.experiments.figures.posterior import PLOTS, Panels, flat, plot_obstacle, quantity_names
from latentmix.experiments.figures.style import WIDTH
from latentmix.experiments.options.names import POSTERIOR_PLOTS

from tests.experiments.figures.layout import overlapping, texts
from tests.experiments.figures.posteriors import mixture_tree, schools_tree

TREES = {
    "3 in 2, mcmc": mixture_tree(3, 2),
    "10 in 10, svi": mixture_tree(10, 10, "svi"),
    "schools, mcmc": schools_tree(),
}
CASES = [
    pytest.param(tree, plot, id=f"{plot}, {tree}")
    for tree in TREES
    for plot in PLOTS
    if plot_obstacle(TREES[tree], plot) is None
]


def drawn(tree: xr.DataTree, plot: str) -> Figure:
    names = quantity_names(tree["posterior"].to_dataset())
    return PLOTS[plot].draw(tree, Panels(names[: PLOTS[plot].most], len(names), "that come first"))


def test_every_plot_of_the_command_line_is_there() -> None:
    assert tuple(PLOTS) == POSTERIOR_PLOTS


@pytest.mark.parametrize(("name", "plot"), CASES)
def test_texts_have_room(name: str, plot: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = drawn(TREES[name], plot)
        assert not overlapping(figure)
    assert figure.get_size_inches()[0] <= WIDTH + 1e-9
    assert figure.get_size_inches()[1] < 14
    assert figure.get_suptitle()
    assert figure.get_supxlabel().endswith((".", "%)."))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(("centre", "spread"), [(0.1234, 1e-5), (12.3, 3e-4), (1.0, 1e-7), (-12345.0, 300.0), (0, 1)])
def test_numbers_of_pairs_have_room_however_narrow_draws_are(centre: float, spread: float, count: int) -> None:
    draws = centre + spread * np.random.default_rng(0).normal(size=(2, 100, count))
    sites = xr.Dataset({"weights": (("chain", "draw", "component"), draws)}, {"component": np.arange(count)})
    figure = drawn(xr.DataTree.from_dict({"posterior": sites}), "pair")
    assert not overlapping(figure)
    named = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(named) == count
    assert all(any(label.get_text() for label in axes.get_xticklabels()) for axes in named)


def test_intervals_of_a_forest_are_of_90_percent() -> None:
    tree = schools_tree()
    figure = drawn(tree, "forest")
    assert figure.get_supxlabel().replace("\n", " ").endswith("central intervals of 50% (thick) and 90% (thin).")
    low, high = np.quantile(tree["posterior"]["mu"], [0.05, 0.95])
    ends = [np.sort(line.get_xdata()) for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(each, [low, high], rtol=1e-6) for each in ends)


def test_a_picture_says_how_many_quantities_it_shows() -> None:
    figure = drawn(mixture_tree(10, 10, draws=10), "trace")
    assert figure.get_suptitle().replace("\n", " ") == "Traces of 12 of 210 quantities, those that come first"
    assert {"weights[9]", "means[0, 1]", "chain 1"} <= set(texts(figure))
    assert drawn(TREES["3 in 2, mcmc"], "forest").get_suptitle() == "Intervals of 15 quantities"
    assert Panels(["mu"], 1).words == "1 quantity"


def test_rows_of_a_forest_are_the_intervals_of_their_names() -> None:
    tree = schools_tree()
    tree["posterior"]["theta"] = tree["posterior"]["theta"] * 0 + np.arange(8) * 10 + np.random.rand(4, 60, 8)
    axes = drawn(tree, "forest").axes[-1]
    rows = {label.get_text(): tick for label, tick in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    points = {float(y): float(x) for points in axes.collections for x, y in points.get_offsets()}
    for place, school in enumerate(tree["posterior"]["school"].values):
        assert points[rows[f"theta[{school}]"]] == pytest.approx(10 * place + 0.5, abs=0.2)


def test_a_prior_of_heavy_tails_leaves_the_posterior_visible() -> None:
    tree = schools_tree()
    axes = drawn(tree, "prior_posterior").axes[1]
    assert axes.get_title() == "tau"
    low, high = float(tree["posterior"]["tau"].min()), float(tree["posterior"]["tau"].max())
    assert axes.get_xlim()[1] < high + 2.5 * (high - low)
    prior, posterior = (np.trapezoid(line.get_ydata(), line.get_xdata()) for line in axes.lines[:2])
    inside = float((tree["prior"]["tau"] < high + 2 * (high - low)).mean())
    assert prior == pytest.approx(inside, rel=0.1)  # what lies outside is not spread over what lies inside
    assert posterior == pytest.approx(1.0, rel=0.1)


def test_flat_groups_hold_each_scalar_under_arviz_name() -> None:
    import arviz

    posterior = TREES["3 in 2, mcmc"]["posterior"].to_dataset()
    assert quantity_names(posterior) == list(arviz.summary(posterior).index)
    chosen = flat(posterior, ["means[2, 1]", "weights[0]", "nothing"])
    assert list(chosen.data_vars) == ["means[2, 1]", "weights[0]"]
    assert chosen["means[2, 1]"].values == pytest.approx(posterior["means"].values[..., 2, 1])


def test_names_of_dimensions_are_no_obstacle() -> None:
    tree = TREES["3 in 2, mcmc"]
    renamed = xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset().rename(feature="column")})
    assert plot_obstacle(renamed, "forest") is None
    assert drawn(renamed, "forest").axes
    assert "energy of every draw" in str(plot_obstacle(renamed, "energy"))


def test_predictions_at_a_part_of_the_draws_are_checked_by_the_same_draws() -> None:
    tree = mixture_tree(3, 2)
    tree["posterior_predictive"] = tree["posterior_predictive"].to_dataset().isel(draw=slice(0, None, 3))
    assert plot_obstacle(tree, "loo_pit") is None
    thinned = {
        name: node.to_dataset().isel(draw=slice(0, None, 3), missing_dims="ignore") for name, node in tree.items()
    }
    thinned["posterior_predictive"] = tree["posterior_predictive"].to_dataset()
    whole = xr.DataTree.from_dict(thinned)
    lines = [drawn(each, "loo_pit").axes[0].lines[0].get_ydata() for each in (tree, whole)]
    assert lines[0] == pytest.approx(lines[1])


def test_the_process_is_left_as_it_was() -> None:
    import arviz_base

    before = dict(matplotlib.rcParams), dict(arviz_base.rcParams), plt.get_fignums(), core.subplots
    for plot in ("trace", "forest", "khat"):
        drawn(TREES["3 in 2, mcmc"], plot)
    with pytest.raises(KeyError):
        PLOTS["ppc"].draw(xr.DataTree.from_dict({"posterior": TREES["10 in 10, svi"]["posterior"].to_dataset()}), None)
    assert before == (dict(matplotlib.rcParams), dict(arviz_base.rcParams), plt.get_fignums(), core.subplots)


def test_blocks_of_two_threads_leave_the_process_as_it_was() -> None:
    before, entered = (dict(matplotlib.rcParams), core.subplots, list(warnings.filters)), threading.Event()

    def first() -> None:
        with arviz_style():
            entered.set()
            threading.Event().wait(0.1)  # a second block would begin here, and end after this one

    def second() -> None:
        assert entered.wait(10)
        with arviz_style():
            pass

    with ThreadPoolExecutor(2) as threads:
        for ended in [threads.submit(first), threads.submit(second)]:
            ended.result(20)
    assert before == (dict(matplotlib.rcParams), core.subplots, list(warnings.filters))
