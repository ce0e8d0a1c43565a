"""Ex-post priors: the gain in log-likelihood from swapping a VAE's prior for a mixture of its training latents."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.experiments.data.pixels import ToFloat, binarize_static, resolve_binarize
from latentmix.experiments.reading.limits import check_count
from latentmix.experiments.runs.run import Run
from latentmix.inference import ExPostFit, GaussianMixture, ex_post_priors, log_likelihoods
from latentmix.inference.ex_post import Form
from latentmix.inference.isolation import isolated
from latentmix.inference.tables import aligned
from latentmix.models import Prior, StandardNormal
from latentmix.models.process_state import kept_warnings
from latentmix.models.words import plural

__all__ = ["ExPost", "Gain", "as_json", "measure_ex_post", "table"]

FORMS: tuple[Form, ...] = ("samples", "expected", "noise_aware")
CANDIDATES = 4


@dataclass(frozen=True)
class ExPost:
    """Priors to compare, and the data to compare them on.

    Args:
        n_components: Components of each mixture.
        covariance_type: Structure of their covariances.
        forms: Target of the fits: one sample of q per image (`samples`), q as a distribution (`expected`), or the
            likelihoods of the latent that q implies (`noise_aware`, extreme deconvolution).
        images: Most training images for a fit, the first ones; by default all.
        noise_images: Most of these for a noise-aware fit.
        test_images: Most test images for log-likelihoods, the first ones.
        samples: Importance samples of q per test image.
        draws: Binary draws of grey test images, with a seed each; other data are used once.
        max_iter: Most iterations of EM.
        reg_covar: Variance added to the diagonals.
        seed: Seed of samples and starts; the draws use the seeds after it.
    """

    n_components: Sequence[int] = (10, 50, 100)
    covariance_type: Literal["full", "diag"] = "full"
    forms: Sequence[Form] = FORMS
    images: int | None = None
    noise_images: int = 5_000
    test_images: int = 10_000
    samples: int = 500
    draws: int = 3
    max_iter: int = 50
    reg_covar: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        values = {**asdict(self), "n_components": min(self.n_components, default=0)}
        values["images"] = 1 if self.images is None else self.images
        for name in ("n_components", "images", "noise_images", "test_images", "samples", "draws", "max_iter"):
            check_count(f"--{name}", values[name])
        check_count("--n_components", max(self.n_components, default=1))
        check_count("--seed", self.seed, 0)
        if not self.reg_covar >= 0:
            raise ValueError(f"Expected --reg_covar of at least 0; got {self.reg_covar}.")


@dataclass(frozen=True)
class Gain:
    """The log-likelihood of the test images under one prior.

    Attributes:
        prior: Its name.
        n_components: Its components; 0 for the prior of training.
        form: Target of the fit, see `ExPost.forms`; empty for the prior of training.
        log_likelihoods: Mean over the test images, nats, for each draw of them.
        gain: Mean over the draws of the difference to the prior of training, nats per image.
        standard_error: Standard error of the gain over test images (means over draws).
        seconds: Time of the fit, including the fits that it starts from.
    """

    prior: str
    n_components: int
    form: str
    log_likelihoods: list[float]
    gain: float
    standard_error: float
    seconds: float


def measure_ex_post(run: Run, settings: ExPost, tell: Callable[[str], None] = lambda _: None) -> list[Gain]:
    """Fit mixtures to the latents of training images, and measure each as the prior of the VAE on test images.

    VAE and guide are not retrained, and fits do not use test images. All priors are measured on the same samples of q
    and their decoded images, so that gains are paired.

    Args:
        run: A finished run.
        settings: Priors and data.
        tell: Called with a sentence on each step.

    Returns:
        The prior of training first, then each mixture.

    Raises:
        ValueError: If the data cannot be read, there are fewer training images than components, or a noise-aware
            mixture is requested for a VAE whose prior is not N(0, I).
    """
    dataset = run.data
    binarize = resolve_binarize(run.config["data"]["binarize"], run.vae.likelihood)
    train, things = dataset.train.x[: settings.images], dataset.train.things
    if len(train) < max(settings.n_components):
        raise ValueError(
            f"Expected at least as many training {things} as components, {max(settings.n_components)}; got "
            f"{len(train)}."
        )
    if "noise_aware" in settings.forms and not isinstance(run.vae.prior, StandardNormal):
        raise ValueError(
            f"Expected a run with a StandardNormal prior for the noise_aware form; got {type(run.vae.prior).__name__}: "
            "take --forms samples,expected."
        )
    if binarize != "none":
        train = binarize_static(train, settings.seed)
    priors: dict[str, Prior] = {"training": run.vae.prior}
    described: dict[str, tuple[int, str, float]] = {"training": (0, "", 0.0)}
    for n_components in settings.n_components:
        counted = plural(n_components, "component")
        tell(f"mixtures of {counted}, {', '.join(settings.forms)}: {len(train):,} training {things}")
        fits = _fit(run, settings, train, n_components)
        for form in settings.forms:
            name = f"{counted}, {form}"
            priors[name] = fits[form].prior
            described[name] = (n_components, form, fits[form].seconds)
    test = dataset.test.x[: settings.test_images]
    draws = settings.draws if binarize != "none" else 1
    measured: dict[str, list[Tensor]] = {name: [] for name in priors}
    for draw in range(draws):
        tell(
            f"log p(x) of {len(test):,} test {things}, {plural(settings.samples, 'sample')}, draw {draw + 1} of {draws}"
        )
        seed = settings.seed + 1 + draw
        seen = test if binarize == "none" else binarize_static(test, seed)
        for name, values in log_likelihoods(
            run.vae, run.guide, seen, priors, settings.samples, transform=ToFloat(), seed=seed
        ).items():
            measured[name].append(values.cpu())
    base = torch.stack(measured["training"]).mean(0)
    gains = []
    for name, drawn in measured.items():
        components, target, seconds = described[name]
        difference = (torch.stack(drawn).mean(0) - base).numpy()
        gains.append(
            Gain(
                prior=name,
                n_components=components,
                form=target,
                log_likelihoods=[float(value.mean()) for value in drawn],
                gain=float(difference.mean()),
                standard_error=float(difference.std() / np.sqrt(len(difference))),
                seconds=seconds,
            )
        )
    return gains


def _fit(run: Run, settings: ExPost, train: Tensor, n_components: int) -> dict[Form, ExPostFit]:
    mixture = GaussianMixture(
        n_components,
        covariance_type=settings.covariance_type,
        max_iter=settings.max_iter,
        reg_covar=settings.reg_covar,
        tol=1e-4,
        noise_candidates=min(CANDIDATES, n_components),
        random_state=settings.seed,
    )
    with kept_warnings(), isolated():  # a fit that has not converged is a valid prior, too
        warnings.simplefilter("ignore", ConvergenceWarning)
        return ex_post_priors(
            mixture,
            run.vae,
            run.guide,
            train,
            settings.forms,
            limit=settings.noise_images,
            transform=ToFloat(),
            seed=settings.seed,
        )


def table(gains: Sequence[Gain]) -> str:
    """The gains as aligned text."""
    head = ("prior", "mean log p(x)", "gain", "standard error", "seconds")
    lines = [
        (
            gain.prior,
            f"{np.mean(gain.log_likelihoods):.2f}",
            f"{gain.gain:+.2f}",
            f"{gain.standard_error:.3f}",
            f"{gain.seconds:.0f}",
        )
        for gain in gains
    ]
    return aligned(head, lines)


def as_json(gains: Sequence[Gain], settings: ExPost) -> dict[str, Any]:
    """Settings and gains as plain values."""
    return {"settings": asdict(settings), "gains": [asdict(gain) for gain in gains]}
