"""Figures of runs, read back: `summary.json` and `metrics.jsonl`, checked for what tables and reports are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentmix.experiments.data.schema import Schema
from latentmix.models.reading import REMEDY, damaged, read_json, read_text

__all__ = ["measure_of", "read_history", "read_summary"]

NUMBER, WHOLE, WORD, LIST = (int, float), (int,), (str,), (list,)
BOUND = {"loss": NUMBER, "log_likelihood": NUMBER, "kl": NUMBER}
SPLIT = {"elbo": NUMBER, "log_likelihood": NUMBER, "kl": NUMBER, "mse": NUMBER}
SUMMARY: dict[str, Any] = {
    "preset": WORD,
    "description": WORD,
    "seed": WHOLE,
    "threads": WHOLE,
    "parameters": WHOLE,
    "epochs": WHOLE,
    "measure": WORD,
    "data": {"source": WORD, "classes": LIST, "binarize": WORD, "train": WHOLE, "validation": WHOLE, "test": WHOLE},
    "seconds": {"train": NUMBER, "mixtures": NUMBER, "total": NUMBER},
    "validation": SPLIT,
    "test": SPLIT,
    "mixtures": {},
}
COVERAGE = {
    "components": WHOLE,
    "covered": WHOLE,
    "outside": NUMBER,
    "energy": {"statistic": NUMBER, "p_value": NUMBER},
}
FIT = {"log_likelihood": NUMBER, "iterations": NUMBER, "seconds": NUMBER}
CALIBRATED = {"accuracy": NUMBER, "ece": NUMBER, "nll": NUMBER, "bins": {}}
CALIBRATION = {"n_draws": WHOLE, "plug_in": CALIBRATED, "draws": CALIBRATED}
INTERVAL = {"median": NUMBER, "low": NUMBER, "high": NUMBER}
NONE = (type(None),)
TRIED = {"guide": WORD, "note": WORD, "bound": NUMBER + NONE, "seconds": NUMBER}
OF_POSTERIOR = {"k_hat": NUMBER + NONE, "k_hat_draws": WHOLE, "draws": WHOLE, "cut": WORD}  # where they are there
ESTIMATES = {"components": LIST, "quantities": LIST, "fits": {}, "sentence": WORD}
MOST = 1e300  # a number that can be printed


def read_summary(file: Path, *, complete: bool = True) -> dict[str, Any]:
    """The figures of a finished run.

    Args:
        file: Its `summary.json`.
        complete: Whether all figures that a run writes have to be there.

    Raises:
        ValueError: If the file cannot be read, or a figure that tables and reports need is missing or of another kind.
    """
    remedy = f"`latentmix resume {file.parent}` writes it anew"
    summary = read_json(file, "the figures of a finished run", remedy=remedy)
    wrong = _first_wrong(summary, SUMMARY, "", complete)
    if not wrong:
        wrong = _wrong_fits(summary.get("mixtures", {}), complete)
        for name, expected in (("coverage", COVERAGE), ("agreement", {}), ("prior", {}), ("posterior", {})):
            wrong = wrong or (_first_wrong(summary[name], expected, name) if name in summary else "")
        for name in ("test", "prior"):
            wrong = wrong or _wrong_numbers(summary.get(name, {}), name)
        wrong = wrong or _wrong_posterior(summary)
        for budget, figures in summary.get("agreement", {}).items() if not wrong else ():
            wrong = wrong or _first_wrong(figures, {}, f"agreement.{budget}")
    if wrong:
        raise ValueError(f"Expected the figures of a finished run in {file}; got {wrong}: {remedy}.")
    with damaged(file, "the figures of a finished run"):
        Schema.from_dict(summary.get("data", {}))
    return dict(summary)


def read_history(file: Path) -> list[dict[str, Any]]:
    """The records of the epochs of a run, without a last line that is cut off; none if the file is not there.

    Args:
        file: Its `metrics.jsonl`.

    Raises:
        ValueError: If a line is no record of an epoch.
    """
    if not file.exists():
        return []
    records = []
    lines = read_text(file, "the records of epochs").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            record = None
        wrong = "no JSON" if record is None else _first_wrong(record, {"epoch": WHOLE, "training": BOUND}, "")
        if not wrong and record.get("validation") is not None:
            wrong = _first_wrong(record["validation"], BOUND, "validation")
        if wrong:
            raise ValueError(f"Expected the record of an epoch in line {number} of {file}; got {wrong}: {REMEDY}.")
        records.append(record)
    return records


def measure_of(summary: Mapping[str, Any]) -> str:
    """The measure of ELBOs and log-likelihoods, with the binarization: only within one can they be ranked.

    Args:
        summary: The contents of `summary.json`.

    Example:
        >>> from latentmix.experiments.runs.stored import measure_of
        >>> measure_of({"measure": "mass on {0, 1}", "data": {"binarize": "dynamic"}})
        'mass on {0, 1}, binarize=dynamic'
    """
    binarize = summary["data"]["binarize"]
    return ", ".join([summary["measure"], *([f"binarize={binarize}"] if binarize != "none" else [])])


def _first_wrong(value: Any, expected: Any, place: str, complete: bool = True) -> str:
    """In words, the first place whose value is missing or of another kind; empty if there is none."""
    if isinstance(expected, Mapping):
        if not isinstance(value, dict):
            return f"{_kind(value)} as {place}" if place else _kind(value)
        for name, inner in expected.items():
            inside = f"{place}.{name}" if place else name
            if name not in value and complete:
                return f"none with {inside!r}"
            wrong = _first_wrong(value[name], inner, inside, complete) if name in value else ""
            if wrong:
                return wrong
        return ""
    if isinstance(value, bool) or not isinstance(value, expected):
        return f"{_kind(value)} as {place}"
    return f"a number too large as {place}" if isinstance(value, int | float) and abs(value) > MOST else ""


def _wrong_fits(mixtures: Mapping[str, Any], complete: bool) -> str:
    for inference, budgets in mixtures.items():
        wrong = _first_wrong(budgets, {}, f"mixtures.{inference}")
        for budget, figures in budgets.items() if not wrong else ():
            place = f"mixtures.{inference}.{budget}"
            wrong = wrong or _first_wrong(figures, FIT, place, complete) or _wrong_numbers(figures, place)
            if not wrong and "calibration" in figures:
                wrong = _first_wrong(figures["calibration"], CALIBRATION, f"{place}.calibration")
                if not wrong and "noise" in figures["calibration"]:
                    wrong = _first_wrong(figures["calibration"]["noise"], CALIBRATED, f"{place}.calibration.noise")
            if not wrong and "accuracy_interval" in figures:
                wrong = _first_wrong(figures["accuracy_interval"], INTERVAL, f"{place}.accuracy_interval")
            classes = figures.get("per_class") or {} if not wrong else {}
            wrong = wrong or _first_wrong(classes, {}, f"{place}.per_class")
            for label, row in classes.items() if not wrong else ():
                wrong = wrong or _first_wrong(row, {}, f"{place}.per_class.{label}")
        if wrong:
            return wrong
    return ""


def _wrong_posterior(summary: Mapping[str, Any]) -> str:
    """In words, what is wrong of the guides of a posterior, or of estimates side by side; empty if nothing is."""
    posterior, estimates = summary.get("posterior", {}), summary.get("estimates", {})
    wrong = ""
    if posterior and not {"failed", "left_out"} & set(posterior):
        wrong = _first_wrong(posterior, {"guide": WORD, "guides": LIST}, "posterior")
        wrong = wrong or _first_wrong(posterior, OF_POSTERIOR, "posterior", complete=False)
        for tried in posterior["guides"] if not wrong else ():
            wrong = wrong or _first_wrong(tried, TRIED, "posterior.guides")
    if wrong or not estimates:
        return wrong
    wrong = _first_wrong(estimates, ESTIMATES, "estimates")
    wrong = wrong or _first_wrong(estimates, {"left_out": WHOLE}, "estimates", complete=False)
    wrong = wrong or _first_wrong(estimates["fits"], {"em": {}}, "estimates.fits")
    for fit, values in estimates["fits"].items() if not wrong else ():
        wrong = wrong or _first_wrong(values, {"point": LIST}, f"estimates.fits.{fit}")
        for part, numbers in values.items() if not wrong else ():
            place = f"estimates.fits.{fit}.{part}"
            if not isinstance(numbers, list) or len(numbers) != len(estimates["quantities"]):
                return f"not one number for each of its quantities as {place}"
            wrong = wrong or next((each for number in numbers if (each := _first_wrong(number, NUMBER, place))), "")
        missing = "low" in values and not {"sd", "high"} <= set(values) if not wrong else False
        wrong = f"an interval without its end or standard deviation as estimates.fits.{fit}" if missing else wrong
    for each in estimates["quantities"] if not wrong else ():
        if not _is_quantity(each, len(estimates["components"])):
            return f"{each!r:.40} as a quantity of estimates"
    return wrong


def _is_quantity(value: Any, n_components: int) -> bool:
    """Whether a value is a kind, the place of a component and a feature, each of the last two perhaps nothing."""
    if not isinstance(value, list) or len(value) != 3 or value[0] not in ("weight", "mean", "scale"):
        return False
    component, feature = value[1:]
    whole = all(each is None or (isinstance(each, int) and not isinstance(each, bool)) for each in value[1:])
    return whole and (component is None or 0 <= component < n_components) and (feature is None or feature >= 0)


def _wrong_numbers(figures: Mapping[str, Any], place: str) -> str:
    names = ("accuracy", "precision", "recall", "f1", "test_log_likelihood", "iw_log_likelihood", "ssim")
    return next((w for n in names if n in figures and (w := _first_wrong(figures[n], NUMBER, f"{place}.{n}"))), "")


def _kind(value: Any) -> str:
    kinds = {type(None): "nothing", bool: "a truth value", list: "a list", dict: "a mapping", str: "a word"}
    return kinds.get(type(value), "a number")
