"""Figures of single test data: their means are the run's figures, and a file that is not whole is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentmix.experiments import load_run
from latentmix.experiments.data.base import Split
from latentmix.experiments.runs.evaluation import measure_run
from latentmix.experiments.runs.pointwise import POINTWISE, Pointwise, read_pointwise, split_digest

from tests.experiments.comparison.conftest import QUICK, made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*QUICK, "--prior", "MixturePrior(3)", "--objective", "TraceEnum_ELBO", "--data.binarize", "static"]
    return made(tmp_path_factory.mktemp("run"), "run", words)


def test_means_are_the_figures_of_the_summary(run: Path) -> None:
    pointwise, summary = read_pointwise(run), json.loads((run / "summary.json").read_text())
    assert pointwise is not None
    test = summary["test"]
    assert len(pointwise) == summary["data"]["test"]
    assert pointwise.squared_error.mean() == test["mse"]
    assert pointwise.elbo is not None
    assert pointwise.elbo.mean() == pytest.approx(test["elbo"], rel=1e-5)
    assert pointwise.iw_log_likelihood is not None
    assert len(pointwise.iw_log_likelihood) == test["iw"]["data"] == 40
    assert pointwise.iw_log_likelihood.mean() == pytest.approx(test["iw_log_likelihood"], rel=1e-9)
    for fit, budgets in summary["mixtures"].items():
        for budget, figures in budgets.items():
            right = pointwise.predicted[fit, budget] == pointwise.labels
            assert right.mean() == pytest.approx(figures["calibration"]["plug_in"]["accuracy"]), (fit, budget)
            if budget != "few":  # whose figures are means over draws of labels
                assert right.mean() == figures["accuracy"]
    assert (pointwise.predicted["prior", ""] == pointwise.labels).mean() == summary["prior"]["accuracy"]


def test_measured_again_they_are_the_same(run: Path) -> None:
    stored, again = read_pointwise(run), measure_run(load_run(run))
    assert stored is not None
    assert again.test_data == stored.test_data
    for name in ("squared_error", "elbo", "iw_log_likelihood", "labels"):
        np.testing.assert_allclose(getattr(again, name), getattr(stored, name), rtol=1e-4, err_msg=name)
    assert again.predicted.keys() == stored.predicted.keys()
    for key, predicted in stored.predicted.items():
        np.testing.assert_array_equal(again.predicted[key], predicted)


def test_the_file_holds_the_same_bytes_of_the_same_values(tmp_path: Path) -> None:
    pointwise = Pointwise("a" * 64, np.ones(3), labels=np.arange(3), predicted={("em", "none"): np.arange(3)})
    (tmp_path / POINTWISE).write_bytes(pointwise.to_bytes())
    read = read_pointwise(tmp_path)
    assert read is not None
    assert read.to_bytes() == pointwise.to_bytes()
    assert read.elbo is None
    assert read.predicted.keys() == {("em", "none")}


def test_digests_tell_data_labels_and_binary_draws_apart() -> None:
    x = torch.arange(60, dtype=torch.uint8).reshape(5, 1, 3, 4)
    split, seen = Split(x, torch.arange(5)), x.clone()
    same = split_digest(split, x)
    copy = x.clone()
    assert same == split_digest(Split(copy, torch.arange(5)), copy)
    others = [
        split_digest(Split(x.flip(0), torch.arange(5)), x),
        split_digest(Split(x, torch.ones(5, dtype=torch.int64)), x),
        split_digest(Split(x), x),
        split_digest(Split(x.reshape(5, 1, 4, 3), torch.arange(5)), x),
        split_digest(split, seen),
    ]
    assert len({same, *others}) == 6


def test_no_file_is_no_figures(tmp_path: Path) -> None:
    assert read_pointwise(tmp_path) is None


WHOLE: dict[str, Any] = {"format": np.array(1), "test_data": np.array("d"), "squared_error": np.ones(3)}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "newer": ({**WHOLE, "format": np.array(9)}, "got 9, of a newer LatentMix"),
    "incomplete": ({"test_data": np.array("d")}, "no 'squared_error'"),
    "unproved": ({**WHOLE, "test_data": np.ones(3)}, "another kind of 'test_data'"),
    "short": ({**WHOLE, "elbo": np.ones(2)}, "2 values of 3 data as 'elbo'"),
    "long": ({**WHOLE, "iw_log_likelihood": np.ones(4)}, "4 values of 3 data as 'iw_log_likelihood'"),
    "words": ({**WHOLE, "labels": np.array(["a", "b", "c"])}, "other than integers as 'labels'"),
    "floats": ({**WHOLE, "predicted.em.none": np.ones(3)}, "other than integers as 'predicted.em.none'"),
    "empty": ({**WHOLE, "squared_error": np.ones(0)}, "0 values of 0 data as 'squared_error'"),
}


@pytest.mark.parametrize(("arrays", "message"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    file = io.BytesIO()
    np.savez(file, **arrays)
    (tmp_path / POINTWISE).write_bytes(file.getvalue())
    with pytest.raises(ValueError, match=message):
        read_pointwise(tmp_path)


def test_nothing_is_unpickled_and_no_link_is_followed(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **{**WHOLE, "elbo": np.array([{}], dtype=object)})
    (tmp_path / POINTWISE).write_bytes(file.getvalue())
    with pytest.raises(ValueError, match="pickled objects, which are never opened"):
        read_pointwise(tmp_path)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / POINTWISE).symlink_to(tmp_path / POINTWISE)
    with pytest.raises(ValueError, match="link"):
        read_pointwise(tmp_path / "linked")
    (tmp_path / POINTWISE).write_bytes(file.getvalue()[:100])
    with pytest.raises(ValueError, match="Expected arrays of numbers"):
        read_pointwise(tmp_path)
