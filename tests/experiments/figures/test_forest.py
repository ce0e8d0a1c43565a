from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from latentmix.experiments.figures.forest import REACH, posterior_forest
from latentmix.experiments.figures.style import FIT_STYLE

QUANTITIES = [("weight", 0, None), ("weight", 1, None), ("mean", 0, 0), ("mean", 1, 0), ("scale", None, 0)]
EM: dict[str, Any] = {"point": [0.4, 0.6, -1.0, 2.0, 1.0], "sd": [0.1, 0.1, 0.5, 0.5, 0.2]}
POSTERIOR: dict[str, Any] = {
    "point": [0.42, 0.58, -0.8, 2.0, 1.1],
    "sd": [0.1, 0.1, 0.4, 0.4, 0.2],
    "low": [0.3, 0.4, -1.6, 1.2, 0.8],
    "high": [0.6, 0.7, 0.2, 2.8, 1.5],
}


def places(figure: Figure, fit: str, panel: int) -> list[float]:
    """Where the points of a fit are drawn in a panel, in the order of the rows."""
    colour, marker = FIT_STYLE[fit]
    lines = figure.axes[panel].lines
    (points,) = [line for line in lines if line.get_color() == colour and line.get_marker() == marker]
    return [float(value) for value in points.get_xdata()]


def test_weights_are_drawn_as_they_are_and_others_in_posterior_sds_from_em() -> None:
    figure = posterior_forest(QUANTITIES, {"EM": EM, "SVI posterior": POSTERIOR}, ["a", "b"])
    assert places(figure, "SVI posterior", 0) == POSTERIOR["point"][:2]
    np.testing.assert_allclose(places(figure, "SVI posterior", 1), [0.2 / 0.4, 0.0])
    np.testing.assert_allclose(places(figure, "SVI posterior", 2), [0.1 / 0.2])
    assert places(figure, "EM", 1) == [0.0, 0.0]
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes[:3]]
    assert labels == [["a", "b"], ["a, z1", "b, z1"], ["z1"]]


def test_the_bars_are_intervals_or_standard_errors() -> None:
    figure = posterior_forest(QUANTITIES, {"EM": EM, "SVI posterior": POSTERIOR}, ["a", "b"])
    of_em, of_posterior = (bars.get_segments() for bars in figure.axes[0].collections)
    np.testing.assert_allclose([segment[:, 0] for segment in of_posterior], [[0.3, 0.6], [0.4, 0.7]])
    np.testing.assert_allclose([segment[:, 0] for segment in of_em], [[0.2355, 0.5645], [0.4355, 0.7645]])


def test_what_lies_far_away_is_an_arrow_at_the_edge() -> None:
    far = {**POSTERIOR, "point": [0.42, 0.58, -100.0, 2.0, 1.1]}
    figure = posterior_forest(QUANTITIES, {"EM": EM, "SVI posterior": POSTERIOR, "NUTS": far}, ["a", "b"])
    arrows = [line for line in figure.axes[1].lines if line.get_marker() == "<"]
    assert [line.get_xdata().tolist() for line in arrows] == [[-REACH]]
    assert "arrows: more than 8 away" in figure.get_supxlabel().replace("\n", " ")


def test_of_many_the_most_different_are_drawn() -> None:
    quantities = [("mean", 0, d) for d in range(40)]
    point = np.zeros(40)
    moved = np.where(np.arange(40) % 5 == 0, 3.0, 0.01)
    posterior = {"point": moved, "sd": np.ones(40), "low": moved - 1, "high": moved + 1}
    figure = posterior_forest(quantities, {"EM": {"point": point}, "SVI posterior": posterior}, ["a"])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 12
    assert {f"a, z{d + 1}" for d in range(0, 40, 5)} <= set(labels)


def test_without_a_posterior_there_is_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="Expected a fit with intervals among the fits; got EM"):
        posterior_forest(QUANTITIES, {"EM": EM}, ["a", "b"])
