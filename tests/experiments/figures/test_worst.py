from __future__ import annotations

import numpy as np
import pytest

from latentmix.experiments import figures
from latentmix.experiments.figures.worst import _short

from tests.experiments.figures.layout import overlapping, texts

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 64), (3, 178)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_texts_have_room(channels: int, size: int, count: int) -> None:
    images = RANDOM.uniform(size=(20, channels, size, size))
    figure = figures.worst_reconstructions(images, images**2, count=count)
    assert not overlapping(figure)


def test_the_greatest_errors_and_those_at_the_median_are_shown() -> None:
    errors = RANDOM.permutation(np.arange(1.0, 102.0))
    images = np.broadcast_to((errors / 101)[:, None, None, None], (101, 1, 4, 4))
    figure = figures.worst_reconstructions(images, np.zeros_like(images), errors, measure="−log p(x|z)", count=3)
    shown = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert shown == [["101", "100", "99.0"], ["52.0", "51.0", "50.0"]]
    worst = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(worst[:4, :4, :3], 1.0)  # the image
    np.testing.assert_array_equal(worst[5:9, :4, :3], 0.0)  # its reconstruction
    np.testing.assert_allclose(worst[10:14, 0, :3], [[213 / 255, 94 / 255, 0]] * 4, atol=1 / 126)  # all of it is wrong
    assert "−log p(x|z), greatest and median of 101 images" in figure.get_supxlabel().replace("\n", " ")


def test_squared_errors_are_the_default() -> None:
    images = RANDOM.uniform(size=(9, 3, 4, 4))
    means = images * np.linspace(0.1, 0.9, 9)[:, None, None, None]
    assert texts(figures.worst_reconstructions(images, means)) == texts(
        figures.worst_reconstructions(images, means, ((images - means) ** 2).mean(axis=(1, 2, 3)))
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_few_images_none_is_shown_twice(count: int) -> None:
    images = np.linspace(0.1, 1.0, count)[:, None, None, None] * np.ones((count, 1, 4, 4))
    figure = figures.worst_reconstructions(images, np.zeros_like(images))
    shown = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels()]
    assert count == 1 or len(set(shown)) == len(shown)


def test_numbers_have_three_digits() -> None:
    assert [_short(value) for value in (1234.5, 12.345, 1.2345, 0.12345, 0.012345, -1.5)] == [
        *("1,234", "12.3", "1.23", "0.123", "0.0123", "−1.50")
    ]


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Expected reconstructions of shape \(4, 1, 8, 8\), as the images; got \(4, 1, 6, 6\)"
    ):
        figures.worst_reconstructions(np.zeros((4, 1, 8, 8)), np.zeros((4, 1, 6, 6)))
    with pytest.raises(ValueError, match="at least 1 image on each side; got 0"):
        figures.worst_reconstructions(np.zeros((4, 1, 8, 8)), np.zeros((4, 1, 8, 8)), count=0)
