from __future__ import annotations

import base64
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentmix.experiments import figures
from latentmix.experiments.runs import page
from latentmix.experiments.runs.page import load_picture, write_page


def pixels(data: str) -> np.ndarray:
    with Image.open(BytesIO(base64.b64decode(data.removeprefix("data:image/webp;base64,")))) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_picture_is_kept_pixel_by_pixel_beside_its_dark_variant(tmp_path: Path) -> None:
    path = figures.save(figures.latent_usage([1.0, 2.0], [True, True]), tmp_path / "Usage of z.png")
    picture = load_picture(path, "Use", "", "bars")
    with Image.open(path) as original:
        np.testing.assert_array_equal(pixels(picture.light), np.asarray(original.convert("RGB")))
        assert (picture.width, picture.height) == original.size
    assert picture.anchor == "picture-usage-of-z"
    assert pixels(picture.dark).mean() < 100 < 150 < pixels(picture.light).mean()


def test_a_picture_of_an_earlier_version_is_light_alone(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "white").save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png", "", "", "")
    assert picture.light
    assert not picture.dark


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    picture = load_picture(tmp_path / "a.png", "", "", "")
    assert picture.reason == "a.png cannot be read as a PNG picture."
    assert not picture.light


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    path = figures.save(figures.latent_usage([1.0, 2.0], [True, True]), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:2000])
    assert "cannot be read" in load_picture(path, "", "", "").reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX systems")
def test_a_named_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png", "", "", "").reason == "a.png cannot be read as a PNG picture."


def test_an_enormous_picture_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (3000, 2000)).save(tmp_path / "a.png")
    monkeypatch.setattr(page, "MOST_PIXELS", 5_000_000)
    assert (
        load_picture(tmp_path / "a.png", "", "", "").reason == "a.png has 3,000 x 2,000 pixels, too many for this page."
    )


def test_values_are_escaped(tmp_path: Path) -> None:
    values = {"outcomes": [], "left_out": [], "by_name": {}, "not_drawn": ["<script>alert(1)</script>"]}
    text = write_page(tmp_path / "page.html", "gallery.html", values).read_text("utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
