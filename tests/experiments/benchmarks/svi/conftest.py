"""Contestants that take no time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentmix.experiments.benchmarks.svi.contestants import CONTESTANTS, FLOORS, Contestant

FAKES = {
    "trains": Contestant("fake_contestants:trains"),
    "compiles": Contestant("fake_contestants:compiles", compiled=True),
    "fails": Contestant("fake_contestants:fails"),
    "fails-later": Contestant("fake_contestants:fails_later"),
    "hangs": Contestant("fake_contestants:hangs"),
    "dies": Contestant("fake_contestants:dies"),
    "is-unavailable": Contestant("fake_contestants:is_unavailable"),
    "shows-threads": Contestant("fake_contestants:shows_threads"),
    "is-not-there": Contestant("fake_contestants:no_such_function"),
    "is-not-installed": Contestant("fake_contestants:trains", library="no_such_library"),
    "in-bf16": Contestant("fake_contestants:trains", precision="bf16-mixed"),
}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file in which the fakes note what they do; they are among the contestants."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    for name, contestant in FAKES.items():
        monkeypatch.setitem(CONTESTANTS, name, contestant)
    for precision in FLOORS:
        monkeypatch.setitem(FLOORS, precision, Contestant("fake_contestants:floor", precision=precision))
    return tmp_path / "log"
