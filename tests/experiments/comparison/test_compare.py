"""Comparisons of small runs: groups, differences, intervals, pairs against SciPy's, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from latentmix.experiments import RunComparison, compare_runs, load_run
from latentmix.experiments.comparison.files import printed, write_files
from latentmix.experiments.runs.pointwise import POINTWISE, Pointwise, read_pointwise

from tests.experiments.comparison.conftest import Runs


@pytest.fixture(scope="module")
def comparison(runs: Runs) -> RunComparison:
    return compare_runs([runs[name] for name in ("narrow-0", "narrow-1", "wide-0", "wide-1")])


def figure(path: Path, name: str) -> float:
    value: float = json.loads((path / "summary.json").read_text())["test"][name]
    return value


def test_runs_that_differ_by_their_seeds_alone_are_a_group(comparison: RunComparison) -> None:
    narrow, wide = comparison.groups
    assert narrow.runs == ("narrow-0", "narrow-1")
    assert wide.runs == ("wide-0", "wide-1")
    assert wide.options == {"decoder": "MLPDecoder(hidden=[16])"}
    assert comparison.reference == narrow.name == "digits_mlp2, decoder=MLPDecoder(hidden=[8])"
    assert [run.seed for run in comparison.runs] == [0, 1, 0, 1]


def test_what_differs_is_told_by_parts_as_calls(comparison: RunComparison) -> None:
    decoder, seed = comparison.differences
    assert decoder.option == "decoder"
    assert decoder.values["narrow-0"] == "MLPDecoder(hidden=[8])"
    assert (seed.option, seed.values["wide-1"]) == ("seed", "1")


def test_figures_are_means_with_t_intervals_over_seeds(comparison: RunComparison, runs: Runs) -> None:
    values = [figure(runs[name], "elbo") for name in ("wide-0", "wide-1")]
    row = comparison.table.loc[comparison.groups[1].name]
    limits = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert row["elbo"] == pytest.approx(np.mean(values))
    assert (row["elbo_low"], row["elbo_high"], row["elbo_n"]) == pytest.approx((limits.low, limits.high, 2))
    assert comparison.frame.loc["wide-1", "elbo"] == values[1]
    assert {"iw_log_likelihood", "mse", "ssim", "active_units", "accuracy_em_few", "f1_svi_none", "seconds"} <= set(
        row.index
    )


def test_groups_are_paired_by_the_same_test_images(comparison: RunComparison, runs: Runs) -> None:
    pair = comparison.pair(comparison.groups[1].name, "elbo")
    assert pair is not None
    names = ("wide-0", "wide-1", "narrow-0", "narrow-1")
    expected = np.mean([figure(runs[name], "elbo") for name in names[:2]]) - np.mean(
        [figure(runs[name], "elbo") for name in names[2:]]
    )
    assert pair.interval.mean == pytest.approx(expected, rel=1e-4)
    assert (pair.interval.n_seeds, pair.interval.n_data) == ((2, 2), len(_pointwise(runs["wide-0"]).squared_error))
    assert {"elbo", "iw_log_likelihood", "squared_error", "accuracy_em_none", "accuracy_svi_few"} <= {
        pair.figure for pair in comparison.pairs
    }
    assert len({run.test_data for run in comparison.runs}) == 1
    assert not comparison.mcnemar


def test_single_runs_are_compared_by_paired_tests_of_scipy(runs: Runs) -> None:
    compared = compare_runs([runs["narrow-0"], runs["wide-0"]], level=0.95)
    first, second = _pointwise(runs["wide-0"]), _pointwise(runs["narrow-0"])
    assert first.elbo is not None
    assert second.elbo is not None
    expected = stats.ttest_rel(first.elbo, second.elbo)
    pair = compared.pair(compared.groups[1].name, "elbo")
    assert pair is not None
    limits = expected.confidence_interval(0.95)
    assert (pair.interval.low, pair.interval.high) == pytest.approx((limits.low, limits.high))
    right = [each.predicted["em", "none"] == each.labels for each in (first, second)]
    tested = next(each.test for each in compared.mcnemar if (each.fit, each.budget) == ("em", "none"))
    only = [int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())]
    assert [tested.only_first, tested.only_second] == only
    assert tested.p_value == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0)
    accuracy = compared.pair(compared.groups[1].name, "accuracy_em_none")
    assert accuracy is not None
    assert accuracy.interval.mean == pytest.approx((only[0] - only[1]) / len(first))


def test_another_reference_turns_the_differences(runs: Runs) -> None:
    paths = [runs["narrow-0"], runs["wide-0"]]
    one, other = compare_runs(paths), compare_runs(paths, reference="wide-0")
    first, second = (each.pair(each.pairs[0].group, "squared_error") for each in (one, other))
    assert first is not None
    assert second is not None
    assert first.interval.mean == -second.interval.mean
    assert compare_runs(paths, reference=runs["wide-0"]).reference == other.reference
    with pytest.raises(ValueError, match="Expected one of the runs as the reference, narrow-0, wide-0; got 'wide-2'"):
        compare_runs(paths, reference="wide-2")


def test_mass_and_density_are_not_ranked_and_the_rest_is_compared(runs: Runs) -> None:
    compared = compare_runs([runs["narrow-0"], runs["gaussian"]])
    figures = {pair.figure for pair in compared.pairs}
    assert "squared_error" in figures
    assert "accuracy_em_none" in figures
    assert not {"elbo", "iw_log_likelihood"} & figures
    (told,) = [sentence for sentence in compared.refusals if sentence.startswith("ELBO and log p(x)")]
    assert "mass on {0, 1}, binarize=dynamic" in told
    assert told.endswith("cannot be ranked.")


def test_other_test_images_are_not_paired(runs: Runs) -> None:
    compared = compare_runs([runs["narrow-0"], runs["other-data"]])
    assert not compared.pairs
    assert any("left out: other test data" in sentence for sentence in compared.refusals)
    assert len(compared.table) == 2


def test_enumerated_objectives_are_paired_and_their_priors_told(runs: Runs) -> None:
    compared = compare_runs([runs["narrow-0"], runs["mixture"]])
    assert compared.pair(compared.groups[1].name, "elbo") is not None
    assert "accuracy_prior" in compared.runs[1].figures
    assert any("Accuracies by mixture prior" in sentence for sentence in compared.refusals)
    assert any(sentence.startswith("log p(x) of") for sentence in compared.refusals)


def test_posteriors_of_the_same_latents_are_compared_by_loo(runs: Runs) -> None:
    compared = compare_runs([runs["full"], runs["diag"]])
    assert [row.rank for row in compared.loo] == [0, 1]
    assert {row.run for row in compared.loo} == {"full", "diag"}
    assert compared.loo[0].difference == 0.0
    assert compared.loo[1].difference == pytest.approx(compared.loo[1].elpd - compared.loo[0].elpd)
    assert compared.loo[0].n == json.loads((runs["full"] / "summary.json").read_text())["data"]["train"]
    elbo = compared.pair(compared.groups[1].name, "elbo")
    assert elbo is not None
    assert elbo.interval.mean == elbo.interval.se == 0.0  # the VAE is the same


def test_posteriors_of_different_latents_are_refused(runs: Runs, comparison: RunComparison) -> None:
    compared = compare_runs([runs["full"], runs["narrow-1"]])
    assert not compared.loo
    assert any("densities of different latents cannot be ranked" in sentence for sentence in compared.refusals)
    assert any("no run keeps draws" in sentence for sentence in comparison.refusals)


def test_curves_confusions_and_calibration_are_those_of_the_runs(comparison: RunComparison, runs: Runs) -> None:
    assert [curve.run for curve in comparison.curves] == [run.name for run in comparison.runs]
    history = load_run(runs["wide-0"]).history
    np.testing.assert_allclose(comparison.curves[2].validation, [each["validation"]["loss"] for each in history])
    confusion = next(
        each for each in comparison.confusions if (each.run, each.fit, each.budget) == ("wide-0", "em", "all")
    )
    assert confusion.classes == ("1", "4", "8")
    assert np.trace(confusion.counts) / confusion.counts.sum() == pytest.approx(
        comparison.frame.loc["wide-0", "accuracy_em_all"]
    )
    reliability = next(each for each in comparison.reliabilities if each.run == "wide-0")
    assert reliability.count.sum() == confusion.counts.sum()


def test_a_run_of_an_earlier_version_is_measured_again(runs: Runs, tmp_path: Path) -> None:
    earlier = shutil.copytree(runs["wide-0"], tmp_path / "earlier")
    (earlier / POINTWISE).unlink()
    known, again = (compare_runs([runs["narrow-0"], path]) for path in (runs["wide-0"], earlier))
    for before, after in zip(known.pairs, again.pairs, strict=True):
        assert after.interval.mean == pytest.approx(before.interval.mean, rel=1e-4, abs=1e-9)


def test_figures_that_are_not_those_of_the_summary_are_refused(runs: Runs, tmp_path: Path) -> None:
    changed = shutil.copytree(runs["wide-0"], tmp_path / "changed")
    shutil.copy(runs["narrow-0"] / POINTWISE, changed / POINTWISE)
    compared = compare_runs([runs["narrow-0"], changed])
    assert not compared.pairs
    assert any("and not the" in sentence and "of its summary" in sentence for sentence in compared.refusals)


def test_a_damaged_file_leaves_the_rest_to_compare(runs: Runs, tmp_path: Path) -> None:
    damaged = shutil.copytree(runs["wide-0"], tmp_path / "damaged")
    (damaged / POINTWISE).write_bytes(b"no arrays")
    compared = compare_runs([runs["narrow-0"], damaged])
    assert not compared.pairs
    assert any("Paired differences of damaged are left out" in sentence for sentence in compared.refusals)
    assert np.isfinite(compared.table["elbo"]).all()


def test_a_logger_sets_no_run_apart(runs: Runs, tmp_path: Path) -> None:
    logged = shutil.copytree(runs["narrow-1"], tmp_path / "logged")
    config = (logged / "config.yaml").read_text()
    loggers = "loggers:\n- class_path: latentmix.experiments.loggers.TensorBoard\n"
    (logged / "config.yaml").write_text(config.replace("loggers: []\n", loggers))
    assert "TensorBoard" in (logged / "config.yaml").read_text()
    compared = compare_runs([runs["narrow-0"], logged])
    assert [group.runs for group in compared.groups] == [("narrow-0", "logged")]
    assert [difference.option for difference in compared.differences] == ["seed"]
    again = compare_runs([runs["narrow-0"], runs["narrow-1"], logged])
    assert [run.name for run in again.runs] == ["narrow-0", "narrow-1"]


def test_other_labels_than_those_of_the_summary_are_refused(runs: Runs, tmp_path: Path) -> None:
    changed = shutil.copytree(runs["wide-0"], tmp_path / "changed")
    with np.load(changed / POINTWISE) as file:
        arrays = dict(file)
    np.savez(changed / POINTWISE, **{**arrays, "labels": (arrays["labels"] + 1) % 10})
    compared = compare_runs([runs["narrow-0"], changed])
    assert not compared.pairs
    assert any("as the accuracy" in sentence and "of its summary" in sentence for sentence in compared.refusals)


def test_a_copy_is_no_further_seed(runs: Runs, tmp_path: Path) -> None:
    copy = shutil.copytree(runs["narrow-0"], tmp_path / "copy")
    compared = compare_runs([runs["narrow-0"], copy, runs["narrow-1"]])
    assert [run.name for run in compared.runs] == ["narrow-0", "narrow-1"]
    assert any(sentence.startswith("copy is left out") for sentence in compared.refusals)
    with pytest.raises(ValueError, match="Expected runs of different configurations or seeds; got 2 of one"):
        compare_runs([runs["narrow-0"], copy])


def test_what_is_no_comparison_is_refused(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected two finished runs or more to compare; got 1"):
        compare_runs([runs["narrow-0"]])
    with pytest.raises(ValueError, match=r"Expected different runs to compare; got .* twice"):
        compare_runs([runs["narrow-0"], str(runs["narrow-0"])])
    with pytest.raises(ValueError, match="Expected a level between 0 and 1; got 1"):
        compare_runs([runs["narrow-0"], runs["wide-0"]], level=1)
    half = shutil.copytree(runs["narrow-0"], tmp_path / "half")
    (half / "summary.json").unlink()
    with pytest.raises(ValueError, match="latentmix resume"):
        compare_runs([runs["narrow-0"], half])


def test_the_table_has_differences_as_the_page_has(comparison: RunComparison) -> None:
    (text,) = [line for line in printed(comparison).splitlines() if line.strip().startswith("squared error")]
    pair = comparison.pair(comparison.groups[1].name, "squared_error")
    assert pair is not None
    difference, se = (float(word.rstrip("*")) for word in text.split("  ")[-1].split(" ± "))
    assert difference == pytest.approx(pair.interval.mean, rel=0.05)
    assert se == pytest.approx(pair.interval.se, rel=0.05)
    assert text.endswith("*") == (not pair.interval.low <= 0 <= pair.interval.high)


def test_points_and_images_stand_side_by_side(runs: Runs, points: Path) -> None:
    compared = compare_runs([runs["narrow-0"], points])
    assert len(compared.groups) == 2
    assert not compared.pairs
    assert "-" in printed(compared)


def test_runs_in_memory_are_compared_as_their_folders(runs: Runs) -> None:
    paths = [runs["narrow-0"], runs["wide-0"]]
    in_memory, on_disk = compare_runs([load_run(path) for path in paths]), compare_runs(paths)
    assert in_memory.to_dict() == on_disk.to_dict()


def test_files_hold_all_of_a_comparison(comparison: RunComparison, tmp_path: Path) -> None:
    write_files(comparison, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert stored == comparison.to_dict()
    assert stored["level"] == 0.9
    assert len(stored["runs"][0]["config_digest"]) == 64
    assert "torch" in stored["versions"]
    head, *rows = (tmp_path / "out" / "compare.csv").read_text().splitlines()
    assert head.startswith("group,runs,measure,")
    assert len(rows) == 2
    with pytest.raises(ValueError, match="exists already"):
        write_files(comparison, tmp_path / "out")


def test_text_has_a_hundred_columns_and_names_what_matters(comparison: RunComparison) -> None:
    text = printed(comparison)
    assert max(map(len, text.splitlines())) <= 100
    for word in ("reference", "They differ in", "ELBO", "errors over seeds and test data", "Not compared"):
        assert word in " ".join(text.split())
    assert "digits_mlp2" not in text.partition("Not compared")[2]  # letters stand for groups
    assert printed(comparison, "markdown").startswith("# Comparison of runs")


def _pointwise(path: Path) -> Pointwise:
    found = read_pointwise(path)
    assert found is not None
    return found
