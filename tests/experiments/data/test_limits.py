"""What files may unpack to, and what is no regular file: the limits of data, and the options that raise them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.image_cache import cached_images
from latentmix.experiments.data.pictures import load_images
from latentmix.experiments.data.sources.image_folder import load_image_folder
from latentmix.experiments.data.tables import read_table

pytestmark = pytest.mark.usefixtures("cache")

SMALL = 1e-6  # about a kilobyte


def write_csv(file: Path) -> None:
    file.write_text("x,y\n" + "1.5,2.5\n" * 500)


def write_npy(file: Path) -> None:
    np.save(file, np.ones((500, 2)))


def write_npz(file: Path) -> None:
    np.savez_compressed(file, x=np.ones((500, 2)))


def bomb(side: int) -> bytes:
    """A picture of side x side grey pixels without their content."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("a.csv", write_csv, "a table of at most"),
        ("a.npy", write_npy, "an array of at most"),
        ("a.npz", write_npz, r"an array of at most 1e-06 GiB in .*array 'x'"),
    ],
)
def test_points_above_the_limit_name_the_option_that_raises_it(
    tmp_path: Path, name: str, write: Callable[[Path], None], expected: str
) -> None:
    file = tmp_path / name
    write(file)
    with pytest.raises(ValueError, match=rf"{expected}.*allow more by --max_gib\."):
        read_table(file, max_gib=SMALL, option="--max_gib")
    with pytest.raises(ValueError, match=r"allow more by --data\.max_gib\."):
        Data(str(file), max_gib=SMALL).load()
    assert read_table(file).values.shape == (500, 2)


def test_numbers_of_a_short_text_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1\n" * 500)
    with pytest.raises(ValueError, match="Expected the points of a table of at most"):
        read_table(tmp_path / "a.csv", max_gib=2e-6)


def test_a_long_label_among_many_is_refused(tmp_path: Path) -> None:
    """Labels are kept as wide as the longest: 100,000 letters once would take 40 GB in 100,000 rows."""
    (tmp_path / "a.csv").write_text("x,kind\n" + "1,b\n" * 10_000 + f"1,{'a' * 100_000}\n")
    with pytest.raises(ValueError, match=r"Expected labels, as wide as the longest, of at most 2 GiB .*; got 3\.7"):
        read_table(tmp_path / "a.csv", label="kind")


def test_images_of_arrays_are_limited(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 20, 20), np.uint8))
    with pytest.raises(ValueError, match=r"allow more by --max_gib"):
        load_images([tmp_path / "a.npy"], (1, 20, 20), max_gib=SMALL)


def test_draws_of_gmm3d_are_limited() -> None:
    with pytest.raises(ValueError, match=r"Expected the draws of at most 2 GiB in gmm3d; got .* by --data\.max_gib\."):
        Data("gmm3d", points=10**9).load()


@pytest.mark.parametrize(("option", "value"), [("max_gib", 0.0), ("max_gib", float("nan")), ("max_pixels", 0)])
def test_limits_are_above_0(option: str, value: float) -> None:
    source = "gmm3d" if option == "max_gib" else "image_folder"
    with pytest.raises(ValueError, match=rf"Expected --data\.{option} (above 0|of at least 1); got {value}\."):
        Data(source, **{option: value}).load()  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz"])
@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a folder"])
def test_other_than_regular_files_are_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    file = tmp_path / f"a{suffix}"
    if kind == "a named pipe":
        os.mkfifo(file)
    elif kind == "a device":
        file.symlink_to(os.devnull)
    else:
        file.mkdir()
    with pytest.raises(ValueError, match=f"got {kind} in"):
        Data(str(file)).load()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"x,y\n"])
def test_an_empty_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected points in .*a\.csv.*; got an empty table\."):
        read_table(tmp_path / "a.csv")


def test_an_empty_array_of_points_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"Expected points in .*a\.npy.*; got an empty table\."):
        read_table(tmp_path / "a.npy")


class TestPictures:
    shape = (1, 8, 12)

    def test_a_bomb_is_refused_by_its_header(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(bomb(12_000))
        with pytest.raises(ValueError, match=r"64,000,000 pixels; got more: allow more by --max_pixels\)"):
            load_images([tmp_path / "a.png"], self.shape)
        with pytest.raises(ValueError, match=r"64,000,000 pixels; got more: allow more by --data\.max_"):
            Data("image_folder", root=str(tmp_path)).load()

    def test_the_limit_holds_in_folders_to_classify(self, tmp_path: Path) -> None:
        Image.new("L", (30, 30)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match="at most 899 pixels; got 30 x 30: allow more by --max_pixels"):
            load_images([tmp_path], self.shape, max_pixels=899)
        names, images = load_images([tmp_path], self.shape, max_pixels=900)
        assert (names, tuple(images.shape)) == (["a.png"], (1, *self.shape))

    def test_a_larger_limit_is_that_of_pillow_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where a mode alone is read: a picture in colour beyond Pillow's own limit is in colour."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        Image.new("RGB", (30, 30), "red").save(tmp_path / "a.png")
        options: dict[str, Any] = {"size": (8, 12), "channels": "auto"}
        assert cached_images(tmp_path, ["a.png"], **options).pixels.shape == (1, 3, 8, 12)
        assert Image.MAX_IMAGE_PIXELS == 100

    @pytest.mark.parametrize(("size", "words"), [((90, 100), "90 x 100"), (100, "100 x 100")])
    def test_images_are_no_larger(self, tmp_path: Path, size: int | tuple[int, int], words: str) -> None:
        Image.new("L", (9, 9)).save(tmp_path / "a.png")
        with pytest.raises(
            ValueError, match=rf"Expected images of at most 8,999 pixels; got {words}: allow more by --d"
        ):
            cached_images(tmp_path, ["a.png"], size=size, max_pixels=8_999)

    @pytest.mark.parametrize("channels", [1, 3, "auto"])
    def test_a_pipe_in_a_folder_is_left_out(self, tmp_path: Path, channels: Any) -> None:
        Image.new("L", (9, 9)).save(tmp_path / "a.png")
        os.mkfifo(tmp_path / "b.png")
        with pytest.warns(UserWarning, match=r"1 of 2 files .*: b\.png \(Expected a regular file; got a named pipe"):
            images, _ = load_image_folder(str(tmp_path), size=(4, 6), channels=channels)
        assert images.shape == (1, 3 if channels == 3 else 1, 4, 6)

    def test_other_formats_are_refused(self, tmp_path: Path) -> None:
        data = io.BytesIO()
        Image.new("RGB", (9, 9)).save(data, "PDF")
        eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        for name, content in (("a.png", eps), ("b.png", data.getvalue())):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(
                ValueError, match=r"Expected a picture( in one of AVIF, .*; got EPS|; got other content)"
            ):
                load_images([tmp_path / name], self.shape)

    @pytest.mark.parametrize("channels", ["auto", 1, 3])
    def test_a_damaged_index_of_grey_and_oblong_images_is_rebuilt(
        self, tmp_path: Path, cache: Path, channels: Any
    ) -> None:
        Image.new("L", (9, 9), 7).save(tmp_path / "a.png")
        depth = 3 if channels == 3 else 1
        for damage in (str, lambda text: text.replace(f"1, {depth}, 4, 6", f"1, {4 - depth}, 4, 6"), lambda text: "{}"):
            images = cached_images(tmp_path, ["a.png"], size=(4, 6), channels=channels).pixels
            assert images.shape == (1, depth, 4, 6)
            assert bool((images == 7).all())
            (index,) = cache.glob("*/index.json")
            index.write_text(damage(index.read_text()))

    def test_sides_and_pairs_of_them_share_a_cache(self, tmp_path: Path, cache: Path) -> None:
        Image.new("L", (9, 9)).save(tmp_path / "a.png")
        for options in ({"size": 4}, {"size": (4, 4)}, {"size": (4, 6)}, {"size": 4, "channels": 1}):
            cached_images(tmp_path, ["a.png"], **options)  # type: ignore[arg-type]
        assert len(list(cache.iterdir())) == 3
