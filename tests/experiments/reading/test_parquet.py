"""Parquet: tables are read within a limit, and what cannot be read is refused in a sentence."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from latentmix.experiments.reading.parquet import read_parquet


class Words:
    """A column of numbers of words."""

    nbytes = 4

    def dictionary_decode(self) -> SimpleNamespace:
        return SimpleNamespace(nbytes=2**29)


class Stored:
    """What pyarrow knows of a file before it reads values."""

    rows, columns, packed = 10**9, 2, 1000

    def __init__(self, file: Any) -> None:
        assert file.read() == b"some"

    @property
    def metadata(self) -> SimpleNamespace:
        group = SimpleNamespace(total_byte_size=self.packed)
        return SimpleNamespace(
            num_rows=self.rows, num_columns=self.columns, num_row_groups=3, row_group=lambda index: group
        )

    def iter_batches(self, rows: int) -> Any:
        for _ in range(3):
            yield SimpleNamespace(columns=[SimpleNamespace(nbytes=1), Words()])
        pytest.fail("read on beyond the limit")


def use(monkeypatch: pytest.MonkeyPatch, stored: type | None) -> None:
    """Another pyarrow, or none."""
    package = ModuleType("pyarrow")
    parquet = SimpleNamespace(ParquetFile=stored)
    package.parquet = parquet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", package if stored else None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet if stored else None)


def test_without_pyarrow_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError, match=r"Expected pyarrow to read .*a\.parquet.*pip install .latentmix"):
        read_parquet(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("claim", "got"),
    [({}, "14.9 GiB"), ({"rows": 3, "packed": 2**30}, "3 GiB"), ({"rows": 3}, "1 GiB")],
    ids=["rows", "unpacked size", "read values"],
)
def test_more_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim: dict[str, int], got: str
) -> None:
    use(monkeypatch, type("Claiming", (Stored,), claim))
    (tmp_path / "a.parquet").write_bytes(b"some")
    with pytest.raises(
        ValueError, match=rf"Expected a table of at most 1 GiB in .*; got {got}: allow more by --max_gib"
    ):
        read_parquet(tmp_path / "a.parquet", max_gib=1, option="--max_gib")


def test_a_pipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Stored)
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="Expected a regular file; got a named pipe"):
        read_parquet(tmp_path / "a.parquet")


def test_another_error_of_pyarrow_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(_: object) -> None:
        raise RuntimeError("no magic\nbytes")

    use(monkeypatch, refusing)  # type: ignore[arg-type]
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError, match=r"Expected a Parquet table in .*; got something else: no magic bytes\.$"):
        read_parquet(tmp_path / "a.parquet")


def test_tables_of_pandas_are_read(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas

    frame = pandas.DataFrame({"x": range(10_000), "y": 0.5, "kind": ["rose", "lily"] * 5000})
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    pandas.testing.assert_frame_equal(read_parquet(tmp_path / "a.parquet"), frame)
