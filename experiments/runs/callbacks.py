"""The callback of a run that writes its checkpoints."""

from __future__ import annotations

from dataclasses import asdict

from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.inference import Callback, TrainingState

__all__ = ["Checkpoints"]


class Checkpoints(Callback):
    """Writes metrics and the state of training after every epoch."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_checkpoint(self, state: TrainingState) -> None:
        self.folder.write_metrics([asdict(record) for record in state.history])
        self.folder.save_training(state)
