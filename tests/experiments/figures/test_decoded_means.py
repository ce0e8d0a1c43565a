from __future__ import annotations

import numpy as np
import pytest

from latentmix.experiments import figures
from latentmix.experiments.figures.decoded_means import MOST

from tests.experiments.figures.layout import overlapping, texts

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("fits", [("EM",), ("EM", "SVI")])
@pytest.mark.parametrize(("count", "channels", "size"), [(1, 1, 8), (2, 1, 28), (3, 3, 64), (10, 1, 8), (25, 3, 32)])
def test_texts_have_room(count: int, channels: int, size: int, fits: tuple[str, ...], named: bool) -> None:
    images = {fit: RANDOM.uniform(size=(count, channels, size, size)) for fit in fits}
    weights = {fit: RANDOM.dirichlet(np.ones(count)) for fit in fits}
    names = [f"a class of a long name {k}" for k in range(count)] if named else None
    figure = figures.decoded_components(images, weights, names=names)
    assert not overlapping(figure)
    assert len(figure.axes[0].texts) == count * len(fits)


def test_each_component_has_its_own_weight_and_name_in_each_fit() -> None:
    images = np.linspace(0, 1, 3)[:, None, None, None] * np.ones((3, 1, 4, 4))
    figure = figures.decoded_components(
        {"EM": images, "SVI": images[::-1]},
        {"EM": [0.5, 0.3, 0.2], "SVI": [0.6, 0.3, 0.1]},
        names={"EM": ["cat", "dog", "owl"], "SVI": ["cat", "cat", "owl"]},
        kind="class",
    )
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [
        *("cat\n50.0%", "cat\n60.0%", "dog\n30.0%", "cat\n30.0%", "owl\n20.0%", "owl\n10.0%")
    ]
    canvas = np.asarray(axes.images[0].get_array())
    np.testing.assert_array_equal(canvas[:4, :4, 0], 0.0)
    np.testing.assert_array_equal(canvas[-4:, :4, 0], 1.0)
    assert "its class and its weight" in figure.get_supxlabel().replace("\n", " ")


def test_of_many_components_the_heaviest_are_shown_in_their_order() -> None:
    weights = RANDOM.dirichlet(np.ones(60))
    figure = figures.decoded_components(np.zeros((60, 1, 4, 4)), weights)
    shown = [int(text.get_text().split("\n")[0]) - 1 for text in figure.axes[0].texts]
    assert shown == sorted(np.argsort(-weights)[:MOST].tolist())
    assert f"the {MOST} heaviest of 60" in " ".join(texts(figure)).replace("\n", " ")


def test_fits_that_do_not_fit_are_refused() -> None:
    images = np.zeros((3, 1, 4, 4))
    with pytest.raises(ValueError, match=r"weights of the same fits; got .'EM'. and .'SVI'."):
        figures.decoded_components({"EM": images}, {"SVI": [1, 1, 1]})
    with pytest.raises(
        ValueError, match="Expected images and weights and names of one length; got 3 images, 2 weights"
    ):
        figures.decoded_components(images, [0.5, 0.5])
    with pytest.raises(ValueError, match=r"Expected 3 images of \(4, 4\) pixels for each fit; got"):
        figures.decoded_components({"EM": images, "SVI": images[:2]}, {"EM": [1, 1, 1], "SVI": [1, 1]})
    with pytest.raises(ValueError, match="Expected names for each fit; got none for SVI"):
        figures.decoded_components({"SVI": images}, {"SVI": [1, 1, 1]}, names={"EM": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="Expected weights as an array, as the images are; got a mapping"):
        figures.decoded_components(images, {"EM": [1, 1, 1]})
