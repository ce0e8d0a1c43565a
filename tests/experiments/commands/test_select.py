"""`latentmix select`: its sources, its files, its refusals and its picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentmix.experiments.cli import main
from latentmix.experiments.commands.select import component_counts
from latentmix.experiments.figures import save
from latentmix.experiments.figures.selection import selection_panels
from latentmix.experiments.runs.selection import Choice, choose, read_points
from latentmix.inference.mixtures.analysis.selection import CRITERIA, Candidate, Selection
from latentmix.inference.mixtures.gaussian import GaussianMixture

from tests.experiments.figures.layout import overlapping

QUICK = ["--n_components", "1..3", "--covariance_types", "full,spherical", "--starts", "1", "--folds", "2"]
QUICK += ["--draws", "80", "--mode_starts", "3"]


def points() -> NDArray[np.float64]:
    return np.random.RandomState(0).randn(90, 2) + np.repeat([[-5.0, 0.0], [5.0, 0.0], [0.0, 8.0]], 30, 0)


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on standard error."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_file_gives_table_picture_and_modes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "cloud.npy", tmp_path / "results" / "here"
    np.save(source, points())
    assert main(["select", str(source), *QUICK, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "90 points, 2 features" in captured.out
    assert "[8/8] Dirichlet process of at most 3, spherical: 3 components" in captured.out
    assert "BIC: K = 3, spherical (lowest; the largest K of all, more may be better)" in captured.out
    assert captured.out.splitlines()[-1] == str(out)
    assert captured.err == ""
    assert sorted(path.name for path in out.iterdir()) == ["modes.json", "selection.json", "selection.png"]
    written = json.loads((out / "selection.json").read_text())
    assert written["chosen"] == {"n_components": 3, "covariance_type": "spherical"}
    assert (written["points"], written["features"], len(written["candidates"])) == (90, 2, 8)
    report = json.loads((out / "modes.json").read_text())
    assert (report["n_components"], report["covariance_type"]) == (3, "spherical")
    assert len(report["log_likelihoods"]) == 3
    assert (out / "selection.png").read_bytes()[:4] == b"\x89PNG"
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert main(["select", str(source), *QUICK, "--out", str(out)]) == 2
    assert "exists already" in only_line(capsys)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_selection_that_was_interrupted_is_measured_anew_and_no_other_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no room")

    source, out = tmp_path / "cloud.npy", tmp_path / "results"
    np.save(source, points())
    words = ["select", str(source), *QUICK[2:], "--criteria", "bic", "--n_components", "1,2", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr("latentmix.experiments.runs.selection._compare", fail)
        assert main(words) == 2
        assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr("latentmix.experiments.runs.selection.selection_panels", fail)
        assert main(words) == 2
    results = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(results) == {"selection.json", "modes.json"}
    np.save(tmp_path / "other.npy", points())
    capsys.readouterr()
    for other in ([*words, "--seed", "1"], ["select", str(tmp_path / "other.npy"), *words[2:]]):
        assert main(other) == 2
        assert "of the same source and options" in only_line(capsys)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == results
    (out / "notes.txt").write_text("mine")
    (out / "lock").write_text("1\n")
    assert main([*words, "--n-jobs", "2"]) == 0
    assert {path.name for path in out.iterdir()} == {*results, "selection.png", "notes.txt"}
    capsys.readouterr()
    assert main(words) == 2
    assert "exists already" in only_line(capsys)
    (out / "selection.png").unlink()
    (out / "selection.json").write_text("{}")
    assert main(words) == 2
    assert only_line(capsys).endswith("remove it, or name another by --out.")


def test_a_run_gives_its_training_latents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    run, out = tmp_path / "run", tmp_path / "results"
    words = ["--epochs", "1", "--data.limit", "90", "--data.classes", "1,4", "--data.labels_per_class", "2"]
    words += ["--mixture.draws", "1", "--mixture.n_init", "1", "--mixture.svi.epochs", "5"]
    words += ["--mixture.posterior.guide", "none"]
    assert main(["run", "digits_mlp2", *words, "--out", str(run)]) == 0
    latents = read_points(run)
    assert latents.shape[1] == 2
    assert np.isfinite(latents).all()
    capsys.readouterr()
    options = ["--criteria", "icl,aic", "--points", "40", "--n_components", "1,2", "--covariance_types", "diag"]
    assert main(["select", str(run), *options, "--starts", "1", "--mode_starts", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"40 of {len(latents):,} points, drawn with seed 0 (--points)" in printed
    assert "ICL" in printed
    assert "BIC" not in printed
    assert "modes of K = " in printed


def test_csv_with_and_without_names(tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text("1,2\n3,4.5\n-1e3,0\n7,8\n")
    np.testing.assert_array_equal(read_points(file), [[1, 2], [3, 4.5], [-1000, 0], [7, 8]])
    file.write_text("\ufeffwidth, height\r\n1, 2\r\n3,4.5\r\n-1e3,0\r\n7,8\r\n\r\n", encoding="utf-8")
    np.testing.assert_array_equal(read_points(file), [[1, 2], [3, 4.5], [-1000, 0], [7, 8]])
    np.save(tmp_path / "line.npy", np.arange(6))
    assert read_points(tmp_path / "line.npy").shape == (6, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.npy", None, "Expected the folder of a run, or a .csv, .parquet, .npy, .npz file"),
        ("points.txt", b"1,2", "Expected the folder of a run, or a .csv, .parquet, .npy, .npz file"),
        ("folder", "folder", "Expected the folder of a run, with a config.yaml"),
        ("points.npy", b"1,2\n3,4", "Expected arrays of numbers"),
        ("words.npy", np.array(["a", "b"]), "got words"),
        ("cube.npy", np.zeros((5, 2, 2)), r"n x D .*; got \(5, 2, 2\)"),
        ("equal.npy", np.zeros((30, 2), np.float16), "Expected points that differ; got 30 equal ones"),
        ("few.npy", np.zeros((3, 2)), "Expected at least four points"),
        ("nan.npy", np.array([[1.0], [2.0], [np.nan], [4.0]]), "in column 1 of .*; got nan in row 2"),
        ("empty.csv", b"", "Expected points in .*; got an empty table"),
        ("names.csv", b"a,b\n", "Expected points in .*; got an empty table"),
        ("words.csv", b"a,b\n1,2\n3,x\n", "in column 'b' of .*; got 'x' in line 3"),
        ("ragged.csv", b"1,2\n3,4,5\n", "Expected 2 values in every line .*; got 3 in line 2"),
        ("binary.csv", b"\xff\xfe\x00\x01", "got other bytes: save it as UTF-8"),
    ],
)
def test_sources_that_cannot_be_read_are_refused(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif content == "folder":
        path.mkdir()
    with pytest.raises(ValueError, match=message):
        read_points(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n_components", "0..3"], "Expected --n_components from 1"),
        (["--n_components", "3.."], "Expected --n_components as 1..10"),
        (["--n_components", "5..2"], "Expected --n_components from 1"),
        (["--covariance_types", "full,round"], "Expected covariance_type in"),
        (["--criteria", "bicc"], "Expected criteria out of"),
        (["--criterion", "waic"], "Expected --criterion to choose by out of bic"),
        (["--criteria", "dirichlet_process"], "such as bic; got dirichlet_process"),
        (["--folds", "1"], "Expected --folds of at least 2; got 1"),
        (["--starts", "0"], "Expected --starts of at least 1; got 0"),
        (["--mode_starts", "1"], "Expected --mode_starts of at least 2; got 1"),
        (["--draws", "49"], "Expected --draws of at least 50; got 49"),
        (["--points", "2"], "Expected --points of at least 4"),
        (["--seed", "-1"], "Expected --seed of at least 0; got -1"),
        (["--n-jobs", "0"], "Expected --n-jobs of 1 to 1,024, or below 0, as joblib counts cores"),
        (["--n-jobs", "-1", "--n_components", "1..99999999999"], "Expected --n_components of at most 10,000"),
        (["--nonsense", "3"], "options of this command; got --nonsense (see `latentmix select --help`)"),
    ],
)
def test_bad_options_are_refused_in_one_sentence_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    out, empty = tmp_path / "results", tmp_path / "empty.npy"
    empty.touch()
    assert main(["select", str(empty), *words, "--out", str(out)]) == 2
    assert message in only_line(capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n_components", "91", "--criteria", "bic"], "as points, 90; got 91"),
        (["--n_components", "2,73", "--folds", "5"], "as points without those held out, 72; got 73"),
        (["--n_components", "3,41", "--points", "40", "--criteria", "bic"], "as points, 40; got 41"),
        (["--criteria", "held_out", "--n_components", "1", "--folds", "91"], "as many folds as points, 90; got 91"),
    ],
)
def test_too_few_points_are_refused_before_any_fit(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(GaussianMixture, "fit", lambda *_: pytest.fail("a fit"))
    source, out = tmp_path / "cloud.npy", tmp_path / "new" / "results"
    np.save(source, points())
    assert main(["select", str(source), *words, "--out", str(out)]) == 2
    assert message in only_line(capsys)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("starts", "mode_starts", "seed", "better"),
    [(1, 8, 5, "report"), (6, 2, 1, "selection")],
)
def test_selection_and_mode_report_have_the_same_optimum_without_more_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: int, mode_starts: int, seed: int, better: str
) -> None:
    np.save(tmp_path / "square.npy", np.random.RandomState(seed).uniform(size=(60, 2)))
    calls, fit = [], GaussianMixture.fit
    monkeypatch.setattr(GaussianMixture, "fit", lambda *given: calls.append(1) or fit(*given))
    options = {"criteria": ("bic",), "starts": starts, "mode_starts": mode_starts}
    out = tmp_path / "results"
    selection, report = choose(tmp_path / "square.npy", Choice((5,), ("full",), **options), out)
    assert len(calls) == 1 + mode_starts
    (candidate,) = selection.candidates
    assert candidate.log_likelihood == report.modes[0].log_likelihood
    assert (report.modes[0].log_likelihood > report.log_likelihoods[0]) == (better == "selection")
    assert candidate.mixture is report.mixture
    written = json.loads((out / "selection.json").read_text())["candidates"][0]
    optimum = json.loads((out / "modes.json").read_text())["modes"][0]
    assert written["log_likelihood"] == optimum["log_likelihood"] == candidate.log_likelihood
    assert (
        written["bic"]
        == candidate.bic
        == pytest.approx(report.mixture.bic(np.load(tmp_path / "square.npy")), rel=1e-12)
    )


def test_a_better_optimum_may_change_the_choice(tmp_path: Path) -> None:
    # With this seed the better optimum of two components has more entropy, so that four have the lowest ICL.
    np.save(tmp_path / "square.npy", np.random.RandomState(11).uniform(size=(60, 2)))
    settings, lines = Choice((2, 3, 4), ("full",), ("icl",), starts=1, mode_starts=4), []
    selection, report = choose(tmp_path / "square.npy", settings, tmp_path / "results", lines.append)
    assert [line[:14] for line in lines if line.startswith("modes")] == ["modes of K = 2", "modes of K = 4"]
    assert any(line.startswith("a start fits better, K = 2, full: ICL") for line in lines)
    assert selection.best("icl").n_components == report.n_components == 4
    assert selection.best("icl").mixture is report.mixture


def test_numbers_of_components() -> None:
    assert component_counts("2") == [2]
    assert component_counts("8, 1..3,2") == [1, 2, 3, 8]
    assert Choice(criteria=("icl", "loo")).choosing == "icl"
    assert Choice().choosing == "bic"


def planted(**changes: object) -> Selection:
    """A selection without a fit: BIC has its minimum at 2, diag; one fit failed, one PSIS-LOO is unreliable."""
    rows = []
    for kind, base in (("full", 130.0), ("diag", 100.0)):
        for k in (1, 2, 3):
            value = base + 10 * (k - 2) ** 2
            figures = dict.fromkeys(("bic", "aic", "icl"), value) | dict.fromkeys(("held_out", "loo"), -value / 100)
            rows.append(
                Candidate(
                    "mixture", k, kind, 5, -1.0, **figures, held_out_error=0.05, loo_error=0.05, n_unreliable=int(k > 2)
                )
            )
    rows[2] = Candidate("mixture", 3, "full", reason="failed: planted")
    rows += [
        Candidate("dirichlet_process", 3, kind, weights=(0.6, 0.4, 1e-12), n_effective=2, evidence_bound=bound)
        for kind, bound in (("full", -3.0), ("diag", -2.0))
    ]
    return replace(Selection(tuple(rows), 100, 2, CRITERIA, 5, 0.01), **changes)


def test_picture_has_a_panel_for_each_criterion(tmp_path: Path) -> None:
    figure = selection_panels(planted())
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes]
    assert titles == [
        "BIC: lower is better",
        "AIC: lower is better",
        "ICL: lower is better",
        "Held-out log-likelihood: higher is better",
        "PSIS-LOO: higher is better",
        "Dirichlet process: components in use",
    ]
    first = figure.axes[0]
    assert [text.get_text() for text in first.texts] == ["K = 2, diag"]
    assert [first.yaxis.get_major_formatter()(height) for height in (-1000.0, 0.0, 0.5, 12000.0)] == [
        *("", "0", "0.5", "12,000"),
    ]
    low, high = first.get_ylim()
    drawn = {tuple(line.get_xdata()): tuple(line.get_ydata()) for line in first.lines if len(line.get_xdata()) > 1}
    assert drawn == {(1, 2): (40.0, 30.0), (1, 2, 3): (10.0, 0.0, 10.0)}
    assert low < 0 < 30 < high
    assert [tuple(line.get_xdata()) for line in first.lines if line.get_marker() == "x"] == [(3,)]
    hollow = [line for line in figure.axes[4].lines if line.get_markerfacecolor() == "white"]
    assert [tuple(line.get_xdata()) for line in hollow] == [(3,)]
    assert not overlapping(figure)
    bars = [(axes, line.get_segments()[0]) for axes in figure.axes for line in axes.collections]
    assert len(bars) == 2  # of one standard error, at the best of two criteria, and not clipped
    assert all(axes.get_ylim()[0] < bar[:, 1].min() < bar[:, 1].max() < axes.get_ylim()[1] for axes, bar in bars)
    assert "full: 2\ndiag: 2 *" in figure.axes[5].texts[0].get_text()
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "hollow: unreliable PSIS-LOO" in caption
    assert "PSIS-LOO: posterior predictive under weak conjugate priors" in caption
    assert "×: a fit with that K failed" in caption
    assert save(figure, tmp_path / "all.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("criteria", [("bic",), ("bic", "loo"), ("aic", "icl", "held_out", "dirichlet_process")])
def test_picture_of_fewer_criteria_is_laid_out(tmp_path: Path, criteria: tuple[str, ...]) -> None:
    figure = selection_panels(planted(criteria=criteria))
    assert len(figure.axes) == len(criteria)
    save(figure, tmp_path / "some.png")
    long = selection_panels(planted(criteria=criteria), heading="How many components for " + "long-name-" * 9)
    long.draw_without_rendering()
    assert not long._suptitle.get_window_extent().overlaps(long.legends[0].get_window_extent())
    alone = planted(candidates=planted().candidates[:1], criteria=("bic", "dirichlet_process"))
    save(selection_panels(alone), tmp_path / "alone.png")
