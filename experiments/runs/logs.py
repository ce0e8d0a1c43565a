"""Loggers of a run: opened before training, closed by how the run ends, and what is logged after training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from latentmix.experiments.loggers import Logger
from latentmix.experiments.loggers.base import status_of
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.options.names import chosen_budget
from latentmix.experiments.runs.artifacts import RunFolder, versions
from latentmix.models.files import inside

if TYPE_CHECKING:
    from latentmix.experiments.data.base import Split
    from latentmix.experiments.runs.latents import LatentSplit
    from latentmix.experiments.runs.mixtures import FittedMixture

__all__ = ["check_loggers", "log_latents", "log_pictures", "open_loggers"]


def check_loggers(loggers: Sequence[Logger]) -> None:
    """Refuse loggers of a run that are not installed, are two of a kind, or have a folder of their own.

    Raises:
        ValueError: If there is one.
    """
    kinds = [type(logger).__name__ for logger in loggers]
    for kind, logger in zip(kinds, loggers, strict=True):
        if kinds.count(kind) > 1:
            raise ValueError(f"Expected each of --loggers once; got {kind} {kinds.count(kind)} times.")
        if logger.folder is not None:
            raise ValueError(
                f"Expected no folder of {kind} in --loggers, which logs into the folder of the run; got "
                f"{str(logger.folder)!r}."
            )
        logger.check()


@contextmanager
def open_loggers(experiment: Experiment, folder: RunFolder) -> Iterator[list[Logger]]:
    """The loggers of an experiment, open within the block for a run; those of an interrupted run are continued.

    When the block ends, they close as finished, failed or killed, by the error that ends it.

    Args:
        experiment: The experiment.
        folder: The run, locked.

    Raises:
        ValueError: If a log cannot be opened.
    """
    config = experiment.config
    tags = {"run": str(folder.path.absolute()), "seed": str(experiment.training.seed)}
    tags |= {f"version/{name}": number for name, number in versions().items()} if experiment.training.loggers else {}
    loggers = [copy.copy(logger) for logger in experiment.training.loggers]
    error: BaseException | None = None
    try:
        for logger in loggers:
            logger.folder = folder.subfolder(type(logger).__name__.lower())
            logger.begin(f"{config['name']} {folder.path.absolute().name}", config=config, tags=tags, resume=True)
        yield loggers
    except BaseException as raised:
        error = raised
        raise
    finally:
        for logger in loggers:
            logger.close(status_of(error))


def log_latents(
    loggers: Sequence[Logger],
    latents: LatentSplit,
    split: Split,
    mixtures: Mapping[str, Mapping[str, FittedMixture]],
    names: Mapping[int, str],
) -> None:
    """Log latents of a split with their row, label, predicted class or component, and image.

    Args:
        loggers: Open loggers.
        latents: The latents.
        split: The data that they are of.
        mixtures: Fitted mixtures by inference and label budget; that of EM predicts.
        names: The name of each class.
    """
    budgets = mixtures["em"]
    fitted = budgets[chosen_budget(budgets, None)]
    columns: dict[str, list[Any]] = {}
    if latents.labels is not None:
        columns["label"] = [names.get(label, str(label)) for label in latents.labels.tolist()]
    if fitted.classes:
        columns["predicted"] = [names.get(label, str(label)) for label in fitted.predict(latents.latents).tolist()]
    else:
        columns["component"] = [str(index + 1) for index in fitted.classify(latents.latents).argmax(1)]
    pictorial = split.x.dim() == 4 and split.x.shape[1] in (1, 3)
    for logger in loggers:
        logger.log_latents(latents.latents, columns, split.x.cpu().numpy() if pictorial else None)


def log_pictures(loggers: Sequence[Logger], folder: RunFolder) -> None:
    """Log the pictures in `figures/` of a run."""
    for file in sorted(inside(folder.path, "figures").glob("*.png")) if loggers else ():
        for logger in loggers:
            logger.log_picture(f"figures/{file.stem}", inside(folder.path, f"figures/{file.name}"))
