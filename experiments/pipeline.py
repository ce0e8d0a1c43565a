"""A run from start to end: images, VAE, latents, mixtures, figures, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentmix.experiments import plots
from latentmix.experiments.artifacts import RunFolder, versions
from latentmix.experiments.config import Experiment, build_parts, device_of
from latentmix.experiments.data import Binarization, Images, Split, ToFloat, batch_transform, binarize_static, resolve_binarize
from latentmix.experiments.metrics import reconstruct, reconstruction
from latentmix.experiments.mixtures import FittedMixture, LatentSplit, fit_mixtures
from latentmix.experiments.report import write_report
from latentmix.guides import AmortizedGuide
from latentmix.inference import Callback, EarlyStopping, TrainingState, evaluate, fit
from latentmix.inference.effects import isolated
from latentmix.models import VAE

__all__ = ["Session", "latents_of", "measure_vae", "run_experiment"]

Tell = Callable[[str], None]


def run_experiment(
    experiment: Experiment, path: Path, *, preset: str = "", progress: bool = True, tell: Tell = print
) -> dict[str, Any]:
    """Run an experiment and leave everything in a folder.

    A folder in which an interrupted run left its configuration is gone on with, from the last complete epoch.

    Args:
        experiment: What to run.
        path: The folder; it must be new.
        preset: The name the run is reported under.
        progress: Whether to show a bar during training.
        tell: Is called with a sentence on each step.

    Returns:
        The figures of `summary.json`.

    Raises:
        ValueError: If the folder exists, the data cannot be read, or parts do not fit each other or the data.
    """
    session = Session.prepare(experiment, tell)
    folder = RunFolder.create(path)
    folder.write_config(experiment.config)
    return session.run(folder, preset=preset, progress=progress)


@dataclass
class Session:
    """An experiment with its data loaded and its networks built."""

    experiment: Experiment
    images: Images
    vae: VAE
    guide: AmortizedGuide
    parts: dict[str, Any]
    binarize: Binarization
    tell: Tell
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def prepare(cls, experiment: Experiment, tell: Tell = print) -> Session:
        """Load the data and build the networks; nothing is written yet."""
        images = experiment.data.load()
        device = device_of(experiment.training)
        parts = experiment.parts(images.shape)
        with isolated(seed=experiment.training.seed):
            vae, guide = build_parts(parts)
        vae.to(device)
        guide.to(device)
        binarize = resolve_binarize(experiment.data.binarize, vae.likelihood)
        classes = f" of classes {', '.join(map(str, images.classes))}" if images.classes else " without labels"
        sizes = f"{len(images.train)} training, {len(images.validation)} validation, {len(images.test)} test"
        tell(f"data: {images.name}, {sizes} images{classes}, binarize={binarize}, on {device}")
        return cls(experiment, images.to(device), vae, guide, parts, binarize, tell)

    def run(
        self, folder: RunFolder, *, preset: str, progress: bool, state: TrainingState | None = None
    ) -> dict[str, Any]:
        """Train, fit the mixtures, measure, draw and report."""
        training, data = self.experiment.training, self.experiment.data
        static = self.binarize == "static"
        seen = {
            name: binarize_static(split.images, data.seed) if static else split.images
            for name, split in self.splits.items()
        }
        transform = batch_transform(self.binarize)
        self.vae.likelihood.check(transform(seen["train"][:1024]))

        callbacks: list[Callback] = []
        if training.patience is not None:
            callbacks.append(EarlyStopping(training.patience))
        if training.tensorboard:
            callbacks.append(_TensorBoard(folder.path / "tensorboard"))
        callbacks.append(_Keep(folder))
        self.tell(f"training: {self.n_parameters:,} parameters, {training.epochs} epochs")
        result = fit(
            self.vae.model,
            self.guide,
            seen["train"],
            epochs=training.epochs,
            batch_size=training.batch_size,
            objective=self.experiment.objective,
            optimizer=training.optimizer,
            scheduler=training.scheduler,
            transform=transform,
            validation=seen["validation"],
            callbacks=callbacks,
            seed=training.seed,
            state=state,
            progress=progress,
        )
        folder.save_model(self.vae, self.guide, self.parts)
        history = [asdict(record) for record in result.history]
        train_seconds = sum(record.seconds for record in result.history)

        bounds = {
            name: asdict(evaluate(self.vae.model, self.guide, seen[name], transform=transform, seed=training.seed))
            for name in ("validation", "test")
        }
        measured = {name: measure_vae(self.vae, self.guide, self.splits[name], bounds[name]) for name in bounds}

        began = time.perf_counter()
        latents = {name: self.latents(name) for name in ("train", "test")}
        mixtures, figures = fit_mixtures(
            latents["train"],
            latents["test"],
            self.images.classes,
            self.experiment.mixture,
            labels_per_class=data.labels_per_class,
            seed=training.seed,
            label_seed=data.seed,
            tell=self.tell,
        )
        mixture_seconds = time.perf_counter() - began
        folder.save_mixtures(mixtures)

        self.tell("figures and report")
        self.draw(folder, history, latents["test"], mixtures, {**figures, "test": measured["test"]})
        summary = {
            "preset": preset,
            "description": self.experiment.config["description"],
            "seed": training.seed,
            "device": str(device_of(training)),
            "versions": versions(),
            "parameters": self.n_parameters,
            "epochs": len(history),
            "latents": self.experiment.mixture.latents,
            "data": {
                "source": self.images.name,
                "classes": list(self.images.classes),
                "binarize": self.binarize,
                **{name: len(split) for name, split in self.splits.items()},
                "labels_per_class": data.labels_per_class,
            },
            "seconds": {
                "train": train_seconds,
                "mixtures": mixture_seconds,
                "total": time.perf_counter() - self.began,
            },
            **measured,
            **figures,
        }
        folder.write_json("summary.json", summary)
        write_report(folder.path)
        return summary

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.images.train, "validation": self.images.validation, "test": self.images.test}

    @property
    def n_parameters(self) -> int:
        """Trainable numbers of the VAE and the guide."""
        leaves = [*self.vae.parameters(), *self.guide.parameters()]
        return sum(leaf.numel() for leaf in leaves if leaf.requires_grad)

    def latents(self, split: str) -> LatentSplit:
        """Latents that the mixture sees."""
        settings, seed = self.experiment.mixture, self.experiment.training.seed
        return latents_of(self.guide, self.splits[split], settings.latents, seed)

    def draw(
        self,
        folder: RunFolder,
        history: list[dict[str, Any]],
        latents: LatentSplit,
        mixtures: dict[str, dict[str, FittedMixture]],
        figures: dict[str, Any],
    ) -> None:
        """Write the pictures."""
        raise AssertionError("filled in when plots are known")


def latents_of(guide: AmortizedGuide, split: Split, which: str, seed: int) -> LatentSplit:
    """Latents of a split's grey images: the mean of q, or one sample of it."""
    if which == "mean":
        latents = guide.encode(split.images, transform=ToFloat())
    else:
        with isolated(seed=seed):
            latents = guide.draw(split.images, transform=ToFloat())
    labels = None if split.labels is None else split.labels.cpu().numpy()
    return LatentSplit(latents.cpu().double().numpy(), labels)


def measure_vae(vae: VAE, guide: AmortizedGuide, split: Split, bound: dict[str, float]) -> dict[str, float]:
    """Figures of a VAE on a split: reconstruction, and the ELBO in nats per image."""
    return {
        **reconstruction(vae, guide, split.images),
        "elbo": -bound["loss"],
        "log_likelihood": bound["log_likelihood"],
        "kl": bound["kl"],
    }


class _Keep(Callback):
    """Writes metrics and the state of training after every epoch."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_epoch_end(self, state: TrainingState) -> None:
        self.folder.write_metrics([asdict(record) for record in state.history])
        self.folder.save_training(state)


class _TensorBoard(Callback):
    """Writes the bound's parts to TensorBoard."""

    def __init__(self, path: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("Expected TensorBoard for --tensorboard; install latentmix[tensorboard].") from error
        self.writer = SummaryWriter(str(path))

    def on_epoch_end(self, state: TrainingState) -> None:
        record = state.history[-1]
        for name, bound in (("train", record.training), ("validation", record.validation)):
            for part, value in {} if bound is None else asdict(bound).items():
                self.writer.add_scalar(f"{part}/{name}", value, record.epoch)

    def on_fit_end(self, state: TrainingState) -> None:
        self.writer.close()
