"""Mixtures over the latents: EM and enumerated SVI side by side, posteriors beside them, under budgets of labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.experiments.data.splits import draw_labelled
from latentmix.experiments.options.messages import one_line
from latentmix.experiments.options.mixture_fits import MixtureFits
from latentmix.experiments.options.names import FITS, fit_name
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.metrics import classification
from latentmix.experiments.runs.mixture_checks import check_components
from latentmix.experiments.runs.mixture_state import load_mixture, mixture_state
from latentmix.experiments.runs.posteriors import (
    accuracy_intervals,
    affordable,
    described_guide,
    estimates_figures,
    guides_sentence,
)
from latentmix.inference import EM, SVI, GaussianMixture, MixtureNUTSResult, compare, map_by_majority, map_by_matching
from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.models.process_state import kept_warnings
from latentmix.models.words import plural

__all__ = ["FittedMixture", "check_fits", "fit_mixtures"]

Inference = Literal["em", "svi", "posterior", "nuts"]


@dataclass(frozen=True)
class FittedMixture:
    """A mixture and the class of each of its components.

    Args:
        mixture: The fitted mixture.
        classes: The classes, ascending; empty without labels.
        component_classes: The class of each component; empty without labels.
        class_names: The name of each class; by default the label.
    """

    mixture: GaussianMixture
    classes: tuple[int, ...]
    component_classes: tuple[int, ...]
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(map(str, self.classes)))

    def classify(self, latents: Tensor | NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities of the classes: an `N x n_classes` array from `N x latent_dim` latents.

        A class has the summed responsibilities of its components; without classes they are the components'.
        """
        values = as_tensor(latents).detach().cpu().double().numpy()
        return self.by_class(self.mixture.predict_proba(values))

    def by_class(self, responsibilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of `... x K` responsibilities over the components of each class; without classes, as they are."""
        if not self.classes:
            return responsibilities
        belongs = np.equal.outer(self.component_classes, self.classes).astype(np.float64)
        summed: NDArray[np.float64] = responsibilities @ belongs
        return summed

    def predict(self, latents: Tensor | NDArray[np.floating]) -> NDArray[np.int64]:
        """The most probable class of each latent: N labels."""
        return np.asarray(self.classes, dtype=np.int64)[self.classify(latents).argmax(1)]

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            **mixture_state(self.mixture),
            "classes": list(self.classes),
            "component_classes": list(self.component_classes),
            "class_names": list(self.class_names),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> FittedMixture:
        """The mixture that `state_dict`, also that of an earlier version, gave.

        Raises:
            ValueError: If a parameter is not finite or of another shape or dtype, or a component has no class.
        """
        mixture = load_mixture(state)
        check_components(state["classes"], state["component_classes"], mixture.n_components)
        classes, components = tuple(state["classes"]), tuple(state["component_classes"])
        return cls(mixture, classes, components, tuple(state.get("class_names", ())))


def fit_mixtures(
    train: LatentSplit,
    test: LatentSplit,
    classes: Sequence[int],
    settings: MixtureFits,
    *,
    labels_per_class: int,
    seed: int,
    label_seed: int,
    class_names: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, dict[str, FittedMixture]], dict[str, Any]]:
    """Fit the same mixtures by EM and by enumerated SVI, each pair from one start, and measure both.

    From EM's answer without labels come the posterior by SVI, unless it is left out, and NUTS, where it is asked for. A
    posterior by SVI that cannot be fitted is left out with a sentence.

    Budgets of labels: `none` starts from k-means, the best of several starts by EM's log-likelihood, and its
    components are matched to classes one to one; `few` starts at the means of a few labelled images, for many
    draws of them; `all` is the fit of `none` whose components take the majority class of the training images.
    Classes are given to components by labels of training images alone; figures are of test images.

    Args:
        train: Latents of the training images.
        test: Latents of the test images.
        classes: The classes, ascending; empty without labels.
        settings: How to fit.
        labels_per_class: Labelled images per class of the `few` budget.
        seed: Seed of the starts.
        label_seed: Seed of the first draw of labelled images.
        class_names: The name of each class; by default the label.
        tell: Is called with a sentence on each step.

    Returns:
        The fitted mixtures by inference and budget (of `few` the first draw), and their figures: `mixtures` by
        inference and budget, and `agreement` by budget; of posteriors `posterior` (see `described_guide`, with `cut`
        where the fit is cut; or the error as `failed`, or the reason as `left_out`), `nuts`, and `estimates` (see
        `estimates_figures`).

    Raises:
        ValueError: If there are fewer training points than components, or neither classes nor `n_components`.
    """
    n_components = check_fits(settings, len(train.latents), classes)
    names = tuple(class_names or map(str, classes))
    side_by_side = _SideBySide(train, test, tuple(classes), names, settings, n_components)

    tell(
        f"mixtures of {plural(n_components, 'component')}, no labels: EM from {plural(settings.n_init, 'start')}, SVI "
        "from the best"
    )
    starts = [side_by_side.fit("em", seed + index) for index in range(settings.n_init)]
    best = max(range(settings.n_init), key=lambda index: starts[index].lower_bound_)
    fits: dict[Inference, GaussianMixture] = {
        "em": starts[best],
        "svi": side_by_side.fit("svi", seed + best, em=starts[best]),
    }
    figures: dict[str, Any] = {"mixtures": {}}
    if settings.posterior is not None:
        figures["posterior"] = side_by_side.fit_posterior(fits, seed + best, tell)
    if settings.nuts.draws:
        tell(f"NUTS from EM's answer: {plural(settings.nuts.chains, 'chain')} of {plural(settings.nuts.draws, 'draw')}")
        with kept_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            fits["nuts"] = side_by_side.fit("nuts", seed + best, em=starts[best])
        for warning in caught:
            tell(str(warning.message))
    figures["agreement"] = {"none": side_by_side.agreement({name: fits[name] for name in FITS})}
    mixtures: dict[str, dict[str, FittedMixture]] = {}
    for inference, mixture in fits.items():
        mixtures[inference], figures["mixtures"][inference] = {}, {}
        for budget in ("none", "all") if classes else ("none",):
            fitted = side_by_side.label(mixture, budget)
            mixtures[inference][budget] = fitted
            figures["mixtures"][inference][budget] = side_by_side.measure(fitted)
    posteriors = [name for name in ("posterior", "nuts") if name in fits]
    for inference in posteriors:
        figures["agreement"][f"none, EM and {fit_name(inference)}"] = side_by_side.agreement(
            {name: fits[name] for name in ("em", inference)}
        )
        side_by_side.add_intervals(figures["mixtures"][inference], mixtures[inference])
    if "nuts" in fits:
        figures["nuts"] = _diagnosed(fits["nuts"])
    if posteriors and (estimates := side_by_side.estimates(fits, mixtures["em"]["none"], tell)):
        figures["estimates"] = estimates
    figures["mixtures"]["em"]["none"]["starts"] = [mixture.lower_bound_ for mixture in starts]
    figures["mixtures"]["em"]["none"]["seconds_of_all_starts"] = sum(mixture.seconds_ for mixture in starts)

    if classes and n_components != len(classes):
        tell(f"few labels: left out, for they seed one component per class ({len(classes)}); got {n_components}")
    elif classes:
        tell(
            f"mixtures from {plural(labels_per_class, 'labelled image')} per class, {plural(settings.draws, 'draw')}, "
            "EM and SVI"
        )
        draws: dict[str, list[dict[str, Any]]] = {inference: [] for inference in FITS}
        for index in range(settings.draws):
            labels = side_by_side.few_labels(labels_per_class, label_seed + index)
            em = side_by_side.fit("em", seed, labels)
            fits = {"em": em, "svi": side_by_side.fit("svi", seed, labels, em=em)}
            if index == 0:
                figures["agreement"]["few"] = side_by_side.agreement(fits)
            for inference, mixture in fits.items():
                fitted = FittedMixture(mixture, side_by_side.classes, side_by_side.classes, names)
                draws[inference].append(side_by_side.measure(fitted))
                mixtures[inference].setdefault("few", fitted)
        for inference in FITS:
            figures["mixtures"][inference]["few"] = _over_draws(draws[inference])
    return mixtures, figures


def check_fits(settings: MixtureFits, points: int, classes: Sequence[int]) -> int:
    """The number of components, when mixtures of them can be fitted.

    Raises:
        ValueError: If there are fewer points than components, or neither classes nor `n_components`.
    """
    n_components = settings.n_components or len(classes)
    if not n_components:
        raise ValueError("Expected --mixture.n_components for data without labels; got none.")
    if points < n_components:
        raise ValueError(
            f"Expected at least as many training data as components, {n_components}; got {points}: lower "
            "--mixture.n_components, or raise --data.limit if it is set."
        )
    return n_components


def _over_draws(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of figures over draws of labelled images; curves and the confusion matrix are of the first."""
    means = {key: float(np.mean([draw[key] for draw in draws])) for key, value in draws[0].items() if _number(value)}
    per_class = {
        label: {key: float(np.mean([draw["per_class"][label][key] for draw in draws])) for key in row}
        for label, row in draws[0]["per_class"].items()
    }
    accuracies = [draw["accuracy"] for draw in draws]
    extremes = {"accuracy_min": min(accuracies), "accuracy_max": max(accuracies), "draws": accuracies}
    extremes["converged"] = all(draw["converged"] for draw in draws)
    return {**draws[0], **means, "per_class": per_class, **extremes}


def _diagnosed(mixture: GaussianMixture) -> dict[str, Any]:
    """Diagnostics of the chains of a NUTS fit."""
    result = mixture.result_
    assert isinstance(result, MixtureNUTSResult)
    return {
        "chains": len(result.step_sizes),
        "draws": result.posterior.n_draws,
        "warmup": result.warmup,
        "max_r_hat": result.r_hat,
        "min_ess": result.ess,
        "divergences": sum(result.divergences),
        "max_tree_depth": sum(result.n_max_tree_depth),
        "modes": [list(places) for places in result.modes.places],
        "mode_gaps": list(result.modes.gaps),
        "converged": result.converged,
        "aligned": result.aligned,
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class _SideBySide:
    """Latents, classes and settings of all fits of an experiment."""

    train: LatentSplit
    test: LatentSplit
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    settings: MixtureFits
    n_components: int

    def fit(
        self,
        inference: Inference,
        seed: int,
        labels: NDArray[np.int64] | None = None,
        em: GaussianMixture | None = None,
        posterior: SVI | None = None,
    ) -> GaussianMixture:
        """Fit a mixture to the training latents, SVI from EM's answer where that is asked for."""
        settings = self.settings
        algorithms = {"em": EM(), "svi": settings.svi, "posterior": posterior, "nuts": settings.nuts}
        algorithm = algorithms[inference]
        assert algorithm is not None
        start = {}
        if em is not None and (inference in ("posterior", "nuts") or settings.svi_start == "em"):
            start = {"weights_init": em.weights_, "means_init": em.means_, "precisions_init": em.precisions_}
        mixture = GaussianMixture(
            self.n_components,
            covariance_type=settings.covariance_type,
            tol=settings.tol,
            max_iter=settings.max_iter,
            reg_covar=settings.reg_covar,
            random_state=seed,
            inference=algorithm,
            verbose=inference == "nuts",
            **start,
        )
        with kept_warnings():  # the figures report what has not converged
            if inference != "nuts":
                warnings.simplefilter("ignore", ConvergenceWarning)
            return mixture.fit(self.train.latents, labels=labels)

    def fit_posterior(
        self, fits: dict[Inference, GaussianMixture], seed: int, tell: Callable[[str], None]
    ) -> dict[str, Any]:
        """Add the posterior by SVI to fits, and describe it.

        It is left out, which is told and described, after an error, or where it would take many minutes.
        """
        assert self.settings.posterior is not None
        svi, cut = affordable(self.settings.posterior, fits["em"].parameters_, len(self.train.latents))
        if svi is None:
            tell(f"SVI posterior: left out, for {cut} by --mixture.posterior.guide")
            return {"left_out": cut}
        tell("SVI posterior from EM's answer: guides with a density, by their bounds")
        if cut:
            tell(f"SVI posterior: {cut}")
        try:
            mixture = self.fit("posterior", seed, em=fits["em"], posterior=svi)
            figures = described_guide(mixture, self.train.latents) | ({"cut": cut} if cut else {})
            self.measure(self.label(mixture, "none"))
        except Exception as error:
            reason = one_line(error)
            tell(f"SVI posterior: left out, for it failed: {reason}")
            return {"failed": reason}
        fits["posterior"] = mixture
        tell(guides_sentence(figures))
        return figures

    def add_intervals(self, figures: Mapping[str, dict[str, Any]], fitted: Mapping[str, FittedMixture]) -> None:
        """Add intervals of accuracy to the figures of a posterior, by label budget."""
        if not self.classes or self.test.labels is None:
            return
        posterior = fitted["none"].mixture.posterior_
        classes = {budget: each.component_classes for budget, each in fitted.items()}
        for budget, interval in accuracy_intervals(posterior, self.test.latents, self.test.labels, classes).items():
            figures[budget]["accuracy_interval"] = interval

    def estimates(
        self, fits: Mapping[Inference, GaussianMixture], em: FittedMixture, tell: Callable[[str], None]
    ) -> dict[str, Any]:
        """Estimates of all fits side by side; an error leaves them out, and is told."""
        names = {str(name): mixture for name, mixture in fits.items()}
        try:
            return estimates_figures(names, self.train.latents, em.component_classes, em.classes, em.class_names)
        except Exception as error:
            tell(f"estimates side by side: left out, for they failed: {one_line(error)}")
            return {}

    def few_labels(self, per_class: int, seed: int) -> NDArray[np.int64]:
        """Component labels of a draw of labelled images, -1 for the others."""
        assert self.train.labels is not None
        chosen = draw_labelled(torch.from_numpy(self.train.labels), self.classes, per_class, seed).numpy()
        labels = np.full(len(self.train.latents), -1, dtype=np.int64)
        labels[chosen] = np.searchsorted(self.classes, self.train.labels[chosen])
        return labels

    def label(self, mixture: GaussianMixture, budget: str) -> FittedMixture:
        """Give each component a class, by the labels of the training images."""
        if not self.classes:
            return FittedMixture(mixture, (), ())
        assert self.train.labels is not None
        assignments = np.asarray(mixture.predict(self.train.latents))
        mapping = map_by_matching if budget == "none" else map_by_majority
        mapped = mapping(assignments, self.train.labels, self.n_components, self.classes)
        return FittedMixture(mixture, self.classes, tuple(int(label) for label in mapped), self.class_names)

    def measure(self, fitted: FittedMixture) -> dict[str, Any]:
        """The figures of one fit."""
        mixture = fitted.mixture
        figures: dict[str, Any] = {
            "log_likelihood": float(mixture.score(self.train.latents)),
            "test_log_likelihood": float(mixture.score(self.test.latents)),
            "iterations": int(mixture.n_iter_),
            "converged": bool(mixture.converged_),
            "seconds": mixture.seconds_,
            "curve": [float(bound) for bound in mixture.lower_bounds_],
        }
        if self.classes:
            assert self.test.labels is not None
            figures["component_classes"] = list(fitted.component_classes)
            figures |= classification(
                self.test.labels,
                fitted.predict(self.test.latents),
                np.asarray(mixture.predict(self.test.latents)),
                self.classes,
                self.class_names,
            )
        return figures

    def agreement(self, fits: Mapping[Any, GaussianMixture]) -> dict[str, Any]:
        """Two fits on the training latents."""
        first, second = fits.values()
        compared = compare(first, second, self.train.latents)
        return {
            "weights": compared.weights_distance,
            "means": float(np.mean(compared.means_distance)),
            "covariances": float(np.mean(compared.covariances_distance)),
            "assigned_alike": compared.agreement,
            "log_likelihood": dict(zip(fits, compared.log_likelihood, strict=True)),
            "means_per_component": compared.means_distance,
            "covariances_per_component": compared.covariances_distance,
            "order": compared.order,
        }
