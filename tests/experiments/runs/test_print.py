"""A run's report on paper, as Chromium prints it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentmix.experiments import figures
from latentmix.experiments.runs.report import write_report

from tests.experiments.runs.walked_runs import mapped_run

PAPER = 700  # pixels between the margins of A4, at 96 to the inch
TALLEST = 22 / 2.54 * 96


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    mapped_run(folder, 2, (1, 6, 6))
    pictures = {
        "confusion_none": figures.confusion_matrices({name: np.eye(10) for name in ("EM", "SVI")}, range(10)),
        "losses": figures.latent_usage([1.0, 2.0], [True, True]),
    }
    for name, figure in pictures.items():
        figures.save(figure, folder / "figures" / f"{name}.png")
    return write_report(folder)


@pytest.fixture(params=[False, True], ids=["light", "dark"])
def paper(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The page on paper, on a screen that is light or dark, where a picture was opened at full size."""
    context = browser.new_context(
        viewport={"width": PAPER, "height": 1000}, color_scheme="dark" if request.param else "light"
    )
    page = context.new_page()
    page.goto(f"{report.as_uri()}#picture-losses-large")
    page.emulate_media(media="print")
    yield page
    context.close()


def colour(page: Any, name: str) -> tuple[int, ...]:
    told = str(page.evaluate("(name) => getComputedStyle(document.body)[name]", name))
    return tuple(int(part) for part in told.removeprefix("rgb(").removesuffix(")").split(","))


def test_paper_is_white_with_black_ink_and_light_pictures(paper: Any) -> None:
    assert min(colour(paper, "backgroundColor")) == 255
    assert max(colour(paper, "color")) < 60
    assert not any(layer.is_visible() for layer in paper.locator(".frame img.dark").all())
    assert paper.locator(".frame img:not(.dark)").first.is_visible()


def test_paper_has_nothing_to_click_and_no_words_about_it(paper: Any) -> None:
    for selector in ("nav", "#walk", "#map", ".walk", ".map", ".walk-without", ".map-without", ".close"):
        assert paper.locator(selector).count(), selector
        assert not any(part.is_visible() for part in paper.locator(selector).all()), selector
    assert paper.get_by_role("button").count() == 0


def test_nothing_is_cut_by_the_edge_of_the_paper(paper: Any) -> None:
    parts = paper.locator("table, img, pre").all()
    assert max(box["x"] + box["width"] for part in parts if (box := part.bounding_box())) <= PAPER
    for picture in paper.locator(".frame img:not(.dark)").all():
        box = picture.bounding_box()
        assert 0 < box["height"] <= TALLEST + 1
    for part in paper.locator(".frame, .wide").all():
        assert part.evaluate("(part) => getComputedStyle(part).overflowX") == "visible"


def test_a_picture_opened_at_full_size_covers_no_page(paper: Any) -> None:
    assert paper.evaluate("getComputedStyle(document.querySelector('.frame:target')).position") == "static"
    assert paper.evaluate("getComputedStyle(document.body).overflow") == "visible"
