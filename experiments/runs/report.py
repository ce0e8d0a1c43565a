"""Reports of a run: `report.html` in one self-contained file, and tables for the terminal."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment

from latentmix.experiments.options.names import FITS
from latentmix.experiments.runs.stored import read_history, read_summary
from latentmix.inference.tables import aligned

__all__ = ["closing_words", "headline", "summary_table", "write_report"]

Row = tuple[str, str, dict[str, Any]]

NAMES: dict[str, str] = {**dict(FITS.items()), "nuts": "NUTS", "prior": "mixture prior"}
BUDGET_WORDS = {
    "none": "no label: k-means from k-means++ seeds, components matched to classes one to one",
    "few": "a few labelled images per class initialize the fit: means over draws of them",
    "all": "all labels: the fit without labels, each component standing for its majority class",
}
PICTURES = {
    "losses": (
        "Training",
        "Terms of the bound after each epoch. Reconstruction and KL divergence add up to the negative ELBO; training "
        "figures are means over the epoch's minibatches.",
    ),
    "reconstruction": (
        "Reconstructions",
        "Test images above, and under each the likelihood's mean at the mean of q(z | x).",
    ),
    "generated": ("Generated images", "Mean images at draws of z from the prior p(z)."),
    "interpolation": (
        "Interpolations",
        "Mean images on the way between the latents of two test images: in a straight line, and on a great circle.",
    ),
    "attribute": (
        "Attribute vectors",
        "Mean images as the difference between the mean latents with and without an attribute is added.",
    ),
    "points": (
        "Data and samples",
        "Test points and as many samples of the VAE, coloured by the component of the true mixture they belong to.",
    ),
    "coverage": ("Components covered", "Share of the samples in each component of the true mixture."),
    "usage": (
        "Use of the latents",
        "KL divergence of q from the prior, dimension by dimension; dimensions near 0 are not used.",
    ),
    "map": ("Map of the latents", "Means of q for test data, in two dimensions."),
    "decoded": (
        "Decoded latents",
        "Mean images over the two-dimensional latent, at quantiles of N(0, 1) on both axes.",
    ),
    "latent": (
        "Latents and components",
        "Latents coloured by the class of the image, with the mean and the 2-sigma ellipse of each component; above "
        "two dimensions everything is projected on the first two principal components.",
    ),
    "em_against_svi": (
        "EM against SVI",
        "Log-likelihood per latent along the iterations (by default the first thirty steps of SVI are natural-gradient "
        "steps, which are EM's own under flat priors; --mixture.svi.optimizer chooses another path); accuracy on the "
        "test images for each budget of labels, whiskers spanning the draws of labelled images; and, component by "
        "component after alignment, the weights of both fits and how far their means lie apart.",
    ),
    "confusion": (
        "Confusion matrices",
        "True classes in rows, classes of the components in columns: counts of test images as numbers, shares of the "
        "true class as shades. With few labels, of the first draw of labelled images.",
    ),
}
COLUMNS = ("accuracy", "precision", "recall", "f1")


def summary_table(summary: Mapping[str, Any]) -> str:
    """The figures of the mixtures as aligned text, one line per label budget and fit.

    Args:
        summary: The contents of `summary.json`; missing figures are shown as a dash.
    """
    head = [
        "labels",
        "fit",
        "log-lik/point",
        "iterations",
        "seconds",
        "accuracy",
        "precision",
        "recall",
        "F1",
    ]
    lines = [
        [
            budget,
            fit,
            _number(row.get("log_likelihood"), 4),
            _number(row.get("iterations"), 0) + ("" if row.get("converged", True) else "*"),
            _number(row.get("seconds"), 2),
            *(_number(row.get(name), 3) for name in COLUMNS),
        ]
        for budget, fit, row in _rows(summary)
    ]
    note = ["* not converged"] if any(line[3].endswith("*") for line in lines) else []
    return "\n".join([aligned(head, lines, left=2), *note])


def headline(figures: Mapping[str, Any]) -> str:
    """The figures of an autoencoder on one split, in a line.

    Args:
        figures: The figures of `measure_vae`.
    """
    parts = [f"MSE {figures['mse']:.4f}"]
    if "ssim" in figures:
        parts.append(f"SSIM {figures['ssim']:.4f}")
    parts.append(f"ELBO {figures['elbo']:.2f} nats")
    if "iw_log_likelihood" in figures:
        parts.append(f"log-likelihood {figures['iw_log_likelihood']:.2f} nats")
    if "bits_per_dimension" in figures:
        parts.append(f"{figures['bits_per_dimension']:.3f} bits per dimension")
    return ", ".join(parts)


def closing_words(summary: Mapping[str, Any]) -> str:
    """The figures that end a run on the terminal: the table of the mixtures, then lines on the test data.

    Args:
        summary: The contents of `summary.json`.
    """
    lines = [
        f"{summary_table(summary)}\n",
        f"test: {headline(summary['test'])}; {summary['parameters']:,} parameters, trained in "
        f"{summary['seconds']['train']:.1f} s",
    ]
    if "coverage" in summary:
        coverage = summary["coverage"]
        lines.append(
            f"samples: {coverage['covered']} of {coverage['components']} components covered, "
            f"{100 * coverage['outside']:.1f}% in none; energy distance {coverage['energy']['statistic']:.4f}, p = "
            f"{coverage['energy']['p_value']:.3f}"
        )
    return "\n".join(lines)


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder from the files there.

    The page contains its pictures and its style, and refers to nothing outside itself; sections without data are
    omitted.

    Args:
        folder: The folder, with `summary.json`, and optionally `config.yaml`, `metrics.jsonl` and pictures in
            `figures/*.png`.

    Returns:
        The path of the page.

    Raises:
        ValueError: If there is no `summary.json`, or it or `metrics.jsonl` is damaged.
    """
    if not (folder / "summary.json").exists():
        raise ValueError(f"Expected summary.json in {folder}; the run is not finished.")
    summary = read_summary(folder / "summary.json", complete=False)
    history = read_history(folder / "metrics.jsonl")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _typeset
    template = resources.files("latentmix.experiments.runs").joinpath("report.html")
    page = environment.from_string(template.read_text("utf-8"))
    rows = _rows(summary)
    pictorial = "coverage" not in summary
    html = page.render(
        summary=summary,
        name=summary.get("preset") or folder.name,
        pictorial=pictorial,
        thing="image" if pictorial else "point",
        things="images" if pictorial else "points",
        splits=_splits(summary),
        headlines=_headlines(summary),
        history=history,
        rows=rows,
        classified=any("accuracy" in row for _, _, row in rows),
        budgets={budget: _worded(BUDGET_WORDS.get(budget, budget), pictorial) for budget, _, _ in rows},
        per_class=_per_class(rows),
        agreement=_agreement(summary),
        figures=[
            {**figure, "caption": _worded(figure["caption"], pictorial)} for figure in _figures(folder / "figures")
        ],
        config=_text(folder / "config.yaml"),
    )
    (folder / "report.html").write_text(html, encoding="utf-8")
    return folder / "report.html"


def _worded(text: str, pictorial: bool) -> str:
    """A sentence on images, reworded for points if the data are points."""
    return text if pictorial else text.replace("image", "point")


def _number(value: Any, digits: int) -> str:
    """A number with a fixed number of decimals and separated thousands; a dash if it is missing."""
    if not isinstance(value, int | float) or value != value:
        return "-"
    return f"{value:,.{digits}f}"


def _typeset(value: Any, digits: int) -> str:
    """A formatted number with a typographic minus."""
    return _number(value, digits).replace("-", "−")


def _rows(summary: Mapping[str, Any]) -> list[Row]:
    """Label budget, fit and figures of each fitted mixture, by budget and then by fit."""
    mixtures: dict[str, Mapping[str, dict[str, Any]]] = dict(summary.get("mixtures") or {})
    if "prior" in summary:
        mixtures["prior"] = {"all": summary["prior"]}
    budgets = [*BUDGET_WORDS, *sorted({budget for fits in mixtures.values() for budget in fits} - set(BUDGET_WORDS))]
    return [
        (budget, NAMES.get(fit, fit), mixtures[fit][budget])
        for budget in budgets
        for fit in [*NAMES, *sorted(set(mixtures) - set(NAMES))]
        if budget in mixtures.get(fit, {})
    ]


def _headlines(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and unit of the figures at the top of the page."""
    test: Mapping[str, Any] = summary.get("test") or {}
    coverage = summary.get("coverage")
    wanted = [
        ("Test ELBO", _typeset(test.get("elbo"), 2), f"nats per {'point' if coverage else 'image'}"),
        ("Test log-likelihood", _typeset(test.get("iw_log_likelihood"), 2), "nats, importance-weighted"),
        ("Test MSE", _typeset(test.get("mse"), 4), "per value" if coverage else "per pixel"),
        ("Test SSIM", _typeset(test.get("ssim"), 3), "1 at best"),
    ]
    if coverage:
        wanted.append(("Components covered", str(coverage["covered"]), f"of {coverage['components']}"))
    rows = _rows(summary)
    budget = "few" if any(row[0] == "few" for row in rows) else "none"
    wanted += [
        (f"Accuracy, {fit}", _typeset(row.get("accuracy"), 3), {"few": "few labels"}.get(budget, "no label"))
        for name, fit, row in rows
        if name == budget
    ]
    wanted += [
        ("Parameters", _typeset(summary.get("parameters"), 0), "of the VAE"),
        ("Training", _typeset((summary.get("seconds") or {}).get("train"), 1), "seconds"),
    ]
    return [headline for headline in wanted if headline[1] != "−"]


SPLIT_COLUMNS = {
    "ELBO": ("elbo", 2),
    "log-likelihood, importance-weighted": ("iw_log_likelihood", 2),
    "distortion": ("log_likelihood", 2),
    "rate": ("kl", 2),
    "bits per dimension": ("bits_per_dimension", 3),
    "active units": ("active_units", 0),
    "MSE": ("mse", 4),
    "SSIM": ("ssim", 4),
}


def _splits(summary: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """The figures of the autoencoder by split, without empty columns."""
    measured = {split: summary[split] for split in ("validation", "test") if summary.get(split)}
    columns = {
        title: place
        for title, place in SPLIT_COLUMNS.items()
        if any(_number(figures.get(place[0]), 1) != "-" for figures in measured.values())
    }
    return [
        (
            split,
            {
                title: _typeset(-figures[name] if title == "distortion" else figures.get(name), digits)
                for title, (name, digits) in columns.items()
            },
        )
        for split, figures in measured.items()
    ]


def _per_class(
    rows: Sequence[tuple[str, str, dict[str, Any]]],
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Figures by budget, class and fit."""
    tables: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for budget, fit, row in rows:
        for label, figures in (row.get("per_class") or {}).items():
            tables.setdefault(budget, {}).setdefault(label, {})[fit] = figures
    return tables


def _agreement(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Distances of weights, means and covariances, and the fraction of equal assignments, by budget."""
    tables = {}
    for budget, figures in (summary.get("agreement") or {}).items():
        distances = [_typeset(figures.get(name), 4) for name in ("weights", "means", "covariances")]
        alike = figures.get("assigned_alike")
        tables[budget] = [*distances, "−" if alike is None else f"{_typeset(100 * alike, 1)}%"]
    return tables


def _figures(folder: Path) -> list[dict[str, str]]:
    """Name, caption and base64 text of the pictures, known ones first; a name may end in the label budget."""
    kinds = list(PICTURES)

    def place(path: Path) -> tuple[int, int, str]:
        kind = next((k for k, start in enumerate(kinds) if path.stem.startswith(start)), len(kinds))
        return kind, [*BUDGET_WORDS, budget_of(path)].index(budget_of(path)), path.stem

    def budget_of(path: Path) -> str:
        return path.stem.rpartition("_")[2]

    pictures = []
    for path in sorted(folder.glob("*.png"), key=place):
        kind = place(path)[0]
        name, caption = PICTURES[kinds[kind]] if kind < len(kinds) else (path.stem.replace("_", " "), "")
        if kind < len(kinds) and budget_of(path) in BUDGET_WORDS:
            name += f", labels: {budget_of(path)}"
        data = base64.b64encode(path.read_bytes()).decode()
        pictures.append({"name": name, "caption": caption, "data": data})
    return pictures


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""
