"""A finished run, read back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentmix.experiments.data.schema import Schema
from latentmix.experiments.options.experiment import experiment_parser, plain
from latentmix.experiments.options.names import BUDGETS, chosen_budget, fit_name
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.stored import read_history
from latentmix.guides import AmortizedGuide
from latentmix.models import VAE
from latentmix.models.display import Displayed, brief
from latentmix.models.files import inside
from latentmix.models.words import plural

if TYPE_CHECKING:
    from xarray import DataArray, DataTree

    from latentmix.experiments.data.base import Dataset, Split
    from latentmix.experiments.runs.encoding import Encoder, Encoding
    from latentmix.experiments.runs.mixtures import FittedMixture
    from latentmix.experiments.runs.run_data import RunData

__all__ = ["Run", "load_run"]


@dataclass(frozen=True, repr=False)
class Run(Displayed):
    """A finished run, read back.

    Attributes:
        vae: The model, in evaluation mode.
        guide: The guide, in evaluation mode.
        mixtures: Fitted mixtures by inference (`em`, `svi`, `posterior`, `nuts`) and label budget (`none`, `few`,
            `all`).
        config: The complete configuration.
        summary: The figures of `summary.json`.
        path: The folder it was read from.
    """

    vae: VAE
    guide: AmortizedGuide
    mixtures: dict[str, dict[str, FittedMixture]]
    config: dict[str, Any]
    summary: dict[str, Any]
    path: Path | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The record of each epoch: `epoch`, `training` and `validation` with their bounds in nats per datum, ...

        Raises:
            ValueError: If the folder of the run or its `metrics.jsonl` is not there, or a line is no such record.
        """
        file = inside(Path() if self.path is None else self.path, "metrics.jsonl")
        if self.path is None or not file.is_file():
            raise ValueError(f"Expected metrics.jsonl in the folder of the run; got none in {self.path}.")
        return read_history(file)

    @cached_property
    def data(self) -> Dataset:
        """The data sets of the run, loaded again by its configuration, and kept; points as the guide takes them.

        Raises:
            ValueError: If they are no longer there, or are others.

        Example:
            >>> run = load_run("runs/digits")  # doctest: +SKIP
            >>> run.latents(run.data.test).mean.shape  # doctest: +SKIP
            (360, 10)
        """
        return self.known_data.load()

    @property
    def known_data(self) -> RunData:
        """Shape, options and schema of its data, by which others are read as its guide takes them."""
        from latentmix.experiments.runs.run_data import RunData

        return RunData(self.vae.shape, self.config.get("data", {}), Schema.from_dict(self.summary.get("data", {})))

    def fitted(self, inference: str = "em", labels: str | None = None) -> FittedMixture:
        """The mixture of a fit and a label budget.

        Args:
            inference: The fit, such as `em`.
            labels: The label budget, `none`, `few` or `all`; by default `few` if the run has it, else `none`.

        Raises:
            ValueError: If the run has no such fit or budget.
        """
        budgets = self.mixtures.get(inference)
        if not budgets:
            raise ValueError(f"Expected a fit of this run, {', '.join(self.mixtures)}; got {inference!r:.60}.")
        budget = chosen_budget(budgets, labels)
        if budget not in budgets:
            raise ValueError(f"Expected a label budget of this run, {', '.join(budgets)}; got {budget!r:.60}.")
        return budgets[budget]

    def classify(
        self,
        data: Tensor | NDArray[Any],
        *,
        inference: str = "em",
        labels: str | None = None,
        average: Literal["draws", "noise"] | None = "draws",
        draws: int = 100,
        seed: int = 0,
    ) -> NDArray[np.float64]:
        r"""Probabilities of the classes of images or points, averaged over what is not known of their latents.

        By default they are means over draws of q(z given x) and, where the fit keeps draws of the mixture's posterior,
        over these: :math:`\frac1S \sum_s p(c \mid z_s, \theta_s)`. "noise" takes the responsibilities at the mean of q
        under the mixture convolved with the covariance of q, and `None` those of the mixture itself (plug-in), as
        `FittedMixture.classify` gives them of latents.

        Args:
            data: `N x C x H x W` images of bytes, or of floats in [0, 1]; or `N x D` points as the guide takes them,
                standardised if the run's are.
            inference: The fit, such as `em`.
            labels: The label budget; by default `few` if the run has it, else `none`.
            average: Over what they are averaged.
            draws: Draws of each datum; the standard error of a probability is at most half of their root's reciprocal.
            seed: Seed of the draws: the same data in the same order have the same draws.

        Returns:
            An `N x n_classes` array, its columns as `fitted(inference, labels).classes`; without classes, of the
            components.

        Raises:
            ValueError: If the run has no such fit, the data or an option are not as described, or "noise" is asked of
                a guide that is not normal.

        Example:
            >>> run = load_run("runs/digits")  # doctest: +SKIP
            >>> run.classify(images, labels="few").argmax(1)  # doctest: +SKIP
        """
        from latentmix.experiments.runs.class_probabilities import check_data, class_probabilities

        fitted, x = self.fitted(inference, labels), check_data(data, self.vae.shape)
        return class_probabilities(self.guide, fitted, x, average=average, draws=draws, seed=seed)

    def class_probabilities(
        self,
        data: Tensor | NDArray[Any],
        *,
        inference: str = "em",
        labels: str | None = None,
        draws: int = 100,
        seed: int = 0,
    ) -> DataArray:
        """Class probabilities of images or points at each draw, whose mean over the draws `classify` gives.

        Args:
            data: As `classify` takes them.
            inference: The fit, such as `em`.
            labels: The label budget; by default `few` if the run has it, else `none`.
            draws: Draws of each datum, of q(z given x) and of the mixture's posterior where there are any.
            seed: Seed of the draws.

        Returns:
            An array of dimensions `draw`, `image` (of points `point`) and `class` with the classes' names.

        Raises:
            ValueError: As `classify`, or if the array would take more than 2 GiB.

        Example:
            >>> run = load_run("runs/digits")  # doctest: +SKIP
            >>> run.class_probabilities(images).quantile([0.05, 0.95], dim="draw")  # doctest: +SKIP
        """
        from latentmix.experiments.runs.class_probabilities import check_data, probability_draws

        fitted, x = self.fitted(inference, labels), check_data(data, self.vae.shape)
        return probability_draws(self.guide, fitted, x, draws=draws, seed=seed)

    def to_datatree(self) -> DataTree:
        """The posteriors of the run's mixtures as a tree for ArviZ.

        At the root are the groups of the fit by NUTS, or else by SVI; another fit is a tree by itself, such as
        `tree["fit_svi"]`, and the attribute `fits` names all. It is read from `posterior.nc`; if the run has no such
        file, it is made from the draws that the run keeps, without the groups that need data.

        Raises:
            ValueError: If the file cannot be read, or no fit of the run has draws.

        Example:
            >>> import arviz  # doctest: +SKIP
            >>> arviz.summary(load_run("runs/digits").to_datatree())  # doctest: +SKIP
        """
        from latentmix.experiments.runs.posterior import posterior_of

        return posterior_of(self.mixtures, self.path)

    def latents(
        self,
        data: Tensor | NDArray[Any] | Split,
        *,
        inference: str = "em",
        labels: str | None = None,
        average: Literal["draws", "noise"] | None = "draws",
        draws: int | None = None,
        seed: int = 0,
    ) -> Encoding:
        """Moments of q(z given x), and responsibilities and class probabilities under a mixture, as `encode` writes.

        Args:
            data: As `classify` takes them; or a split of `data`, whose labels are noted.
            inference: The fit, such as `em`.
            labels: The label budget; by default `few` if the run has it, else `none`.
            average: What probabilities are averaged over, see `classify`.
            draws: Draws of q of each datum to keep, which are those that are averaged over; by default 100 are
                averaged over and none kept.
            seed: Seed of the draws, which are those of `classify`.

        Raises:
            ValueError: As `classify` does.

        Example:
            >>> run = load_run("runs/digits")  # doctest: +SKIP
            >>> run.latents(images, draws=50).to_dataset()  # an xarray.Dataset  # doctest: +SKIP
        """
        encoder = self.encoder(inference, labels, average=average, draws=draws, seed=seed)
        return encoder.encode(self.known_data.of_arrays(data), max_gib=math.inf)

    def encoder(self, inference: str = "em", labels: str | None = None, **options: Any) -> Encoder:
        """Its guide and one of its fits, with options of `latents`, for data a chunk at a time; raises as that does."""
        from latentmix.experiments.runs.encoding import Encoder

        fitted = self.fitted(inference, labels)
        budget = chosen_budget(self.mixtures[inference], labels)
        things = "image" if len(self.vae.shape) == 3 else "point"
        return Encoder(self.guide, fitted, inference, budget, things=things, **options)

    def shown(self) -> dict[str, Any]:
        test = self.summary.get("test", {})
        named = {"ELBO": "elbo", "log p(x), importance-weighted": "iw_log_likelihood", "MSE": "mse", "SSIM": "ssim"}
        figures = {name: test[key] for name, key in named.items() if key in test}
        accuracies = {
            f"accuracy, {fit_name(inference)}": ", ".join(
                f"{budgets[labels]['accuracy']:.3f} (labels: {labels})"
                for labels in BUDGETS
                if "accuracy" in budgets.get(labels, {})
            )
            for inference, budgets in self.summary.get("mixtures", {}).items()
            if isinstance(budgets, dict)
        }
        parts = {name: self.config[name]["class_path"].rpartition(".")[2] for name in ("prior", "likelihood", "family")}
        return {
            "preset": self.summary.get("preset"),
            "data": self.config["data"]["source"],
            "latent": plural(self.vae.latent_dim, "dimension"),
            **parts,
            **{f"test {name}": brief(value) for name, value in figures.items()},
            **{name: text for name, text in accuracies.items() if text},
        }


def load_run(path: str | Path, trust: Iterable[str] = ()) -> Run:
    """Read a run folder back.

    Args:
        path: The folder.
        trust: Modules of classes of your own that the run may import, such as `("helpers",)`; LatentMix's own, torch's
            and Pyro's need no mention, nor do those that you have imported already.

    Returns:
        The VAE, the guide and the mixtures, with the configuration and the figures; on the CPU.

    Raises:
        ValueError: If the folder is not that of a finished run, or it names a class of a module that is not trusted.

    Example:
        >>> from latentmix.experiments import ToFloat, load_run
        >>> run = load_run("runs/digits")  # doctest: +SKIP
        >>> run.classify(images)  # averaged over draws of q  # doctest: +SKIP
        >>> latents = run.guide.encode(images, transform=ToFloat())  # doctest: +SKIP
        >>> run.mixtures["em"]["few"].classify(latents)  # at the means of q  # doctest: +SKIP
    """
    folder = RunFolder.existing(Path(path), trust)
    summary, config = folder.read_summary(), plain(experiment_parser(), folder.read_config())
    vae, guide = folder.load_model()
    mixtures = folder.load_mixtures()
    _check_latents(folder.path, vae, guide, mixtures)
    return Run(vae.eval(), guide.eval(), mixtures, config, summary, folder.path)


def _check_latents(path: Path, vae: VAE, guide: AmortizedGuide, mixtures: Mapping[str, Any]) -> None:
    """Refuse a guide, or mixtures, of another number of latent dimensions than the VAE's."""
    found = {"guide": guide.encoder.latent_dim}
    for inference, budgets in mixtures.items():
        found |= {f"mixture {inference}, {budget}": fit.mixture.n_features_in_ for budget, fit in budgets.items()}
    for name, length in found.items():
        if length != vae.latent_dim:
            raise ValueError(
                f"Expected the {name} in {path / 'checkpoints'} of {plural(vae.latent_dim, 'latent dimension')}, as "
                f"the VAE; got {length}: restore the files of one run."
            )
    if tuple(guide.encoder.shape) != tuple(vae.shape):
        raise ValueError(
            f"Expected the guide in {path / 'checkpoints'} of data {tuple(vae.shape)}, as the VAE; got "
            f"{tuple(guide.encoder.shape)}: restore the files of one run."
        )
