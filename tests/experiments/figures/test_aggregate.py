from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import norm

from latentmix.experiments import figures
from latentmix.experiments.figures.aggregate import MANY, _pairs

from tests.experiments.figures.layout import overlapping, texts

PRIOR = np.random.default_rng(0).normal(size=(4000, 6))
POSTERIOR = np.random.default_rng(1).normal(size=(4000, 6))


def overlap_of(figure: Figure) -> list[int]:
    return [int(number) for number in re.findall(r"(\d+)%", figure.get_suptitle())]


@pytest.mark.parametrize(("dim", "panels"), [(1, 1), (2, 2), (3, 4), (6, 4)])
def test_panels_have_room_at_every_number_of_latents(dim: int, panels: int) -> None:
    mixture = figures.Components(np.zeros((3, dim)), np.stack([np.eye(dim)] * 3))
    figure = figures.prior_against_posterior(
        POSTERIOR[:, :dim], PRIOR[:, :dim] - 1, components=mixture, kl=range(dim), caption="a caption"
    )
    assert not overlapping(figure)
    assert len(figure.axes) == panels
    if dim > 2:
        names = {axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes}
        assert names == ({"z₃z₂", "z₃z₁"} if dim == 3 else {"z₅z₆", "z₃z₄"})


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0, 6.0])
def test_the_overlap_of_two_normals_is_the_exact_one(shift: float) -> None:
    exact = 2 * norm.cdf(-shift / 2)
    for dim, slack in ((1, 4), (2, 10)):  # percent; smoothing spreads, and noise parts, densities
        moved = PRIOR[:, :dim] + np.eye(dim)[0] * shift
        (found,) = overlap_of(figures.prior_against_posterior(POSTERIOR[:, :dim], moved))
        assert found == pytest.approx(100 * exact, abs=slack)


def test_samples_of_one_distribution_overlap_as_much_as_the_caption_says() -> None:
    figure = figures.prior_against_posterior(POSTERIOR[:, :2], PRIOR[:, :2])
    best = int(re.findall(r"(\d+)%", figure.get_supxlabel())[0])
    assert overlap_of(figure)[0] == pytest.approx(best, abs=2)


def test_a_hole_is_of_the_colour_of_the_prior_and_what_it_misses_of_the_posteriors() -> None:
    ring = PRIOR[:, :2] / np.linalg.norm(PRIOR[:, :2], axis=1, keepdims=True) * 3.0 + 0.2 * POSTERIOR[:, :2]
    figure = figures.prior_against_posterior(ring, PRIOR[:, :2])
    (image,) = figure.axes[1].images
    left, right, bottom, top = image.get_extent()
    shares, opaque = np.asarray(image.get_array()), np.asarray(image.get_alpha())

    def at(x: float, y: float) -> tuple[float, float]:
        row = int((y - bottom) / (top - bottom) * len(shares))
        column = int((x - left) / (right - left) * len(shares))
        return float(shares[row, column]), float(opaque[row, column])

    assert at(0.0, 0.0)[0] < 0.02
    assert at(3.0, 0.0)[0] > 0.9
    assert min(at(0.0, 0.0)[1], at(3.0, 0.0)[1]) == 1.0
    assert opaque[0, 0] == 0.0


def test_heavy_tails_do_not_hide_the_posterior() -> None:
    tails = np.random.default_rng(2).standard_cauchy(size=(4000, 2))
    figure = figures.prior_against_posterior(POSTERIOR[:, :2], tails)
    assert np.ptp(figure.axes[0].get_xlim()) < 4 * np.ptp(POSTERIOR[:, 0])


def test_a_latent_that_is_constant_is_drawn() -> None:
    figures.prior_against_posterior(np.zeros((100, 2)), np.ones((100, 2)))
    figures.prior_against_posterior(np.zeros((100, 1)), np.ones((100, 1)))


@pytest.mark.parametrize("count", [MANY, MANY + 1])
def test_of_many_components_the_means_alone_are_drawn(count: int) -> None:
    mixture = figures.Components(np.zeros((count, 2)), np.stack([np.eye(2)] * count))
    figure = figures.prior_against_posterior(POSTERIOR[:, :2], PRIOR[:, :2], components=mixture)
    assert len(figure.axes[0].patches) == (count if count <= MANY else 0)
    assert "components of the prior" in texts(figure)


def test_pairs_are_of_the_first_four() -> None:
    assert _pairs([4, 0, 2, 1, 3]) == [(0, 4), (1, 2)]
    assert _pairs([1, 0]) == [(0, 1)]


@pytest.mark.parametrize(
    ("posterior", "options", "message"),
    [
        (POSTERIOR[:, :3], {}, r"shapes N x D and M x D; got \(4000, 3\) and \(4000, 2\)"),
        (POSTERIOR[:9, :2], {}, "10 or more samples"),
        (POSTERIOR[:, :2], {"kl": [1.0]}, "Expected kl and dimensions of one length"),
        (
            POSTERIOR[:, :2],
            {"components": figures.Components(np.zeros((1, 3)), np.zeros((1, 3, 3)))},
            "of 2 dimensions",
        ),
    ],
)
def test_samples_that_do_not_fit_are_refused(posterior: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figures.prior_against_posterior(posterior, PRIOR[:, :2], **options)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_samples_that_are_all_the_same_overlap_entirely() -> None:
    same = np.ones((20, 2))
    figure = figures.prior_against_posterior(same, same)
    figure.draw_without_rendering()
    assert figure.get_suptitle().endswith("they overlap by 100%")
