"""Logs for Weights & Biases, by a run of their own that leaves its global run alone."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from latentmix.experiments.loggers.base import Latents, Logger, Status, coordinates
from latentmix.experiments.loggers.values import Pixels
from latentmix.models.files import inside

__all__ = ["WandB"]

MOST_THUMBNAILS = 500  # each is a file of its own
EXITS: dict[Status, int] = {"finished": 0, "failed": 1, "killed": 130}


@final
class WandB(Logger):
    """Logs a run of Weights & Biases: configuration, history, pictures, a table of latents, summary and exit code.

    `wandb.run` stays what it is. The library starts a process of its own, ended with Python, and names it in the
    environment variable `WANDB_SERVICE`; its own files lie in the user's caches. `WANDB_MODE=offline` sends nothing:
    `wandb sync` uploads its folders later; a log that was continued has one for each process, of one identifier.

    Args:
        folder: Folder of its files and of `log.json`, by default the working folder; that of a run is `wandb` in it.
        project: The project.
        entity: The user or team; by default `WANDB_ENTITY`, or your own.
        mode: Whether to upload; by default as `WANDB_MODE` says, else online.

    Example:
        >>> from latentmix.experiments.loggers import WandB
        >>> log = WandB("logs", mode="offline")
        >>> fit(vae.model, guide, x, epochs=20, callbacks=[log])  # doctest: +SKIP
    """

    name = "Weights & Biases"
    packages = ("wandb",)
    extra = "wandb"
    addresses = {"entity": "WANDB_ENTITY"}  # noqa: RUF012

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        project: str = "latentmix",
        entity: str | None = None,
        mode: Literal["online", "offline"] | None = None,
    ) -> None:
        super().__init__(folder)
        self.project = project
        self.entity = entity
        self.mode = mode

    def _begin(self, title: str, tags: Mapping[str, str], id: str | None) -> str:
        import wandb

        if self.folder is not None:
            inside(self.folder, "wandb")
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True)
        self._run: Any = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            dir=str(self.folder or Path()),
            id=id or secrets.token_hex(8),
            name=title[:120],
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        if tags:
            self._config({"tags": dict(tags)}, {})
        return str(self._run.id)

    def _config(self, config: Mapping[str, Any], flat: Mapping[str, Any]) -> None:
        self._run.config.update(dict(config), allow_val_change=True)

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "epoch": step})

    def _picture(self, name: str, image: Pixels, step: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(image), "epoch": step})

    def _latents(self, name: str, latents: Latents, step: int) -> None:
        import wandb

        columns: list[str | int] = [*latents.header, *coordinates(latents.points)]
        rows: list[list[Any]] = [
            [*words, *point] for words, point in zip(latents.rows, latents.points.tolist(), strict=True)
        ]
        if latents.pixels is not None:
            images = (latents.pixels[:MOST_THUMBNAILS].transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
            columns.append("image")
            for index, row in enumerate(rows):
                row.append(wandb.Image(images[index]) if index < len(images) else None)
        self._run.log({name: wandb.Table(columns=columns, data=rows), "epoch": step})

    def _summary(self, summary: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._run.summary[f"summary/{name}"] = value

    def _close(self, status: Status) -> None:
        self._run.finish(exit_code=EXITS[status])
