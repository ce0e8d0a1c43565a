"""Paired differences of groups of runs on the same test data, and McNemar's test of single runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from latentmix.experiments.comparison.labels import label_of
from latentmix.experiments.comparison.results import Pair, PairedTest, RunGroup
from latentmix.experiments.comparison.sources import Source
from latentmix.experiments.comparison.summaries import figures_of
from latentmix.experiments.options.messages import one_line
from latentmix.experiments.options.names import BUDGETS, FIT_NAMES, fit_name
from latentmix.experiments.runs.evaluation import measure_run
from latentmix.experiments.runs.pointwise import Pointwise, read_pointwise
from latentmix.inference.intervals import mcnemar_test, paired_interval

__all__ = ["Refusals", "compare_pairs", "read_test_figures"]

Runs = Sequence[Pointwise]


@dataclass
class Refusals:
    """Reasons why things are not compared, each told once for all that it holds for.

    Args:
        by_reason: Things by what is not compared of them and why: a sentence around `{}`.
    """

    by_reason: dict[str, list[str]] = field(default_factory=dict)

    def add(self, sentence: str, thing: str) -> None:
        """Note that a sentence holds for a thing."""
        things = self.by_reason.setdefault(sentence, [])
        if thing not in things:
            things.append(thing)

    def sentences(self) -> list[str]:
        """The sentences, with the things they hold for."""
        return [sentence.format(_listed(things)) for sentence, things in self.by_reason.items()]


def read_test_figures(sources: Sequence[Source], refusals: list[str], *, measure: bool) -> dict[str, Pointwise]:
    """Figures of each test datum by the name of the run, as far as they are to be had and agree with its summary.

    Args:
        sources: The runs.
        refusals: Sentences on runs without them are added to it.
        measure: Whether a run of an earlier version, without the file, is measured again on its data.
    """
    found: dict[str, Pointwise] = {}
    for source in sources:
        try:
            pointwise = None if source.path is None else read_pointwise(source.path)
            if pointwise is None and measure:
                pointwise = measure_run(source.load())
        except (ValueError, OSError) as error:
            refusals.append(
                f"Paired differences of {source.name} are left out, as it has no figures of each test datum: "
                f"{one_line(error)}"
            )
            continue
        if pointwise is None:
            continue
        wrong = _disagreement(pointwise, source)
        if wrong:
            refusals.append(
                f"Paired differences of {source.name} are left out: its test data give {wrong}; run it again."
            )
        else:
            found[source.name] = pointwise
    return found


def compare_pairs(
    groups: Sequence[RunGroup],
    reference: RunGroup,
    figures: Mapping[str, Pointwise],
    samples: Mapping[str, int],
    level: float,
) -> tuple[list[Pair], list[PairedTest], list[str]]:
    """Compare every other group with the reference, figure by figure.

    Args:
        groups: All groups.
        reference: The reference, one of them.
        figures: Figures of each test datum by the name of the run, as far as known.
        samples: Importance samples of the log-likelihood by the name of the run, 0 where it was not measured.
        level: Level of the intervals.

    Returns:
        Paired differences, McNemar's tests, and sentences on what is not compared.
    """
    pairs: list[Pair] = []
    tests: list[PairedTest] = []
    refusals = Refusals()
    for group in groups:
        if group.name == reference.name:
            continue
        if any(name not in figures for name in (*group.runs, *reference.runs)):
            continue  # told of the run
        ours, theirs = ([figures[name] for name in each.runs] for each in (group, reference))
        if len({each.test_data for each in (*ours, *theirs)}) > 1:
            refusals.add(
                f"Paired differences of {{}} from {_quoted(reference.name)} are left out: other test data.",
                group.name,
            )
            continue
        values = _densities(group, reference, (ours, theirs), samples, refusals)
        values["squared_error"] = _stacked(ours, "squared_error"), _stacked(theirs, "squared_error")
        values |= _correct(group, reference, (ours, theirs), refusals)
        for figure, (first, second) in values.items():
            try:
                interval = paired_interval(first, second, level)
            except ValueError as error:
                refusals.add(f"{_quoted(figure)} of {{}} is not compared: {_quoted(one_line(error))}", group.name)
                continue
            pairs.append(Pair(group.name, reference.name, figure, interval))
        if len(ours) == len(theirs) == 1:
            tests += _mcnemar(group, reference, ours[0], theirs[0])
    return pairs, tests, refusals.sentences()


Values = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def _densities(
    group: RunGroup, reference: RunGroup, runs: tuple[Runs, Runs], samples: Mapping[str, int], refusals: Refusals
) -> Values:
    """ELBOs and log-likelihoods by run and datum, where they can be ranked."""
    if group.measure != reference.measure:
        refusals.add(
            f"ELBO and log p(x) of {{}} are not compared with those of {_quoted(reference.name)}: those of "
            f"{_quoted(group.measure)} and of {_quoted(reference.measure)} cannot be ranked.",
            group.name,
        )
        return {}
    values: Values = {}
    every = [*runs[0], *runs[1]]
    if all(each.elbo is not None for each in every):
        values["elbo"] = _stacked(runs[0], "elbo"), _stacked(runs[1], "elbo")
    else:
        refusals.add(
            f"ELBOs of {{}} are not paired with those of {_quoted(reference.name)}: an objective tells none.",
            group.name,
        )
    known = [each.iw_log_likelihood for each in every if each.iw_log_likelihood is not None]
    counts = {samples.get(name, 0) for name in (*group.runs, *reference.runs)}
    if len(known) == len(every) and len(counts) == 1:
        count = min(map(len, known))
        values["iw_log_likelihood"] = (
            _stacked(runs[0], "iw_log_likelihood", count),
            _stacked(runs[1], "iw_log_likelihood", count),
        )
    elif known:
        reason = "not all have measured it" if len(known) < len(every) else "their importance samples differ in number"
        refusals.add(f"log p(x) of {{}} is not compared with that of {_quoted(reference.name)}: {reason}.", group.name)
    return values


def _correct(group: RunGroup, reference: RunGroup, runs: tuple[Runs, Runs], refusals: Refusals) -> Values:
    """Whether a fit classifies a datum rightly, by run and datum, of all fits that the groups have in common."""
    every = [*runs[0], *runs[1]]
    if all(each.labels is None for each in every):
        refusals.add(
            f"Classification errors of {{}} are not compared with those of {_quoted(reference.name)}: no labels.",
            group.name,
        )
        return {}
    fits = sorted({key for each in every for key in each.predicted}, key=_order)
    common = [key for key in fits if all(key in each.predicted for each in every)]
    for fit, budget in fits:
        if (fit, budget) not in common:
            refusals.add(
                f"Accuracies by {_quoted(_fit_words(fit, budget))} of {{}} are not compared with those of "
                f"{_quoted(reference.name)}: not all have this fit.",
                group.name,
            )
    return {_accuracy(*key): (_right(runs[0], key), _right(runs[1], key)) for key in common}


def _mcnemar(group: RunGroup, reference: RunGroup, ours: Pointwise, theirs: Pointwise) -> list[PairedTest]:
    return [
        PairedTest(
            group.name,
            reference.name,
            *key,
            mcnemar_test(ours.predicted[key] == ours.labels, theirs.predicted[key] == theirs.labels),
        )
        for key in sorted(ours.predicted, key=_order)
        if key in theirs.predicted and ours.labels is not None
    ]


def _stacked(runs: Runs, name: str, count: int | None = None) -> NDArray[np.float64]:
    return np.stack([getattr(each, name)[:count] for each in runs])


def _right(runs: Runs, key: tuple[str, str]) -> NDArray[np.float64]:
    return np.stack([(each.predicted[key] == each.labels).astype(np.float64) for each in runs])


def _order(key: tuple[str, str]) -> tuple[int, int, str]:
    """The place of a fit and label budget in tables."""
    fits, (fit, budget) = [*FIT_NAMES], key
    return fits.index(fit) if fit in fits else len(fits), BUDGETS.index(budget) if budget in BUDGETS else 0, fit


def _accuracy(fit: str, budget: str) -> str:
    return "_".join(["accuracy", fit, *([budget] if budget else [])])


def _fit_words(fit: str, budget: str) -> str:
    return f"{fit_name(fit)} (labels: {budget})" if budget else fit_name(fit)


def _disagreement(pointwise: Pointwise, source: Source) -> str:
    """In words, the first figure whose mean is not that of the summary; empty if there is none."""
    test = source.summary["test"]
    for name, key in (("squared_error", "mse"), ("elbo", "elbo"), ("iw_log_likelihood", "iw_log_likelihood")):
        values = getattr(pointwise, name)
        if values is None or key not in test:
            continue
        mean, stated = float(values.mean()), float(test[key])
        if not math.isclose(mean, stated, rel_tol=1e-3, abs_tol=1e-6):
            return f"{mean:.6g} as {key}, and not the {stated:.6g} of its summary"
    stated_of = figures_of(source.summary)
    for fit, budget in pointwise.predicted if pointwise.labels is not None else ():
        name = _accuracy(fit, budget)
        if budget != "few" and name in stated_of:  # with few labels the summary has the mean over several draws
            mean = float((pointwise.predicted[fit, budget] == pointwise.labels).mean())
            if not math.isclose(mean, stated_of[name], rel_tol=1e-3, abs_tol=1e-6):
                return f"{mean:.6g} as the {label_of(name)}, and not the {stated_of[name]:.6g} of its summary"
    return ""


def _quoted(text: str) -> str:
    """A text within a sentence that is formatted."""
    return text.replace("{", "{{").replace("}", "}}")


def _listed(things: Sequence[str]) -> str:
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
