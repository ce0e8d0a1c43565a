"""Logs for TensorBoard: event files, and latents for its projector."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from latentmix.experiments.loggers.base import Latents, Logger, Status
from latentmix.experiments.loggers.values import Pixels
from latentmix.models.files import inside

__all__ = ["TensorBoard"]


@final
class TensorBoard(Logger):
    """Logs for TensorBoard: `tensorboard --logdir FOLDER` shows them, latents by its projector.

    Figures of steps that a resumed fit repeats replace the earlier ones (`purge_step`).

    Args:
        folder: Folder of the event files; that of a run is `tensorboard` in it.

    Raises:
        ValueError: If there is no folder, when the log is opened.

    Example:
        >>> from latentmix.experiments.loggers import TensorBoard
        >>> with TensorBoard("logs") as log:  # doctest: +SKIP
        ...     fit(vae.model, guide, x, epochs=20, callbacks=[log])
        ...     log.log_latents(guide.encode(x), {"label": labels}, images)
    """

    name = "TensorBoard"
    packages = ("tensorboard",)
    extra = "tensorboard"

    def _begin(self, title: str, tags: Mapping[str, str], id: str | None) -> str:
        from torch.utils.tensorboard.writer import SummaryWriter

        purge = self._epoch + 1 if id is not None else 0 if any(self._place.glob("events.out.tfevents.*")) else None
        self._writer: Any = SummaryWriter(str(self._place), purge_step=purge)
        if id is None:
            self._text("log", f"{title}\n" + "\n".join(f"{name}: {value}" for name, value in tags.items()))
        return "events"

    @property
    def _place(self) -> Path:
        if self.folder is None:
            raise ValueError("expected a folder; got none")
        return self.folder

    def _config(self, config: Mapping[str, Any], flat: Mapping[str, Any]) -> None:
        self._text("configuration", json.dumps(config, indent=2))

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _picture(self, name: str, image: Pixels, step: int) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")
        self._writer.flush()

    def _latents(self, name: str, latents: Latents, step: int) -> None:
        import torch

        part = name.replace("/", "_")
        shutil.rmtree(
            inside(self._place, f"{step:05d}/{part}"), ignore_errors=True
        )  # half written, of a killed process
        several = len(latents.header) > 1  # the projector takes one column without a header
        self._writer.add_embedding(
            latents.points,
            metadata=latents.rows if several else [row[0] for row in latents.rows],
            metadata_header=latents.header if several else None,
            label_img=None if latents.pixels is None else torch.from_numpy(latents.pixels.copy()),
            global_step=step,
            tag=part,
        )
        self._writer.flush()

    def _summary(self, summary: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"summary/{name}", value, self._epoch)
        self._text("summary", json.dumps(summary, indent=2, default=str))

    def _close(self, status: Status) -> None:
        self._text("status", status)
        self._writer.close()

    def _text(self, name: str, text: str) -> None:
        """Text as a block of code, in which no word is markup."""
        block = "\n".join(f"    {line}" for line in text.splitlines())
        self._writer.add_text(name, block, self._epoch)
        self._writer.flush()
