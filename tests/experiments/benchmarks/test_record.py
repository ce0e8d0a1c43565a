"""The JSON file of a benchmark, at each step."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from latentmix.experiments.benchmarks.record import Record


def test_the_file_holds_every_comparison_at_once(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    with Record(path, {"machine": {"cores": 2}}, "svi", "em") as record:
        record.add("svi", {"loss": math.nan, "times": (1.0, -math.inf), "by": {"a": 2}})
        expected = {
            "finished": False,
            "machine": {"cores": 2},
            "svi": [{"loss": None, "times": [1.0, None], "by": {"a": 2}}],
            "em": [],
        }
        assert json.loads(path.read_text()) == expected
        record.add("em", {"seconds": 1.0})
    assert json.loads(path.read_text()) == {**expected, "finished": True, "em": [{"seconds": 1.0}]}
    assert [file.name for file in tmp_path.iterdir()] == ["speed.json"]


def fail(record: Record, error: type[BaseException]) -> None:
    with record:
        record.add("em", {})
        raise error


def test_an_error_leaves_what_was_measured_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    with pytest.raises(ZeroDivisionError):
        fail(Record(path, {}, "em"), ZeroDivisionError)
    assert json.loads(path.read_text()) == {"finished": False, "em": [{}]}


def test_nothing_measured_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError), Record(tmp_path / "speed.json", {}, "em"):
        raise ZeroDivisionError

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("latentmix.models.files.write_atomically", full)
    with pytest.raises(OSError, match="No space left"), Record(tmp_path / "speed.json", {}, "em"):
        pass
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    path.write_text("mine")
    with pytest.raises(FileExistsError), Record(path, {}, "em"):
        pass
    assert path.read_text() == "mine"


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        fail(Record(None, {}, "em"), KeyboardInterrupt)
    assert not str(interrupt.value)
    assert not list(tmp_path.iterdir())
