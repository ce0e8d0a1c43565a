from __future__ import annotations

import itertools

import numpy as np
import pytest

from latentmix.experiments import figures

from tests.experiments.figures.layout import overlapping, texts

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("rows", "total"), [(1, 1), (2, 2), (12, 40)])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (1, 64)])
def test_rows_are_named_and_texts_have_room(rows: int, total: int, channels: int, size: int) -> None:
    images = RANDOM.uniform(size=(rows, 7, channels, size, size))
    values = np.linspace(-12.5, 3.25, 7)
    figure = figures.traversals(
        images, values, dimensions=range(total - rows, total), kl=np.full(rows, 12.345), total=total, caption="at 0"
    )
    words = texts(figure)
    assert not overlapping(figure)
    assert f"z{str(total).translate(str.maketrans('0123456789', '₀₁₂₃₄₅₆₇₈₉'))}  12.35 nats" in words
    assert words.count("−12.50 to 3.25") == rows
    assert (f"({rows} of {total})" in figure.get_suptitle()) == (total > rows)


def test_images_lie_where_their_values_do() -> None:
    images = np.zeros((2, 3, 1, 4, 4))
    images[1, 2] = 1.0
    canvas = np.asarray(figures.traversals(images, [[0, 1, 2], [3, 4, 5]]).axes[0].images[0].get_array())
    np.testing.assert_array_equal(canvas[-4:, -4:, :3], 1.0)
    np.testing.assert_array_equal(canvas[:4, :4, :3], 0.0)
    assert canvas[4, :, 3].max() == 0.0  # between the rows


def test_pixels_of_a_file_are_whole_multiples_of_those_of_images() -> None:
    figure = figures.traversals(np.zeros((3, 5, 1, 8, 8)), np.arange(5))
    width, height = figure.axes[0].get_position().size * figure.get_size_inches() * 150
    assert width / (5 * 9 - 1) == pytest.approx(round(width / (5 * 9 - 1)))
    assert height / (3 * 9 - 1) == pytest.approx(width / (5 * 9 - 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 3, 4, 4)), [0, 1, 2]), r"shape R x M x C x H x W; got \(2, 3, 4, 4\)"),
        ((np.zeros((2, 3, 1, 4, 4)), [0, 1]), r"values of shape 2 x 3, or 3 values; got \(2,\)"),
        ((np.zeros((2, 3, 2, 4, 4)), [0, 1, 2]), "C of 1 or 3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arguments: tuple[object, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figures.traversals(*arguments)  # type: ignore[arg-type]


def test_messages_count_what_was_given_alone() -> None:
    with pytest.raises(ValueError, match=r"Expected rows and dimensions of one length; got 2 rows, 1 dimensions[.]"):
        figures.traversals(np.zeros((2, 3, 1, 4, 4)), [0, 1, 2], dimensions=[1])


def test_many_latents_have_room_for_their_names() -> None:
    figure = figures.traversals(np.zeros((100, 3, 1, 8, 8)), [0, 1, 2])
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(boxes))
