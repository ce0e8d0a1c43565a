"""A run from start to end: data, VAE, latents, mixtures, figures, report."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentmix.experiments.data.base import Dataset
from latentmix.experiments.data.pixels import Binarization, batch_transform, binarize_static, resolve_binarize
from latentmix.experiments.loggers import Logger
from latentmix.experiments.options.calls import as_call
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.options.messages import blaming
from latentmix.experiments.options.parts import build_parts
from latentmix.experiments.options.settings import device_of
from latentmix.experiments.places import check_new_folder
from latentmix.experiments.runs.artifacts import LEFT_OUT, RunFolder, versions
from latentmix.experiments.runs.callbacks import Checkpoints
from latentmix.experiments.runs.class_probabilities import measure_probabilities
from latentmix.experiments.runs.latents import LatentSplit, latents_of
from latentmix.experiments.runs.logs import check_loggers, log_latents, log_pictures, open_loggers
from latentmix.experiments.runs.map_points import MAP, map_points
from latentmix.experiments.runs.measures import Measured, measure_prior, measure_vae
from latentmix.experiments.runs.mixtures import check_fits, fit_mixtures
from latentmix.experiments.runs.page_walk import WALK, walk_starts
from latentmix.experiments.runs.pictures import draw_mixtures, draw_vae, map_projections, shown_rows
from latentmix.experiments.runs.pointwise import pointwise_of
from latentmix.experiments.runs.provenance import provenance, record_command
from latentmix.experiments.runs.report import write_report
from latentmix.guides import AmortizedGuide
from latentmix.inference import (
    Callback,
    ClosedFormVariance,
    EarlyStopping,
    StartPrior,
    SVIResult,
    TrainingState,
    bound_of,
    fit,
)
from latentmix.inference.isolation import isolated
from latentmix.inference.svi.saved import StateError
from latentmix.models import VAE, MixturePrior, VampPrior
from latentmix.models.allocation import BoundedAllocation
from latentmix.models.files import inside
from latentmix.models.pretrained import describe, pretrained_folder, restore_weights
from latentmix.models.pyro_modules import evaluation_mode
from latentmix.models.reading import read_json
from latentmix.models.words import plural

__all__ = ["Session", "initialize", "run_experiment"]

Tell = Callable[[str], None]


def run_experiment(
    experiment: Experiment,
    path: Path,
    *,
    progress: bool = True,
    pictures: bool = True,
    tell: Tell = print,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Run an experiment in a new folder.

    Args:
        experiment: The experiment.
        path: The folder; it must be new, or empty.
        progress: Whether to show a progress bar during training.
        pictures: Whether to draw figures and write the report.
        tell: Called with a sentence on each step.
        command: The words of the command line, for the report.

    Returns:
        The figures of `summary.json`.

    Raises:
        ValueError: If the folder holds something, the data cannot be read, or parts do not fit each other or the data;
            then nothing is written.
    """
    check_new_folder(path)
    session = Session.prepare(experiment, tell)
    with RunFolder.create(path, experiment.config).locked() as folder:
        tell(f"run: {path}")
        record_command(folder, command)
        return session.run(folder, progress=progress, pictures=pictures)


@dataclass
class Session:
    """An experiment with its data loaded and its networks built, checked to fit each other.

    Attributes:
        experiment: The experiment.
        dataset: The data: images of 256 levels, or points.
        seen: The data that model and guide are trained and evaluated on, by split: the original ones, or one binary
            draw of them.
        binarize: Binarization of images.
        vae: The model.
        guide: The guide.
        tell: Called with a sentence on each step.
        began: Time of preparation, by `time.perf_counter`.
    """

    experiment: Experiment
    dataset: Dataset
    seen: dict[str, Tensor]
    binarize: Binarization
    vae: VAE
    guide: AmortizedGuide
    tell: Tell
    began: float

    @classmethod
    def prepare(cls, experiment: Experiment, tell: Tell = print, dataset: Dataset | None = None) -> Session:
        """Load the data and build the networks; nothing is written.

        Args:
            experiment: The experiment.
            tell: Called with a sentence on each step.
            dataset: The data of the experiment, if they are loaded already.

        Raises:
            ValueError: If options, data and parts do not fit each other.
        """
        began = time.perf_counter()
        training, data = experiment.training, experiment.data
        device = device_of(training)
        if dataset is None:
            with blaming("--data.source"):
                dataset = data.load()
        dataset = dataset.to(device)
        if dataset.pictorial and min(dataset.shape[1:]) < 6:
            raise ValueError(
                "Expected images of 6 x 6 pixels or more, for SSIM; got "
                f"{dataset.shape[1:]} in --data.source {data.source}."
            )
        experiment.check_schedule(len(dataset.train))
        check_fits(experiment.mixture, len(dataset.train), dataset.classes)
        bound = BoundedAllocation(training.max_gib * 2**30, "networks", "take smaller ones, or allow more by --max_gib")
        with isolated(seed=training.seed), bound:
            vae, guide = build_parts(experiment.parts(dataset.shape))
        vae.to(device)
        guide.to(device)
        binarize = resolve_binarize(data.binarize, vae.likelihood)
        seen = {
            name: binarize_static(split.x, data.seed + index) if binarize == "static" else split.x
            for index, (name, split) in enumerate(dataset.splits.items())
        }
        transform = batch_transform(binarize)
        with isolated(seed=training.seed):
            vae.likelihood.check(transform(seen["train"][:1024]))
            if isinstance(vae.prior, VampPrior):
                rows = torch.randint(len(dataset.train), (vae.prior.n_components,))
                vae.prior.bind(guide.posterior, inputs=transform(seen["train"][rows]))
        if training.start_prior is not None and not isinstance(vae.prior, MixturePrior):
            raise ValueError(f"Expected a MixturePrior for --start_prior; got {type(vae.prior).__name__}.")
        if training.init_from is not None:
            with blaming("--init_from"):
                initialize(vae, guide, Path(training.init_from))
        with isolated(seed=training.seed, validation=True), evaluation_mode(vae, guide):
            experiment.objective.rehearse(vae.model, guide, transform(seen["train"][:2]))
        check_loggers(training.loggers)
        classes = f" of classes {', '.join(dataset.class_names)}" if dataset.classes else " without labels"
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
        standardised = ", standardised" if dataset.standardisation is not None else ""
        kind = f"images{classes}, binarize={binarize}" if dataset.pictorial else f"points{classes}{standardised}"
        tell(f"data: {dataset.name}, {sizes} {kind}, on {device}")
        return cls(experiment, dataset, seen, binarize, vae, guide, tell, began)

    def run(self, folder: RunFolder, *, progress: bool, pictures: bool = True) -> dict[str, Any]:
        """Do the stages of the run that are not done yet: train and measure, then draw and report.

        Args:
            folder: The run, locked; training resumes from its last complete epoch.
            progress: Whether to show a progress bar during training.
            pictures: Whether to draw figures and write the report.

        Returns:
            The figures of `summary.json`.

        Raises:
            ValueError: If the folder holds a run of another configuration, or it or a finished file in it was changed,
                moved or removed meanwhile.
        """
        with open_loggers(self.experiment, folder) as loggers:
            return self._stages(folder, loggers, progress=progress, pictures=pictures)

    def _stages(
        self, folder: RunFolder, loggers: Sequence[Logger], *, progress: bool, pictures: bool
    ) -> dict[str, Any]:
        """The stages of `run`, logged."""
        if folder.measured:
            for name, module in (("vae", self.vae), ("guide", self.guide)):
                restore_weights(module, folder.path, name)
            folder.save_model(self.vae, self.guide)  # the descriptions of the parts may be missing or broken
        else:
            history = self.train(folder, loggers, progress=progress)
            folder.check()
            self.measure(folder, history)
        folder.seal("summary.json")
        folder.check()
        if loggers:
            for logger in loggers:
                logger.log_summary(folder.read_summary())
            log_latents(loggers, self.latents(), self.dataset.splits["test"], folder.load_mixtures(), self.class_names)
        if pictures:
            self.tell("figures and report")
            self.draw(folder)
            folder.check()
            log_pictures(loggers, folder)
            write_report(folder.path)
            folder.seal("report.html")
            folder.check()
        return folder.read_summary()

    def measure(self, folder: RunFolder, history: list[dict[str, Any]]) -> None:
        """Measure the VAE, fit the mixtures to its latents, and write both."""
        training, data, mixture = self.experiment.training, self.experiment.data, self.experiment.mixture
        measured = {name: self.measure_split(name) for name in ("validation", "test")}

        began = time.perf_counter()
        latents = {
            name: latents_of(self.guide, self.dataset.splits[name], mixture.latents, training.seed + index)
            for index, name in enumerate(("train", "test"))
        }
        mixtures, figures = fit_mixtures(
            latents["train"],
            latents["test"],
            self.dataset.classes,
            mixture,
            labels_per_class=data.labels_per_class,
            seed=training.seed,
            label_seed=data.seed,
            class_names=self.dataset.class_names,
            tell=self.tell,
        )
        mixture_seconds = time.perf_counter() - began
        folder.save_mixtures(mixtures)
        if folder.save_posterior(mixtures, latents["train"].latents):
            self.tell("draws of the mixtures: posterior.nc, for ArviZ")
        measured_fits = measure_probabilities(self.guide, mixtures, self.dataset.splits["test"], seed=training.seed)
        for inference, budgets in measured_fits.items():
            for budget, calibrated in budgets.items():
                figures["mixtures"][inference][budget]["calibration"] = calibrated
        figures |= measure_prior(self.vae, self.dataset, latents, seed=training.seed)
        prior_classes = tuple(figures.get("prior", {}).get("component_classes", ()))
        test = self.dataset.splits["test"], self.seen["test"], measured["test"], latents["test"]
        folder.save_pointwise(pointwise_of(self.vae, mixtures, *test, prior_classes))
        summary = {
            "preset": self.experiment.config["name"],
            "description": self.experiment.config["description"],
            **provenance(folder, self.experiment.config),
            "seed": training.seed,
            "device": str(device_of(training)),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "parameters": self.n_parameters,
            "epochs": len(history),
            "latents": mixture.latents,
            "data": {
                "source": self.dataset.name,
                "shape": list(self.dataset.shape),
                **self.dataset.schema.as_dict(),
                "binarize": self.binarize,
                **{name: len(split) for name, split in self.dataset.splits.items()},
                "labels_per_class": data.labels_per_class,
            },
            "measure": self.vae.likelihood.measure,
            "seconds": {
                "train": sum(epoch["seconds"] for epoch in history),
                "mixtures": mixture_seconds,
                "total": time.perf_counter() - self.began,
            },
            **{name: each.figures for name, each in measured.items()},
            **figures,
        }
        folder.write_json("summary.json", summary)

    def draw(self, folder: RunFolder) -> None:
        """Draw the figures of a run that is measured, from its files and its data."""
        training, data = self.experiment.training, self.experiment.data
        summary, place = folder.read_summary(), folder.subfolder("figures")
        latents, mixtures = self.latents(), folder.load_mixtures()
        projections = map_projections(latents, self.dataset, attribute=data.attribute, seed=training.seed)
        of_vae = draw_vae(
            place,
            self.vae,
            self.guide,
            self.dataset,
            folder.read_metrics(),
            summary,
            projections=projections,
            attribute=data.attribute,
            names=self.dataset.class_names,
            seed=training.seed,
        )
        of_mixtures = draw_mixtures(
            place,
            latents,
            mixtures,
            summary,
            self.dataset.classes,
            names=self.dataset.class_names,
            pictorial=self.dataset.pictorial,
            decode=self._decode if self.dataset.pictorial else None,
        )
        for picture in chain(of_vae, of_mixtures):
            folder.seal(f"figures/{picture.name}")
        rows = shown_rows(self.dataset.test)
        folder.write_json(WALK, walk_starts(self.guide, self.dataset, latents, rows, seed=training.seed))
        folder.seal(WALK)
        points = map_points(self.dataset, latents, mixtures, summary.get("agreement") or {}, projections)
        if points is not None:
            folder.write_json(MAP, points)
            folder.seal(MAP)

    def latents(self) -> LatentSplit:
        """Latents of the test images."""
        training, mixture = self.experiment.training, self.experiment.mixture
        return latents_of(self.guide, self.dataset.splits["test"], mixture.latents, training.seed + 1)

    @property
    def class_names(self) -> dict[int, str]:
        """The name of each class."""
        return dict(zip(self.dataset.classes, self.dataset.class_names, strict=True))

    def _decode(self, latents: Tensor) -> Tensor:
        """Mean images at latents, from any device."""
        return self.vae.decode(latents.to(next(self.vae.parameters()).device))

    def train(self, folder: RunFolder, loggers: Sequence[Logger] = (), *, progress: bool) -> list[dict[str, Any]]:
        """Train the VAE from its last complete epoch, save its weights, and return the record of each epoch."""
        training = self.experiment.training
        transform = batch_transform(self.binarize)
        callbacks: list[Callback] = []
        if training.start_prior is not None:
            assert isinstance(self.vae.prior, MixturePrior)
            callbacks.append(
                StartPrior(
                    self.vae.prior, self.guide, self.seen["train"], epochs=training.start_prior, transform=transform
                )
            )
        if getattr(self.vae.likelihood, "closed_form", False):
            callbacks.append(ClosedFormVariance(self.vae, self.guide, self.seen["train"], transform=transform))
        if training.patience is not None:
            callbacks.append(EarlyStopping(training.patience))
        callbacks += [Checkpoints(folder), *loggers]
        self.tell(f"training: {plural(self.n_parameters, 'parameter')}, {plural(training.epochs, 'epoch')}")
        states: Sequence[tuple[Path, TrainingState | None]] = folder.load_training() or [(folder.checkpoints, None)]
        for older, (file, state) in enumerate(states, 1):
            try:
                result = self._fit(state, callbacks, progress=progress)
                break
            except StateError as error:
                if older == len(states):
                    raise ValueError(f"{file}: {error}") from error
                warnings.warn(f"{file}: {error} {LEFT_OUT}", stacklevel=2)
        if training.compile is not False:
            self.tell(f"training: steps {result.compilation}")
        skipped = sum(record.skipped for record in result.history)
        if skipped:
            self.tell(f"training: {plural(skipped, 'step')} skipped for numerical reasons")
        history = [asdict(record) for record in result.history]
        folder.write_metrics(history)
        folder.seal("metrics.jsonl")
        folder.save_model(self.vae, self.guide)
        return history

    def _fit(self, state: TrainingState | None, callbacks: Sequence[Callback], *, progress: bool) -> SVIResult:
        """Train from a state, or from the start; a state that is none of this run raises a `StateError`."""
        training = self.experiment.training
        if state is not None and state.epoch > training.epochs:
            raise StateError(
                f"Expected a state of training of at most {plural(training.epochs, 'epoch')}, those of the run; got "
                f"one of {state.epoch:,}: train anew, or resume from a copy."
            )
        if state is not None:
            self.tell(f"from epoch {state.epoch}")
        return fit(
            self.vae.model,
            self.guide,
            self.seen["train"],
            epochs=training.epochs,
            batch_size=training.batch_size,
            drop_last=training.drop_last,
            objective=self.experiment.objective,
            optimizer=training.optimizer,
            scheduler=training.scheduler,
            schedule_steps=training.schedule_steps,
            clip_norm=training.clip_norm,
            max_skipped=training.max_skipped,
            transform=batch_transform(self.binarize),
            validation=self.seen["validation"],
            callbacks=callbacks,
            seed=training.seed,
            state=state,
            compile=training.compile,
            precision=training.precision,
            progress=progress,
        )

    def measure_split(self, split: str) -> Measured:
        """Figures of the VAE on a split, with the values of single data."""
        options = self.experiment.measure
        return measure_vae(
            self.vae,
            self.guide,
            self.dataset.splits[split],
            self.seen[split],
            transform=batch_transform(self.binarize),
            objective=bound_of(self.experiment.objective),
            samples=options.samples if split == "test" else 0,
            limit=options.images,
            seed=self.experiment.training.seed,
        )

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters of the VAE and the guide."""
        leaves = [*self.vae.parameters(), *self.guide.parameters()]
        return sum(leaf.numel() for leaf in leaves if leaf.requires_grad)


def initialize(vae: VAE, guide: AmortizedGuide, folder: Path) -> None:
    """Load pre-trained weights of the VAE, and of the guide if the folder has them.

    Args:
        vae: The model.
        guide: The guide.
        folder: A folder that `VAE.save_pretrained` and `AmortizedGuide.save_pretrained` wrote, or a run.

    Raises:
        ValueError: If there are no weights, or they do not fit; the message names the tensor and both shapes.
    """
    folder = pretrained_folder(folder)
    try:
        restore_weights(vae, folder, "vae")
        if os.path.lexists(folder / "guide.safetensors"):
            restore_weights(guide, folder, "guide")
    except ValueError as error:
        raise ValueError(_differing_parts({"vae": vae, "guide": guide}, folder) or str(error)) from error


def _differing_parts(modules: Mapping[str, nn.Module], folder: Path) -> str | None:
    """The sentence that names the parts by which pre-trained weights are those of another VAE or guide."""
    differing: list[str] = []
    for name, module in modules.items():
        try:
            saved = read_json(inside(folder, f"{name}.json"), "the description of a module")["init_args"]
        except (ValueError, KeyError, TypeError):
            continue
        for part, now in describe(module)["init_args"].items():
            then = saved.get(part) if isinstance(saved, dict) else None
            if not isinstance(then, dict) or not isinstance(then.get("init_args"), dict) or then == now:
                continue
            if (theirs := as_call(then)) != (ours := as_call(now)):
                differing.append(f"--{part} '{theirs}' instead of '{ours}'")
            elif then["init_args"].get("latent_dim") != now["init_args"].get("latent_dim"):
                differing.append(
                    f"--latent_dim {then['init_args']['latent_dim']} instead of {now['init_args']['latent_dim']}"
                )
    if not differing:
        return None
    return (
        f"Expected weights of this VAE and guide for --init_from; got those of one with "
        f"{', '.join(dict.fromkeys(differing))} in {folder}: choose the same, or leave --init_from out."
    )
