"""Folders of images, in CelebA's layout and in any other."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from latentmix.experiments.data.base import Split
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.sources.celeba import load_celeba
from latentmix.experiments.data.sources.image_folder import load_image_folder

from tests.experiments.data.celeba_folder import ATTRIBUTES, expected, load, mapped, part

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty images of one colour in three sub-folders, among other files."""
    root = tmp_path / "images"
    for row, name in enumerate(["zebra", "ant", "cat"]):
        for number in range(20):
            place = root / name / ("deeper" if number % 2 else "")
            place.mkdir(parents=True, exist_ok=True)
            suffix = ("png", "JPG", "jpeg", "bmp", "webp")[number % 5]
            Image.new("RGB", (20, 30), (80 * row, 5 * number, 0)).save(place / f"{number}.{suffix}")
    (root / "readme.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image")
    (root / ".trash").mkdir()
    (root / ".trash/old.png").write_text("no image")
    return root


@pytest.mark.usefixtures("strict")
class TestCelebA:
    def test_official_partition(self, original: Path) -> None:
        faces = load(original)
        assert [len(split) for split in faces.splits.values()] == [24, 8, 8]
        assert faces.shape == (3, 64, 64)
        assert faces.pictorial
        for split, rows in zip(faces.splits.values(), [(0, 1, 2), (3,), (4,)], strict=True):
            assert split.x.dtype == torch.uint8
            assert torch.equal(split.x, expected(original, part(rows)))

    def test_attributes(self, original: Path) -> None:
        faces = load(original)
        assert faces.attributes == tuple(ATTRIBUTES)
        lines = (original / "celeba/list_attr_celeba.txt").read_text().splitlines()[2:]
        truth = {line.split()[0]: [word == "1" for word in line.split()[1:]] for line in lines}
        for split, rows in zip(faces.splits.values(), [(0, 1, 2), (3,), (4,)], strict=True):
            assert split.attributes is not None
            assert split.attributes.dtype == torch.bool
            assert split.attributes.tolist() == [truth[name] for name in part(rows)]

    def test_no_labels_by_default(self, original: Path) -> None:
        faces = load(original)
        assert faces.classes == ()
        assert faces.test.labels is None
        with pytest.raises(ValueError, match=r"got images alone: name an attribute by --data\.attribute\."):
            load(original, classes=[1])

    def test_labels_are_an_attribute(self, original: Path) -> None:
        faces = load(original, attribute="Male")
        assert (faces.classes, faces.class_names) == ((0, 1), ("not Male", "Male"))
        for split in faces.splits.values():
            assert split.labels is not None
            assert split.attributes is not None
            assert split.labels.dtype == torch.int64
            assert torch.equal(split.labels.bool(), split.attributes[:, ATTRIBUTES.index("Male")])
        men = load(original, attribute="Male", classes=[1])
        assert [len(split) for split in men.splits.values()] == [12, 4, 4]

    def test_root_may_be_the_folder_itself(self, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        faces = load(original / "celeba", size=16)
        monkeypatch.setenv("LATENTMIX_DATA", str(original))
        again = Data("celeba", size=16).load()
        assert torch.equal(faces.train.x, again.train.x)

    def test_limit(self, original: Path) -> None:
        few = load(original, limit=5)
        assert torch.equal(few.train.x, expected(original, part((0, 1, 2))[:5]))
        assert mapped(few.train.x)

    @pytest.mark.parametrize(
        ("attribute", "message"),
        [("Blonde", "did you mean Blond_Hair"), ("male", "did you mean Male"), ("zzz", "there are 5_o_Clock_Shadow, ")],
    )
    def test_an_unknown_attribute_is_refused_before_decoding(
        self, original: Path, decoded: list[str], attribute: str, message: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"Expected an attribute of .*; got '{attribute}': {message}"):
            load(original, attribute=attribute)
        assert decoded == []

    @pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
    def test_missing_list(self, celeba: Path, name: str) -> None:
        (celeba / "celeba" / name).unlink()
        with pytest.raises(ValueError, match=rf"Expected {name} beside img_align_celeba in .*; got no such file\."):
            load(celeba)

    @pytest.mark.parametrize(
        ("name", "old", "new", "message"),
        [
            ("list_attr_celeba.txt", "000007.jpg ", "000007.jpg 1 ", "40 values of -1 or 1 .*; got '000007.jpg 1 "),
            ("list_attr_celeba.txt", "000007.jpg ", "000007.jpg x ", "40 values of -1 or 1 .*; got '000007.jpg x "),
            ("list_attr_celeba.txt", "000007.jpg ", "000777.jpg ", "got none for 000007.jpg"),
            (
                "list_eval_partition.txt",
                "000004.jpg 1",
                "000004.jpg 3",
                "and 1 value of 0 or 1 or 2 .*; got '000004.jpg 3'",
            ),
            ("list_eval_partition.txt", ".jpg 2", ".jpg 1", "Expected test images in list_eval_partition.txt"),
        ],
    )
    def test_malformed_lists_are_refused(self, celeba: Path, name: str, old: str, new: str, message: str) -> None:
        path = celeba / "celeba" / name
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(ValueError, match=message):
            load(celeba)

    @pytest.mark.parametrize("content", ["", "40\n", "40\nMale\n"])
    def test_a_truncated_list_is_refused(self, celeba: Path, content: str) -> None:
        (celeba / "celeba/list_attr_celeba.txt").write_text(content)
        with pytest.raises(ValueError, match=r"Expected a list of CelebA in .*; got (1 line|\d lines)\."):
            load(celeba)

    def test_no_root(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"holds celeba/img_align_celeba; got none: .* --data\.root DIR or LATENT"):
            Data("celeba").load()
        with pytest.raises(ValueError, match=r"Expected celeba/img_align_celeba in the data root; got .* without it"):
            load(tmp_path)
        (tmp_path / "celeba").mkdir()
        (tmp_path / "celeba/img_align_celeba.zip").touch()
        with pytest.raises(ValueError, match=r"without it: unpack img_align_celeba\.zip in"):
            load(tmp_path)


@pytest.mark.usefixtures("strict")
class TestImageFolder:
    def test_sub_folders_are_classes(self, folder: Path) -> None:
        images = Data("image_folder", root=str(folder), size=8).load()
        assert [len(split) for split in images.splits.values()] == [38, 10, 12]
        assert images.shape == (3, 8, 8)
        assert images.classes == (0, 1, 2)
        for split in images.splits.values():
            assert split.labels is not None
            colour = (split.x[:, 0, 0, 0].float() / 80).round().long()  # zebra is dark, cat is bright
            assert torch.equal(split.labels, torch.tensor([2, 0, 1])[colour])
        assert images.test.labels is not None
        assert torch.bincount(images.test.labels).tolist() == [4, 4, 4]

    def test_splits_are_drawn_from_the_seed(self, folder: Path) -> None:
        first, again, other = (Data("image_folder", root=str(folder), size=8, seed=seed).load() for seed in (0, 0, 1))
        assert torch.equal(first.train.x, again.train.x)
        assert not torch.equal(first.train.x, other.train.x)
        together = torch.cat([split.x for split in first.splits.values()])
        whole, _ = load_image_folder(str(folder), size=8)
        assert torch.equal(together.flatten(1).sum(1).sort().values, whole.flatten(1).sum(1).sort().values)

    def test_images_beside_sub_folders_leave_no_classes_and_are_named(self, folder: Path) -> None:
        shutil.copy(folder / "ant/0.png", folder / "stray.png")
        message = r"1 of 61 images lies beside the sub-folders of .*, so that there are no labels: stray\.png\."
        with pytest.warns(UserWarning, match=message):
            images, labels = load_image_folder(str(folder), size=8)
        assert len(images) == 61
        assert labels is None

    def test_linked_class_folders_are_classes(self, folder: Path, tmp_path: Path) -> None:
        whole, numbers = load_image_folder(str(folder), size=8)
        linked = tmp_path / "linked"
        linked.mkdir()
        (folder / "zebra").rename(linked / "zebra")
        for name in ("ant", "cat"):
            (linked / name).symlink_to(folder / name, target_is_directory=True)
        images, labels = load_image_folder(str(linked), size=8)
        assert labels is not None
        assert numbers is not None
        assert torch.equal(images, whole)
        assert torch.equal(labels, numbers)

    def test_links_within_a_class_are_followed(self, folder: Path, tmp_path: Path) -> None:
        (folder / "cat").rename(tmp_path / "cats")
        (folder / "ant/more").symlink_to(tmp_path / "cats")
        (folder / "zebra/link.png").symlink_to(folder / "ant/0.png")
        _, labels = load_image_folder(str(folder), size=8)
        assert labels is not None
        assert torch.bincount(labels).tolist() == [40, 21]

    @pytest.mark.parametrize("target", [".", "ant", "ant/deeper", ".."])
    def test_cycles_of_links_end(self, folder: Path, target: str) -> None:
        whole, numbers = load_image_folder(str(folder), size=8)
        (folder / "ant/deeper/loop").symlink_to(folder / target)
        images, labels = load_image_folder(str(folder), size=8)
        assert labels is not None
        assert numbers is not None
        assert torch.equal(images, whole)
        assert torch.equal(labels, numbers)

    def test_a_folder_linked_twice_is_read_once_and_named(self, folder: Path, tmp_path: Path) -> None:
        (folder / "alias").symlink_to(folder / "cat")
        (folder / "ant/others").symlink_to(folder / "zebra")
        (folder / "gone").symlink_to(tmp_path / "gone")
        (tmp_path / "outside").mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / "outside/a.png")
        for name in ("ant", "zebra"):
            (folder / name / "outside").symlink_to(tmp_path / "outside")
        message = (
            r"4 files and links in .* are left out: gone \(a broken link\), alias \(is read already\), .* and 1 more"
        )
        with pytest.warns(UserWarning, match=message):
            _, labels = load_image_folder(str(folder), size=8)
        assert labels is not None
        assert torch.bincount(labels).tolist() == [21, 20, 20]

    @pytest.mark.parametrize("suffix", ["tif", "TIFF", "gif", "jpe", "JFIF", "ppm", "pgm", "BMP", "Webp"])
    def test_formats(self, tmp_path: Path, suffix: str) -> None:
        mode = "L" if suffix == "pgm" else "RGB"
        image = Image.new(mode, (9, 9), 77 if mode == "L" else (77, 77, 77))
        image.save(
            tmp_path / "a.png",
            format={"jpe": "jpeg", "jfif": "jpeg", "tif": "tiff", "pgm": "ppm"}.get(suffix.lower(), suffix),
        )
        (tmp_path / "a.png").rename(tmp_path / f"a.{suffix}")
        images, _ = load_image_folder(str(tmp_path), size=9)
        assert (images.int() - 77).abs().max() <= 1

    def test_images_of_other_formats_are_named(self, folder: Path) -> None:
        for name in ("cat/drawing.svg", "cat/Photo.HEIC", "cat/Thumbs.db", "cat/notes.txt", "cat/.hidden.svg"):
            (folder / name).write_text("no image of ours")
        with pytest.warns(UserWarning, match=r"2 files and links .*: cat/Photo\.HEIC \(image/heic\), cat/drawing\.svg"):
            images, _ = load_image_folder(str(folder), size=8)
        assert len(images) == 60

    def test_a_folder_that_cannot_be_read_is_named(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scan = os.scandir

        def refusing(path: str) -> object:
            if str(path).endswith("cat"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refusing)
        with pytest.raises(ValueError, match=r"Expected folders that can be read; got .*cat: Permission denied"):
            load_image_folder(str(folder), size=8)

    def test_a_single_sub_folder_is_not_a_class(self, folder: Path) -> None:
        shutil.rmtree(folder / "ant")
        shutil.rmtree(folder / "cat")
        assert load_image_folder(str(folder), size=8)[1] is None

    def test_labels_follow_their_images_past_corrupt_files(self, folder: Path) -> None:
        (folder / "ant/0.png").write_text("no image")
        warnings.simplefilter("ignore")
        images, labels = load_image_folder(str(folder), size=8)
        assert labels is not None
        assert torch.bincount(labels).tolist() == [19, 20, 20]
        assert torch.equal(labels == 0, (images[:, 0, 0, 0].float() - 80).abs() < 10)

    def test_no_image(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=r"images \(.avif, .*, .tiff, .webp\) in the folder '.*'.*got none"):
            load_image_folder(str(tmp_path / "empty"))
        with pytest.raises(ValueError, match="got no such folder"):
            load_image_folder(str(tmp_path / "absent"))
        with pytest.raises(ValueError, match=r"Expected a folder of images for image_folder; got none: .*--data\.root"):
            Data("image_folder").load()


def test_load_celeba_returns_the_arguments_of_splits(original: Path) -> None:
    parts, names = load_celeba(str(original), size=16)
    assert [len(Split(*part)) for part in parts] == [24, 8, 8]
    assert len(names) == 40
