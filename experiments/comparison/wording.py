"""Numbers and sentences of a comparison, for its page, its pictures and the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from latentmix.experiments.comparison.labels import NATS, better_of, decimals_of, label_of
from latentmix.experiments.comparison.results import LooRow, Pair, PairedTest, RunComparison
from latentmix.experiments.figures.style import plain
from latentmix.experiments.options.names import fit_name
from latentmix.experiments.runs.page import typeset
from latentmix.inference.intervals import PairedInterval

__all__ = [
    "best_groups",
    "chance_words",
    "compact_names",
    "difference_words",
    "enumerated",
    "letters",
    "loo_sentence",
    "mcnemar_sentence",
    "measure_labels",
    "p_words",
    "pair_sentence",
    "picture_names",
    "short_names",
    "test_data_of",
    "things_of",
    "titled_figure",
    "typeset_figure",
    "with_names",
]

MOST_DECIMALS = 8
OF_MEASURE = (*NATS, "bits_per_dimension")
BEFORE, AFTER = r"(?<![\w=(/.-])", r"(?![\w=(/-]|\.\w)"  # a name that is no part of a longer one
SHORT = 24  # characters of a name that sentences bear


def titled_figure(figure: str) -> str:
    """The label of a figure with its unit."""
    return label_of(figure) + (", nats" if figure in NATS else "")


def typeset_figure(figure: str, value: float) -> str:
    """A value of a figure with its usual number of decimals; a dash if it is NaN."""
    return typeset(value, decimals_of(figure))


def things_of(comparison: RunComparison) -> tuple[str, str]:
    """`image` and `images`, or `point` and `points`: what the data of all runs are; `datum` and `data` if both."""
    images = {"ssim" in run.figures for run in comparison.runs}
    if len(images) > 1:
        return "datum", "data"
    return ("image", "images") if True in images else ("point", "points")


def measure_labels(comparison: RunComparison) -> dict[str, str]:
    """The measure of each group, and where test data differ the options of these: ELBOs of one label can be ranked.

    Args:
        comparison: The comparison.
    """
    data = test_data_of(comparison)
    labels = {}
    for group in comparison.groups:
        given = {name: value for name, value in group.options.items() if value not in ("None", "False")}
        of = [f"{name}={value}" for name, value in given.items() if name.startswith("data.")]
        labels[group.name] = ", ".join([group.measure, *(of if len(set(data.values())) > 1 else [])])
    return labels


def best_groups(comparison: RunComparison, figure: str) -> set[str]:
    """Names of the groups with the best mean of a figure among those of the same test data; none of a single group.

    ELBOs and other figures of the measure are ranked within one measure.

    Args:
        comparison: The comparison.
        figure: The figure's name.
    """
    scales: dict[tuple[str, str], dict[str, float]] = {}
    data = test_data_of(comparison)
    for group in comparison.groups if better_of(figure) else ():
        if figure in group.figures and data[group.name]:
            scale = scales.setdefault((data[group.name], group.measure if figure in OF_MEASURE else ""), {})
            scale[group.name] = better_of(figure) * group.figures[figure].mean
    best: set[str] = set()
    for means in scales.values():
        winners = {name for name, mean in means.items() if mean == max(means.values())}
        best |= winners if len(winners) < len(means) else set()
    return best


def test_data_of(comparison: RunComparison) -> dict[str, str]:
    """Digests of the test data of each group's runs; empty where one is not known.

    Args:
        comparison: The comparison.
    """
    data: dict[str, list[str]] = {}
    for run in comparison.runs:
        data.setdefault(run.group, []).append(run.test_data)
    return {name: " ".join(sorted(set(digests))) if all(digests) else "" for name, digests in data.items()}


def enumerated(words: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def difference_words(figure: str, interval: PairedInterval) -> tuple[str, str, str]:
    """A difference and its standard error, the ends of its interval, and its unit.

    Accuracies are in percentage points. The standard error has two significant digits, which all numbers follow.

    Example:
        >>> from latentmix.experiments.comparison.wording import difference_words
        >>> from latentmix.inference import paired_interval
        >>> interval = paired_interval([1.0, 2.0, 3.5, 4.5], [0.0, 1.0, 2.0, 3.0])
        >>> difference_words("elbo", interval)
        ('+1.25 ± 0.14', '0.91 to 1.59', ' nats')
    """
    share = figure.startswith("accuracy")
    scale = 100.0 if share else 1.0
    mean, se, low, high = (scale * value for value in (interval.mean, interval.se, interval.low, interval.high))
    decimals = 2 if se <= 0 else min(max(1 - math.floor(math.log10(se)), 0), MOST_DECIMALS)
    numbers = [f"{value:,.{decimals}f}".replace("-", "−") for value in (abs(mean), se, low, high)]
    zero = not float(numbers[0].replace(",", ""))
    sign = "" if zero else "−" if mean < 0 else "+"
    unit = " percentage points" if share else " nats" if figure in NATS else ""
    return f"{sign}{numbers[0]} ± {numbers[1]}", f"{numbers[2]} to {numbers[3]}", unit


def compact_names(comparison: RunComparison) -> dict[str, str]:
    """Names of groups without a preset that all have, in which parts stand without the name of their option.

    Args:
        comparison: The comparison.
    """
    presets = {run.preset for run in comparison.runs}
    common = f"{presets.pop()}, " if len(presets) == 1 else ""
    names = {}
    for group in comparison.groups:
        name = group.name
        for option, value in group.options.items():
            head = value.partition("(")[0]
            if head[:1].isupper() and head not in ("None", "True", "False"):
                name = name.replace(f"{option}={head}", head, 1)
        names[group.name] = name.removeprefix(common)
    return names if len(set(names.values())) == len(names) else {name: name for name in names}


def letters(comparison: RunComparison) -> dict[str, str]:
    """A short name of each group: A, B, ..., by its name."""
    many = len(comparison.groups) > len(ascii_uppercase)
    return {
        group.name: f"G{number + 1}" if many else ascii_uppercase[number]
        for number, group in enumerate(comparison.groups)
    }


def short_names(comparison: RunComparison) -> dict[str, str]:
    """Names of groups for sentences and narrow tables: the compact ones, or letters if these are long.

    Args:
        comparison: The comparison.
    """
    names = compact_names(comparison)
    return names if max(map(len, names.values())) <= SHORT else letters(comparison)


def picture_names(comparison: RunComparison) -> dict[str, str]:
    r"""Names of groups in pictures: the compact ones, after their letters where sentences have these.

    Dollar signs are escaped, as Matplotlib takes a text between two of them for a formula.

    Args:
        comparison: The comparison.
    """
    compact, short = compact_names(comparison), short_names(comparison)
    return {
        name: plain(compact[name] if short[name] == compact[name] else f"{short[name]}:\u00a0{compact[name]}")
        for name in short
    }


def with_names(sentence: str, short: Mapping[str, str]) -> str:
    """A sentence with other names of groups in the place of their own.

    Args:
        sentence: The sentence.
        short: Names by the names of the groups.
    """
    names = "|".join(map(re.escape, sorted(short, key=len, reverse=True)))
    return re.sub(f"{BEFORE}(?:{names}){AFTER}", lambda found: short[found[0]], sentence)


def pair_sentence(pair: Pair, things: str = "images", names: Mapping[str, str] | None = None) -> str:
    """A paired difference in words: which of two groups is better, and by how much, if its interval tells.

    Args:
        pair: The difference.
        things: Word for the data.
        names: Names of the groups in the sentence; by default their own.

    Example:
        >>> from latentmix.experiments.comparison.results import Pair
        >>> from latentmix.experiments.comparison.wording import pair_sentence
        >>> from latentmix.inference import paired_interval
        >>> interval = paired_interval([1.0, 2.0, 3.5, 4.5], [0.0, 1.0, 2.0, 3.0])
        >>> pair_sentence(Pair("wide", "narrow", "elbo", interval))
        'wide is better than narrow in ELBO by 1.25 ± 0.14 nats on the same 4 images (90% interval 0.91 to 1.59).'
    """
    interval, label = pair.interval, label_of(pair.figure)
    group, reference = ((names or {}).get(name, name) for name in (pair.group, pair.reference))
    difference, ends, unit = difference_words(pair.figure, interval)
    same = f"on the same {interval.n_data:,} {things} ({interval.level:.0%} interval"
    if interval.low <= 0 <= interval.high:
        return f"{group} and {reference} are not told apart in {label}: {difference}{unit} {same} {ends})."
    direction = better_of(pair.figure) * (1 if interval.mean > 0 else -1)
    words = {1: "better than", -1: "worse than"}.get(direction, "higher than" if interval.mean > 0 else "lower than")
    if interval.mean < 0:  # by how much, and not from where to where
        ends = " to ".join(end.lstrip("−") for end in reversed(ends.split(" to ")))
    return f"{group} is {words} {reference} in {label} by {difference.lstrip('+−')}{unit} {same} {ends})."


def mcnemar_sentence(row: PairedTest, things: str = "images", names: Mapping[str, str] | None = None) -> str:
    """McNemar's test of two runs in words.

    Args:
        row: The test.
        things: Word for the data.
        names: Names of the groups in the sentence; by default their own.
    """
    test = row.test
    group, reference = ((names or {}).get(name, name) for name in (row.group, row.reference))
    fit = ", ".join([fit_name(row.fit), *([f"labels: {row.budget}"] if row.budget else [])])
    return (
        f"{fit}: {group} alone classifies {test.only_first:,} of the {test.n_data:,} {things} rightly, {reference} "
        f"alone {test.only_second:,} (McNemar's exact test, {p_words(test.p_value)})."
    )


def chance_words(comparison: RunComparison) -> str:
    """The expected number of intervals that exclude 0 by chance, in a sentence; empty of fewer than ten.

    Args:
        comparison: The comparison.
    """
    count, level = len(comparison.pairs), comparison.level
    if count < 10:
        return ""
    return (
        f"Each {level:.0%} interval stands for itself: if there were no difference at all, about "
        f"{max(round((1 - level) * count), 1)} of these {count:,} would exclude 0."
    )


def p_words(value: float) -> str:
    """A p-value."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def loo_sentence(rows: Sequence[LooRow]) -> str:
    """Leave-one-out cross-validation of mixtures over the same latents in words: the best, and its lead on the next."""
    best, following = sorted(rows, key=lambda row: row.rank)[:2]
    lead, se = abs(following.difference), following.difference_se
    names = [f"{row.run} ({fit_name(row.fit)})" for row in (best, following)]
    ending = ": they are not told apart" if lead <= 2 * se else ""
    return f"{names[0]} has the highest ELPD, by {lead:,.1f} ± {se:,.1f} nats over {names[1]}{ending}."
