"""Commands refuse a place that they cannot write before they read anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentmix.experiments.cli import main
from latentmix.experiments.places import (
    check_new_file,
    check_new_folder,
    check_writable,
    is_unfinished,
    remove_unfinished,
)
from latentmix.models import files

FOLDERS = [
    ["run", "digits"],
    ["sweep", "digits", "--grid", "epochs=1,2"],
    ["run", "digits", "--seeds", "2"],
    ["gallery", "--presets", "digits"],
    ["select", "points.csv"],
]
FILES = [
    ["classify", "run", "points.csv", "--out", "{}.csv"],
    ["evaluate", "run", "--out", "{}.json"],
    ["ex-post", "run", "--out", "{}.json"],
    ["sample", "run", "--out", "{}.npy"],
    ["bench", "em", "--out", "{}.json"],
    ["bench", "svi", "--out", "{}.json"],
    ["bench", "all", "--json", "{}.json"],
]


@pytest.fixture
def unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a file, the beginnings of a run, and data that fail the test when they are read."""

    def read(*_: object, **__: object) -> None:
        pytest.fail("data were read")

    monkeypatch.chdir(tmp_path)
    for module in ("data.datasets.Data.load", "runs.selection.read_points", "runs.artifacts.RunFolder.load_model"):
        monkeypatch.setattr(f"latentmix.experiments.{module}", read)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "points.csv").write_text("a,b\n1,2\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("epochs: 1\n")
    return tmp_path


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    before = set(Path().rglob("*"))
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert (out, line.startswith("latentmix: Expected ")) == ("", True)
    assert set(Path().rglob("*")) == before
    assert Path("file").read_text() == "mine"
    return line


@pytest.mark.parametrize("words", FOLDERS, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("file/x", "/file is no folder"),
        ("file/x/y", "/file is no folder"),
        ("file", "got file, which "),
        ("run", "got run, which "),
        ("n" * 300, "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_first(
    unread: Path, capsys: pytest.CaptureFixture[str], words: list[str], out: str, reason: str
) -> None:
    line = refused([*words, "--out", out], capsys)
    assert reason in line
    assert line.endswith("name another by --out.")


@pytest.mark.parametrize("words", FILES, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("out", "reason"),
    [("file/x", "file is no folder"), ("nowhere/x", "make nowhere"), ("taken", "which exists already")],
)
def test_a_file_that_cannot_be_made_is_refused_first(
    unread: Path, capsys: pytest.CaptureFixture[str], words: list[str], out: str, reason: str
) -> None:
    for suffix in (".csv", ".json", ".npy"):
        (unread / f"taken{suffix}").touch()
    assert reason in refused([word.format(out) for word in words], capsys)


@pytest.mark.parametrize("words", [*FOLDERS, *FILES], ids=lambda words: words[0])
def test_a_place_without_the_right_to_write_is_refused_first(
    unread: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (unread / "shut").mkdir()
    monkeypatch.setattr(os, "access", lambda place, _: Path(place).name != "shut")
    words = [word.format("shut/x") for word in words]
    line = refused(words if "shut" in words[-1] else [*words, "--out", "shut/a/x"], capsys)
    assert "shut cannot be written" in line


def test_new_places_within_new_and_empty_folders_are_taken(tmp_path: Path) -> None:
    check_new_folder(tmp_path)
    check_new_folder(tmp_path / "a" / "b")
    check_new_file(tmp_path / "a.json")
    check_new_file(None)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="which exists already"):
        check_new_folder(tmp_path / "dangling")
    with pytest.raises(ValueError, match="dangling is no folder"):
        check_writable(tmp_path / "dangling" / "run")


def test_the_default_folder_is_checked_too(unread: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (unread / "runs").touch()
    assert "runs is no folder" in refused(["run", "digits"], capsys)
    assert "got runs/gallery" in refused(["gallery", "--presets", "digits"], capsys)


def test_what_a_kill_leaves_is_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", lambda *_: None)
        files.write_atomically(tmp_path / "summary.json", b"half")
    (left,) = tmp_path.iterdir()
    assert is_unfinished(left)
    folder = tmp_path / ".run.0123456789abcdef.part"
    folder.mkdir()
    (folder / "config.yaml").touch()
    check_new_folder(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / ".film.0123456789abcdef.part").symlink_to(tmp_path / "mine")
    (tmp_path / ".film.part").mkdir()
    (tmp_path / ".notes.part").touch()
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", ".film.part", ".notes.part"}
    with pytest.raises(ValueError, match="which exists already"):
        check_new_folder(tmp_path)
