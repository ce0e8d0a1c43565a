"""Tables: what is read, and what is refused by column and row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from latentmix.experiments.data import tables
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.schema import Schema, Standardisation
from latentmix.experiments.data.tables import read_table

NAMES = ("length", "width")


def values(count: int = 40) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(0).normal([1e6, -3.0], [50.0, 0.01], (count, 2))


def kinds(count: int = 40) -> list[str]:
    return [("virginica", "setosa")[row % 2] for row in range(count)]


def write(path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """The same labelled table in a file of each kind, and the options that name its columns."""
    file = path / f"table{suffix}"
    frame = pandas.DataFrame(values(), columns=NAMES).assign(kind=kinds())
    if suffix == ".csv":
        frame.to_csv(file, index=False)
    elif suffix == ".parquet":
        file.touch()
        monkeypatch.setattr(tables, "read_parquet", lambda *_, **__: frame)
    else:
        np.savez(file, x=values(), columns=np.array(NAMES), kind=np.array(kinds()))
    return file, {"label": "kind"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_every_kind_of_file_gives_the_same_data(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, options = write(tmp_path, suffix, monkeypatch)
    table = read_table(file, **options)
    np.testing.assert_array_equal(table.values, values())
    assert table.columns == NAMES
    assert table.labels is not None
    assert table.labels.tolist() == kinds()
    points = Data(str(file), **options, standardise=True).load()
    assert (points.classes, points.class_names) == ((0, 1), ("setosa", "virginica"))
    assert points.columns == NAMES
    assert [len(split) for split in points.splits.values()] == [25, 7, 8]
    assert points.train.x.dtype == torch.float32
    torch.testing.assert_close(points.train.x.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(points.train.x.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    restored = torch.cat([points.restore(split.x) for split in points.splits.values()])
    np.testing.assert_allclose(np.sort(restored.numpy(), 0), np.sort(values(), 0), rtol=1e-8)


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,width,note,length\n1,2,x,3\n2,4,y,5\n")
    table = read_table(file, columns=["length", "width"])
    assert table.values.tolist() == [[3.0, 2.0], [5.0, 4.0]]
    assert table.columns == ("length", "width")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n3,x\n", {}, r"numbers in column 'b' of .*; got 'x' in line 3: name it by --data\.label"),
        ("a,b\n1,2\n\n3,\n", {}, r"numbers in column 'b' of .*; got none in line 4"),
        ("a,b\n1,2\nnan,3\n", {}, r"finite numbers in column 'a' of .*; got nan in line 3"),
        ("a;b\n1;2\n", {}, r"commas between the values of .*; got semicolons: save it with commas"),
        ("a\tkind\n1\tx\n", {"label": "kind"}, r"commas between the values of .*; got tabs: save"),
        ("", {"label": "kind"}, r"points in .*; got an empty table"),
        ("1,2\n3,inf\n", {}, r"finite numbers in column 2 of .*; got inf in line 2"),
        ("a,b\n1,2,3\n", {}, r"2 values in every line of .*; got 3 in line 2"),
        ("a,a\n1,2\n", {}, r"a name of its own for every column of .*; got 'a' 2 times"),
        (",a\n1,2\n", {}, r"a name of its own for every column of .*; got none for column 1"),
        ("a,b\n1,2\n", {"label": "kind"}, r"columns of .*, which has a, b; got 'kind'"),
        ("1,2\n3,4\n", {"label": "kind"}, r"columns of .*, whose columns have no names; got 'kind'"),
        ("a,b\n1,2\n", {"columns": ["b", "c"]}, r"columns of .*; got 'c'"),
        ("a,kind\n1,x\n2,\n", {"label": "kind"}, r"labels in column 'kind' of .*; got none in line 3"),
        ("kind\nx\n", {"label": "kind"}, r"a column of numbers beside the labels"),
    ],
)
def test_tables_are_refused_by_column_and_line(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        read_table(tmp_path / "a.csv", **options)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_of_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_text("a,kind\n1,é\n", encoding=encoding)
    with pytest.raises(ValueError, match=r"text in UTF-8 in .*a\.csv'; got other bytes: save it as UTF-8\.$"):
        read_table(tmp_path / "a.csv", label="kind")


def test_numbers_beyond_single_precision_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values() * 1e300)
    for standardise in (False, True):
        schema = Schema(standardisation=Standardisation((0.0, 0.0), (1.0, 1.0)) if standardise else None)
        with pytest.raises(ValueError, match=r"^Expected numbers below 3e38 in .*a\.npy, once"):
            tables.load_tables([tmp_path / "a.npy"], (2,), schema)
    with pytest.raises(ValueError, match=r"^Expected numbers below 3e38 in .*a\.npy', once"):
        Data(str(tmp_path / "a.npy")).load()


@pytest.mark.parametrize("name", ["a.png", "folder"])
def test_other_files_are_no_points(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"^Expected a \.csv, .* file of points; got"):
        read_table(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_of_words_are_refused_in_words(tmp_path: Path, suffix: str) -> None:
    if suffix == ".npy":
        np.save(tmp_path / "a.npy", np.array(kinds()))
    else:
        np.savez(tmp_path / "a.npz", x=np.array(kinds()))
    with pytest.raises(ValueError, match=r"numbers in .*; got words\.$"):
        read_table(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["x", "y"], r"numbers in column 'c' of .*; got 'x' in row 0"),
        ([np.ones(2), np.ones(2)], r"numbers in column 'c' of .*; got \[1\. 1\.\] in row 0"),
        ([1.0, None], r"finite numbers in column 'c' of .*; got nan in row 1"),
    ],
)
def test_parquet_is_refused_by_column_and_row(
    tmp_path: Path, column: list[Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pandas.DataFrame({"a": [1, 2], "c": column})
    monkeypatch.setattr(tables, "read_parquet", lambda *_, **__: frame)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "a.parquet")


class TestLabels:
    def load(self, tmp_path: Path, labels: Any, **options: Any) -> Any:
        np.savez(tmp_path / "a.npz", x=values(), labels=np.asarray(labels))
        return Data(str(tmp_path / "a.npz"), **options).load()

    def test_words_are_numbered_and_named(self, tmp_path: Path) -> None:
        points = self.load(tmp_path, kinds())
        assert (points.classes, points.class_names) == ((0, 1), ("setosa", "virginica"))

    def test_whole_numbers_are_their_own_names(self, tmp_path: Path) -> None:
        for labels in (np.arange(40) % 2 * 9 + 1, np.array(["1", "10"])[np.arange(40) % 2]):
            points = self.load(tmp_path, labels)
            assert (points.classes, points.class_names) == ((1, 10), ("1", "10"))

    def test_booleans_have_names(self, tmp_path: Path) -> None:
        assert self.load(tmp_path, np.arange(40) % 2 == 1).class_names == ("False", "True")

    @pytest.mark.parametrize("chosen", [["virginica"], [1]])
    def test_classes_are_chosen_by_name_or_label(self, tmp_path: Path, chosen: list[Any]) -> None:
        points = self.load(tmp_path, kinds(), classes=chosen, labels_per_class=1)
        assert (points.classes, points.class_names) == ((1,), ("virginica",))

    def test_absent_classes_are_refused_by_the_names_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"which has setosa, virginica; got rose\."):
            self.load(tmp_path, kinds(), classes=["rose", "setosa"])

    def test_objects_are_not_unpickled(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="got pickled objects"):
            self.load(tmp_path, np.array(kinds(), dtype=object))

    def test_a_budget_names_its_class(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="training data of class setosa to label; got 12"):
            self.load(tmp_path, kinds(), labels_per_class=13)


class TestSchema:
    schema = Schema((2, 5), ("cat", "dog"), ("a", "b"), Standardisation((1.0, 2.0), (2.0, 4.0)))

    def test_is_kept_exactly(self) -> None:
        assert Schema.from_dict(self.schema.as_dict()) == self.schema
        assert Schema.from_dict({"classes": [1, 4]}) == Schema((1, 4))

    def test_columns_are_matched_by_name(self) -> None:
        x = torch.tensor([[1.0, 2.0]])
        assert self.schema.arrange(x, ("b", "a"), "t").tolist() == [[2.0, 1.0]]
        assert self.schema.arrange(x, (), "t").tolist() == [[1.0, 2.0]]
        for columns, got in ((("a", "c"), "none named 'b'"), (("a", "b", "c"), "also 'c'"), ((), "3 without names")):
            with pytest.raises(ValueError, match=rf"columns a, b in t; got {got}"):
                self.schema.arrange(torch.zeros(1, 3), columns, "t")

    def test_classes_are_matched_by_name(self) -> None:
        assert self.schema.relabel({0: "dog"}, "images") == {0: 5}
        with pytest.raises(ValueError, match=r"images of the classes \[cat, dog\] of this run; got classes \[cow\]"):
            self.schema.relabel({0: "cat", 1: "cow"}, "images")
        assert Schema((0, 1)).relabel({0: "cat", 1: "dog"}, "images") == {0: 0, 1: 1}

    def test_units_are_of_the_training_data_alone(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", values())
        points, plain = (Data(str(tmp_path / "a.npy"), standardise=on).load() for on in (True, False))
        assert plain.standardisation is None
        assert points.standardisation is not None
        expected = plain.train.x.double().mean(0)
        torch.testing.assert_close(torch.tensor(points.standardisation.centre).double(), expected, rtol=1e-6, atol=1e-6)
        again = Data(str(tmp_path / "a.npy"), seed=1).load(points.schema)
        assert again.standardisation == points.standardisation

    def test_a_constant_feature_stays_finite(self) -> None:
        assert Standardisation.of(torch.full((5, 1), 0.1)).scale == (1.0,)

    def test_images_are_not_standardised(self) -> None:
        with pytest.raises(ValueError, match=r"Expected points in 'digits' for --data\.standardise; got images"):
            Data(standardise=True).load()
