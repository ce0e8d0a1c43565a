from __future__ import annotations

import itertools
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from latentmix.experiments import figures
from latentmix.experiments.figures import style
from latentmix.experiments.figures.dark import INK, PAGE, SEAM, dark_overlay, dark_picture, with_boxes

Pixels = NDArray[np.uint8]


def opened(pixels: Pixels, boxes: list[list[float]]) -> Image.Image:
    """A picture of `H x W x 3` pixels with images in some boxes."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Image.open(BytesIO(with_boxes(buffer.getvalue(), boxes)))


def dark(pixels: Pixels, boxes: list[list[float]] | None = None) -> Pixels:
    picture = dark_picture(opened(pixels, boxes or []))
    assert picture is not None
    return np.asarray(picture)


def test_black_and_white_change_places() -> None:
    pixels = np.array([[[255, 255, 255], [0, 0, 0]]], np.uint8)
    assert dark(pixels).tolist() == [[list(PAGE), list(INK)]]


def test_hues_stay_and_mixtures_with_white_stay_mixtures() -> None:
    blue = np.array([0, 114, 178])
    white = np.full(3, 255)
    shares = np.linspace(0, 1, 11)[:, None]
    drawn = dark((shares * blue + (1 - shares) * white).round().astype(np.uint8)[None])[0].astype(float)
    assert drawn[-1].argmax() == 2
    assert drawn[-1].argmin() == 0
    np.testing.assert_allclose(drawn, shares * drawn[-1] + (1 - shares) * drawn[0], atol=1.5)


def rgb(colour: str) -> Pixels:
    return np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)], np.uint8)


def contrast(colour: Pixels, background: Pixels) -> float:
    """Contrast ratio of WCAG 2.2."""

    def luminance(pixel: Pixels) -> float:
        share = pixel / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    darker, lighter = sorted((luminance(colour), luminance(background)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast(rgb("#ffffff"), rgb("#000000")) == pytest.approx(21)
    assert contrast(rgb("#777777"), rgb("#ffffff")) == pytest.approx(4.48, abs=0.01)


NAMED = ("BLUE", "VERMILION", "PURPLE", "RED", "GREY", "INK", "MUTED")


@pytest.mark.parametrize("colour", [*style.COLOURS, *(getattr(style, name) for name in NAMED)])
def test_colours_of_marks_stand_out_on_paper_and_on_a_dark_page(colour: str) -> None:
    assert contrast(rgb(colour), rgb("#ffffff")) >= 3
    assert contrast(dark(rgb(colour)[None, None])[0, 0], np.array(PAGE, np.uint8)) >= 3


def test_images_stay_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 3)).astype(np.uint8)
    drawn = dark(pixels, [[0.25, 0.2, 0.75, 1.0]])
    inside = np.zeros((10, 20), bool)
    inside[2:, 5:15] = True
    np.testing.assert_array_equal(drawn[inside], pixels[inside])
    assert (drawn[~inside] != pixels[~inside]).any(axis=1).mean() > 0.9


def test_a_picture_of_unknown_origin_has_no_variant() -> None:
    picture = Image.new("RGB", (2, 2), "white")
    assert dark_picture(picture) is None
    for text in ("", "{}x", "3", "[3]", "[[0, 0, 1]]", '[[0, 0, 1, "a"]]', "[[0, 0, 1, 1e99]]", "[[0, 0, 1, NaN]]"):
        picture.info["Images"] = text
        assert dark_picture(picture) is None, text


@pytest.mark.parametrize("channels", [1, 3])
def test_saved_figures_note_each_of_their_images(channels: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(size=(24, channels, 8, 8))
    with Image.open(figures.save(figures.generated(images), tmp_path / "generated.png")) as picture:
        boxes = json.loads(picture.info["Images"])
        variant = dark_picture(picture)
        light = np.asarray(picture.convert("RGB"))
    assert variant is not None
    assert len(boxes) == 24
    drawn, kept = np.asarray(variant), np.zeros(light.shape[:2], bool)
    height, width = kept.shape
    for left, top, right, bottom in boxes:
        kept[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    np.testing.assert_array_equal(drawn[kept], light[kept])
    assert tuple(drawn[0, 0]) == PAGE
    assert (light[~kept] == 255).mean() > 0.9  # outside the boxes there is paper and text alone


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_no_paper_is_left_at_the_edges_of_images(rows: int, tmp_path: Path) -> None:
    black = np.zeros((3, 1, 28, 28))
    vectors = {f"Attribute_{k}": np.zeros((3, 5, 1, 28, 28)) for k in range(rows)}
    figure = figures.attribute_vectors(black, vectors, [-2, -1, 0, 1, 2])
    with Image.open(figures.save(figure, tmp_path / "attributes.png")) as picture:
        boxes = json.loads(picture.info["Images"])
        light, variant = np.asarray(picture.convert("L")), dark_picture(picture)
    assert variant is not None
    assert len(boxes) == 18 * rows
    height, width = light.shape
    for place, (left, top, right, bottom) in enumerate(boxes):
        if place % 6 == 3:
            continue  # its frame covers the edge
        across, down = round(width * (left + right) / 2), slice(round(top * height), round(bottom * height))
        assert light[down, across].max() == np.asarray(variant)[down, across].max() == 0
        assert light[[down.start - 1, down.stop], across].min() > 0


def test_charts_are_redrawn_throughout(tmp_path: Path) -> None:
    figure = figures.confusion_matrices({"EM": [[3, 1], [0, 4]]}, [3, 8])
    with Image.open(figures.save(figure, tmp_path / "confusion.png")) as picture:
        assert json.loads(picture.info["Images"]) == []
        variant = dark_picture(picture)
    assert variant is not None
    assert np.asarray(variant).mean() < 100


def test_colour_bars_of_sweeps_keep_the_colours_of_their_cells(tmp_path: Path) -> None:
    axes = {"latent_dim": ["2", "10"], "beta": ["1", "4"]}
    cells = [
        {"options": {"latent_dim": size, "beta": beta}, "status": "done", "group": "", "figures": {"elbo": value}}
        for value, (size, beta) in enumerate(itertools.product(*axes.values()))
    ]
    with Image.open(figures.save(figures.sweep_overview(cells, axes), tmp_path / "sweep.png")) as picture:
        cell, bar = sorted(json.loads(picture.info["Images"]), key=lambda box: box[1])
        variant = dark_picture(picture)
    assert variant is not None
    width, height = variant.size
    row = np.asarray(variant)[round(height * (bar[1] + bar[3]) / 2)].mean(axis=1)
    assert row[round(width * bar[0]) + 3] > 200 > 120 > row[round(width * bar[2]) - 3]  # the better, the darker
    assert bar[1] > cell[3]


def test_files_of_other_kinds_are_saved(tmp_path: Path) -> None:
    figure = figures.latent_usage([1.0, 2.0], [True, True])
    assert figures.save(figure, tmp_path / "usage.svg").read_text().startswith("<?xml")
    assert [path.name for path in tmp_path.iterdir()] == ["usage.svg"]


def test_the_layer_over_the_picture_looks_as_its_dark_variant_and_is_empty_within_images() -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (200, 3)).astype(np.uint8)[random.integers(0, 200, (60, 80))]
    boxes = [[0.25, 0.2, 0.75, 0.8], [0.9, 0.9, 0.95, 0.95]]
    picture = opened(pixels, boxes)
    layer = dark_overlay(picture)
    assert layer is not None
    over = Image.alpha_composite(Image.fromarray(pixels).convert("RGBA"), layer).convert("RGB")
    np.testing.assert_array_equal(np.asarray(over), dark(pixels, boxes))
    empty = np.asarray(layer)[..., 3] == 0
    assert empty.sum() == (36 - 2 * SEAM) * (40 - 2 * SEAM)
    assert not empty[:, : 20 + SEAM].any()


def test_a_layer_of_many_colours_has_few_of_which_the_frequent_ones_are_exact() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    pixels[:40] = 255
    pixels[40:45] = rgb(style.BLUE)
    picture = opened(pixels, [])
    layer = dark_overlay(picture)
    assert layer is not None
    drawn = np.asarray(layer)[..., :3]
    np.testing.assert_array_equal(drawn[:45], dark(pixels)[:45])
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) <= 255
    assert np.abs(drawn.astype(float) - dark(pixels)).mean() < 8


def test_a_picture_of_unknown_origin_has_no_layer() -> None:
    assert dark_overlay(Image.new("RGB", (4, 4), "white")) is None
