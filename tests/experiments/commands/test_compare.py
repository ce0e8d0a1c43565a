"""`latentmix compare`: what it prints and writes, sweeps, and refusals of one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from latentmix.experiments.cli import main

from tests.experiments.comparison.conftest import QUICK, made


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two finished cells of one configuration, one that was refused, and one that is waiting."""
    folder = tmp_path_factory.mktemp("sweep")
    cells = [{"id": f"seed={seed}", "status": "done"} for seed in (0, 1)]
    cells += [{"id": "prior=None", "status": "refused"}, {"id": "seed=2", "status": "waiting"}]
    for seed in (0, 1):
        made(folder / "cells", f"seed={seed}", [*QUICK, "--measure.samples", "0", "--seed", str(seed)])
    (folder / "sweep.json").write_text(json.dumps({"cells": cells}))
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_sweep_stands_for_its_finished_cells(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["compare", str(sweep), "--level", "0.95", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "digits_mlp2: seeds 0, 1" in printed
    assert "95% t intervals over seeds" in printed
    words = " ".join(printed.split())
    assert "left out, refused: prior=None." in words
    assert "left out, unfinished: seed=2." in words
    assert printed.endswith(f"\n{out}\n")
    stored = json.loads((out / "compare.json").read_text())
    assert (stored["level"], len(stored["runs"])) == (0.95, 2)
    assert (out / "compare.csv").read_text().startswith("group,runs,measure,")


@pytest.mark.parametrize(("form", "start"), [("json", "{"), ("csv", "group,runs,"), ("markdown", "# Comparison")])
def test_other_formats_are_printed_alone(
    sweep: Path, tmp_path: Path, form: str, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [str(sweep / "cells" / f"seed={seed}") for seed in (0, 1)]
    assert main(["compare", *cells, "--format", form, "--out", str(tmp_path / "out")]) == 0
    printed, told = capsys.readouterr()
    assert told == f"\n{tmp_path / 'out'}\n"
    assert printed.startswith(start)
    if form == "json":
        assert [run["seed"] for run in json.loads(printed)["runs"]] == [0, 1]


def test_bad_input_is_one_sentence(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (str(sweep / "cells" / f"seed={seed}") for seed in (0, 1))
    assert "Expected two runs or more to compare, or a sweep; got" in refused(capsys, first)
    assert "twice: name each once" in refused(capsys, first, first)
    assert "Expected the folder of a run" in refused(capsys, first, str(tmp_path))
    assert "Expected one of the runs as the reference" in refused(capsys, first, second, "--reference", "third")
    assert "Expected --level between 0 and 1; got 90.0" in refused(capsys, first, second, "--level", "90")
    assert "exists already" in refused(capsys, first, second, "--out", str(sweep))
    half = shutil.copytree(second, tmp_path / "half")
    (half / "summary.json").unlink()
    assert "latentmix resume" in refused(capsys, first, str(half))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "sweep.json").write_text(json.dumps({"cells": []}))
    assert "Expected a sweep with finished cells" in refused(capsys, str(empty))
    (empty / "sweep.json").write_text("[]")
    assert "the results of a sweep" in refused(capsys, str(empty))
    (empty / "sweep.json").write_text(json.dumps({"cells": [{"id": "../../x", "status": "done"}]}))
    refused(capsys, str(empty))
