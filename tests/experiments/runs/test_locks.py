"""One process at a time writes a folder; a dead one holds no lock, and a folder that moved is noticed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from latentmix.experiments.runs import locks
from latentmix.experiments.runs.locks import FolderLock, LockedError

HOLD = """
import fcntl, os, sys
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(handle, fcntl.LOCK_EX)
os.write(handle, str(os.getpid()).encode())
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock."""
    words = [sys.executable, "-c", HOLD, str(folder / "lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_another_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(LockedError, match=f"which process {process.pid} writes"), FolderLock(tmp_path):
            pass
        process.kill()
        process.wait()
        with FolderLock(tmp_path):
            assert (tmp_path / "lock").read_text() != str(process.pid)
    assert not (tmp_path / "lock").exists()


def test_a_second_block_of_the_process_is_refused(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lock:
        with pytest.raises(LockedError, match="Expected a folder that no process is writing"), FolderLock(tmp_path):
            pass
        lock.check()
    with FolderLock(tmp_path):
        pass


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_folder_that_changes_is_noticed(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with FolderLock(folder) as lock:
        if how == "moved":
            folder.rename(tmp_path / "other")
        else:
            shutil.rmtree(folder)
        if how == "replaced":
            folder.mkdir()
            (folder / "lock").touch()
        with pytest.raises(LockedError, match="it was moved, replaced or removed"):
            lock.check()
    assert folder.exists() == (how == "replaced")


def test_a_link_as_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match="which is not followed"), FolderLock(tmp_path / "run"):
        pass
    assert not (tmp_path / "private").exists()


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.warns(UserWarning, match="cannot be locked"), FolderLock(tmp_path) as lock:
        lock.check()


def test_a_full_disk_leaves_no_lock_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(locks.os, "write", full)
        with FolderLock(tmp_path) as lock:
            lock.check()
    with FolderLock(tmp_path):
        pass
