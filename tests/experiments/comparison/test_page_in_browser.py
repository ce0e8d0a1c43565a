"""The page of a comparison in Chromium: no request, no error, keyboard, narrow and dark, in print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentmix.experiments.comparison.page import write_comparison

from tests.experiments.comparison.comparisons import sweep

pytestmark = pytest.mark.usefixtures("coarse")


@pytest.fixture(scope="module")
def page(coarse: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison(sweep(), tmp_path_factory.mktemp("sweep"))[-1]


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_opens_without_a_message_or_a_request(browser: Any, page: Path, width: int, dark: bool) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light")
    opened, messages, requests = context.new_page(), [], []
    opened.on("console", lambda message: messages.append(message.text))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(page.as_uri())
    shown = opened.evaluate(
        "() => Array.from(document.images, (i) => [i.complete && i.naturalWidth > 0, i.currentSrc])"
    )
    assert len(shown) == 10  # five pictures, and the layer of each for dark mode
    assert all(complete for complete, _ in shown)
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    assert opened.evaluate("() => document.documentElement.scrollWidth") <= width
    context.close()


def test_the_keyboard_reaches_contents_tables_and_pictures(browser: Any, page: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    opened.goto(page.as_uri())
    reached = set()
    for _ in range(60):
        opened.keyboard.press("Tab")
        reached.add(
            opened.evaluate(
                "() => { const e = document.activeElement;"
                " return [e.tagName, e.className, e.getAttribute('href'), e.getAttribute('aria-label'),"
                " e.textContent.slice(0, 40)].join('|'); }"
            )
        )
    kinds = [each.split("|")[0:2] for each in reached]
    assert kinds.count(["SUMMARY", ""]) == 3
    assert sum(kind == ["A", "open"] for kind in kinds) == 5
    assert sum(each.startswith("A||#") for each in reached) == len(opened.query_selector_all("nav a"))
    assert {"Options that differ", "Figures of the groups", "Paired differences"} <= {
        each.split("|")[3] for each in reached
    }
    context.close()


def test_print_shows_tables_whole(browser: Any, page: Path) -> None:
    context = browser.new_context(viewport={"width": 800, "height": 800})
    opened = context.new_page()
    opened.goto(page.as_uri())
    opened.emulate_media(media="print")
    assert opened.evaluate("() => getComputedStyle(document.querySelector('nav')).display") == "none"
    assert opened.evaluate("() => getComputedStyle(document.querySelector('.wide')).overflowX") == "visible"
    context.close()
