"""Folders of images by their layout: official splits, class names, grey and oblong pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentmix.experiments.cli import main
from latentmix.experiments.data.base import Dataset
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.folders import Layout
from latentmix.experiments.data.sources.image_folder import load_image_folder

pytestmark = pytest.mark.usefixtures("cache", "strict", "coarse")

LEVELS = {"train": 20, "val": 90, "test": 160}


def draw(root: Path, counts: dict[str, int], mode: str = "L") -> Path:
    """Pictures of 12 x 8 in folders; a picture is as bright as its split is late, and striped by its number."""
    for place, count in counts.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.full((12, 8), next((LEVELS[name] for name in LEVELS if place.startswith(name)), 0), np.uint8)
            pixels[:, 0] = number
            Image.fromarray(pixels).convert(mode).save(root / place / f"{number}.png")
    return root


def load(root: Path, **options: object) -> Dataset:
    return Data("image_folder", root=str(root), size="12x8", labels_per_class=1, **options).load()  # type: ignore[arg-type]


def levels(images: Dataset) -> list[list[int]]:
    return [split.x[:, 0, 0, 7].unique().tolist() for split in images.splits.values()]


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (("train", "val", "test"), [20, 4, 6]),
        (("Training", "validation", "testing"), [20, 4, 6]),
        (("train", "valid"), [16, 4, 4]),
        (("train", "", "test"), [16, 4, 6]),
        (("train",), [12, 4, 4]),
    ],
)
def test_folders_of_splits_are_official(tmp_path: Path, names: tuple[str, ...], sizes: list[int]) -> None:
    counts = {
        f"{name}/{kind}": count
        for name, count in zip(names, (10, 2, 3), strict=False)
        for kind in ("cat", "dog")
        if name
    }
    images = load(draw(tmp_path / "data", counts))
    assert [len(split) for split in images.splits.values()] == sizes
    assert (images.classes, images.class_names) == ((0, 1), ("cat", "dog"))
    for split in images.splits.values():
        assert split.labels is not None
        assert split.labels.bincount().tolist() == [len(split) // 2] * 2


def test_every_image_stays_in_its_split(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", {"train/b": 9, "train/a": 9, "val/a": 3, "test/a": 2, "test/c": 2, "train/c": 9})
    images = load(root)
    assert levels(images) == [[20], [90], [160]]
    assert images.class_names == ("a", "b", "c")
    assert images.validation.labels is not None
    assert images.validation.labels.tolist() == [0, 0, 0]
    assert images.test.labels is not None
    assert sorted(images.test.labels.tolist()) == [0, 0, 2, 2]
    first = load(root, limit=9).train.labels
    assert first is not None
    assert len(first.unique()) == 3, "the first images are of every class"
    assert torch.equal(load(root).train.x, images.train.x)


def test_splits_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    images = load(draw(tmp_path / "data", {"train": 8, "test": 5, "val": 3}))
    assert levels(images) == [[20], [90], [160]]
    assert [split.labels for split in images.splits.values()] == [None] * 3


def test_a_split_without_class_folders_leaves_no_labels_and_is_named(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", {"train/cat": 5, "train/dog": 5, "test": 2})
    with pytest.warns(UserWarning, match=r"2 of 12 images lie beside the sub-folders .* no labels: test/0\.png"):
        images = load(root)
    assert images.classes == ()
    assert len(images.test) == 2


def test_what_is_beside_the_splits_is_left_out_and_named(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", {"train/cat": 5, "train/dog": 5, "test/cat": 2, "extra/cat": 3, "": 1})
    with pytest.warns(UserWarning, match=r"4 of 16 images lie beside the splits test, train of .* left out: 0\.png"):
        images = load(root)
    assert len(images.train) + len(images.validation) + len(images.test) == 12


@pytest.mark.parametrize("names", [("train", "bus", "car"), ("valid", "invalid"), ("test", "sample")])
def test_classes_may_be_called_like_splits(names: tuple[str, ...]) -> None:
    layout = Layout.of(Path(), [f"{name}/{number}.png" for name in names for number in range(2)])
    assert layout.splits == []
    assert sorted(set(layout.classes)) == sorted(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("val", "test"), "Expected a folder train beside val, test"),
        (("train", "val", "valid"), "Expected one folder for each split in .*; got train, val, valid"),
    ],
)
def test_unclear_splits_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout.of(Path(), [f"{name}/cat/0.png" for name in names])


def test_folders_that_are_numbers_are_these_classes(tmp_path: Path) -> None:
    images = load(draw(tmp_path / "data", {"1": 5, "10": 6, "2": 7}))
    assert (images.classes, images.class_names) == ((1, 2, 10), ("1", "2", "10"))
    assert load(tmp_path / "data", classes=[10]).classes == (10,)


def test_classes_are_chosen_by_the_names_of_folders(tmp_path: Path) -> None:
    images = load(draw(tmp_path / "data", {"cat": 5, "dog": 6, "emu": 7}), classes=["emu", "cat"])
    assert (images.classes, images.class_names) == ((0, 2), ("cat", "emu"))


@pytest.mark.parametrize(
    ("modes", "channels", "shape"),
    [
        (("L", "L"), "auto", 1),
        (("L", "1"), "auto", 1),
        (("L", "RGB"), "auto", 3),
        (("RGB", "RGB"), 1, 1),
        (("L", "L"), 3, 3),
        (("L", "L"), None, 3),
    ],
)
def test_channels(tmp_path: Path, modes: tuple[str, str], channels: object, shape: int) -> None:
    for name, mode in zip("ab", modes, strict=True):
        draw(tmp_path / "data", {name: 4}, mode)
    for _ in range(2):  # decoded, and from the cache
        assert load(tmp_path / "data", channels=channels).shape == (shape, 12, 8)


def test_grey_is_the_grey_of_the_file(tmp_path: Path) -> None:
    draw(tmp_path / "data", {"": 3})
    images, _ = load_image_folder(str(tmp_path / "data"), size=(12, 8), channels="auto")
    assert images[2].tolist() == [np.asarray(Image.open(tmp_path / "data/2.png")).tolist()]


@pytest.mark.parametrize("size", ["0x3", "3x4x5", "axb", "", [], [3, 4, 5]])
def test_sizes_that_are_none_are_refused(tmp_path: Path, size: object) -> None:
    with pytest.raises(ValueError, match=r"Expected --data\.size as 32, or height and width as 32x48; got"):
        Data("image_folder", root=str(tmp_path), size=size).load()  # type: ignore[arg-type]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("preset", ["digits_mlp2", "mnist_conv16"])
def test_a_run_on_oblong_grey_pictures_and_a_folder_to_classify(
    tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {f"{split}/{kind}": 6 for split in ("train", "val", "test") for kind in ("cat", "dog")}
    root, run = draw(tmp_path / "data", counts), tmp_path / "run"
    options = ["--data.source", "image_folder", "--data.root", str(root), "--data.size", "12x8", "--epochs", "1"]
    options += ["--mixture.draws", "1", "--mixture.n_init", "1", "--mixture.svi.epochs", "2"]
    options += ["--mixture.posterior.guide", "none"]
    assert main(["run", preset, *options, "--data.channels", "auto", "--out", str(run)]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["data"]["shape"] == [1, 12, 8]
    assert summary["data"]["class_names"] == ["cat", "dog"]
    assert summary["test"]["ssim"] == pytest.approx(summary["test"]["ssim"], nan_ok=False)
    assert (run / "figures/reconstructions.png").is_file()
    capsys.readouterr()
    assert main(["classify", str(run), str(root / "test")]) == 0
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert rows[0] == ["image", "predicted", "class cat", "class dog"]
    assert [row[0] for row in rows[1:]] == [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(6)]
    assert main(["evaluate", str(run), "--data.root", str(root / "test"), "--split", "all"]) == 0
    assert "12 images" in capsys.readouterr().out
