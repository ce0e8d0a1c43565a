"""The map of the latents in Chromium: pixels under the pointer, filters, choices, ellipses, keyboard, requests."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentmix.experiments.runs.map_points import MAP
from latentmix.experiments.runs.report import write_report

from tests.experiments.runs.pages import Opened, opening
from tests.experiments.runs.walked_runs import Mapped, OwnDecoder, mapped_run

DRAWN = "() => document.querySelector('.map')?.dataset.drawn === 'yes'"
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
HOSTILE = ("</script><script>window.smuggled = 1</script>", "\"'><img src=x onerror='window.smuggled = 1'>")


class OpenedMap(Opened):
    """A page with a map."""

    def ask(self, expression: str) -> Any:
        return self.page.evaluate(f"() => {expression}")

    def count(self) -> str:
        return str(self.page.locator(".map-count").text_content())

    def shown(self) -> list[int]:
        return list(self.ask("latentmix.map.shown()"))

    def painted(self) -> set[tuple[int, ...]]:
        """Colours of the plot that are not shades of grey."""
        self.page.evaluate(FRAMES)
        script = """() => {
            const canvas = latentmix.map.plotView.canvas_view.primary.canvas, context = canvas.getContext("2d");
            const { data } = context.getImageData(0, 0, canvas.width, canvas.height), seen = new Set();
            for (let k = 0; k < data.length; k += 4) seen.add(`${data[k]},${data[k + 1]},${data[k + 2]}`);
            return [...seen];
        }"""
        colours = {tuple(map(int, text.split(","))) for text in self.page.evaluate(script)}
        return {colour for colour in colours if max(colour) - min(colour) > 24}

    def place(self, row: int) -> tuple[float, float]:
        """Where a point is on the screen."""
        plot = self.page.locator(".map-plot")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        script = """(row) => {
            const { source, plotView } = latentmix.map, { x_scale, y_scale } = plotView.frame;
            return [x_scale.compute(source.data.x[row]), y_scale.compute(source.data.y[row])];
        }"""
        x, y = self.page.evaluate(script, row)
        client = self.ask(
            "[document.querySelector('.map-plot').clientLeft, document.querySelector('.map-plot').clientTop]"
        )
        return box["x"] + x + client[0], box["y"] + y + client[1]

    def pixels(self, selector: str) -> np.ndarray:
        """A canvas as floats of shape C x H x W."""
        script = """(canvas) => [canvas.width, canvas.height,
            Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)]"""
        width, height, values = self.page.locator(selector).evaluate(script)
        return np.array(values).reshape(height, width, 4)[..., :3].transpose(2, 0, 1) / 255


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Mapped]]:
    made: dict[Any, tuple[Path, Mapped]] = {}

    def make(latent_dim: int, shape: tuple[int, ...], **options: Any) -> tuple[Path, Mapped]:
        key = (latent_dim, shape, *options.items())
        if key not in made:
            folder = tmp_path_factory.mktemp("run")
            mapped = mapped_run(folder, latent_dim, shape, **options)
            made[key] = write_report(folder), mapped
        return made[key]

    return make


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., OpenedMap]]:
    def settle(page: Any) -> None:
        page.wait_for_function(DRAWN)
        page.evaluate(FRAMES)

    with opening(browser, OpenedMap, settle, height=900) as open_one:
        yield open_one


def plane_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Origin and directions of the principal components in a map's file."""
    plane = json.loads((path.parent / MAP).read_text())["plane"]
    return np.array(plane["origin"]), np.array(plane["directions"])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(("latent_dim", "shape"), [(2, (1, 6, 6)), (5, (3, 6, 8)), (2, (3,))])
def test_opens_without_a_complaint_a_request_or_a_scroll_bar(
    latent_dim: int, shape: tuple[int, ...], width: int, dark: bool, runs: Any, open_page: Any
) -> None:
    path, _ = runs(latent_dim, shape)
    opened = open_page(path, width=width, dark=dark)
    opened.page.locator(".map-choose button").first.click()
    for box in opened.page.locator(".map-ellipses input").all():
        box.check()
    opened.page.evaluate(FRAMES)
    assert opened.messages == []
    # the sprite of the images is in the page, too
    assert [url for url in opened.requests if not url.startswith("data:")] == [path.as_uri()]
    assert opened.ask("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("latent_dim", "shape"), [(2, (1, 6, 6)), (5, (3, 6, 8))])
def test_pointing_shows_the_image_and_the_reconstruction_of_that_point(
    latent_dim: int, shape: tuple[int, ...], runs: Any, open_page: Any
) -> None:
    path, mapped = runs(latent_dim, shape)
    opened = open_page(path)
    for row in (3, 17, 39):
        opened.page.mouse.move(*opened.place(row))
        opened.page.evaluate(FRAMES)
        at = opened.ask("latentmix.map.at()")
        near, wanted = opened.place(at), opened.place(row)
        assert at == row or np.hypot(near[0] - wanted[0], near[1] - wanted[1]) < 2
        original = np.broadcast_to(mapped.dataset.test.x[at].numpy() / 255, (3, *shape[1:]))
        np.testing.assert_array_equal(opened.pixels(".map-original"), original)
        opened.page.wait_for_function(f"() => document.querySelector('.map').dataset.decoded === '{at}'")
        z = torch.tensor([opened.ask(f"Array.from(latentmix.map.z({at}))")])
        np.testing.assert_allclose(z[0], mapped.latents[at], atol=2e-3)
        expected = np.broadcast_to(mapped.vae.decode(z)[0].numpy(), original.shape)
        np.testing.assert_allclose(opened.pixels(".map-decoded"), expected, atol=2e-2)
        label = mapped.dataset.class_names[at % 2]
        assert opened.page.locator(".map-title").text_content() == f"Test image {at + 1}: class {label}"


def test_probabilities_component_and_entropy_are_those_of_the_fit(runs: Any, open_page: Any) -> None:
    path, mapped = runs(5, (3, 6, 8))
    opened = open_page(path)
    for choice, (name, budget) in enumerate([("em", "none"), ("em", "all"), ("em", "few"), ("svi", "none")]):
        opened.page.locator(".map-fit").select_option(str(choice))
        fitted = mapped.mixtures[name][budget]
        p = fitted.classify(mapped.latents)
        shown = opened.ask("Array.from(latentmix.map.probabilities(11))")
        np.testing.assert_allclose(shown, p[11], atol=6e-3)
        opened.ask("latentmix.map.show(11)")
        facts = str(opened.page.locator(".map-facts").text_content())
        entropy = -float((p[11] * np.log(p[11].clip(1e-300))).sum())
        predicted = mapped.dataset.class_names[int(p[11].argmax())]
        assert facts.startswith(f"predicted {predicted}, component ")
        assert float(facts.split()[-2]) == pytest.approx(entropy, abs=0.02)


def test_filters_change_what_is_drawn_and_counted(runs: Any, open_page: Any) -> None:
    path, mapped = runs(5, (3, 6, 8))
    opened = open_page(path)
    labels = np.arange(40) % 2
    assert opened.count() == "40 of 40 shown"
    both = opened.painted()
    boxes = opened.page.locator(".map-classes input")
    boxes.nth(0).uncheck()
    assert opened.count() == "20 of 40 shown"
    assert opened.shown() == list(range(1, 40, 2))
    one = opened.painted()
    assert len(one) < len(both)
    assert not {colour for colour in one if colour[2] > colour[0] + 40}  # the first colour is blue, the second orange
    assert {colour for colour in both if colour[2] > colour[0] + 40}
    opened.page.get_by_role("button", name="none", exact=True).press("Enter")
    assert opened.count() == "0 of 40 shown"
    assert opened.painted() == set()
    opened.page.get_by_role("button", name="all", exact=True).press("Enter")
    fitted = mapped.mixtures["em"]["all"]
    opened.page.locator(".map-fit").select_option("1")
    right = fitted.predict(mapped.latents) == labels + 3
    opened.page.locator(".map-right").select_option("right")
    assert opened.shown() == list(np.flatnonzero(right))
    opened.page.locator(".map-right").select_option("wrong")
    assert opened.shown() == list(np.flatnonzero(~right))
    opened.page.locator(".map-right").select_option("")
    opened.page.locator(".map-component").select_option("2")
    assert opened.shown() == list(np.flatnonzero(fitted.mixture.predict(mapped.latents) == 2))
    opened.page.locator(".map-component").select_option("")
    p = fitted.classify(mapped.latents)
    entropy = -(p * np.log(p.clip(1e-300))).sum(axis=1)
    opened.page.locator(".map-entropy input").first.focus()
    for _ in range(3):
        opened.page.keyboard.press("ArrowRight")
    low = 0.03 * np.log(2)
    sure = np.abs(entropy - low) > 5e-3
    assert [row for row in opened.shown() if sure[row]] == list(np.flatnonzero(sure & (entropy > low)))


@pytest.mark.parametrize("tool", ["lasso", "box_select"])
def test_dragging_chooses_the_points_within_and_counts_their_classes(tool: str, runs: Any, open_page: Any) -> None:
    path, _ = runs(2, (1, 6, 6))
    opened = open_page(path)
    opened.page.locator(f".map-tools input[value={tool}]").check()
    places = np.array([opened.place(row) for row in range(40)])
    (left, top), (right, bottom) = np.quantile(places, 0.2, axis=0), np.quantile(places, 0.8, axis=0)
    corners = (
        [(left, top), (right, top), (right, bottom), (left, bottom)]
        if tool == "lasso"
        else [(left, top), (right, bottom)]
    )
    opened.page.mouse.move(*corners[0])
    opened.page.mouse.down()
    for corner in corners[1:]:
        opened.page.mouse.move(*corner, steps=6)
    opened.page.mouse.up()
    opened.page.evaluate(FRAMES)
    within = ((places > [left, top]) & (places < [right, bottom])).all(axis=1)
    margin = np.minimum(np.abs(places - [left, top]), np.abs(places - [right, bottom])).min(axis=1)
    chosen = opened.ask("latentmix.map.chosen()")
    assert {row for row in chosen if margin[row] > 2} == set(np.flatnonzero(within & (margin > 2)))
    assert 3 < len(chosen) < 40
    assert str(opened.page.locator(".map-number").text_content()) == f"{len(chosen)} chosen"
    cells = opened.page.locator(".map-table tbody tr").evaluate_all(
        "rows => rows.map(row => [row.cells[0].textContent, Number(row.cells[1].textContent)])"
    )
    counts = {"cat & dog": sum(row % 2 == 0 for row in chosen), "<b>bird</b>": sum(row % 2 for row in chosen)}
    assert dict(cells) == counts
    assert opened.pixels(".map-images").shape[2] == 7 * min(12, len(chosen)) - 1


def test_a_filter_takes_points_out_of_a_choice(runs: Any, open_page: Any) -> None:
    path, mapped = runs(2, (1, 6, 6))
    opened = open_page(path)
    opened.page.get_by_role("button", name="Choose all shown").press("Enter")
    assert opened.page.locator(".map-number").text_content() == "40 chosen"
    images = opened.pixels(".map-images")
    for row in (0, 13, 39):
        y, x = 7 * (row // 12), 7 * (row % 12)
        np.testing.assert_array_equal(images[0, y : y + 6, x : x + 6], mapped.dataset.test.x[row, 0].numpy() / 255)
    opened.page.locator(".map-classes input").first.uncheck()
    assert opened.page.locator(".map-number").text_content() == "20 chosen"
    opened.page.get_by_role("button", name="End the choice").press("Enter")
    assert not opened.page.locator(".map-chosen").is_visible()


@pytest.mark.parametrize("axes", ["latents", "plane"])
def test_ellipses_are_two_standard_deviations_in_the_plane_shown(axes: str, runs: Any, open_page: Any) -> None:
    path, mapped = runs(5, (3, 6, 8))
    opened = open_page(path)
    opened.page.locator(".map-axes").select_option(axes)
    before = opened.painted()
    if axes == "plane":
        origin, directions = plane_of(path)
    else:
        opened.page.locator("select[data-axis=x]").select_option("3")
        opened.page.locator("select[data-axis=y]").select_option("1")
        origin, directions = np.zeros(5), np.eye(5)[[3, 1]]
    x, y = (np.array(opened.ask(f"Array.from(latentmix.map.source.data.{name})")) for name in "xy")
    np.testing.assert_allclose(np.stack([x, y], 1), (mapped.latents - origin) @ directions.T, atol=5e-3)
    opened.page.locator(".map-ellipses input").nth(0).check()
    xs, ys = (np.array(opened.ask(f"latentmix.map.outlines.data.{name}")) for name in ("xs", "ys"))
    parameters = mapped.mixtures["em"]["none"].mixture.parameters_
    means = (parameters.means.numpy() - origin) @ directions.T
    covariances = directions @ parameters.expanded_covariances().numpy() @ directions.T
    assert xs.shape[0] == 3
    for k in range(3):
        away = np.stack([xs[k], ys[k]], 1) - means[k]
        np.testing.assert_allclose(np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariances[k]), away), 4, rtol=0.05)
    assert len(opened.painted() - before) > 0
    opened.page.locator(".map-ellipses input").nth(0).uncheck()
    assert opened.ask("latentmix.map.outlines.data.xs.length") == 0


def test_a_click_keeps_a_point_until_the_next_one(runs: Any, open_page: Any) -> None:
    path, _ = runs(2, (1, 6, 6))
    opened = open_page(path)
    x = opened.ask("Array.from(latentmix.map.source.data.x)")
    left, right = int(np.argmin(x)), int(np.argmax(x))
    opened.page.mouse.click(*opened.place(left))
    opened.page.evaluate(FRAMES)
    assert opened.ask("latentmix.map.at()") == left
    assert f"Test image {left + 1}:" in str(opened.page.locator(".map-told").text_content())
    opened.page.mouse.move(*opened.place(right))
    opened.page.evaluate(FRAMES)
    assert opened.ask("latentmix.map.at()") == left
    opened.page.mouse.click(*opened.place(right))
    opened.page.evaluate(FRAMES)
    assert opened.ask("latentmix.map.at()") == right
    opened.page.get_by_role("button", name="Go here in the decoder").click()
    assert opened.ask("Array.from(latentmix.walk.z)") == opened.ask(f"Array.from(latentmix.map.z({right}))")


def test_dragging_moves_or_zooms_and_the_wheel_zooms_a_map_in_use(runs: Any, open_page: Any) -> None:
    path, _ = runs(2, (1, 6, 6))
    opened = open_page(path)
    ends = "[latentmix.map.plot.x_range.start, latentmix.map.plot.x_range.end]"
    whole = opened.ask(ends)
    x, y = opened.place(0)

    def drag(tool: str) -> list[float]:
        opened.page.locator(f".map-tools input[value={tool}]").check()
        box = opened.page.locator(".map-plot").bounding_box()
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        opened.page.mouse.move(*middle)
        opened.page.mouse.down()
        opened.page.mouse.move(middle[0] + 80, middle[1] + 60, steps=4)
        opened.page.mouse.up()
        opened.page.evaluate(FRAMES)
        return list(opened.ask(ends))

    opened.page.mouse.move(x, y)
    opened.page.mouse.wheel(0, -100)
    opened.page.evaluate(FRAMES)
    assert opened.ask(ends) == whole
    moved = drag("pan")
    assert moved[0] < whole[0]
    assert moved[1] - moved[0] == pytest.approx(whole[1] - whole[0])
    zoomed = drag("box_zoom")
    assert zoomed[1] - zoomed[0] < 0.5 * (whole[1] - whole[0])
    opened.page.get_by_role("button", name="Reset", exact=True).click()
    assert opened.ask(ends) == whole
    opened.page.locator(".map-plot").focus()
    box = opened.page.locator(".map-plot").bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.page.mouse.wheel(0, -100)
    opened.page.wait_for_function(f"() => {ends}[1] - {ends}[0] < {0.99 * (whole[1] - whole[0])}")


def test_the_map_follows_a_change_to_dark_mode(runs: Any, open_page: Any) -> None:
    path, _ = runs(2, (1, 6, 6))
    opened = open_page(path)
    light = opened.painted()
    opened.page.emulate_media(color_scheme="dark")
    opened.page.evaluate(FRAMES)
    assert opened.ask("latentmix.map.plot.background_fill_color") == "#15181c"
    dark = opened.painted()
    assert dark
    assert light.isdisjoint(dark)


def test_t_sne_shows_its_points_without_ellipses(runs: Any, open_page: Any) -> None:
    path, _ = runs(5, (3, 6, 8))
    opened = open_page(path)
    assert not opened.page.locator(".map-axis").first.is_visible()
    opened.page.locator(".map-axes").select_option("tsne")
    assert opened.count() == "20 of 40 shown"
    assert opened.page.locator(".map-none").is_visible()
    assert opened.page.locator(".map-ellipses input").first.is_disabled()
    opened.page.locator(".map-axes").select_option("latents")
    assert opened.count() == "40 of 40 shown"
    assert opened.page.locator(".map-axis").first.is_visible()


def test_the_keyboard_goes_through_points_chooses_zooms_and_decodes(runs: Any, open_page: Any) -> None:
    path, _ = runs(2, (1, 6, 6))
    opened = open_page(path)
    plot = opened.page.locator(".map-plot")
    plot.focus()
    plot.press("n")
    assert opened.ask("latentmix.map.at()") == 0
    plot.press("n")
    assert opened.ask("latentmix.map.at()") == 1
    assert "Test image 2: class <b>bird</b>" in str(opened.page.locator(".map-told").text_content())
    plot.press("p")
    plot.press("p")
    assert opened.ask("latentmix.map.at()") == 39
    plot.press("n")
    x = opened.ask("Array.from(latentmix.map.source.data.x)")
    order = []
    while not order or opened.ask("latentmix.map.at()") != order[-1]:
        order.append(opened.ask("latentmix.map.at()"))
        plot.press("ArrowRight")
    assert len(order) > 2
    assert all(x[one] < x[other] for one, other in itertools.pairwise(order))
    plot.press("Space")
    assert opened.ask("latentmix.map.chosen()") == [order[-1]]
    plot.press("Space")
    assert opened.ask("latentmix.map.chosen()") == []
    width = "latentmix.map.plot.x_range.end - latentmix.map.plot.x_range.start"
    whole = opened.ask(width)
    plot.press("+")
    assert opened.ask(width) == pytest.approx(whole / 2)
    plot.press("0")
    assert opened.ask(width) == pytest.approx(whole)
    plot.press("Enter")
    assert opened.ask("Array.from(latentmix.walk.z)") == opened.ask("Array.from(latentmix.map.z(latentmix.map.at()))")


def test_the_keyboard_reaches_everything(runs: Any, open_page: Any) -> None:
    path, _ = runs(5, (3, 6, 8))
    opened = open_page(path)
    opened.page.locator(".map-axes").select_option("latents")
    opened.page.get_by_role("button", name="Choose all shown").press("Enter")
    opened.ask("latentmix.map.show(3)")
    count = opened.page.locator(".map :is(input, select, button, [tabindex='0']):visible").count()
    opened.page.evaluate("""() => {
        window.reached = new Set();
        document.addEventListener("focusin", (event) => event.target.closest(".map") && reached.add(event.target));
        document.querySelector("#walk").scrollIntoView();
        document.activeElement.blur();
    }""")
    opened.page.locator(".walk input").last.focus()
    for _ in range(count + 5):
        opened.page.keyboard.press("Tab")
    # radio buttons are one stop, whose arrow keys reach the others
    assert opened.ask("reached.size") == count - 3
    opened.page.locator(".map-tools input").first.focus()
    opened.page.keyboard.press("ArrowRight")
    assert opened.page.locator(".map-tools input[value=box_zoom]").is_checked()


def test_points_show_their_values_and_decoded_ones(runs: Any, open_page: Any) -> None:
    path, mapped = runs(2, (3,))
    opened = open_page(path)
    opened.ask("latentmix.map.show(5)")
    opened.page.wait_for_function("() => document.querySelector('.map').dataset.decoded === '5'")
    cells = opened.page.locator(".map-values tbody td").all_text_contents()
    values = np.array([float(cell.replace("−", "-")) for cell in cells]).reshape(3, 2)
    np.testing.assert_allclose(values[:, 0], mapped.dataset.restore(mapped.dataset.test.x[5]), atol=6e-3)
    z = torch.tensor([opened.ask("Array.from(latentmix.map.z(5))")])
    np.testing.assert_allclose(values[:, 1], mapped.dataset.restore(mapped.vae.decode(z)[0]), atol=3e-2)
    assert not opened.page.locator(".map-original").count()


def test_the_last_of_evenly_spaced_points_has_the_last_number(open_page: Any, tmp_path: Path) -> None:
    mapped_run(tmp_path, 2, (1, 6, 6))
    values = json.loads((tmp_path / MAP).read_text())
    steps = values["count"] - 1
    last = next(last for last in itertools.count(steps + 1) if int(steps * (last / steps)) < last)
    (tmp_path / MAP).write_text(json.dumps({**values, "total": last + 1}))
    opened = open_page(write_report(tmp_path))
    opened.ask(f"latentmix.map.show({steps})")
    assert str(opened.page.locator(".map-title").text_content()).startswith(f"Test image {last + 1:,}:")


def test_a_run_without_labels_has_no_classes_to_choose(runs: Any, open_page: Any) -> None:
    path, _ = runs(2, (1, 6, 6), labelled=False)
    opened = open_page(path)
    assert opened.messages == []
    assert not opened.page.locator(".map-classes, .map-right, .map-table").count()
    opened.ask("latentmix.map.show(0)")
    assert opened.page.locator(".map-title").text_content() == "Test image 1"
    assert str(opened.page.locator(".map-facts").text_content()).startswith("component ")


def test_a_decoder_that_is_not_in_the_page_leaves_the_rest_of_the_map(open_page: Any, tmp_path: Path) -> None:
    mapped_run(tmp_path, 2, (1, 6, 6), decoder=OwnDecoder(2, (1, 6, 6)))
    opened = open_page(write_report(tmp_path))
    assert opened.messages == []
    opened.ask("latentmix.map.show(0)")
    assert not opened.page.locator(".map-decoded, .map-go").count()
    assert opened.page.get_by_text("there are no reconstructions").count() == 1


def test_hostile_names_are_text(open_page: Any, tmp_path: Path) -> None:
    mapped_run(tmp_path, 2, (1, 6, 6), names=HOSTILE)
    opened = open_page(write_report(tmp_path))
    for box in opened.page.locator(".map-ellipses input").all():
        box.check()
    opened.page.get_by_role("button", name="Choose all shown").press("Enter")
    opened.ask("latentmix.map.show(0)")
    opened.page.evaluate(FRAMES)
    assert opened.messages == []
    assert opened.ask("window.smuggled") is None
    assert opened.page.locator(".map-title").text_content() == f"Test image 1: class {HOSTILE[0]}"
    assert not opened.page.locator(".map img, .map script").count()


def test_without_javascript_a_sentence_stands_in_its_place(runs: Any, open_page: Any) -> None:
    path, _ = runs(2, (1, 6, 6))
    page = open_page(path, script=False).page
    assert page.locator(".map-without").is_visible()
    assert not page.locator(".map").is_visible()


def test_paper_shows_no_map(runs: Any, open_page: Any) -> None:
    path, _ = runs(2, (1, 6, 6))
    opened = open_page(path)
    assert not opened.page.locator(".map-without").is_visible()
    opened.page.emulate_media(media="print")
    assert not opened.page.locator(".map").is_visible()
