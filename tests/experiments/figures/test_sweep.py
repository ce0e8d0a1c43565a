from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import stats

from latentmix.experiments import figures
from latentmix.experiments.figures.style import INK
from latentmix.experiments.figures.tableau import arrange, number

from tests.experiments.figures.layout import overlapping, texts

RANDOM = np.random.default_rng(0)
AXES = {
    "prior": ["StandardNormal", "MixturePrior", "VampPrior", "FlowPrior", "StudentT"],
    "likelihood": ["Bernoulli", "Gaussian(0.1)", "Gaussian(shared)", "Laplace", "DiscretizedLogistic"],
    "family": ["DiagonalNormal", "FullNormal", "AutoregressiveFlow"],
    "objective": ["Trace_ELBO", "TraceMeanField_ELBO", "TraceEnum_ELBO", "RenyiELBO"],
}
MEASURES = {"Bernoulli": "mass on {0, 1}", "DiscretizedLogistic": "mass on 256 levels"}


@pytest.fixture(autouse=True)
def same_matplotlib() -> Iterator[None]:
    rc, backend = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
    yield
    assert dict(matplotlib.rcParams) == rc
    assert matplotlib.get_backend(auto_select=False) == backend


def done(options: Mapping[str, str], **figures: float | list[float]) -> dict[str, Any]:
    group = MEASURES.get(options.get("likelihood", ""), "density")
    return {"options": dict(options), "status": "done", "group": group, "figures": figures}


def other(options: Mapping[str, str], status: str) -> dict[str, Any]:
    return {"options": dict(options), "status": status}


def every(axes: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    cells = [dict(zip(axes, labels, strict=True)) for labels in itertools.product(*axes.values())]
    return [done(cell, elbo=RANDOM.normal(-500, 300), mse=RANDOM.uniform(0.01, 0.04)) for cell in cells]


@pytest.mark.parametrize(
    "names",
    [["prior"], ["likelihood"], ["likelihood", "prior"], ["objective", "family"], ["prior", "likelihood", "family"]],
)
def test_texts_have_room(names: list[str]) -> None:
    axes = {name: AXES[name] for name in names}
    figure = figures.sweep_overview(every(axes), axes)
    assert not overlapping(figure)
    assert set(itertools.chain(*axes.values())) <= {line for text in texts(figure) for line in text.split("\n")}


def test_four_axes_on_one_page() -> None:
    cells = every(AXES)
    for k, status in ((5, "refused"), (6, "refused"), (100, "failed")):
        cells[k] = other(cells[k]["options"], status)
    figure = figures.sweep_overview(cells[:-1], AXES)
    words = texts(figure)
    assert not overlapping(figure)
    assert max(figure.get_size_inches()) < 13.5
    assert {"ELBO, nats", "density", "mass on {0, 1}", "mass on 256 levels", "×"} < set(words)
    assert any("296 done; 2 refused (hatched); 1 failed (×); 1 not run" in text.replace("\n", " ") for text in words)
    assert sum(patch.get_hatch() is not None for patch in figure.axes[0].patches) == 2
    numbers = [text for text in words if text.removeprefix("−").replace(".", "").isdigit()]
    assert len(numbers) >= 296


def test_the_axis_that_determines_the_measure_is_the_outer_one() -> None:
    grid = {tuple(cell["options"].values()): cell for cell in every(AXES)}
    assert arrange(grid, AXES) == (("likelihood", "family"), ("prior", "objective"))
    same = {key: cell | {"group": "density"} for key, cell in grid.items()}
    assert arrange(same, AXES)[0] != ()
    few = {"prior": AXES["prior"], "likelihood": AXES["likelihood"]}
    grid = {tuple(cell["options"].values()): cell for cell in every(few)}
    assert arrange(grid, few) == (("likelihood",), ("prior",))


def test_every_measure_has_its_own_colours() -> None:
    axes = {"likelihood": ["Bernoulli", "Laplace"], "prior": ["StandardNormal", "StudentT"]}
    values = {("Bernoulli", "StandardNormal"): -100.0, ("Bernoulli", "StudentT"): -90.0}
    values |= {("Laplace", "StandardNormal"): 700.0, ("Laplace", "StudentT"): 600.0}
    cells = [done(dict(zip(axes, key, strict=True)), elbo=value, mse=0.1) for key, value in values.items()]
    figure = figures.sweep_overview(cells, axes, metrics=["elbo"])
    panel = figure.axes[0]
    canvas = np.asarray(panel.get_images()[0].get_array())
    light = canvas.sum(axis=2)
    assert light[0, 1] < light[0, 0]  # darker is better, within each measure
    assert light[1, 0] < light[1, 1]
    blue, orange = canvas[0, 1], canvas[1, 0]
    assert blue[2] > blue[0]
    assert orange[0] > orange[2]
    frames = [p.get_xy() for p in panel.patches if p.get_edgecolor()[:3] == to_rgb(INK)]
    assert sorted(frames) == [(-0.5, 0.5), (0.5, -0.5)]
    assert any("ELBOs compare within one measure only" in text.replace("\n", " ") for text in texts(figure))


def test_lower_error_is_darker_on_a_common_scale() -> None:
    axes = {"likelihood": ["Bernoulli", "Laplace"], "beta": ["1", "4"]}
    cells = every(axes)
    for k, cell in enumerate(cells):
        cell["figures"]["mse"] = 0.01 * (k + 1)
    figure = figures.sweep_overview(cells, axes, metrics=["mse"])
    light = np.asarray(figure.axes[0].get_images()[0].get_array()).sum(axis=2).ravel()
    assert np.all(np.diff(light) > 0)
    assert len(figure.axes) == 2  # a panel and one bar


def test_an_outlying_cell_does_not_bleach_the_others() -> None:
    axes = {"prior": [str(k) for k in range(5)], "beta": [str(k) for k in range(5)]}
    cells = every(axes)
    for k, cell in enumerate(cells):
        cell["figures"]["elbo"] = -100.0 - k
    cells[0]["figures"]["elbo"] = -1e7
    figure = figures.sweep_overview(cells, axes, metrics=["elbo"])
    canvas = np.asarray(figure.axes[0].get_images()[0].get_array()).reshape(25, 3)
    assert np.abs(canvas[1] - canvas[24]).max() > 0.5
    assert {"−101.0", "−10M"} < set(texts(figure))


def test_tableaux_in_given_axes_name_their_colours_in_words() -> None:
    names = {name: AXES[name] for name in ("prior", "likelihood", "family")}
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(1, 2)
    assert figures.sweep_overview(every(names), names, metrics=["elbo", "mse"], ax=panels) is figure
    assert figure.axes == list(panels)
    assert panels[0].get_xlabel().split("\n") == [
        "blue: mass on {0, 1}",
        "orange: density",
        "purple: mass on 256 levels",
    ]
    assert [panel.get_title() for panel in panels] == ["ELBO, nats", "MSE"]
    assert panels[1].get_xlabel() == ""
    assert not overlapping(figure)


def test_rows_in_given_axes_name_their_cells_in_each() -> None:
    names = {"likelihood": AXES["likelihood"]}
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(3, 2)
    assert figures.sweep_overview(every(names), names, metrics=["elbo", "mse"], ax=panels) is figure
    labels = [[label.get_text().split("\n")[0] for label in panel.get_yticklabels()] for panel in panels.flat]
    blocks = ["Bernoulli"], ["Gaussian(0.1)", "Gaussian(shared)", "Laplace"], ["DiscretizedLogistic"]
    assert labels == [block for block in blocks for _ in range(2)]
    assert [panel.get_title() for panel in panels.flat] == ["ELBO, nats", "MSE"] * 3
    assert not overlapping(figure)
    with pytest.raises(ValueError, match=r"6, one for each panel \(elbo of mass on \{0, 1\}, mse of mass on"):
        figures.sweep_overview(every(names), names, metrics=["elbo", "mse"], ax=panels[0])


def test_rows_of_one_axis() -> None:
    names = ["Bernoulli", "Gaussian(0.1)", "Laplace", "DiscretizedLogistic"]
    cells = [
        done({"likelihood": names[0]}, elbo=-98.04, mse=0.0123, accuracy_em_none=0.9),
        done({"likelihood": names[1]}, elbo=-250.0, mse=0.0234, accuracy_em_none=float("nan")),
        done({"likelihood": names[2]}, elbo=600.0, mse=0.0345),
        other({"likelihood": names[3]}, "refused"),
    ]
    figure = figures.sweep_overview(cells, {"likelihood": names})
    words = texts(figure)
    assert {"−98.0", "0.0123", "0.900", "ELBO, nats", "MSE", "accuracy: EM,\nno labels", "Laplace\ndensity"} < set(
        words
    )
    assert words.count("refused") == 3
    assert "3 done; 1 refused; ring: the best, of one run each; ELBOs compare within one measure only" in words
    assert not overlapping(figure)
    rings = [line for axes in figure.axes for line in axes.lines if line.get_markeredgecolor() == INK]
    assert sorted(float(np.ravel(line.get_xdata())[0]) for line in rings) == [0.0123, 600.0]
    upper, lower = figure.axes[0], figure.axes[3]
    assert upper.get_xlim()[1] < 0 < lower.get_xlim()[1]  # one range per measure
    assert figure.axes[1].get_xlim() == figure.axes[4].get_xlim()


def over_seeds(axes: Mapping[str, Sequence[str]], count: int, spread: float = 1.0) -> list[dict[str, Any]]:
    """Cells whose figures rise from cell to cell, with `count` seeds each."""
    random, steps = np.random.default_rng(0), spread * np.linspace(-1, 1, count)
    cells = [dict(zip(axes, labels, strict=True)) for labels in itertools.product(*axes.values())]
    return [
        done(
            cell,
            elbo=[float(-100 + 10 * k + step) for step in random.permutation(steps)],
            mse=[float(0.05 - 0.01 * k + 0.001 * step) for step in random.permutation(steps)],
        )
        for k, cell in enumerate(cells)
    ]


def test_rows_over_seeds_have_error_bars_of_student_t() -> None:
    axes = {"prior": ["StandardNormal", "StudentT"]}
    cells = over_seeds(axes, 5)
    figure = figures.sweep_overview(cells, axes)
    half = stats.t.ppf(0.95, 4) * np.std(np.linspace(-1, 1, 5), ddof=1) / np.sqrt(5)
    bars = [
        line.get_xdata() for line in figure.axes[0].lines if line.get_linewidth() == 2 and len(line.get_xdata()) == 2
    ]
    np.testing.assert_allclose(bars, [[-100 - half, -100 + half], [-90 - half, -90 + half]])
    ticks = [np.sort(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "|"]
    np.testing.assert_allclose(ticks[1], np.linspace(-91, -89, 5))
    words = texts(figure)
    assert {f"−100.0 ± {half:.1f}", f"−90.0 ± {half:.1f}", f"0.0500 ± {0.001 * half:.4f}"} < set(words)
    caption = figure.get_supxlabel().replace("\n", " ")
    assert caption.startswith("2 means over 5 seeds, with 90% Student t intervals; ring: may be the best")
    assert not overlapping(figure)


def test_no_cell_is_marked_where_all_intervals_overlap() -> None:
    axes = {"prior": ["StandardNormal", "StudentT"], "beta": ["1", "4"]}
    for spread, frames in ((1.0, 1), (4.0, 2), (15.0, 0)):
        figure = figures.sweep_overview(over_seeds(axes, 3, spread), axes, metrics=["elbo"])
        marked = [patch for patch in figure.axes[0].patches if patch.get_edgecolor()[:3] == to_rgb(INK)]
        assert len(marked) == frames
        caption = figure.get_supxlabel().replace("\n", " ")
        assert ("no frame: all intervals overlap" in caption) == (frames == 0)
        assert ("frame: may be the best, as no interval lies above" in caption) == (frames > 0)


def test_a_cell_of_one_seed_among_several_may_be_the_best_and_says_so() -> None:
    axes = {"prior": ["StandardNormal", "StudentT"], "beta": ["1", "4"]}
    cells = over_seeds(axes, 3)
    cells[0]["figures"] = {"elbo": [-100.0], "mse": [0.05]}
    figure = figures.sweep_overview(cells, axes, metrics=["elbo"])
    frames = [patch.get_xy() for patch in figure.axes[0].patches if patch.get_edgecolor()[:3] == to_rgb(INK)]
    assert sorted(frames) == [(-0.5, -0.5), (0.5, 0.5)]
    assert "1 seed" in texts(figure)
    assert "4 means over 1 to 3 seeds" in figure.get_supxlabel()


@pytest.mark.parametrize("names", [["prior"], ["likelihood"], ["prior", "family"], ["prior", "likelihood", "family"]])
def test_texts_over_seeds_have_room(names: list[str]) -> None:
    axes = {name: AXES[name][:3] for name in names}
    cells = over_seeds(axes, 5)
    for cell in cells:
        cell["figures"] |= {"kl": [12.3, 14.5], "accuracy_em_none": [0.9, 1.0], "log_likelihood": [-1234.5, -1233.0]}
    figure = figures.sweep_overview(cells, axes)
    assert not overlapping(figure)
    assert sum(text.startswith("±") or " ± " in text for text in texts(figure)) >= len(cells)


def test_axes_stay_within_the_limits_of_their_metric() -> None:
    names = ["Bernoulli", "Laplace"]
    cells = [done({"likelihood": name}, mse=0.1 * k, accuracy_em_none=1.0 - 0.4 * k) for k, name in enumerate(names)]
    error, accuracy = figures.sweep_overview(cells, {"likelihood": names}).axes[:2]
    assert error.get_xlim()[0] == 0.0
    assert accuracy.get_xlim()[1] == 1.0
    assert max(accuracy.get_xticks()) <= 1.0


def test_what_is_neither_better_nor_worse_is_grey_and_the_caption_says_so() -> None:
    axes = {"likelihood": ["Gaussian(0.1)", "Laplace"], "beta": ["1", "4"]}
    cells = every(axes)
    for k, cell in enumerate(cells):
        cell["figures"]["kl"] = 10.0 * k
    figure = figures.sweep_overview(cells, axes, metrics=["mse", "kl"])
    error, divergence = (np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes[:2])
    assert np.ptp(divergence, axis=2).max() < 0.01
    assert np.ptp(error, axis=2).max() > 0.1
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "darker colour is better; grey (KL divergence): darker is higher, not better" in caption


@pytest.mark.parametrize("varied", [2, 3, 4])
def test_labels_of_measures_and_panels_have_room(varied: int) -> None:
    axes = {"likelihood": ["Bernoulli", "Gaussian(0.1)"], "latent_dim": ["2", "10"], "beta": ["1", "4"]}
    axes["family"] = ["DiagonalNormal", "FullNormal"]
    axes = dict(list(axes.items())[:varied])
    cells = every(axes)
    for cell in cells:
        cell["group"] = "mass on {0, 1}, binarize=dynamic" if cell["group"] != "density" else "density"
        more = {"log_likelihood": -123.4, "ssim": 0.5, "kl": 12.3, "accuracy_em_none": 1.0}
        cell["figures"] = {**cell["figures"], **more}
    figure = figures.sweep_overview(cells, axes)
    assert not overlapping(figure)
    assert figure.get_size_inches()[0] < 9.0
    words = [text.replace("\n", " ") for text in texts(figure)]
    assert "accuracy: EM, no labels" in words
    same = figures.sweep_overview([cell | {"group": "mass on {0, 1}"} for cell in cells], axes)
    assert "measure of the ELBOs: mass on {0, 1}" in same.get_supxlabel().replace("\n", " ")


def test_a_sweep_without_a_finished_cell() -> None:
    axes = {"prior": ["A", "B"], "beta": ["1", "2"]}
    words = texts(figures.sweep_overview([other({"prior": "A", "beta": "1"}, "refused")], axes))
    assert "1 refused (hatched); 3 not run" in words
    assert "1 failed" in texts(figures.sweep_overview([other({"beta": "1"}, "failed")], {"beta": ["1"]}))


def test_long_labels_are_elided_in_the_middle() -> None:
    name = "my.package.priors.VeryLongPrior(n_components=100)"
    axes = {"prior": [name, "StandardNormal"], "beta": ["1", "2"]}
    figure = figures.sweep_overview(every(axes), axes, heading="Mine")
    assert not overlapping(figure)
    assert any(text.startswith("my.package.p") and "…" in text for text in texts(figure))
    assert figure.get_suptitle() == "Mine"


def test_numbers() -> None:
    assert [number(-1.25, 1), number(0.5, 3), number(1e6, 0)] == ["−1.2", "0.500", "1000000"]


ONE = {"beta": ["1", "2"]}
CELL = done({"beta": "1"}, elbo=1.0)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.sweep_overview([CELL], {}), "one to four axes"),
        (lambda: figures.sweep_overview([CELL], {"beta": []}), "one to four axes"),
        (lambda: figures.sweep_overview([CELL], {str(k): ["1"] for k in range(5)}), "one to four axes"),
        (lambda: figures.sweep_overview([], ONE), "at least one cell"),
        (lambda: figures.sweep_overview([CELL, CELL], ONE), "every cell once; got {'beta': '1'} twice"),
        (lambda: figures.sweep_overview([done({"beta": "3"})], ONE), "label of each axis, beta; got {'beta': '3'}"),
        (lambda: figures.sweep_overview([done({"prior": "1"})], ONE), "label of each axis"),
        (lambda: figures.sweep_overview([CELL | {"status": "running"}], ONE), "done, refused, failed; got 'running'"),
        (lambda: figures.sweep_overview([CELL], ONE, metrics=["beauty"]), "the figure 'beauty'; got none"),
    ],
)
def test_bad_input_is_refused(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
