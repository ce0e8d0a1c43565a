"""The comparison of EM with other libraries, at small sizes; no time is asserted."""

import json
import math
import os

import numpy as np
import pytest
import torch

from latentmix.experiments.benchmarks import em, libraries
from latentmix.experiments.benchmarks.em import em_speed, table
from latentmix.experiments.benchmarks.libraries import OURS
from latentmix.experiments.cli import main
from latentmix.inference.isolation import RandomState

OTHERS = ("pomegranate", "torchgmm")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the libraries of the extra, which take seconds to import."""
    find_spec = libraries.find_spec
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name in OTHERS else find_spec(name))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_libraries_reach_the_same_log_likelihood(dtype: str) -> None:
    types = ("full", "tied", "diag", "spherical")
    rows = list(
        em_speed(
            sizes=[(400, 3, 2)], covariance_types=types, iterations=2, repeats=1, seconds=0, dtype=dtype, threads=1
        )
    )
    assert [row.covariance_type for row in rows] == list(types)
    for row in rows:
        assert (row.size, row.dtype, row.threads) == ((400, 3, 2), dtype, 1)
        ours, theirs = row.contestants[OURS], row.contestants["scikit-learn"]
        assert ours.ratio == 1.0
        tolerance = 1e-10 if dtype == "float64" else 1e-5
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=tolerance)
        for library in row.contestants.values():
            assert library.seconds > 0
            assert library.ratio == pytest.approx(library.seconds / ours.seconds)
            assert math.isnan(library.memory) or library.memory >= 0
        assert all("pip install 'latentmix[bench]'" in row.missing[name] for name in OTHERS)
        lines = table(row).splitlines()
        assert len(lines) == 2 + len(row.contestants) + len(row.missing)
    assert len({row.contestants[OURS].log_likelihood for row in rows}) == 4


@pytest.mark.usefixtures("alone")
def test_steps_are_reported_before_they_are_taken() -> None:
    lines: list[str] = []
    options = {"covariance_types": ("diag", "tied"), "iterations": 1, "repeats": 2, "seconds": 0, "threads": 1}
    rows = em_speed(sizes=[(200, 2, 2)], **options, report=lines.append)
    row = next(rows)
    first = [f"memory of {name}" for name in row.contestants]
    first += [f"times of all, turn {turn} (2 at least)" for turn in (1, 2)]
    assert lines == [f"[1/2] 200 x 2, 2 components, diag: {step}" for step in first]
    next(rows)
    assert lines[len(first)] == "[2/2] 200 x 2, 2 components, tied: memory of latentmix"


@pytest.mark.usefixtures("alone")
def test_a_failing_library_is_named_and_the_process_state_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("no such thing\nat all")

    monkeypatch.setattr(libraries, "scikit_learn", broken)
    before, threads = RandomState.capture(), torch.get_num_threads()
    (row,) = em_speed(sizes=[(200, 2, 2)], iterations=1, repeats=1, seconds=0, threads=threads + 1)
    assert row.missing["scikit-learn"] == "failed: no such thing"
    assert "scikit-learn" not in row.contestants
    assert torch.get_num_threads() == threads
    assert torch.equal(before.torch, RandomState.capture().torch)
    assert torch.is_grad_enabled()


def test_short_fits_are_repeated_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, taken = [0.0], iter([0.004, 0.001, 0.001, 0.5, 9.0])

    def fit(*arguments: object) -> None:
        now[0] += next(taken)

    monkeypatch.setattr(em.time, "perf_counter", lambda: now[0])
    assert em._seconds(fit, None, None, 1) == pytest.approx(0.0025)  # type: ignore[arg-type]
    assert em._seconds(fit, None, None, 1) == pytest.approx(9.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [(3, 2, 4)]}, "as many points as components"),
        ({"sizes": [(3, 0, 2)]}, "of at least 1; got 0"),
        ({"iterations": 0}, "of at least 1; got 0"),
        ({"threads": 0}, "of at least 1; got 0"),
        ({"seconds": -1.0}, "Expected --seconds finite and not negative; got -1.0"),
        ({"dtype": "float16"}, "Expected --dtype float64 or float32; got 'float16'"),
        ({"covariance_types": ["round"]}, "Expected covariance_type in"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(em_speed(**options))  # type: ignore[arg-type]


@pytest.mark.usefixtures("alone")
def test_bench_em_writes_every_comparison(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", os.environ.get("SCIPY_ARRAY_API", "0"))
    out = tmp_path / "figures.json"
    words = ["bench", "em", "--sizes", "200x2x2,300x3x2", "--covariance_type", "diag,tied", "--iterations", "1"]
    assert not main([*words, "--repeats", "1", "--seconds", "0", "--threads", "1", "--out", str(out)])
    printed = capsys.readouterr().out
    assert printed.count("mean log p(x)") == 4
    figures = json.loads(out.read_text())
    assert figures["finished"] is True
    assert figures["machine"]["versions"]["scikit-learn"]
    rows = figures["em"]
    assert [row["size"] for row in rows] == [[200, 2, 2], [200, 2, 2], [300, 3, 2], [300, 3, 2]]
    assert all(np.isfinite(row["contestants"][OURS]["log_likelihood"]) for row in rows)
    assert main([*words, "--out", str(out)])
    assert "Expected a new file" in capsys.readouterr().err
    assert main(["bench", "em", "--sizes", "200x2"])
    assert "Expected --sizes of points x features x components" in capsys.readouterr().err
    assert main(["bench", "em", "--wrong"])
    assert "options of this command; got --wrong (see `latentmix bench em --help`)." in capsys.readouterr().err


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys, terminal: bool) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", os.environ.get("SCIPY_ARRAY_API", "0"))
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    words = [
        "bench",
        "em",
        "--sizes",
        "200x2x2",
        "--iterations",
        "1",
        "--repeats",
        "1",
        "--seconds",
        "0",
        "--threads",
        "1",
    ]
    assert not main(words)
    captured = capsys.readouterr()
    assert ("[1/1] 200 x 2, 2 components, full: memory of latentmix" in captured.err) == terminal
    assert "times of all" not in captured.out


@pytest.mark.parametrize("command", [["select"], ["bench", "em"], ["bench", "svi"], ["bench", "all"]])
def test_help_states_the_default_of_every_option(command: list[str], monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    lines = capsys.readouterr().out.split("--help")[1].split("\n\n")[0].splitlines()[1:]
    texts = [f"{line} {after}" for line, after in zip(lines, [*lines[1:], ""], strict=True) if line[:4].strip() == "--"]
    assert len(texts) >= 7
    assert all("(default: " in line for line in texts), texts
