"""The file of the map: sizes, precision, and names of components."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.runs import map_points as module
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.map_points import MAP, map_points
from latentmix.experiments.runs.packed import unpack

from tests.experiments.runs.walked_runs import mapped_run

Arrays = tuple[np.ndarray, np.ndarray]


def points_of(count: int, shape: tuple[int, ...], size: int = 3) -> tuple[dict[str, Any], Arrays]:
    torch.manual_seed(0)
    x = torch.randint(0, 256, (count, *shape), dtype=torch.uint8) if len(shape) == 3 else torch.randn(count, *shape)
    z = 100 * torch.randn(count, size, dtype=torch.float64).numpy()
    split = Split(x, torch.arange(count) % 3)
    dataset = Dataset("own", split, split, split, (0, 1, 2), class_names=("a", "b", "c"))
    values = map_points(dataset, LatentSplit(z, split.labels.numpy()), {}, {}, None)  # type: ignore[union-attr]
    assert values is not None
    return values, (x.numpy(), z)


def sprite(images: dict[str, Any]) -> np.ndarray:
    with Image.open(BytesIO(base64.b64decode(images["data"]))) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_kept_pixel_by_pixel(channels: int) -> None:
    values, (x, _) = points_of(23, (channels, 5, 7))
    pixels, columns = sprite(values["images"]), values["images"]["columns"]
    for row in range(23):
        top, left = 5 * (row // columns), 7 * (row % columns)
        image = pixels[top : top + 5, left : left + 7].transpose(2, 0, 1)
        np.testing.assert_array_equal(image, np.broadcast_to(x[row], (3, 5, 7)))


def test_latents_are_precise_to_a_part_of_their_extent() -> None:
    values, (_, z) = points_of(50, (3,))
    steps = unpack(values["latents"], "<i2", (3, 50))
    restored = np.array(values["centre"]) + values["step"] * steps.T
    np.testing.assert_allclose(restored, z, atol=np.ptp(z, axis=0).max() / 30_000)
    np.testing.assert_array_equal(unpack(values["labels"], "<u2", (50,)), np.arange(50) % 3)


def test_of_many_data_evenly_spaced_ones_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_POINTS", 30)
    values, (x, z) = points_of(100, (1, 4, 4))
    rows = np.linspace(0, 99, 30).astype(int)
    assert (values["count"], values["total"]) == (30, 100)
    steps = unpack(values["latents"], "<i2", (3, 30))
    np.testing.assert_allclose(np.array(values["centre"]) + values["step"] * steps.T, z[rows], atol=0.02)
    np.testing.assert_array_equal(sprite(values["images"])[:4, :4, 0], x[0, 0])
    monkeypatch.setattr(module, "MOST_BYTES", 60)
    assert points_of(100, (1, 4, 4))[0]["count"] == 10


def test_large_images_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SPRITE", 20_000)
    values, (x, _) = points_of(40, (3, 20, 20))
    images = values["images"]
    assert len(base64.b64decode(images["data"])) <= 20_000
    rows = unpack(images["rows"], "<u2", (images["count"],))
    assert 1 < images["count"] < 40
    assert (rows[0], rows[-1]) == (0, 39)
    k = images["count"] - 1
    top, left = 20 * (k // images["columns"]), 20 * (k % images["columns"])
    last = sprite(images)[top : top + 20, left : left + 20]
    np.testing.assert_array_equal(last.transpose(2, 0, 1), x[39])


def test_a_wide_image_keeps_within_the_format() -> None:
    values, _ = points_of(5, (1, 6, 9000))
    assert max(sprite(values["images"]).shape) <= 16_383


def test_latents_of_one_dimension_have_no_map() -> None:
    split = Split(torch.zeros(5, 1, 4, 4, dtype=torch.uint8))
    dataset = Dataset("own", split, split, split)
    assert map_points(dataset, LatentSplit(np.zeros((5, 1)), None), {}, {}, None) is None


def test_latents_of_no_spread_have_a_map() -> None:
    split = Split(torch.zeros(5, 1, 4, 4, dtype=torch.uint8))
    values = map_points(Dataset("own", split, split, split), LatentSplit(np.ones((5, 3)), None), {}, {}, None)
    assert values is not None
    np.testing.assert_array_equal(unpack(values["latents"], "<i2", (3, 5)), 0)


def test_components_have_the_names_and_classes_of_their_fit(tmp_path: Path) -> None:
    mapped = mapped_run(tmp_path, 2, (1, 6, 6), names=("cat", "dog"))
    fits = json.loads((tmp_path / MAP).read_text())["fits"]
    assert [(fit["inference"], list(fit["budgets"])) for fit in fits] == [
        ("em", ["none", "all"]),
        ("em", ["few"]),
        ("svi", ["none", "all", "few"]),
    ]
    assert fits[0]["budgets"]["none"]["names"] == ["cat a", "dog", "cat b"]
    # the order of SVI's components is that of EM's, [2, 0, 1], and names of another class are not taken over
    assert fits[2]["budgets"]["none"]["names"] == ["cat", "dog", "cat a"]
    for fit, inference, budget in ((fits[0], "em", "all"), (fits[1], "em", "few")):
        fitted = mapped.mixtures[inference][budget]
        predicted = unpack(fit["budgets"][budget]["predicted"], "<u2", (40,))
        np.testing.assert_array_equal(predicted + 3, fitted.predict(mapped.latents))
        assigned = unpack(fit["assigned"], "<u2", (40,))
        np.testing.assert_array_equal(assigned, fitted.mixture.predict(mapped.latents))
        roots = unpack(fit["responsibilities"], "<u1", (3, 40)) / 255
        np.testing.assert_allclose(roots.T**2, fitted.mixture.predict_proba(mapped.latents), atol=5e-3)


def test_the_same_run_gives_the_same_file(tmp_path: Path) -> None:
    texts = []
    for name in "ab":
        (tmp_path / name).mkdir()
        mapped_run(tmp_path / name, 3, (1, 6, 6))
        texts.append((tmp_path / name / MAP).read_text())
    assert texts[0] == texts[1]
