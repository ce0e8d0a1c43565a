from __future__ import annotations

from collections.abc import Callable, Iterator

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from latentmix.experiments import figures

RANDOM = np.random.default_rng(0)
CLOUD = RANDOM.normal(size=(60, 3))
OWNERS = np.arange(60) % 10


@pytest.fixture(autouse=True)
def same_matplotlib() -> Iterator[None]:
    rc, backend = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
    yield
    assert dict(matplotlib.rcParams) == rc
    assert matplotlib.get_backend(auto_select=False) == backend


def texts(figure: Figure) -> set[str]:
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_visible()}


def mixture(k: int = 10) -> figures.Components:
    factors = RANDOM.normal(size=(k, 3, 3))
    return figures.Components(RANDOM.normal(size=(k, 3)), factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(3))


def test_points_in_space() -> None:
    owners = np.where(OWNERS == 3, -1, OWNERS)
    figure = figures.points_in_space(torch.from_numpy(CLOUD), CLOUD, OWNERS, owners, caption="Energy distance 0.01")
    words = texts(figure)
    assert [axes.name for axes in figure.axes] == ["3d", "3d"]
    assert {
        "Data",
        "Samples of the model",
        "component of the true mixture",
        "0",
        "9",
        "none",
        "Energy distance 0.01",
    } < words
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


def test_outlying_samples_do_not_widen_the_window() -> None:
    far = np.concatenate([CLOUD[:-1], [[1e4, 0.0, 0.0]]])
    figure = figures.points_in_space(CLOUD, far, OWNERS, OWNERS)
    assert figure.axes[0].get_xlim()[1] < 2 * CLOUD[:, 0].max() + 2


def test_points_pairwise_draws_marginal_ellipses() -> None:
    truth = mixture()
    drawn = {}
    figure = figures.points_pairwise(CLOUD, CLOUD + 1.0, OWNERS, OWNERS, truth, points=50)
    assert {"Data", "Samples of the model", "x₁", "x₃", "2-sigma ellipse"} < texts(figure)
    for axes, pair in zip(figure.axes, [(0, 1), (0, 2), (1, 2)] * 2, strict=True):
        assert len(axes.patches) == 10
        assert sum(len(np.asarray(dots.get_offsets())) for dots in axes.collections) == 50
        drawn[pair] = axes.patches[4]
    for (across, up), ellipse in drawn.items():
        turn = np.radians(ellipse.angle)
        axes_of = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        spread = axes_of @ np.diag([ellipse.width**2, ellipse.height**2]) @ axes_of.T / 16
        assert spread == pytest.approx(np.asarray(truth.covariances)[4][np.ix_((across, up), (across, up))])


def test_coverage() -> None:
    shares, expected = [0.5, 0.0, 0.4], [0.4, 0.3, 0.3]
    figure = figures.coverage(shares, expected, [True, False, True], outside=0.1, caption="Energy distance 0.01")
    words = texts(figure)
    assert {"The samples cover 2 of 3 components", "samples, covered", "samples, not covered"} < words
    assert "10.0% of the samples lie in no component. Energy distance 0.01" in words
    assert sorted(bar.get_height() for bar in figure.axes[0].patches) == sorted(shares)
    (marks,) = figure.axes[0].collections
    assert [segment[0, 1] for segment in marks.get_segments()] == expected


def test_components_have_one_name_and_one_colour_in_every_picture() -> None:
    names, owners = ["2", "5", "7"], np.arange(60) % 3
    drawn = (
        figures.points_in_space(CLOUD, CLOUD, np.zeros(60), owners % 2, names=names),
        figures.points_pairwise(CLOUD, CLOUD, owners, owners, mixture(3), names=names),
        figures.latent_scatter(CLOUD, owners, {"EM": mixture(3)}, range(3), names=names),
        figures.latent_map({"z": CLOUD[:, :2]}, owners, name="true component", classes=range(3), names=names),
    )
    styles = [
        [(text.get_text(), line.get_color()) for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)]
        for figure in drawn
        for legend in figure.legends
    ]
    assert [style[:3] for style in styles] == [styles[0][:3]] * 4
    assert [name for name, _ in styles[0]] == names
    bars = figures.coverage([0.2] * 3, [0.3] * 3, [True] * 3, names=names).axes[0]
    assert [label.get_text() for label in bars.get_xticklabels()] == names


def test_coverage_of_all() -> None:
    words = texts(figures.coverage([0.5, 0.5], torch.tensor([0.5, 0.5]), torch.tensor([True, True])))
    assert "The samples cover 2 of 2 components" in words
    assert "samples, not covered" not in words


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.points_in_space(CLOUD[:, :2], CLOUD, OWNERS, OWNERS), r"N x 3; got \(60, 2\) for data"),
        (lambda: figures.points_in_space(CLOUD, CLOUD, OWNERS, OWNERS[:5]), "got 60 points, 5 components"),
        (lambda: figures.points_pairwise(CLOUD, CLOUD[:0], OWNERS, OWNERS[:0], mixture()), r"got \(0, 3\) for samples"),
        (
            lambda: figures.points_pairwise(CLOUD, CLOUD, OWNERS, OWNERS, figures.Components(np.eye(2), np.eye(2))),
            "means of shape K x 3",
        ),
        (
            lambda: figures.points_pairwise(CLOUD, CLOUD, OWNERS, OWNERS, mixture(3)),
            "Expected components below 3; got 9",
        ),
        (lambda: figures.coverage([0.5], [0.5, 0.5], [True]), "of one length"),
        (lambda: figures.coverage([], [], []), "at least one component"),
    ],
)
def test_bad_input_is_refused(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
