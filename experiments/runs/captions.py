"""Names and captions of a run's pictures, and texts that say what they show to those who cannot see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from latentmix.experiments.options.names import BUDGETS, FIT_NAMES, FITS, chosen_budget, fit_name
from latentmix.experiments.runs.estimates_table import posterior_accuracies
from latentmix.models.words import plural

__all__ = [
    "PICTURES",
    "alternative_text",
    "budget_of",
    "calibration_notes",
    "caption",
    "class_names",
    "kind_of",
    "lost_accuracy",
    "things",
]

Summary = Mapping[str, Any]

BUDGET_WORDS = {"none": "without labels", "few": "with few labels", "all": "with all labels"}
PICTURES = {
    "losses": (
        "Training",
        "Terms of the bound after each epoch. Reconstruction and KL divergence add up to the negative ELBO; training "
        "figures are means over the epoch's minibatches.",
    ),
    "reconstruction": (
        "Reconstructions",
        "Test images, and under each the likelihood's mean at the mean of q(z | x).",
    ),
    "worst": (
        "Worst reconstructions",
        "Of the test images, at most the first 2,000, those of greatest mean squared error per pixel beside those "
        "whose error is nearest to the median: image, likelihood's mean at the mean of q(z | x), and their difference.",
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
    "points_in_space": (
        "Data and samples, in space",
        "Test points and as many samples of the VAE, coloured by the component of the true mixture they belong to.",
    ),
    "points_pairwise": (
        "Data and samples, by pairs of coordinates",
        "Test points and as many samples of the VAE, coloured by the component of the true mixture they belong to, "
        "with the 2-sigma ellipses of the true components.",
    ),
    "coverage": ("Components covered", "Share of the samples in each component of the true mixture."),
    "usage": (
        "Use of the latents",
        "KL divergence of q from the prior, dimension by dimension; dimensions near 0 are not used.",
    ),
    "map": (
        "Map of the latents",
        "Latents of test {things}: two-dimensional ones as they are, longer ones by principal components and by t-SNE.",
    ),
    "prior": (
        "Prior against aggregate posterior",
        "Samples of q(z | x) of test {things} over the prior p(z), and which of the two has the mass, place by place. "
        "Where the prior alone has it (a hole), its draws decode to {things} unlike the data. Of more than two "
        "latents, those of greatest KL divergence are shown.",
    ),
    "traversals": (
        "Traversals",
        "Mean images as one latent goes over 99% of the samples of q(z | x) in even steps while all others stay at "
        "their mean: at most the twelve latents of greatest KL divergence, the greatest first.",
    ),
    "decoded": (
        "Decoded latents",
        "Mean images over the two-dimensional latent, where 99% of the samples of q lie on each axis.",
    ),
    "latent": (
        "Latents and components",
        "Latents coloured by {group}, with the mean and the 2-sigma ellipse of each component: EM solid, SVI dashed. "
        "Two-dimensional latents have a panel for each fit; longer ones a panel for each component, in the plane of "
        "the map.",
    ),
    "component": (
        "Decoded components",
        "Mean images at the means of the components that were fitted without labels, with their weights: those of EM, "
        "and of SVI the ones that they are aligned with. With {groups}, each is named by the {group} it stands for.",
    ),
    "em_against_svi": (
        "EM against SVI",
        "Mean log p(z) along the iterations, of SVI its best value so far (by default its first thirty steps are "
        "natural-gradient steps, which are EM's own under flat priors; --mixture.svi.optimizer chooses another path); "
        "accuracy on the test {things} for each budget of labels, whiskers spanning the draws of labelled {things}; "
        "and, component by component after alignment, the weights of both fits and how far their means lie apart, in "
        "standard deviations of the latents.",
    ),
    "posterior_forest": (
        "Posterior of the mixture",
        "Weights, means and scales of the components without labels, aligned with EM's, by every fit: EM with its "
        "standard errors, SVI (a point, close to EM's by construction), and posteriors with their 90% intervals. "
        "Means and scales are drawn minus EM's, in standard deviations of the posterior.",
    ),
    "confusion": (
        "Confusion matrices",
        "True {groups} in rows, {groups} of the fitted components in columns: counts of test {things} as numbers, "
        "shares of the true {group} as shades. With few labels, of the first draw of labelled {things}.",
    ),
    "reliability": (
        "Reliability diagrams",
        "Accuracy of the test {things} by their confidence, the probability of the most probable {group}, in ten bins: "
        "at the mean of q (plug-in) and averaged over draws of q, as `latentmix classify` gives them. With few "
        "labels, of the first draw of labelled {things}.",
    ),
}
POOR = 0.1  # expected calibration error above which probabilities are called badly calibrated
LOST = 0.02  # accuracy lost by averaging that is mentioned


def things(summary: Summary) -> str:
    """`images` or `points`: what the data of a run are; runs of earlier versions have no shape."""
    shape = (summary.get("data") or {}).get("shape")
    if isinstance(shape, list):
        return "images" if len(shape) == 3 else "points"
    test = summary.get("test") or {}
    return "images" if "ssim" in test or not (test or "coverage" in summary) else "points"


def class_names(summary: Summary) -> list[str]:
    """Names of the classes of a run; in runs of earlier versions, their labels."""
    data = summary.get("data") or {}
    return [str(name) for name in data.get("class_names") or data.get("classes") or ()]


def groups(summary: Summary) -> tuple[str, str]:
    """The noun for the labels of a run, singular and plural: classes, or components of a known mixture."""
    return ("component", "components") if "coverage" in summary else ("class", "classes")


def caption(kind: str, summary: Summary) -> str:
    """The caption of a picture of that key of `PICTURES`."""
    one, several = groups(summary)
    text = PICTURES[kind][1].format(things=things(summary), group=one, groups=several)
    return " ".join([text, *calibration_notes(summary)]) if kind == "reliability" else text


def calibration_notes(summary: Summary) -> list[str]:
    """Sentences on class probabilities that averaging leaves badly calibrated, and on accuracy that it costs."""
    return [note for note in (_poor_calibration(summary), _lost_accuracy(summary)) if note]


def lost_accuracy(summary: Summary, inference: str, labels: str | None) -> str:
    """A sentence on the test accuracy that averaging over draws of q costs a fit; empty if it costs little.

    Args:
        summary: The contents of `summary.json`.
        inference: The fit, such as `em`.
        labels: The label budget; by default `few` if the run has it, else `none`.
    """
    budgets = (summary.get("mixtures") or {}).get(inference) or {}
    figures = (budgets.get(chosen_budget(budgets, labels)) or {}).get("calibration") or {}
    accuracies = [(figures.get(way) or {}).get("accuracy") for way in ("plug_in", "draws", "noise")]
    plug_in, averaged, noise = accuracies
    if plug_in is None or averaged is None or plug_in - averaged <= LOST:
        return ""
    ways = f"--average none {plug_in:.3f}" + ("" if noise is None else f", --average noise {noise:.3f}")
    return f"averaged over draws of q, this run's test data are classified with accuracy {averaged:.3f}; by {ways}"


def _lost_accuracy(summary: Summary) -> str:
    pairs = [
        tuple(row["calibration"][way]["accuracy"] for way in ("plug_in", "draws"))
        for fits in (summary.get("mixtures") or {}).values()
        for row in fits.values()
        if "calibration" in row
    ]
    plug_in, averaged = max(pairs, key=lambda pair: pair[0] - pair[1], default=(0.0, 0.0))
    if plug_in - averaged <= LOST or summary.get("latents") == "sample":
        return ""
    return (
        f"Averaging over draws costs accuracy here, at most from {plug_in:.3f} to {averaged:.3f}: draws of q spread "
        "where its means, which the mixture was fitted to, do not. The option --average noise accounts for that, and a "
        "mixture fitted to samples (--mixture.latents sample) has their spread."
    )


def _poor_calibration(summary: Summary, budgets: Sequence[str] = BUDGETS) -> str:
    """A sentence on the label budgets whose averaged class probabilities are badly calibrated; empty if none are."""
    fits = (summary.get("mixtures") or {}).values()
    errors = {
        budget: [row[budget]["calibration"]["draws"]["ece"] for row in fits if "calibration" in row.get(budget, {})]
        for budget in budgets
    }
    poor = {budget: values for budget, values in errors.items() if max(values, default=0.0) > POOR}
    if not poor:
        return ""
    ends = [f"{end(value for values in poor.values() for value in values):.2f}" for end in (min, max)]
    *others, last = (BUDGET_WORDS[budget] for budget in poor)
    words, several = " and ".join([", ".join(others), last] if others else [last]), groups(summary)[1]
    return (
        f"{words[0].upper()}{words[1:]} they stay badly calibrated when averaged (ECE "
        f"{' to '.join(dict.fromkeys(ends))}): averaging does not mend components that hold several {several}."
    )


def kind_of(stem: str) -> str | None:
    """The key of `PICTURES` for a file name without its ending; `None` for another picture."""
    return next((kind for kind in PICTURES if stem.startswith(kind)), None)


def budget_of(stem: str) -> str | None:
    """The label budget that ends a file name without its ending, if one does."""
    budget = stem.rpartition("_")[2]
    return budget if budget in BUDGETS else None


def alternative_text(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]] = ()) -> str:
    """The content of a picture of a run, in a sentence or two with its main figures.

    Args:
        stem: The picture's file name without its ending.
        summary: The contents of `summary.json`; without the figures that a text needs, it is the picture's name.
        history: The records of `metrics.jsonl`.

    Example:
        >>> from latentmix.experiments.runs.captions import alternative_text
        >>> alternative_text("usage", {"test": {"kl_per_dimension": [0.0, 1.5], "active": [False, True]}})
        'Bars of the KL divergence of 2 latent dimensions, from 1.50 down to 0.00 nats; 1 is active.'
    """
    kind = kind_of(stem)
    text = TEXTS.get(stem, TEXTS.get(kind or ""))
    name = PICTURES[kind][0] if kind else stem.replace("_", " ")
    try:
        return text(stem, summary, history) if text else f"{name}."
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return f"{name}."


def _losses(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    first, last = history[0]["training"]["loss"], history[-1]["training"]["loss"]
    validation = (history[-1].get("validation") or {}).get("loss")
    ending = "" if validation is None else f", and ends at {_figure(validation)} on validation data"
    return (
        f"Curves of the terms of the bound over {plural(len(history), 'epoch')}: in training the negative ELBO goes "
        f"from {_figure(first)} to {_figure(last)} nats{ending}."
    )


def _usage(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    values, active = summary["test"]["kl_per_dimension"], sum(map(bool, summary["test"]["active"]))
    return (
        f"Bars of the KL divergence of {plural(len(values), 'latent dimension')}, from {_figure(max(values))} down to "
        f"{_figure(min(values))} nats; {active} {'is' if active == 1 else 'are'} active."
    )


def _reconstructions(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    test = summary["test"]
    return (
        "Rows of test images, each over a row of their reconstructions; over all test images the mean squared error is "
        f"{_figure(test['mse'], 4)} and the structural similarity {_figure(test['ssim'], 3)} of 1."
    )


def _worst(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    return (
        "Test images over their reconstructions and the differences of both: on the left those of greatest error, on "
        f"the right those at the median; the mean squared error of all is {_figure(summary['test']['mse'], 4)}."
    )


def _prior(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    size = _latent_dim(summary)
    name = _prior_name(summary)
    if size == 1:
        return f"Curves of the densities of the prior{name} and of the aggregate posterior, over one latent."
    pairs = "the latents" if size == 2 else "pairs of latents" if size else "latents"
    return (
        f"For {pairs}, samples of q over contours of the prior{name}, and beside them a map in two colours of where "
        "the prior or the aggregate posterior alone has its mass."
    )


def _prior_name(summary: Summary) -> str:
    name = (summary.get("model") or {}).get("prior")
    return f" ({name.partition('(')[0]})" if isinstance(name, str) and name else ""


def _traversals(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    values = list(summary["test"]["kl_per_dimension"])
    shown = min(len(values), 12)
    part = f"{plural(shown, 'latent')}{f' of {len(values)}' if shown < len(values) else ''}"
    return (
        f"Rows of mean images, one for each of {part}, as it alone changes; the KL divergence of the first row's is "
        f"{_figure(max(values))} nats."
    )


def _components(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    names, (group, _) = class_names(summary), groups(summary)
    ending = f" and, below it, the {group} that it stands for" if names else ""
    return f"A row of images for each of EM and SVI: the decoded mean of every component, its weight{ending}."


def _map(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    size = _latent_dim(summary)
    kind, space = ("Scatter plot", "") if size == 2 else ("Scatter plots", f" from {size} dimensions" if size else "")
    group = groups(summary)[0]
    return (
        f"{kind} of the latents of test {things(summary)}{_of_groups(summary)}{space}, a colour and marker per {group}."
    )


def _clouds(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    coverage = summary["coverage"]
    view = "in space, side by side" if stem.endswith("space") else "for every pair of coordinates"
    return (
        f"Test points and samples of the VAE {view}, coloured by component: the samples cover {coverage['covered']} "
        f"of {plural(coverage['components'], 'component')}, and {_percent(coverage['outside'])} of them lie in none."
    )


def _coverage(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    coverage = summary["coverage"]
    names = class_names(summary) or list(map(str, range(coverage["components"])))
    missed = [name for name, covered in zip(names, coverage["covered_components"], strict=True) if not covered]
    ending = f"; not covered: {', '.join(missed)}" if missed else ""
    return (
        f"Bars of the share of samples in each of {plural(coverage['components'], 'component')}: {coverage['covered']} "
        f"{'is' if coverage['covered'] == 1 else 'are'} covered{ending}."
    )


def _latents(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    budget, group = str(budget_of(stem)), groups(summary)[0]
    scores = [
        f"{name} gives {_percent(row['accuracy'])} of them their true {group}"
        for name, row in _fits(summary, budget).items()
        if "accuracy" in row
    ]
    ending = f": {', '.join(scores)}" if scores else ""
    panels = "side by side" if _latent_dim(summary) == 2 else "a panel for each component"
    return (
        f"Latents of test {things(summary)}{_of_groups(summary)} under the ellipses of the mixtures that EM and SVI "
        f"fitted {BUDGET_WORDS[budget]}, {panels}{ending}."
    )


def _comparison(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    ends = [
        f"{name} ends at {_figure(row['log_likelihood'], 4)} nats per latent after "
        f"{plural(row['iterations'], 'iteration')}"
        for name, row in _fits(summary, "none").items()
    ]
    alike = _percent(summary["agreement"]["none"]["assigned_alike"])
    return f"{' and '.join(ends)}; they assign {alike} of the latents to the same component."


def _forest(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    estimates = summary["estimates"]
    fits = ", ".join(fit_name(fit) for fit in FIT_NAMES if fit in estimates["fits"])
    accuracies = [
        f"under {name} {BUDGET_WORDS[budget]} {_figure(point, 3)}, in 90% of draws {_figure(low, 3)} to "
        f"{_figure(high, 3)}"
        for budget, name, (point, low, high) in posterior_accuracies(summary)
    ]
    ending = f" Accuracy: {'; '.join(accuracies)}." if accuracies else ""
    sentence = estimates["sentence"]
    return f"Estimates of weights, means and scales with bars of uncertainty, by {fits}. {sentence}{ending}"


def _confusion(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    names, budget = class_names(summary), str(budget_of(stem))
    parts = []
    for name, row in _fits(summary, budget).items():
        matrix = np.asarray(row["confusion"], dtype=float)
        wrong = matrix - np.diag(np.diagonal(matrix))
        true, given = np.unravel_index(wrong.argmax(), wrong.shape)
        shares = f"{_percent(np.trace(matrix) / matrix.sum())} on the diagonal"
        worst = f"most often confused: {names[true]} as {names[given]}, {wrong.max():.0f} times"
        parts.append(
            f"of {name} {BUDGET_WORDS[budget]} on {matrix.sum():,.0f} test {things(summary)}: "
            f"{shares} ({worst if wrong.any() else 'none is confused'})"
        )
    return f"Confusion matrices {', and '.join(parts)}." if len(parts) > 1 else f"Confusion matrix {parts[0]}."


def _reliability(stem: str, summary: Summary, history: Sequence[Mapping[str, Any]]) -> str:
    budget = str(budget_of(stem))
    parts = []
    for fit, budgets in summary["mixtures"].items():
        if "calibration" in budgets.get(budget, {}):
            plug_in, averaged = (budgets[budget]["calibration"][way] for way in ("plug_in", "draws"))
            parts.append(
                f"{fit_name(fit)}: expected calibration error {_figure(plug_in['ece'], 3)} at the mean of q, "
                f"{_figure(averaged['ece'], 3)} averaged over draws"
            )
    text = f"Accuracy against confidence of test {things(summary)}, {BUDGET_WORDS[budget]}: {'; '.join(parts)}."
    return f"{text} {_poor_calibration(summary, [budget])}".rstrip()


def _fixed(text: str) -> Callable[[str, Summary, Sequence[Mapping[str, Any]]], str]:
    return lambda stem, summary, history: text


TEXTS: dict[str, Callable[[str, Summary, Sequence[Mapping[str, Any]]], str]] = {
    "losses": _losses,
    "reconstruction": _reconstructions,
    "worst": _worst,
    "prior": _prior,
    "traversals": _traversals,
    "component": _components,
    "generated": _fixed("A grid of mean images at draws from the prior."),
    "interpolation": _fixed(
        "Two test images at the sides, and between them two rows of images that turn one into the other: along a "
        "straight line, and along a great circle."
    ),
    "attribute": _fixed("Rows of images as the vector of an attribute is added to their latents, from left to right."),
    "points_in_space": _clouds,
    "points_pairwise": _clouds,
    "coverage": _coverage,
    "usage": _usage,
    "map": _map,
    "decoded": _fixed("A square of mean images, decoded at a grid over the two latent dimensions."),
    "latent": _latents,
    "em_against_svi": _comparison,
    "posterior_forest": _forest,
    "confusion": _confusion,
    "reliability": _reliability,
}


def _of_groups(summary: Summary) -> str:
    names = class_names(summary)
    return f" of {plural(len(names), *groups(summary))}" if names else ""


def _latent_dim(summary: Summary) -> int | None:
    size = (summary.get("model") or {}).get("latent_dim")
    return size if isinstance(size, int) else None


def _fits(summary: Summary, budget: str) -> dict[str, Mapping[str, Any]]:
    """The figures of EM and SVI under a label budget, by name."""
    return {name: summary["mixtures"][fit][budget] for fit, name in FITS.items() if budget in summary["mixtures"][fit]}


def _figure(value: float, digits: int = 2) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
