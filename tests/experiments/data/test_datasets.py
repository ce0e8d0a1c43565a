from __future__ import annotations

import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.pixels import binarize_static
from latentmix.experiments.data.schema import Schema
from latentmix.experiments.data.sources.digits import load_digits
from latentmix.experiments.data.splits import draw_labelled
from latentmix.experiments.options.mixture_fits import MixtureFits
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.metrics import classification
from latentmix.experiments.runs.mixtures import fit_mixtures
from latentmix.inference import SVI

MNIST_ROOTS = [os.environ.get("LATENTMIX_DATA", ""), str(Path(__file__).parents[3] / "../shared/data")]
MNIST_ROOT = next((root for root in MNIST_ROOTS if root and (Path(root) / "MNIST/raw").is_dir()), None)
needs_mnist = [
    pytest.mark.mnist,
    pytest.mark.skipif(MNIST_ROOT is None, reason="no MNIST/raw in LATENTMIX_DATA or ../shared/data"),
]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return Data().load()


def splits(images: Dataset) -> tuple[Split, Split, Split]:
    return images.train, images.validation, images.test


def labels(split: Split) -> Tensor:
    assert split.labels is not None
    return split.labels


def numbered(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images of 2 x 3 that encode their own number, so that a row can be followed through a split."""
    images = np.zeros((count, 2, 3), np.uint8)
    images[:, 0, 0], images[:, 0, 1], images[:, 1, 2] = np.arange(count) // 256, np.arange(count) % 256, 255
    return images


def numbers(split: Split) -> list[int]:
    return (split.x[:, 0, 0, 0].long() * 256 + split.x[:, 0, 0, 1].long()).tolist()


class TestDigits:
    def test_splits(self, digits: Dataset) -> None:
        assert [len(split) for split in splits(digits)] == [1149, 288, 360]
        assert digits.shape == (1, 28, 28)
        assert digits.classes == tuple(range(10))
        assert digits.name == "digits"
        for split in splits(digits):
            assert split.x.shape == (len(split), 1, 28, 28)
            assert split.x.dtype == torch.uint8
            assert labels(split).dtype == torch.int64
            assert int(split.x.min()) == 0
            assert int(split.x.max()) == 255

    def test_is_stratified(self, digits: Dataset) -> None:
        whole = torch.cat([labels(split) for split in splits(digits)]).bincount() / 1797
        for split in splits(digits):
            assert torch.allclose(labels(split).bincount() / len(split), whole, atol=0.003)

    def test_splits_are_disjoint_and_complete(self, digits: Dataset) -> None:
        whole, _ = load_digits()
        together = torch.cat([split.x for split in splits(digits)])
        assert torch.equal(together.unique(dim=0), whole.unique(dim=0))
        assert len(together.unique(dim=0)) == 1797

    def test_same_seed_same_split(self, digits: Dataset) -> None:
        again, other = Data().load(), Data(seed=1).load()
        for a, b in zip(splits(digits), splits(again), strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(labels(a), labels(b))
        assert not torch.equal(digits.test.x, other.test.x)

    def test_upsampling_keeps_the_digits(self, digits: Dataset) -> None:
        from sklearn import datasets

        pooled = torch.nn.functional.adaptive_avg_pool2d(digits.train.x.float() / 255, 8).flatten(1)
        originals = torch.from_numpy(datasets.load_digits().data).float() / 16
        nearest = torch.cdist(pooled, originals).argmin(1)
        assert torch.equal(torch.from_numpy(datasets.load_digits().target)[nearest], labels(digits.train))

    def test_classes_keep_their_labels(self) -> None:
        chosen = Data(classes=[8, 1, 4]).load()
        assert chosen.classes == (1, 4, 8)
        for split in splits(chosen):
            assert labels(split).unique().tolist() == [1, 4, 8]

    def test_limit(self, digits: Dataset) -> None:
        few = Data(limit=200, labels_per_class=1).load()
        assert [len(split) for split in splits(few)] == [200, 200, 200]
        assert torch.equal(few.train.x, digits.train.x[:200])

    def test_global_random_state_is_not_touched(self) -> None:
        before, legacy = torch.get_rng_state(), cast(tuple[Any, ...], np.random.get_state())
        images = Data().load()
        draw_labelled(labels(images.train), images.classes, 5, seed=0)
        binarize_static(images.train.x, seed=0)
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(cast(tuple[Any, ...], np.random.get_state())[1], legacy[1])

    def test_to_device(self, digits: Dataset) -> None:
        moved = digits.to("meta")
        assert [split.x.device.type for split in splits(moved)] == ["meta"] * 3
        assert labels(moved.test).device.type == "meta"
        assert moved.classes == digits.classes


class TestMNIST:
    pytestmark = needs_mnist

    def test_official_test_split_and_80_20(self) -> None:
        images = Data("mnist", root=MNIST_ROOT).load()
        assert [len(split) for split in splits(images)] == [48_000, 12_000, 10_000]
        assert images.shape == (1, 28, 28)
        assert images.classes == tuple(range(10))
        assert labels(images.test)[:5].tolist() == [7, 2, 1, 0, 4]
        share = labels(images.validation).bincount() / labels(images.train).bincount()
        assert torch.allclose(share, torch.full((10,), 0.25), atol=1e-3)

    def test_root_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LATENTMIX_DATA", str(MNIST_ROOT))
        images = Data("mnist", classes=[1, 4, 8]).load()
        assert [len(split) for split in splits(images)] == [14_748, 3_687, 3_091]
        assert images.classes == (1, 4, 8)


class TestMissingData:
    @pytest.fixture(autouse=True)
    def _no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LATENTMIX_DATA", raising=False)

    @pytest.mark.parametrize("source", ["mnist", "fashion_mnist", "kmnist"])
    def test_no_root(self, source: str) -> None:
        remedy = r"--data\.root DIR or LATENTMIX_DATA, or fetch it by --data\.download true\.$"
        with pytest.raises(ValueError, match=rf"Expected a folder that holds \S+/raw for {source}; .*{remedy}"):
            Data(source).load()

    def test_root_without_the_files(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"Expected MNIST/raw .*; got .* without it: name the folder by"):
            Data("mnist", root=str(tmp_path)).load()

    def test_incomplete_files(self, tmp_path: Path) -> None:
        (tmp_path / "MNIST/raw").mkdir(parents=True)
        with pytest.raises(ValueError, match=r"Expected the files of mnist in .*; got .*--data\.root DIR") as error:
            Data("mnist", root=str(tmp_path)).load()
        assert "\n" not in str(error.value)

    def test_broken_files(self, tmp_path: Path) -> None:
        raw = tmp_path / "MNIST/raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            for kind in ("images-idx3", "labels-idx1"):
                (raw / f"{part}-{kind}-ubyte").write_bytes(b"\0\0\x08\x03 cut short")
        with pytest.raises(ValueError, match="Expected the files of mnist in"):
            Data("mnist", root=str(tmp_path)).load()

    def test_failing_download(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from torchvision import datasets

        def refuse(self: object) -> None:
            raise RuntimeError("Error downloading\nseveral lines")

        monkeypatch.setattr(datasets.KMNIST, "download", refuse)
        with pytest.raises(ValueError, match="got 'Error downloading several lines': name the folder"):
            Data("kmnist", root=str(tmp_path), download=True).load()

    def test_unknown_source(self) -> None:
        with pytest.raises(
            ValueError, match=r"one of celeba, digits, .*mnist, .*, or the path of .*; got 'mnits': did you mean mnist"
        ):
            Data("mnits").load()


class TestFiles:
    def test_npz(self, tmp_path: Path) -> None:
        path, target = tmp_path / "some.npz", np.arange(500) % 4 + 3
        np.savez(path, images=numbered(500), labels=target)
        images = Data(str(path)).load()
        assert [len(split) for split in splits(images)] == [320, 80, 100]
        assert images.shape == (1, 2, 3)
        assert images.classes == (3, 4, 5, 6)
        seen: list[int] = []
        for split in splits(images):
            seen += numbers(split)
            assert labels(split).tolist() == [target[number] for number in numbers(split)]
            assert labels(split).bincount()[3:].tolist() == [len(split) // 4] * 4
        assert sorted(seen) == list(range(500))

    def test_short_names(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "some.npz", x=numbered(50), y=np.zeros(50, np.uint8))
        images = Data(str(tmp_path / "some.npz")).load()
        assert images.classes == (0,)

    def test_npy_has_no_labels(self, tmp_path: Path) -> None:
        np.save(tmp_path / "some.npy", numbered(50))
        images = Data(str(tmp_path / "some.npy")).load()
        assert [len(split) for split in splits(images)] == [32, 8, 10]
        assert sorted(number for split in splits(images) for number in numbers(split)) == list(range(50))
        assert images.classes == ()
        assert [split.labels for split in splits(images)] == [None] * 3
        assert images.to("cpu").test.labels is None

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bool"])
    def test_other_types_are_scaled_and_rounded(self, dtype: str, tmp_path: Path) -> None:
        grey = np.random.default_rng(0).random((50, 4, 4)).astype(dtype)
        np.save(tmp_path / "some.npy", grey)
        images = Data(str(tmp_path / "some.npy")).load()
        got = torch.cat([split.x for split in splits(images)]).flatten(1).tolist()
        assert sorted(got) == sorted(np.rint(grey.astype("float32") * 255).reshape(50, -1).tolist())

    @pytest.mark.parametrize(
        ("stored", "expected"),
        [
            ((20, 4, 5), (1, 4, 5)),
            ((20, 1, 4, 5), (1, 4, 5)),
            ((20, 3, 4, 5), (3, 4, 5)),
            ((20, 4, 5, 3), (3, 4, 5)),
            ((20, 4, 5, 1), (1, 4, 5)),
            ((20, 3, 5, 1), (3, 5, 1)),
        ],
    )
    def test_layouts(self, stored: tuple[int, ...], expected: tuple[int, int, int], tmp_path: Path) -> None:
        np.save(tmp_path / "some.npy", np.random.default_rng(0).random(stored))
        assert Data(str(tmp_path / "some.npy")).load().shape == expected

    def test_channels_last_are_moved_not_reshaped(self, tmp_path: Path) -> None:
        np.save(
            tmp_path / "some.npy",
            np.stack([numbered(50), numbered(50), np.full((50, 2, 3), 7, np.uint8)], -1),
        )
        images = Data(str(tmp_path / "some.npy")).load()
        assert sorted(number for split in splits(images) for number in numbers(split)) == list(range(50))
        assert bool((images.train.x[:, 2] == 7).all())

    def test_rare_classes_do_not_prevent_a_split(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "some.npz", images=numbered(60), labels=np.array([0] * 58 + [1, 1]))
        images = Data(str(tmp_path / "some.npz"), labels_per_class=1).load()
        assert [len(split) for split in splits(images)] == [38, 10, 12]

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            (
                {"images": np.zeros((0, 4, 4))},
                r"at least one image .*; got an empty array of shape \(0, 4, 4\)",
            ),
            ({"images": np.zeros((3, 4, 4))}, "Expected 5 images or more .* got too few"),
            ({"images": np.zeros((9, 16))}, r"N x H x W, .*; got \(9, 16\)"),
            ({"images": np.zeros((9, 2, 4, 4))}, r"N x H x W, .*; got \(9, 4, 2, 4\)"),
            ({"images": np.zeros((9, 1, 1, 4, 4))}, r"N x H x W, .*; got \(9, 1, 1, 4, 4\)"),
            ({"images": np.zeros((9, 4, 4), int)}, "uint8, boolean or floating-point pixels .* got int64"),
            ({"images": np.zeros((9, 4, 4), "uint16")}, "got uint16: convert them to uint8 in 0..255, or to floats in"),
            ({"images": np.full((9, 4, 4), "a")}, "uint8, boolean or floating-point pixels .* got <U1"),
            ({"images": np.eye(4, dtype="uint8")[None].repeat(9, 0)}, "largest pixel of 1: save two-valued"),
            ({"pixels": np.zeros((9, 4, 4))}, r"an array 'images' .*; got \['pixels'\]"),
            ({"images": np.full((9, 4), None)}, "Expected arrays of numbers .*; got pickled objects"),
            ({"images": numbered(9), "labels": np.zeros(8, int)}, r"labels of shape \(9,\).*; got \(8,\)"),
            (
                {"images": numbered(9), "labels": np.zeros((9, 1), int)},
                r"labels of shape \(9,\).*; got \(9, 1\)",
            ),
            ({"images": numbered(9), "labels": np.zeros(9)}, "integer labels .*; got float64"),
            ({"images": numbered(9), "labels": np.arange(9) - 1}, "labels >= 0 .*; got -1"),
            ({"images": numbered(9), "labels": np.full(9, 2**63, "uint64")}, r"labels below 2\*\*63 .*; got 9223"),
        ],
    )
    def test_bad_arrays(self, arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            Data(str(tmp_path / "bad.npz")).load()

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.25, 1.5])
    def test_bad_pixel_is_named(self, value: float, tmp_path: Path) -> None:
        grey = np.full((9, 4, 4), 0.5)
        grey[6, 1, 2], grey[7] = value, 99.0
        np.save(tmp_path / "bad.npy", grey)
        with pytest.raises(ValueError, match=rf"Expected pixels in \[0, 1\] in .*; got {value} in row 6\.$"):
            Data(str(tmp_path / "bad.npy")).load()

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    @pytest.mark.parametrize("content", [b"", b"not an array", b"PK\x03\x04 cut short", b"\x93NUMPY"])
    def test_not_an_array(self, suffix: str, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="Expected arrays of numbers in"):
            Data(str(path)).load()

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"Expected a file of images or points at .*; got no such file\."):
            Data(str(tmp_path / "none.npz")).load()


class TestOptions:
    @pytest.mark.parametrize(
        ("source", "option", "value"),
        [
            ("digits", "attribute", "Male"),
            ("image_folder", "attribute", "Male"),
            ("mnist", "size", 32),
            ("some.npz", "size", 32),
            ("gmm3d", "size", 64),
            ("natural_patches", "cache", "somewhere"),
            ("natural_patches", "max_corrupt", 3),
            ("celeba", "points", 100),
        ],
    )
    def test_an_option_of_another_source_is_refused(self, source: str, option: str, value: object) -> None:
        got = re.escape(f"{value!r} with {source!r}.")
        with pytest.raises(ValueError, match=rf"Expected --data\.{option} with the source .* alone; got {got}$"):
            Data(source, **cast(dict[str, Any], {option: value})).load()

    @pytest.mark.parametrize("source", ["digits", "natural_patches", "gmm3d"])
    def test_defaults_apply_to_every_source(self, source: str) -> None:
        again = Data(**asdict(Data(source)))
        assert again.load().name == source

    def test_first_is_a_view(self, digits: Dataset) -> None:
        few = digits.train.first(7)
        assert len(few) == 7
        assert few.x.data_ptr() == digits.train.x.data_ptr()
        assert torch.equal(labels(few), labels(digits.train)[:7])


class TestClassesAndBudgets:
    @pytest.mark.parametrize("classes", [[3, 11], [11], [-1, 3]])
    def test_absent_class(self, classes: list[int]) -> None:
        absent = (set(classes) - {3}).pop()
        with pytest.raises(ValueError, match=rf"which has 0, 1, .*, 9; got {absent}\."):
            Data(classes=classes).load()

    def test_no_class(self) -> None:
        with pytest.raises(ValueError, match=r"which has 0, 1, .*, 9; got none\."):
            Data(classes=[]).load()

    @pytest.mark.parametrize("classes", [[1, 1, 1], [3, 1, "3"]])
    def test_repeated_class(self, classes: list[int | str]) -> None:
        with pytest.raises(ValueError, match=r"Expected each of the --data\.classes once; got .*leave out repet"):
            Data(classes=classes).load()

    def test_classes_without_labels(self, tmp_path: Path) -> None:
        np.save(tmp_path / "some.npy", numbered(50))
        with pytest.raises(ValueError, match=r"Expected labels in .* to choose classes by; got images alone\."):
            Data(str(tmp_path / "some.npy"), classes=[1]).load()

    def test_budget_larger_than_a_class(self) -> None:
        message = r"Expected 112 or more training data of class 8 to label; got 111: lower --data\.labels_per_class"
        assert Data(classes=[8], labels_per_class=111).load().classes == (8,)
        with pytest.raises(ValueError, match=message):
            Data(classes=[8], labels_per_class=112).load()
        with pytest.raises(ValueError, match=message):
            draw_labelled(torch.full((111,), 8), (8,), 112, seed=0)

    @pytest.mark.parametrize("field", ["labels_per_class", "limit", "size", "points"])
    def test_numbers_below_one(self, field: str) -> None:
        with pytest.raises(ValueError, match=rf"Expected --data\.{field} of at least 1; got 0\."):
            Data(**cast(dict[str, Any], {field: 0})).load()

    def test_negative_bound(self) -> None:
        with pytest.raises(ValueError, match=r"Expected --data\.max_corrupt of at least 0; got -1\."):
            Data("celeba", max_corrupt=-1).load()

    def test_draw(self, digits: Dataset) -> None:
        target = labels(digits.train)
        rows = draw_labelled(target, digits.classes, 5, seed=0)
        assert rows.dtype == torch.int64
        assert target[rows].tolist() == [label for label in range(10) for _ in range(5)]
        assert rows.unique().numel() == 50
        assert torch.equal(rows, draw_labelled(target, digits.classes, 5, seed=0))
        draws = {tuple(draw_labelled(target, digits.classes, 5, seed=seed).tolist()) for seed in range(20)}
        assert len(draws) == 20

    def test_every_image_is_equally_likely(self) -> None:
        target = torch.tensor([0, 1, 0, 1, 0, 0])
        drawn = torch.cat([draw_labelled(target, (0, 1), 1, seed=seed) for seed in range(2000)]).bincount()
        assert torch.allclose(drawn / 2000, torch.tensor([0.25, 0.5, 0.25, 0.5, 0.25, 0.25]), atol=0.04)


def classes_of(sizes: list[int], path: Path) -> str:
    """A file of numbered images with classes of given sizes."""
    np.savez(path / "some.npz", images=numbered(sum(sizes)), labels=np.repeat(np.arange(len(sizes)), sizes))
    return str(path / "some.npz")


def only_in(root: Path, rows: tuple[int, ...]) -> None:
    """Makes the faces at these positions of every five the only ones that are `Male`; (4,) are those for testing."""
    path = root / "celeba/list_attr_celeba.txt"
    count, names, *lines = path.read_text().splitlines()
    column = names.split().index("Male") + 1
    for row, line in enumerate(lines):
        words = line.split()
        words[column] = "1" if row % 5 in rows else "-1"
        lines[row] = " ".join(words)
    path.write_text("\n".join([count, names, *lines]))


def faces(root: Path, classes: list[int] | None) -> Dataset:
    return Data("celeba", root=str(root), attribute="Male", labels_per_class=1, size=8, classes=classes).load()


@pytest.mark.usefixtures("cache")
def test_classes_of_an_attribute_are_those_of_earlier_versions_by_their_values(celeba: Path) -> None:
    schema = Schema((0, 1), ("0", "1"))
    data = Data("celeba", root=str(celeba), attribute="Male", labels_per_class=1, size=8)
    assert data.load().class_names == ("not Male", "Male")
    assert labels(data.load(schema).test).tolist() == labels(data.load().test).tolist()
    for classes in (["Male"], [0]):
        assert len(replace(data, classes=classes).load(schema).classes) == 1
    with pytest.raises(ValueError, match=r"got classes \[not Male\] too"):
        data.load(Schema((0, 1), ("no", "Male")))
    with pytest.raises(ValueError, match=r"got classes \[cat, dog\] too"):
        schema.relabel({0: "cat", 1: "dog"}, "images")


class TestRareClasses:
    @pytest.mark.parametrize(
        ("sizes", "expected"),
        [
            ([122, 1], [[77, 1], [20, 0], [25, 0]]),
            ([120, 2], [[75, 2], [20, 0], [25, 0]]),
            ([120, 3], [[76, 2], [20, 0], [24, 1]]),
            ([60, 60, 5], [[38, 39, 3], [10, 9, 1], [12, 12, 1]]),
            ([12, 12, 1], [[7, 8, 1], [2, 2, 0], [3, 2, 0]]),
            ([4, 4], [[2, 2], [1, 1], [1, 1]]),
            ([2, 3], [[1, 2], [1, 0], [0, 1]]),
        ],
    )
    def test_have_counts_independent_of_the_seed(
        self, sizes: list[int], expected: list[list[int]], tmp_path: Path
    ) -> None:
        path, held_out = classes_of(sizes, tmp_path), set()
        for seed in range(20):
            images = Data(path, seed=seed, labels_per_class=1).load()
            assert images.classes == tuple(range(len(sizes)))
            assert [labels(split).bincount(minlength=len(sizes)).tolist() for split in splits(images)] == expected
            assert sorted(number for split in splits(images) for number in numbers(split)) == list(range(sum(sizes)))
            held_out.add(tuple(sorted(numbers(images.test))))
        assert len(held_out) > 1

    @pytest.mark.parametrize("sizes", [[120, 1], [120, 3], [60, 60, 6], [7, 7, 7], [8, 8, 9], [30, 8], [8, 40, 9]])
    @pytest.mark.parametrize("per_class", [1, 2, 5])
    def test_are_refused_for_every_seed_or_for_none(self, sizes: list[int], per_class: int, tmp_path: Path) -> None:
        path, outcomes = classes_of(sizes, tmp_path), set()
        for seed in range(30):
            try:
                outcomes.add(Data(path, seed=seed, labels_per_class=per_class).load().classes)
            except ValueError as error:
                outcomes.add(re.sub(r"class \d+ to label; got \d", "", str(error)))
        assert len(outcomes) == 1

    @pytest.mark.parametrize(("limit", "rare"), [(3, 1), (10, 1), (50, 1), (76, 2)])
    def test_keep_their_proportion_under_a_limit(self, limit: int, rare: int, tmp_path: Path) -> None:
        path = classes_of([120, 3], tmp_path)
        for seed in range(20):
            images = Data(path, seed=seed, limit=limit, labels_per_class=1).load()
            assert [len(split) for split in splits(images)] == [min(limit, whole) for whole in (78, 20, 25)]
            assert images.classes == (0, 1)
            assert labels(images.train).bincount().tolist() == [limit - rare, rare]

    @pytest.mark.parametrize("sizes", [[1] * 5, [1, 1, 1, 2]])
    def test_of_one_datum_alone_cannot_be_split(self, sizes: list[int], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"Expected three images or more of a class in '.*', one for each split"):
            Data(classes_of(sizes, tmp_path), labels_per_class=1).load()

    @pytest.mark.parametrize("classes", [None, [0, 1]])
    def test_without_training_data_are_refused(self, celeba: Path, cache: Path, classes: list[int] | None) -> None:
        only_in(celeba, rows=(4,))
        with pytest.raises(ValueError, match=r"Expected 1 or more training data of class Male to label; got 0: "):
            faces(celeba, classes=classes)

    @pytest.mark.parametrize("classes", [None, [0, 1]])
    def test_without_test_data_are_counted(self, celeba: Path, cache: Path, classes: list[int] | None) -> None:
        only_in(celeba, rows=(0, 1))
        images = faces(celeba, classes=classes)
        assert images.classes == (0, 1)
        assert labels(images.test).tolist() == [0] * 8
        figures = classification(np.zeros(8, int), np.zeros(8, int), np.zeros(8, int), images.classes)
        assert figures["confusion"] == [[8, 0], [0, 0]]
        assert figures["recall"] == figures["f1"] == 1.0

    def test_chosen_alone_are_refused_where_a_split_has_none(self, celeba: Path, cache: Path) -> None:
        only_in(celeba, rows=(0, 1))
        with pytest.raises(
            ValueError, match=r"Expected the --data\.classes 1 in every split of 'celeba'; got one without\."
        ):
            faces(celeba, classes=[1])

    def test_every_test_image_is_in_the_figures(self, tmp_path: Path) -> None:
        settings = MixtureFits(n_init=1, draws=1, svi=SVI(epochs=5), posterior=None)
        for seed in range(5):
            images = Data(classes_of([60, 61, 4], tmp_path), seed=seed, labels_per_class=1).load()
            noise = torch.randn(125, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            train, test = (
                LatentSplit((labels(split)[:, None] + noise[: len(split)]).numpy(), labels(split).numpy())
                for split in (images.train, images.test)
            )
            _, figures = fit_mixtures(
                train, test, images.classes, settings, labels_per_class=1, seed=seed, label_seed=seed
            )
            for budgets in figures["mixtures"].values():
                for budget in budgets.values():
                    assert np.sum(budget["confusion"], 1).tolist() == [12, 12, 1]
