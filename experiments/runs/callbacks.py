"""Callbacks of a run: checkpoints, and logs for TensorBoard."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.inference import Callback, TrainingState

__all__ = ["Checkpoints", "TensorBoard", "summary_writer"]


class Checkpoints(Callback):
    """Writes metrics and the state of training after every epoch."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_checkpoint(self, state: TrainingState) -> None:
        self.folder.write_metrics([asdict(record) for record in state.history])
        self.folder.save_training(state)


class TensorBoard(Callback):
    """Writes the terms of the bound to TensorBoard."""

    def __init__(self, path: Path) -> None:
        self.writer = summary_writer()(str(path))

    def on_epoch_end(self, state: TrainingState) -> None:
        record = state.history[-1]
        for name, bound in (("train", record.training), ("validation", record.validation)):
            for term, value in {} if bound is None else asdict(bound).items():
                self.writer.add_scalar(f"{term}/{name}", value, record.epoch)

    def on_fit_end(self, state: TrainingState) -> None:
        self.writer.close()


def summary_writer() -> Any:
    """TensorBoard's `SummaryWriter`.

    Raises:
        ValueError: If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("Expected TensorBoard for --tensorboard; install latentmix[tensorboard].") from error
    return SummaryWriter
