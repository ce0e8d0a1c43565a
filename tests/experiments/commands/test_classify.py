"""`classify` decodes pictures as training does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentmix.experiments.commands.classify import classify
from latentmix.experiments.data.pixels import ToFloat
from latentmix.experiments.data.schema import Schema
from latentmix.experiments.data.sources.image_folder import load_image_folder
from latentmix.experiments.reading.pictures import decode
from latentmix.experiments.runs import run as finished
from latentmix.experiments.runs.run_data import RunData

pytestmark = pytest.mark.usefixtures("cache")

Seen = Callable[[list[Path], tuple[int, int, int]], Tensor]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Seen:
    """The pixels in [0, 1] that `classify` passes to the encoder of a run on images of a shape."""

    def pixels(files: list[Path], shape: tuple[int, int, int]) -> Tensor:
        encoded: list[Tensor] = []

        def probabilities(images: Tensor, **options: object) -> NDArray[np.float64]:
            encoded.append(ToFloat()(images))
            return np.full((len(images), 2), 0.5)

        fitted = SimpleNamespace(classes=(0, 1), class_names=("0", "1"))
        run = SimpleNamespace(
            fitted=lambda inference, labels: fitted,
            vae=SimpleNamespace(shape=shape),
            known_data=RunData(shape, {}, Schema()),
            classify=probabilities,
            summary={},
        )
        monkeypatch.setattr(finished, "load_run", lambda path, trust: run)
        classify(tmp_path / "run", files, "em", None)
        return encoded[0]

    return pixels


def colours(*shape: int, dtype: type[np.generic] = np.uint8) -> NDArray[np.generic]:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures, two sides unequal, in the modes and formats that Pillow writes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rgb, rgba = Image.fromarray(colours(40, 60, 3)), Image.fromarray(colours(40, 60, 4))
    deep = Image.fromarray(colours(40, 60, dtype=np.uint16))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        rgb.save(folder / f"turned{orientation}.jpg", exif=exif)
    for mode in ("1", "L", "P", "CMYK", "YCbCr", "RGB"):
        rgb.convert(mode).save(folder / f"{mode}.tif")
    for mode in ("1", "L", "P", "RGB"):
        rgb.convert(mode).save(folder / f"{mode}.png")
    rgba.save(folder / "RGBA.png")
    rgba.convert("LA").save(folder / "LA.png")
    rgb.convert("P").save(folder / "one transparent.png", transparency=3)
    rgb.convert("P").save(folder / "transparencies.png", transparency=bytes(range(256)))
    rgb.convert("CMYK").save(folder / "CMYK.jpg")
    deep.save(folder / "16 bits.png")
    deep.save(folder / "16 bits, one transparent.png", transparency=int(np.asarray(deep)[20, 30]))
    for suffix in ("gif", "png", "webp", "tif"):
        rgb.save(folder / f"frames.{suffix}", save_all=True, append_images=[Image.new("RGB", rgb.size, "red")])
    return folder


@pytest.mark.parametrize("size", [7, 40, 64])
@pytest.mark.usefixtures("strict")
def test_classify_decodes_exactly_as_training(pictures: Path, seen: Seen, size: int) -> None:
    trained, _ = load_image_folder(str(pictures), size=size)
    assert len(trained) == len(list(pictures.iterdir()))
    assert torch.equal(seen(sorted(pictures.iterdir()), (3, size, size)), ToFloat()(trained))


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 12, 30), (3, 28, 28), (3, 12, 30)])
@pytest.mark.usefixtures("strict")
def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path: Path, seen: Seen, shape: tuple[int, int, int]) -> None:
    image = colours(*shape)
    Image.fromarray(image[0] if shape[0] == 1 else image.transpose(1, 2, 0)).save(tmp_path / "same.png")
    np.save(tmp_path / "same.npy", image[None])
    from_picture, from_array = seen([tmp_path / "same.png", tmp_path / "same.npy"], shape)
    assert torch.equal(from_picture, from_array)
    assert torch.equal(from_array, torch.tensor(image) / 255)


@pytest.mark.usefixtures("strict")
def test_the_centre_is_cropped_not_squeezed(tmp_path: Path, seen: Seen) -> None:
    image = np.zeros((20, 60), np.uint8)
    image[:, 20:40] = 255
    Image.fromarray(image).save(tmp_path / "wide.png")
    assert bool((seen([tmp_path / "wide.png"], (1, 20, 20)) == 1).all())


@pytest.mark.usefixtures("strict")
def test_a_transparent_16_bit_grey_is_white(tmp_path: Path) -> None:
    deep = np.array([[300, 301], [40_000, 40_000]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png", transparency=300)
    assert decode(tmp_path / "deep.png", 2, channels=1).tolist() == [[[255, 1], [156, 156]]]


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, seen: Seen, dtype: str) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.full((9, 9), 0.5 if dtype == "float32" else 3, dtype)).save(tmp_path / f"{name}.tif")
    with pytest.raises(ValueError, match=r"a\.tif, which cannot be read as one \(Expected pixels of 1, 8 or 16 bits"):
        seen([tmp_path / "a.tif"], (1, 9, 9))
    Image.new("RGB", (9, 9)).save(tmp_path / "c.png")
    with pytest.warns(UserWarning, match=r"2 of 3 files .*: a\.tif \(Expected pixels of 1, 8 or 16 bits; got 32"):
        load_image_folder(str(tmp_path), size=9)


def test_a_cache_of_another_decoder_is_not_used(
    pictures: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_image_folder(str(pictures), size=8)
    first = len(decoded)
    load_image_folder(str(pictures), size=8)
    assert len(decoded) == first
    monkeypatch.setattr("PIL.__version__", "0.0")
    load_image_folder(str(pictures), size=8)
    assert len(decoded) == 2 * first
