"""Folders of results are made whole or not at all, and claimed where nothing of a user is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from latentmix.experiments.runs import folders
from latentmix.experiments.runs.folders import claimed, make_folder
from latentmix.experiments.runs.locks import FolderLock, LockedError


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ValueError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["full", "interrupted"],
)
def test_a_folder_that_is_not_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    def write(path: Path, _: bytes) -> None:
        path.touch()
        raise error

    monkeypatch.setattr(folders, "write_atomically", write)
    with pytest.raises(raised):
        make_folder(tmp_path / "run", {"config.yaml": b"{}"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"4711\n"])
def test_a_folder_with_the_lock_of_a_killed_process_is_claimed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock").write_bytes(content)
    (tmp_path / ".sweep.json.0123456789abcdef.part").touch()
    (tmp_path / ".cell.0123456789abcdef.part").mkdir()
    with claimed(tmp_path, "sweep.json", "a sweep") as lock:
        lock.check()
        with pytest.raises(LockedError), claimed(tmp_path, "sweep.json", "a sweep"):
            pass
        lock.check()


@pytest.mark.parametrize("content", [b"my key", b"4711\nmore", b"\xff"])
def test_a_users_own_file_of_that_name_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock").write_bytes(content)
    with pytest.raises(ValueError, match="which holds something else"), claimed(tmp_path, "sweep.json", "a sweep"):
        pass
    assert (tmp_path / "lock").read_bytes() == content


def test_a_folder_that_is_filled_before_it_is_locked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enter(self: FolderLock) -> FolderLock:
        (self.folder / "theirs").touch()
        return before(self)

    before = FolderLock.__enter__
    monkeypatch.setattr(FolderLock, "__enter__", enter)
    with pytest.raises(ValueError, match="holds something else"), claimed(tmp_path / "grid", "sweep.json", "a sweep"):
        pass
    assert [path.name for path in (tmp_path / "grid").iterdir()] == ["theirs"]
