"""Numbers and sentences of a comparison."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.cbook import is_math_text

from latentmix.experiments.comparison.labels import better_of
from latentmix.experiments.comparison.results import LooRow, Pair, PairedTest
from latentmix.experiments.comparison.wording import (
    best_groups,
    chance_words,
    compact_names,
    difference_words,
    loo_sentence,
    mcnemar_sentence,
    measure_labels,
    pair_sentence,
    picture_names,
    short_names,
    typeset_figure,
    with_names,
)
from latentmix.inference.intervals import McNemarTest, PairedInterval, paired_interval

from tests.experiments.comparison.comparisons import DENSITY, MASS, comparison_of, seeds, single, sweep


def interval(mean: float, se: float) -> PairedInterval:
    found = paired_interval(np.arange(4.0), np.zeros(4))
    return replace(found, mean=mean, se=se, low=mean - 2 * se, high=mean + 2 * se, n_data=360)


@pytest.mark.parametrize(
    ("figure", "mean", "se", "words"),
    [
        (
            "elbo",
            1.2,
            0.31,
            "B is better than A in ELBO by 1.20 ± 0.31 nats on the same 360 images (90% interval 0.58 to 1.82).",
        ),
        (
            "elbo",
            -120.0,
            13.0,
            "B is worse than A in ELBO by 120 ± 13 nats on the same 360 images (90% interval 94 to 146).",
        ),
        (
            "squared_error",
            -0.0021,
            0.00031,
            "B is better than A in squared error by 0.00210 ± 0.00031 on the same 360 images (90% interval 0.00148 to "
            "0.00272).",
        ),
        (
            "accuracy_em_few",
            -0.01,
            0.02,
            "B and A are not told apart in accuracy, EM, labels: few: −1.0 ± 2.0 percentage points on the same 360 "
            "images (90% interval −5.0 to 3.0).",
        ),
    ],
)
def test_a_difference_says_who_is_better_if_its_interval_tells(figure: str, mean: float, se: float, words: str) -> None:
    assert (
        pair_sentence(Pair("wide", "narrow", figure, interval(mean, se)), names={"wide": "B", "narrow": "A"}) == words
    )


def test_differences_that_round_to_zero_have_no_sign() -> None:
    assert difference_words("elbo", interval(-0.001, 0.3))[0] == "0.00 ± 0.30"
    assert difference_words("elbo", interval(0.5, 0.0))[0] == "+0.50 ± 0.00"


@pytest.mark.parametrize(
    ("figure", "better"),
    [("elbo", 1), ("mse", -1), ("ece_em_few", -1), ("accuracy_prior", 1), ("seconds", 0), ("bits_per_dimension", -1)],
)
def test_directions(figure: str, better: int) -> None:
    assert better_of(figure) == better


def test_numbers_have_a_typographic_minus() -> None:
    assert typeset_figure("elbo", -1234.567) == "−1,234.57"
    assert typeset_figure("mse", float("nan")) == "−"


def test_mcnemar_and_loo() -> None:
    row = PairedTest("wide", "narrow", "em", "few", McNemarTest(25, 12, 0.0466, 360))
    assert mcnemar_sentence(row) == (
        "EM, labels: few: wide alone classifies 25 of the 360 images rightly, narrow alone 12 (McNemar's exact test, "
        "p = 0.047)."
    )
    best = LooRow("a", "posterior", "x", 0, -10.0, 1.0, 0.0, 0.0, 3.0, 0.9, 100, 0)
    other = replace(best, run="b", rank=1, elpd=-30.0, difference=-20.0, difference_se=8.0)
    sentence = "a (SVI posterior) has the highest ELPD, by 20.0 ± 8.0 nats over b (SVI posterior)"
    assert loo_sentence([other, best]) == f"{sentence}."
    close = replace(other, difference_se=10.0)
    assert loo_sentence([best, close]).endswith(": they are not told apart.")


def test_short_names_are_compact_or_letters() -> None:
    assert list(short_names(single()).values()) == ["StandardNormal", "MixturePrior"]
    assert list(short_names(seeds()).values()) == ["digits", "digits_mlp2"]
    many = sweep()
    assert list(short_names(many).values()) == list("ABCDEFGHIJKL")
    assert list(compact_names(many).values())[3] == "StandardNormal, Gaussian, latent_dim=2"
    assert list(picture_names(many).values())[3] == "D:\u00a0StandardNormal, Gaussian, latent_dim=2"


def test_compact_names_stay_unique() -> None:
    both = comparison_of([{"prior": "None"}, {"prior": "MixturePrior(3)"}])
    assert list(compact_names(both).values()) == ["prior=None", "MixturePrior"]


def test_refusals_bear_the_short_names() -> None:
    names = list(short_names(sweep()))
    assert with_names(f"ELBO of {names[1]} and {names[3]}: no.", short_names(sweep())) == "ELBO of B and D: no."
    assert with_names(f"of {names[0]}.", short_names(sweep())) == "of A."
    assert (
        with_names(f"runs/{names[0]}-1 and {names[0]}.old", short_names(sweep()))
        == f"runs/{names[0]}-1 and {names[0]}.old"
    )


def test_the_best_are_ranked_on_the_same_test_data_and_elbos_within_one_measure() -> None:
    comparison = sweep()
    means = {group.name: group.figures["elbo"].mean for group in comparison.groups}
    of = {measure: [g.name for g in comparison.groups if g.measure == measure] for measure in (MASS, DENSITY)}
    assert best_groups(comparison, "elbo") == {max(names, key=lambda name: means[name]) for names in of.values()}
    assert len(best_groups(comparison, "mse")) == 1
    assert best_groups(comparison, "seconds") == best_groups(comparison, "ssim") == set()  # no direction; all alike
    others = replace(comparison, runs=tuple(replace(run, test_data=run.name) for run in comparison.runs))
    unknown = replace(comparison, runs=tuple(replace(run, test_data="") for run in comparison.runs))
    assert best_groups(others, "mse") == best_groups(unknown, "mse") == set()


def test_measures_are_told_apart_by_the_data_where_these_differ() -> None:
    comparison = comparison_of([{"data.source": "iris"}, {"data.source": "wine"}], images=False)
    assert set(measure_labels(comparison).values()) == {MASS}
    runs = tuple(replace(run, test_data=run.name) for run in comparison.runs)
    labels = measure_labels(replace(comparison, runs=runs))
    assert list(labels.values()) == [f"{MASS}, data.source=iris", f"{MASS}, data.source=wine"]


def test_dollar_signs_of_names_are_no_formulas() -> None:
    comparison = comparison_of([{"prior": "None"}, {"prior": "MixturePrior(3)"}], presets=["$a$", "$b"])
    first = next(iter(picture_names(comparison).values()))
    assert first.replace("\\$", "$").startswith("$a$")
    assert not is_math_text(first)


def test_what_chance_alone_would_mark_is_told_of_many_differences() -> None:
    pair = single().pairs[0]
    assert not chance_words(replace(single(), pairs=(pair,) * 9))
    assert "about 4 of these 40 would" in chance_words(replace(single(), pairs=(pair,) * 40))
    assert "about 2 of these 40 would" in chance_words(replace(single(), pairs=(pair,) * 40, level=0.95))
