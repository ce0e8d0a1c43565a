"""Files are written whole or not at all, and links within folders of results are refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentmix.models import VAE, files
from latentmix.models.files import inside, write_atomically


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("mine")
    (tmp_path / "report.html").symlink_to(tmp_path / "private")
    write_atomically(tmp_path / "report.html", b"page")
    assert (tmp_path / "private").read_text() == "mine"
    assert not (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "report.html").read_bytes() == b"page"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomically(tmp_path / "summary.json", b"earlier")
    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(OSError, match=r"No space left on device: .*summary\.json"):
        write_atomically(tmp_path / "summary.json", b"later")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("summary.json", b"earlier")]


def test_a_limit_of_size_leaves_the_earlier_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    assert resource is not None
    program = (
        "import importlib.util, pathlib, resource, sys\n"
        "spec = importlib.util.spec_from_file_location('files', sys.argv[1])\n"
        "files = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(files)\n"
        "path = pathlib.Path(sys.argv[2])\n"
        "files.write_atomically(path, b'whole')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    files.write_atomically(path, bytes(3000))\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
    )
    words = [sys.executable, "-c", program, files.__file__, str(tmp_path / "report.html")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "File too large\n"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("report.html", b"whole")]


def test_names_beside_cannot_be_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(files.os, "replace", lambda source, target: names.append(source.name))
    for _ in range(2):
        write_atomically(tmp_path / "summary.json", b"")
    assert len(set(names)) == 2


@pytest.mark.parametrize("linked", ["figures", "figures/x.png"])
def test_links_inside_are_refused_and_the_folder_may_be_one(tmp_path: Path, linked: str) -> None:
    run = tmp_path / "run"
    (run / linked).parent.mkdir(parents=True, exist_ok=True)
    assert inside(run, "figures/x.png") == run / "figures" / "x.png"
    (run / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"got the link .*{linked}, which is not followed"):
        inside(run, "figures/x.png")
    (tmp_path / "other").symlink_to(run)
    assert inside(tmp_path / "other", "summary.json") == tmp_path / "other" / "summary.json"


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "cells/../../x"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="which leads out of it"):
        inside(tmp_path, name)


@pytest.mark.parametrize("linked", ["checkpoints", "checkpoints/vae.json"])
def test_saved_modules_are_not_read_through_links(tmp_path: Path, linked: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "vae.json").write_text("{}")
    (tmp_path / "run" / linked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / linked).symlink_to(tmp_path / "elsewhere" / (linked.partition("/")[2]))
    with pytest.raises(ValueError, match="which is not followed"):
        VAE.from_pretrained(tmp_path / "run")
