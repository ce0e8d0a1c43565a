"""The walk through the latent space in Chromium: pixels, keyboard, pointer, requests, narrow and dark pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentmix.experiments.presets import presets
from latentmix.experiments.runs.page_decoder import describe_decoder
from latentmix.experiments.runs.report import write_report
from latentmix.models import VAE

from tests.experiments.runs.pages import Opened, opening
from tests.experiments.runs.preset_decoders import assert_close, preset_vae
from tests.experiments.runs.walked_runs import walked_run

SECONDS = {
    "mnist_conv16": 0.2,
    "mnist_conv64": 0.2,
    "celeba": 1.0,
    "natural_patches": 1.0,
}  # of an image; others 1 / 20
SETTLED = "() => document.querySelector('.walk:not([hidden])').dataset.strips === 'drawn'"


class OpenedWalk(Opened):
    """A page with a walk."""

    def latent(self) -> list[float]:
        return list(self.page.evaluate("() => Array.from(latentmix.walk.z)"))

    def shown(self) -> np.ndarray:
        """The decoded image, as floats of shape C x H x W, once it is drawn."""
        script = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
            const canvas = document.querySelector(".walk-image");
            done([canvas.width, canvas.height,
                Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)]);
        })))"""
        width, height, values = self.page.evaluate(script)
        return np.array(values).reshape(height, width, 4)[..., :3].transpose(2, 0, 1) / 255


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, tuple[int, ...]], tuple[Path, VAE]]:
    made: dict[Any, tuple[Path, VAE]] = {}

    def make(latent_dim: int, shape: tuple[int, ...]) -> tuple[Path, VAE]:
        if (latent_dim, shape) not in made:
            folder = tmp_path_factory.mktemp("run")
            vae = walked_run(folder, latent_dim, shape)
            made[latent_dim, shape] = write_report(folder), vae
        return made[latent_dim, shape]

    return make


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., OpenedWalk]]:
    with opening(browser, OpenedWalk, lambda page: page.wait_for_function(SETTLED), height=800) as open_one:
        yield open_one


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(("latent_dim", "shape"), [(2, (1, 6, 6)), (14, (3, 6, 8)), (2, (3,)), (1, (1, 6, 6))])
def test_opens_without_a_complaint_a_request_or_a_scroll_bar(
    latent_dim: int, shape: tuple[int, ...], width: int, dark: bool, runs: Any, open_page: Any
) -> None:
    path, _ = runs(latent_dim, shape)
    opened = open_page(path, width=width, dark=dark)
    assert opened.messages == []
    assert opened.requests == [path.as_uri()]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("latent_dim", [2, 14])
def test_the_image_is_that_of_pytorch_wherever_a_slider_goes(latent_dim: int, runs: Any, open_page: Any) -> None:
    path, vae = runs(latent_dim, (3, 6, 8) if latent_dim == 14 else (1, 6, 6))
    opened = open_page(path)
    images = []
    for slider in opened.page.locator(".walk-latents input").all()[:3]:
        before = opened.latent()
        slider.focus()
        slider.press("End")
        after, k = opened.latent(), int(slider.get_attribute("data-latent"))
        assert [j for j in range(latent_dim) if before[j] != after[j]] == [k]
        assert slider.get_attribute("aria-valuetext") == f"{after[k]:.2f}".replace("-", "−")
        expected = vae.decode(torch.tensor([after], dtype=torch.float32))[0].numpy()
        images.append(opened.shown())
        np.testing.assert_allclose(images[-1], np.broadcast_to(expected, images[-1].shape), atol=2e-2)
    assert all(np.abs(images[0] - image).max() > 0.05 for image in images[1:])


def test_arrow_keys_and_the_pointer_move_in_the_plane(runs: Any, open_page: Any) -> None:
    path, vae = runs(2, (1, 6, 6))
    opened = open_page(path)
    plane = opened.page.locator(".walk-plane canvas")
    centre = opened.latent()
    plane.focus()
    plane.press("ArrowRight")
    right = opened.latent()
    plane.press("Shift+ArrowUp")
    up = opened.latent()
    assert right[0] > centre[0]
    assert right[1] == centre[1]
    assert up[1] > right[1]
    assert (up[1] - right[1]) < (right[0] - centre[0])
    plane.press("Home")
    assert opened.latent() == centre
    box = plane.bounding_box()
    opened.page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
    z = opened.latent()
    low, high = (
        np.array(opened.page.evaluate(f"JSON.parse(document.querySelector('.walk-data').text).{end}"))
        for end in ("low", "high")
    )
    np.testing.assert_allclose((np.array(z) - low) / (high - low), 0.75, atol=0.02)
    np.testing.assert_allclose(opened.shown()[:1], vae.decode(torch.tensor([z], dtype=torch.float32))[0], atol=2e-2)


def test_test_images_and_the_line_between_two_are_starts(runs: Any, open_page: Any) -> None:
    path, _ = runs(14, (3, 6, 8))
    opened = open_page(path)
    latents = opened.page.evaluate("JSON.parse(document.querySelector('.walk-data').text).latents")
    centre = opened.latent()
    opened.page.get_by_role("button", name="Test image 2, class <b>bird</b>", exact=True).press("Enter")
    np.testing.assert_allclose(opened.latent(), latents[1])
    opened.page.locator(".walk-from").select_option("2")
    opened.page.locator(".walk-to").select_option("5")
    along = opened.page.get_by_label("Position on the line between two test images")
    np.testing.assert_allclose(opened.latent(), latents[2])
    along.press("End")
    np.testing.assert_allclose(opened.latent(), latents[5])
    along.press("ArrowLeft")
    np.testing.assert_allclose(opened.latent(), 0.01 * np.array(latents[2]) + 0.99 * np.array(latents[5]))
    opened.page.get_by_role("button", name="Back to the centre").press("Enter")
    assert opened.latent() == centre


def test_strips_show_the_images_along_their_sliders(runs: Any, open_page: Any) -> None:
    path, vae = runs(14, (3, 6, 8))
    opened = open_page(path)
    strip = opened.page.locator(".walk-latent .walk-strip").first
    k = int(strip.get_attribute("data-latent"))
    low, high = (
        opened.page.evaluate(f"JSON.parse(document.querySelector('.walk-data').text).{end}[{k}]")
        for end in ("low", "high")
    )
    z = np.tile(opened.latent(), (9, 1))
    z[:, k] = low + (np.arange(9) + 0.5) / 9 * (high - low)
    pixels = np.array(strip.evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"))
    images = pixels.reshape(6, 9, 8, 4)[..., :3].transpose(1, 3, 0, 2) / 255
    np.testing.assert_allclose(images, vae.decode(torch.tensor(z, dtype=torch.float32)), atol=2e-2)
    strip.click(position={"x": 0.5 * strip.bounding_box()["width"], "y": 5})
    assert opened.latent()[k] == pytest.approx((low + high) / 2, abs=0.02 * (high - low))


def test_points_show_their_values_in_their_units(runs: Any, open_page: Any) -> None:
    path, vae = runs(2, (3,))
    opened = open_page(path)
    opened.page.locator(".walk-latents input").first.press("End")
    expected = 2 * vae.decode(torch.tensor([opened.latent()], dtype=torch.float32))[0] + 10
    opened.page.evaluate("() => new Promise(requestAnimationFrame)")
    cells = [cell.replace("−", "-") for cell in opened.page.locator(".walk-values td").all_text_contents()]
    np.testing.assert_allclose(list(map(float, cells)), expected, atol=2e-2)


def test_the_keyboard_reaches_everything(runs: Any, open_page: Any) -> None:
    path, _ = runs(2, (1, 6, 6))
    opened = open_page(path)
    count = opened.page.locator(".walk :is(input, select, button, [tabindex='0'])").count()
    opened.page.evaluate("""() => {
        window.reached = new Set();
        document.addEventListener("focusin", (event) => event.target.closest(".walk") && reached.add(event.target));
    }""")
    for _ in range(count + 30):
        opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("() => reached.size") == count == 12 + 1 + 2 + 1 + 1 + 2


def test_without_javascript_a_sentence_stands_in_its_place(runs: Any, open_page: Any) -> None:
    path, _ = runs(2, (1, 6, 6))
    page = open_page(path, script=False).page
    assert page.get_by_text("This part needs JavaScript").is_visible()
    assert not page.locator(".walk").is_visible()
    assert not open_page(path).page.get_by_text("This part needs JavaScript").is_visible()
    assert page.get_by_role("heading", name="The autoencoder").is_visible()


def test_smuggled_scripts_do_not_run(runs: Any, open_page: Any, tmp_path: Path) -> None:
    path, _ = runs(2, (1, 6, 6))
    page = tmp_path / "page.html"
    page.write_text(path.read_text("utf-8").replace("<h1>", "<script>window.smuggled = 1</script><h1>", 1), "utf-8")
    opened = open_page(page)
    assert opened.page.evaluate("() => window.smuggled") is None
    assert any("Content Security Policy" in message for message in opened.messages)


@pytest.mark.parametrize("name", presets())
def test_every_preset_runs_in_the_page_as_in_pytorch_and_fast(name: str, browser: Any) -> None:
    vae = preset_vae(name)
    latents = torch.randn(50, vae.latent_dim)
    page = browser.new_page()
    page.add_script_tag(path=str(resources.files("latentmix.experiments.runs").joinpath("decoder.js")))
    script = """(told) => {
        const [described, latents] = JSON.parse(told), decoder = latentmix.decoder(described);
        decoder.decode(latents[0]);
        const began = performance.now();
        const images = latents.map((z) => Array.from(decoder.decode(z)));
        return JSON.stringify([images, (performance.now() - began) / 1000 / latents.length]);
    }"""
    told = json.dumps([describe_decoder(vae.decoder, vae.likelihood), latents.tolist()])
    images, seconds = json.loads(page.evaluate(script, told))
    page.close()
    assert_close(np.array(images), vae, latents)
    assert seconds < SECONDS.get(name, 1 / 20)
