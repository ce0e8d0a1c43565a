"""Decoding of images, the cache, and files that cannot be read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from latentmix.experiments.data import image_cache
from latentmix.experiments.data.image_cache import cache_folder, cached_images
from latentmix.experiments.data.sources.image_folder import load_image_folder
from latentmix.experiments.reading.pictures import decode

from tests.experiments.data.celeba_folder import NAMES, expected, load, mapped, part

pytestmark = pytest.mark.usefixtures("cache")


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        index = json.loads((place / "index.json").read_text())
        changed = change(index)
        (place / "index.json").write_text(json.dumps(index if changed is None else changed))

    return damage


def flip(place: Path) -> None:
    """Another byte under the same size and time."""
    file, before = place / "pixels.bin", (place / "pixels.bin").stat()
    content = bytearray(file.read_bytes())
    content[5] ^= 255
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A file of a cache, or the whole of it, with something else in its place."""

    def damage(place: Path) -> None:
        target = place / name
        shutil.move(target, place.parent.parent / "elsewhere")
        make(target)

    return damage


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty index": lambda place: (place / "index.json").write_bytes(b""),
    "cut index": lambda place: (place / "index.json").write_bytes(b"{"),
    "binary index": lambda place: (place / "index.json").write_bytes(b"\xff\xfe\x00"),
    "deep index": lambda place: (place / "index.json").write_text("[" * 100_000),
    "no index": lambda place: (place / "index.json").unlink(),
    "index of a list": edited(lambda index: [index]),
    "index without shape": edited(lambda index: index.pop("shape") and None),
    "index without corrupt": edited(lambda index: index.pop("corrupt") and None),
    "corrupt files as a list": edited(lambda index: index | {"corrupt": []}),
    "corrupt files as a number": edited(lambda index: index | {"corrupt": 3}),
    "a file named as corrupt": edited(lambda index: index | {"corrupt": {NAMES[0]: "cut"}}),
    "shape of words": edited(lambda index: index | {"shape": ["40", "3", "64", "64"]}),
    "shape in another order": edited(lambda index: index | {"shape": [40, 64, 64, 3]}),
    "no pixels": lambda place: (place / "pixels.bin").unlink(),
    "cut pixels": lambda place: (place / "pixels.bin").write_bytes(b"{"),
    "other pixels": flip,
    "a named pipe as index": replaced("index.json", os.mkfifo),
    "a folder as index": replaced("index.json", Path.mkdir),
    "a device as index": replaced("index.json", lambda path: path.symlink_to(os.devnull)),
    "a named pipe as pixels": replaced("pixels.bin", os.mkfifo),
    "a link that leads nowhere as pixels": replaced("pixels.bin", lambda path: path.symlink_to("nowhere")),
    "a file as cache": replaced("", Path.touch),
    "a named pipe as cache": replaced("", os.mkfifo),
    "a link that leads nowhere as cache": replaced("", lambda path: path.symlink_to("nowhere")),
}


@pytest.mark.usefixtures("strict")
class TestDecode:
    def test_crop_and_antialiasing(self, original: Path) -> None:
        """Against torch's antialiased bicubic filter on the centre square, within rounding.

        Near the upper and the lower edge the filter also sees what was cropped.
        """
        path = original / "celeba/img_align_celeba" / NAMES[0]
        with Image.open(path) as file:
            square = torch.from_numpy(np.array(file)[20:198]).permute(2, 0, 1)[None]
        assert square.shape == (1, 3, 178, 178)
        reference = torch.nn.functional.interpolate(square.float(), (64, 64), mode="bicubic", antialias=True)
        difference = (reference.clamp(0, 255)[0] - torch.tensor(decode(path, 64)))[:, 2:-2]
        assert float(difference.abs().max()) < 2
        assert float(difference.abs().mean()) < 0.5

    @pytest.mark.parametrize(
        ("image", "colour"),
        [
            (Image.new("L", (9, 9), 77), [77, 77, 77]),
            (Image.new("1", (9, 9), 1), [255, 255, 255]),
            (Image.new("P", (9, 9), 0), [0, 0, 0]),
            (Image.new("RGBA", (9, 9), (200, 100, 0, 0)), [255, 255, 255]),
            (Image.new("RGBA", (9, 9), (200, 100, 0, 255)), [200, 100, 0]),
            (Image.fromarray(np.full((9, 9), 51 * 256 + 3, np.uint16)), [51, 51, 51]),
        ],
        ids=["grey", "bits", "palette", "transparent", "opaque", "16 bits"],
    )
    def test_modes(self, image: Image.Image, colour: list[int], tmp_path: Path) -> None:
        image.save(tmp_path / "some.png")
        pixels = decode(tmp_path / "some.png", 4)
        assert pixels.shape == (3, 4, 4)
        assert (pixels == np.array(colour)[:, None, None]).all()

    def test_orientation(self, tmp_path: Path) -> None:
        upright = np.zeros((32, 32, 3), np.uint8)
        upright[:16] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # stored a quarter turn anticlockwise, to be turned clockwise
        Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "turned.jpg", exif=exif, quality=95)
        pixels = decode(tmp_path / "turned.jpg", 8)
        assert pixels[:, :3].min() > 200
        assert pixels[:, 5:].max() < 55


class TestCache:
    def test_is_reused(self, original: Path, decoded: list[str], cache: Path) -> None:
        first = load(original)
        assert sorted(decoded) == NAMES
        again = load(original, attribute="Male", seed=3)
        assert len(decoded) == 40
        assert torch.equal(first.train.x, again.train.x)
        assert len(list(cache.iterdir())) == 1

    def test_every_size_and_folder_has_its_own(self, original: Path, celeba: Path, decoded: list[str]) -> None:
        load(original)
        load(original, size=32)
        assert len(decoded) == 80
        load(celeba)
        assert len(decoded) == 120

    def test_changed_files_are_decoded_again(self, celeba: Path, decoded: list[str]) -> None:
        load(celeba)
        path = celeba / "celeba/img_align_celeba" / NAMES[0]
        before = path.stat()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        load(celeba)
        assert len(decoded) == 80
        shutil.copy(path.with_name(NAMES[2]), path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        changed = load(celeba)
        assert len(decoded) == 120
        assert torch.equal(changed.train.x[0], changed.train.x[2])

    def test_files_changed_under_the_same_size_and_time_are_decoded_again(
        self, tmp_path: Path, decoded: list[str]
    ) -> None:
        path = tmp_path / "some.bmp"
        for colour in ("red", "blue"):
            Image.new("RGB", (9, 9), colour).save(path)
            os.utime(path, ns=(10**18, 10**18))
            pixels = cached_images(tmp_path, ["some.bmp"], size=4).pixels
            assert int(pixels[0, 0, 0, 0]) == (255 if colour == "red" else 0)
        assert len(decoded) == 2

    def test_interruption_leaves_nothing(self, original: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(path: Path, size: tuple[int, int], **options: int) -> NDArray[np.uint8]:
            if path.name == NAMES[25]:
                raise KeyboardInterrupt
            return decode(path, size, **options)

        with monkeypatch.context() as patch:
            patch.setattr(image_cache, "decode", interrupted)
            with pytest.raises(KeyboardInterrupt):
                load(original)
        assert list(cache.iterdir()) == []
        assert torch.equal(load(original).test.x, expected(original, part((4,))))

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_cache_is_rebuilt(self, original: Path, cache: Path, decoded: list[str], damage: str) -> None:
        load(original)
        (place,) = cache.iterdir()
        DAMAGES[damage](place)
        assert torch.equal(load(original).test.x, expected(original, part((4,))))
        assert len(decoded) == 80
        assert list(cache.iterdir()) == [place]

    def test_a_link_in_the_place_of_a_cache_is_replaced_and_not_followed(
        self, original: Path, cache: Path, tmp_path: Path
    ) -> None:
        load(original)
        (place,) = cache.iterdir()
        shutil.rmtree(place)
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "words.txt").touch()
        place.symlink_to(tmp_path / "precious")
        load(original)
        assert (tmp_path / "precious" / "words.txt").exists()
        assert place.is_dir()
        assert not place.is_symlink()

    @pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")], ids=repr)
    def test_a_lack_of_memory_or_handles_is_not_kept_as_a_fault_of_the_picture(
        self, original: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def short(*_: object, **__: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(image_cache, "decode", short)
            with pytest.raises((MemoryError, ValueError), match=r"^$|got Too many open files: name another folder"):
                load(original, max_corrupt=100)
        assert list(cache.iterdir()) == []

    def test_images_are_views_of_the_file(self, original: Path, cache: Path) -> None:
        faces = load(original).to("cpu")
        assert all(mapped(split.x) for split in faces.splits.values())
        assert faces.train.x.untyped_storage().data_ptr() == faces.train.x.data_ptr()
        (file,) = cache.glob("*/pixels.bin")
        before = file.read_bytes()
        faces.train.x.zero_()
        assert file.read_bytes() == before
        assert int(load(original).train.x.max()) > 0

    @pytest.mark.filterwarnings("ignore:Waiting for another process")
    def test_one_process_at_a_time_decodes(self, original: Path, cache: Path, decoded: list[str]) -> None:
        """Another one, which holds the folder here, is waited for, and what it has decoded is read."""
        fcntl = pytest.importorskip("fcntl")
        load(original)
        (place,) = cache.iterdir()
        place.rename(cache / "meanwhile")
        handle = os.open(cache, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as threads:
            loading = threads.submit(load, original)
            time.sleep(0.3)
            assert not loading.done()
            (cache / "meanwhile").rename(place)
            os.close(handle)
            assert torch.equal(loading.result(timeout=60).test.x, expected(original, part((4,))))
        assert len(decoded) == 40

    def test_what_a_killed_process_left_is_removed(self, original: Path, cache: Path) -> None:
        left = cache / "writing-abc" / "complete"
        left.mkdir(parents=True)
        (left / "pixels.bin").write_bytes(b"half")
        load(original)
        (place,) = cache.iterdir()
        assert place.name != "writing-abc"

    def test_place(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert cache_folder() == tmp_path / "cache"
        assert cache_folder(str(tmp_path / "mine")) == tmp_path / "mine"
        monkeypatch.delenv("LATENTMIX_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "latentmix"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_folder() == tmp_path / ".cache/latentmix"

    def test_a_folder_that_cannot_be_written_is_refused(self, original: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(
            ValueError, match=r"Expected to keep the decoded images of .*: name another folder by --data"
        ):
            load(original, cache=str(tmp_path / "file"))

    def test_rows_are_ascending_positions(self, tmp_path: Path) -> None:
        Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
        with pytest.warns(UserWarning, match=r"1 of 3 files .*: absent\.png \(.*No such file"):
            images = cached_images(tmp_path, ["red.png", "absent.png", "red.png"], size=4)
        assert images.rows.tolist() == [0, 2]
        assert len(images.pixels) == 2


class TestCorruptFiles:
    def spoil(self, celeba: Path, count: int = 3) -> list[str]:
        """A truncated JPEG, text under a JPEG's name, a missing file, and empty files."""
        images = celeba / "celeba/img_align_celeba"
        cut = images / NAMES[3]
        cut.write_bytes(cut.read_bytes()[:2000])
        (images / NAMES[10]).write_text("no image")
        (images / NAMES[19]).unlink()
        rows = [3, 10, 19, *range(20, 20 + count - 3)]
        for row in rows[3:]:
            (images / NAMES[row]).write_bytes(b"")
        return [NAMES[row] for row in rows]

    def test_are_named_and_skipped_with_their_attributes(self, celeba: Path, original: Path) -> None:
        bad = self.spoil(celeba)
        with pytest.warns(UserWarning, match="3 of 40 files in .* cannot be read and are left out") as caught:
            faces = load(celeba, attribute="Male")
        message = str(caught[0].message)
        assert len(caught) == 1
        assert all(name in message for name in bad)
        assert "truncated" in message
        whole = load(original, attribute="Male")
        assert [len(split) for split in faces.splits.values()] == [23, 7, 7]
        for (name, split), rows in zip(faces.splits.items(), [(0, 1, 2), (3,), (4,)], strict=True):
            kept = torch.tensor([file not in bad for file in part(rows)])
            rest = whole.splits[name].take(kept)
            for field in ("x", "labels", "attributes"):
                assert torch.equal(getattr(split, field), getattr(rest, field))

    def test_are_named_again_when_the_cache_is_read(self, celeba: Path, decoded: list[str]) -> None:
        self.spoil(celeba)
        for _ in range(2):
            with pytest.warns(UserWarning, match="3 of 40 files"):
                load(celeba)
        assert len(decoded) == 40

    def test_too_many_are_refused(self, celeba: Path, cache: Path) -> None:
        bad = self.spoil(celeba, 5)
        with pytest.raises(ValueError, match=r"Expected at most 4 files in .* that cannot be read; got ") as error:
            load(celeba, max_corrupt=4)
        assert sum(name in str(error.value) for name in bad) == image_cache.NAMED
        assert "by --data.max_corrupt" in str(error.value)
        assert list(cache.iterdir()) == []
        with pytest.warns(UserWarning, match="5 of 40 files .* and 2 more"):
            load(celeba, max_corrupt=5)
        with pytest.raises(ValueError, match="Expected at most 4 files"):
            load(celeba, max_corrupt=4)

    def test_only_corrupt_files_are_refused(self, tmp_path: Path) -> None:
        for name in ("a.jpg", "b.png"):
            (tmp_path / name).write_text("no image")
        with pytest.raises(ValueError, match=r"Expected images in .*; got none that can be read: a\.jpg \(.*b\.png"):
            load_image_folder(str(tmp_path))

    @pytest.mark.parametrize("suffix", ["bmp", "jpg", "png", "webp"])
    @pytest.mark.parametrize("kept", [0, 10, 0.5])
    def test_truncation_is_detected_in_every_format(self, tmp_path: Path, suffix: str, kept: float) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        path = tmp_path / f"noise.{suffix}"
        Image.fromarray(noise).save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
        with pytest.raises(ValueError, match=rf"got none that can be read: noise\.{suffix} \("):
            load_image_folder(str(tmp_path))
