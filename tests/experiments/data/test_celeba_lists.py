"""CelebA's lists: every line is checked, and its values belong to its own image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from latentmix.experiments.data.base import Dataset
from latentmix.experiments.data.celeba_lists import read_attributes, read_partition

from tests.experiments.data.celeba_folder import ATTRIBUTES, load

pytestmark = pytest.mark.usefixtures("cache")

LISTS = ("list_attr_celeba", "list_eval_partition")


def same(first: Dataset, second: Dataset) -> bool:
    """Whether images and attributes are the same in every split."""
    return all(
        torch.equal(split.x, other.x)
        and split.attributes is not None
        and other.attributes is not None
        and torch.equal(split.attributes, other.attributes)
        for split, other in zip(first.splits.values(), second.splits.values(), strict=True)
    )


def edit(folder: Path, name: str, change: dict[int, str]) -> None:
    """Replace the lines of these numbers, from 1."""
    path = folder / f"{name}.txt"
    lines = path.read_text().splitlines()
    for number, line in change.items():
        lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n")


def lines_of(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.txt").read_text().splitlines()


def to_csv(folder: Path, *, quoted: bool = False) -> None:
    """The lists as Kaggle has them."""
    _, names, *attributes = lines_of(folder, LISTS[0])
    for name, heading, lines in (
        (LISTS[0], f"image_id {names}", attributes),
        (LISTS[1], "image_id partition", lines_of(folder, LISTS[1])),
    ):
        rows = [line.split() for line in (heading, *lines)]
        written = [",".join(f'"{word}"' if quoted else word for word in row) for row in rows]
        (folder / f"{name}.csv").write_text("\r\n".join(written))
        (folder / f"{name}.txt").unlink()


@pytest.mark.parametrize("moved", [1, 2])
def test_a_short_line_before_a_long_one_is_named(celeba: Path, moved: int) -> None:
    folder = celeba / "celeba"
    seventh, eighth = (line.split() for line in lines_of(folder, LISTS[0])[6:8])
    edit(folder, LISTS[0], {7: " ".join(seventh[:-moved]), 8: " ".join([*eighth, *seventh[-moved:]])})
    with pytest.raises(
        ValueError, match=rf"40 values of -1 or 1 .* got '000005\.jpg .*' in line 7, with {40 - moved} values"
    ):
        load(celeba)


def test_a_file_name_that_is_missing_is_named(celeba: Path) -> None:
    folder = celeba / "celeba"
    edit(folder, LISTS[1], {3: "0", 4: "000004.jpg 1 000005.jpg"})
    with pytest.raises(ValueError, match=r"1 value of 0 or 1 or 2 .*; got '0' in line 3, with 0 values\."):
        load(celeba)


@pytest.mark.parametrize("value", ["0", "2", "-2", "+1", "1.0", "01", "x", "--1"])
def test_a_value_other_than_an_attribute_is_named(celeba: Path, value: str) -> None:
    folder = celeba / "celeba"
    file, *words = lines_of(folder, LISTS[0])[8].split()
    edit(folder, LISTS[0], {9: " ".join([file, *words[:11], value, *words[12:]])})
    with pytest.raises(ValueError, match=r"got '000007\.jpg .*' in line 9, with '") as caught:
        load(celeba)
    assert f"with '{value}'." in str(caught.value)


@pytest.mark.parametrize(("name", "first"), [(LISTS[0], 5), (LISTS[1], 3)])
def test_a_repeated_file_is_named(celeba: Path, name: str, first: int) -> None:
    folder = celeba / "celeba"
    edit(folder, name, {first + 1: lines_of(folder, name)[first - 1]})
    message = rf"every file once in '.*{name}\.txt'; got '000003\.jpg' in the lines {first} and {first + 1}\."
    with pytest.raises(ValueError, match=message):
        load(celeba)


@pytest.mark.parametrize("count", ["39", "41", "forty", "000001.jpg 1"])
def test_a_wrong_number_of_images_is_named(celeba: Path, count: str) -> None:
    edit(celeba / "celeba", LISTS[0], {1: count})
    with pytest.raises(ValueError, match=rf"number of images, 40, in line 1 of .*; got '{count}': the list may be cut"):
        load(celeba)


@pytest.mark.parametrize("names", ["Male Male", "000001.jpg -1 1"])
def test_malformed_names_of_attributes_are_named(celeba: Path, names: str) -> None:
    edit(celeba / "celeba", LISTS[0], {2: names})
    with pytest.raises(ValueError, match=rf"names of attributes, each once, in line 2 of .*; got '{names}'\."):
        load(celeba)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    "spelling", ["byte-order mark", "tabs", "CRLF", "old Macintosh", "blank lines", "no last line end"]
)
def test_white_space_does_not_matter(original: Path, celeba: Path, spelling: str) -> None:
    for name in LISTS:
        path = celeba / "celeba" / f"{name}.txt"
        text = path.read_text()
        changed = {
            "byte-order mark": "\ufeff" + text,
            "tabs": "\n".join("\t".join(line.split()) for line in text.splitlines()),
            "CRLF": text.replace("\n", "\r\n"),
            "old Macintosh": text.replace("\n", "\r"),
            "blank lines": "\n" + text.replace("\n", "\n\n") + " \n\n",
            "no last line end": text.rstrip("\n"),
        }[spelling]
        path.write_bytes(changed.encode())
    assert same(load(celeba, size=8), load(original, size=8))


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("quoted", [False, True])
def test_the_layout_of_kaggle_is_read(original: Path, celeba: Path, quoted: bool) -> None:
    folder = celeba / "celeba"
    to_csv(folder, quoted=quoted)
    (folder / "img_align_celeba").rename(folder / "images")
    (folder / "img_align_celeba").mkdir()
    shutil.move(folder / "images", folder / "img_align_celeba/img_align_celeba")
    assert same(load(celeba, size=8), load(original, size=8))
    assert read_attributes(folder)[1] == tuple(ATTRIBUTES)


@pytest.mark.parametrize("name", LISTS)
def test_lines_of_a_csv_file_are_checked(celeba: Path, name: str) -> None:
    folder = celeba / "celeba"
    to_csv(folder)
    path = folder / f"{name}.csv"
    path.write_text(path.read_text().replace("000003.jpg,", "000003.jpg,,"))
    with pytest.raises(ValueError, match=rf"every line of '.*{name}\.csv'; got '000003\.jpg,,.* in line 4, with "):
        load(celeba)


def test_a_csv_file_without_a_heading(celeba: Path) -> None:
    folder = celeba / "celeba"
    files, parts = read_partition(folder)
    to_csv(folder)
    for name in LISTS:
        path = folder / f"{name}.csv"
        path.write_text("\n".join(path.read_text().splitlines()[1:]))
    again, same_parts = read_partition(folder)
    assert again == files
    assert same_parts.tolist() == parts.tolist()
    with pytest.raises(ValueError, match=r"names of attributes, each once, in line 1 of .*csv'; got '000001\.jpg,"):
        load(celeba)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("utf-16", r"got bytes that are no UTF-8 at byte 0"), ("utf-8", r"got '000002\.jpg;")],
)
def test_malformed_lists_are_refused(celeba: Path, encoding: str, message: str) -> None:
    for name in LISTS:
        path = celeba / "celeba" / f"{name}.txt"
        text = path.read_text()
        path.write_bytes((text.replace(".jpg ", ".jpg;") if encoding == "utf-8" else text).encode(encoding))
    with pytest.raises(ValueError, match=message):
        load(celeba)
