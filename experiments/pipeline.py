"""A run from start to end: images, VAE, latents, mixtures, figures, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentmix.experiments.artifacts import RunFolder, versions
from latentmix.experiments.config import Experiment, build_parts, check_options, device_of
from latentmix.experiments.data import (
    Binarization,
    Dataset,
    Split,
    ToFloat,
    batch_transform,
    binarize_static,
    resolve_binarize,
)
from latentmix.experiments.metrics import reconstruction
from latentmix.experiments.mixtures import LatentSplit, check_fits, fit_mixtures
from latentmix.experiments.pictures import draw_mixtures, draw_vae
from latentmix.experiments.report import write_report
from latentmix.guides import AmortizedGuide
from latentmix.inference import Bound, Callback, EarlyStopping, TrainingState, evaluate, fit
from latentmix.inference.effects import isolated
from latentmix.models import VAE

__all__ = ["Session", "latents_of", "measure_vae", "run_experiment"]

Tell = Callable[[str], None]


def run_experiment(experiment: Experiment, path: Path, *, progress: bool = True, tell: Tell = print) -> dict[str, Any]:
    """Run an experiment and leave everything in a new folder.

    Args:
        experiment: What to run.
        path: The folder; it must be new.
        progress: Whether to show a bar during training.
        tell: Is called with a sentence on each step.

    Returns:
        The figures of `summary.json`.

    Raises:
        ValueError: If the folder exists, the data cannot be read, or parts do not fit each other or the data;
            nothing is written then.
    """
    RunFolder.refuse_existing(path)
    session = Session.prepare(experiment, tell)
    folder = RunFolder.create(path)
    folder.write_config(experiment.config)
    return session.run(folder, progress=progress)


@dataclass
class Session:
    """An experiment with its data loaded, its networks built, and both found to fit.

    Attributes:
        experiment: What to run.
        images: The grey images.
        seen: What model and guide are trained and bounded on, by split: the images, or one binary draw of them.
        binarize: How the images become binary.
        vae: The model.
        guide: The guide.
        parts: What both are made of, as plain values.
        tell: Is called with a sentence on each step.
        began: When the session was prepared.
    """

    experiment: Experiment
    dataset: Dataset
    seen: dict[str, Tensor]
    binarize: Binarization
    vae: VAE
    guide: AmortizedGuide
    parts: dict[str, Any]
    tell: Tell
    began: float

    @classmethod
    def prepare(cls, experiment: Experiment, tell: Tell = print) -> Session:
        """Load the data and build the networks; nothing is written."""
        began = time.perf_counter()
        training, data = experiment.training, experiment.data
        check_options(experiment)
        device = device_of(training)
        images = data.load().to(device)
        if min(images.shape[1:]) < 6:
            raise ValueError(f"Expected images of 6 x 6 pixels or more, for SSIM; got {images.shape[1:]}.")
        check_fits(experiment.mixture, len(images.train), images.classes)
        parts = experiment.parts(images.shape)
        with isolated(seed=training.seed):
            vae, guide = build_parts(parts)
        vae.to(device)
        guide.to(device)
        binarize = resolve_binarize(data.binarize, vae.likelihood)
        seen = {
            name: binarize_static(split.x, data.seed + index) if binarize == "static" else split.x
            for index, (name, split) in enumerate(images.splits.items())
        }
        with isolated(seed=training.seed):
            vae.likelihood.check(batch_transform(binarize)(seen["train"][:1024]))
        if training.tensorboard:
            _summary_writer()
        classes = f" of classes {', '.join(map(str, images.classes))}" if images.classes else " without labels"
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in images.splits.items())
        tell(f"data: {images.name}, {sizes} images{classes}, binarize={binarize}, on {device}")
        return cls(experiment, images, seen, binarize, vae, guide, parts, tell, began)

    def run(self, folder: RunFolder, *, progress: bool, state: TrainingState | None = None) -> dict[str, Any]:
        """Train, measure, fit the mixtures, draw and report; `state` goes on with an interrupted training."""
        training, data, mixture = self.experiment.training, self.experiment.data, self.experiment.mixture
        history = self.train(folder, progress=progress, state=state)
        measured = {name: self.measure(name) for name in ("validation", "test")}

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
            tell=self.tell,
        )
        mixture_seconds = time.perf_counter() - began
        folder.save_mixtures(mixtures)

        self.tell("figures and report")
        draw_vae(folder.figures, self.vae, self.guide, self.dataset.test, history, measured["test"], seed=training.seed)
        draw_mixtures(folder.figures, latents["test"], mixtures, figures, self.dataset.classes)
        summary = {
            "preset": self.experiment.config["name"],
            "description": self.experiment.config["description"],
            "seed": training.seed,
            "device": str(device_of(training)),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "parameters": self.n_parameters,
            "epochs": len(history),
            "latents": mixture.latents,
            "data": {
                "source": self.dataset.name,
                "classes": list(self.dataset.classes),
                "binarize": self.binarize,
                **{name: len(split) for name, split in self.dataset.splits.items()},
                "labels_per_class": data.labels_per_class,
            },
            "seconds": {
                "train": sum(epoch["seconds"] for epoch in history),
                "mixtures": mixture_seconds,
                "total": time.perf_counter() - self.began,
            },
            **measured,
            **figures,
        }
        folder.write_json("summary.json", summary)
        write_report(folder.path)
        return summary

    def train(self, folder: RunFolder, *, progress: bool, state: TrainingState | None = None) -> list[dict[str, Any]]:
        """Train the VAE and keep its weights; gives one mapping per epoch."""
        training = self.experiment.training
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
            self.seen["train"],
            epochs=training.epochs,
            batch_size=training.batch_size,
            objective=self.experiment.objective,
            optimizer=training.optimizer,
            scheduler=training.scheduler,
            transform=batch_transform(self.binarize),
            validation=self.seen["validation"],
            callbacks=callbacks,
            seed=training.seed,
            state=state,
            progress=progress,
        )
        folder.save_model(self.vae, self.guide, self.parts)
        return [asdict(record) for record in result.history]

    def measure(self, split: str) -> dict[str, float]:
        """Figures of the VAE on a split."""
        bound = evaluate(
            self.vae.model,
            self.guide,
            self.seen[split],
            transform=batch_transform(self.binarize),
            seed=self.experiment.training.seed,
        )
        return measure_vae(self.vae, self.guide, self.dataset.splits[split], bound)

    @property
    def n_parameters(self) -> int:
        """Trainable numbers of the VAE and the guide."""
        leaves = [*self.vae.parameters(), *self.guide.parameters()]
        return sum(leaf.numel() for leaf in leaves if leaf.requires_grad)


def latents_of(guide: AmortizedGuide, split: Split, which: str, seed: int) -> LatentSplit:
    """Latents of a split's grey images: the mean of q, or one sample of it."""
    if which == "mean":
        latents = guide.encode(split.x, transform=ToFloat())
    else:
        latents = guide.draw(split.x, transform=ToFloat(), seed=seed)
    labels = None if split.labels is None else split.labels.cpu().numpy()
    return LatentSplit(latents.cpu().double().numpy(), labels)


def measure_vae(vae: VAE, guide: AmortizedGuide, split: Split, bound: Bound) -> dict[str, float]:
    """Figures of a VAE on a split: reconstruction, and the ELBO and its parts in nats per image."""
    parts = {"elbo": bound.elbo, "log_likelihood": bound.log_likelihood, "kl": bound.kl}
    return {**reconstruction(vae, guide, split.x), **parts}


class _Keep(Callback):
    """Writes metrics and the state of training after every epoch."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_checkpoint(self, state: TrainingState) -> None:
        self.folder.write_metrics([asdict(record) for record in state.history])
        self.folder.save_training(state)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("Expected TensorBoard for --tensorboard; install latentmix[tensorboard].") from error
    return SummaryWriter


class _TensorBoard(Callback):
    """Writes the bound's parts to TensorBoard."""

    def __init__(self, path: Path) -> None:
        self.writer = _summary_writer()(str(path))

    def on_epoch_end(self, state: TrainingState) -> None:
        record = state.history[-1]
        for name, bound in (("train", record.training), ("validation", record.validation)):
            for part, value in {} if bound is None else asdict(bound).items():
                self.writer.add_scalar(f"{part}/{name}", value, record.epoch)

    def on_fit_end(self, state: TrainingState) -> None:
        self.writer.close()
