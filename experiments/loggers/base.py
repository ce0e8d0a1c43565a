"""The interface of loggers: what is logged, to where, and that a log that fails costs no training."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentmix.experiments.loggers.values import (
    Drawn,
    Pixels,
    as_bytes,
    as_pixels,
    flattened,
    numbers,
    safe_name,
    table,
    thumbnails,
)
from latentmix.experiments.places import remove_unfinished
from latentmix.inference import Callback, TrainingState
from latentmix.models.files import inside, write_atomically
from latentmix.models.reading import read_json

__all__ = ["Latents", "Logger", "Status"]

Status = Literal["finished", "failed", "killed"]

STATE = "log.json"
MOST_POINTS = 10_000
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@final
class Latents:
    """Latents as loggers take them.

    Attributes:
        points: An `N x D` array.
        header: Names of the columns in words; the first is the number of the row.
        rows: N rows of these words.
        pixels: An `N x 3 x H x W` array in [0, 1] of thumbnails that fit into one sprite, or None.
    """

    def __init__(self, points: ArrayLike, columns: Mapping[str, Sequence[Any]], images: ArrayLike | None) -> None:
        whole = np.asarray(points, dtype=np.float64)
        lengths = {name: len(values) for name, values in columns.items()}
        if images is not None:
            lengths["images"] = len(np.asarray(images))
        if whole.ndim != 2 or not whole.size or any(length != len(whole) for length in lengths.values()):
            raise ValueError(
                f"Expected N x D latents, and as many labels and images; got an array of shape {whole.shape} and "
                f"{lengths}."
            )
        self.points = np.nan_to_num(whole[:MOST_POINTS])
        self.header, self.rows = table(self.points, {name: each[:MOST_POINTS] for name, each in columns.items()})
        self.pixels = None if images is None else thumbnails(as_pixels(np.asarray(images)[:MOST_POINTS]))


class Logger(Callback, ABC):
    """A log of a fit: configuration, figures of every epoch, pictures, latents and the final figures.

    As a callback of `fit` it opens when the fit begins, logs every epoch, and closes when the fit ends: as `finished`,
    as `failed` after an error, or as `killed` after an interrupt. Pass it within a `with` block to log more after the
    fit. A fit that is resumed continues its log: of an epoch that has been logged nothing is logged again. A log that
    cannot be opened is refused before training; one that fails later, or cannot be continued, warns once, and training
    goes on without it.

    A logger of your own defines the methods with an underscore that are abstract here, and imports its library in
    `_begin`.

    Args:
        folder: Folder of the log and of `log.json`, which says how to continue it; a run passes its own. A fit from
            the start in the folder of an earlier log begins another one.

    Attributes:
        name: The library's name.
        packages: Modules that it imports, and packages of its extra.
        extra: The extra that installs them.
        addresses: Arguments that say where else than into the folder it logs, each with the environment variable that
            says the same. A run takes such an argument from the command line or that variable, never from a file.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    addresses: ClassVar[Mapping[str, str]] = {}

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.opened = False
        self._failed = self._held = False
        self._id: str | None = None
        self._epoch = 0
        self._done: dict[str, None] = {}
        self._earlier: frozenset[str] = frozenset()
        self._pending: list[Mapping[str, Any]] = []
        self._configuration: dict[str, Any] = {}

    @final
    def check(self) -> None:
        """Refuse a logger whose library is not installed.

        Raises:
            ValueError: If it is not.
        """
        missing = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise ValueError(
                f"Expected {self.name} for the logger {type(self).__name__}; got no {missing[0]}: "
                f"pip install 'latentmix[{self.extra}]'."
            )

    @final
    def begin(
        self,
        title: str = "",
        *,
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        resume: bool = False,
    ) -> None:
        """Open the log, and keep it open until `close`.

        Args:
            title: Title of the log.
            config: The configuration, as `log_config` takes it.
            tags: Words by which logs are found.
            resume: Whether to continue the log of the folder, if it holds one.

        Raises:
            ValueError: If the library is not installed, or the log cannot be opened.
        """
        self._held = True
        self._open(title, tags or {}, resume)
        if config is not None:
            self.log_config(config)

    def __enter__(self) -> Self:
        self._held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(status_of(error))

    @final
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Log a configuration or hyperparameters: nested mappings of plain values.

        Before the log is open, as before a fit, they are kept until it is.
        """
        if not self.opened:
            self._pending.append(config)
            return
        plain = json.loads(json.dumps(config, default=str))
        self._configuration |= plain
        flat = {safe_name(name): value for name, value in flattened(plain)}
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        self._once(f"config:{digest[:16]}", lambda: self._config(self._configuration, flat))

    @final
    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log figures of a step, such as `{"elbo/train": -93.2}` of an epoch."""
        self._require_open()
        named = {safe_name(name): float(value) for name, value in values.items()}
        self._try(lambda: self._scalars(named, step))

    @final
    def log_picture(self, name: str, picture: Drawn | str | Path, step: int | None = None) -> None:
        """Log a picture.

        Args:
            name: Its name.
            picture: A Matplotlib figure, or a PNG file.
            step: Its step; by default the last epoch.
        """
        self._require_open()
        name, step = safe_name(name), self._epoch if step is None else step
        source = Path(picture) if isinstance(picture, str) else picture
        self._once(f"picture:{name}:{step}", lambda: self._picture(name, as_bytes(source), step))

    @final
    def log_latents(
        self,
        points: ArrayLike,
        columns: Mapping[str, Sequence[Any]] | None = None,
        images: ArrayLike | None = None,
        *,
        name: str = "latents",
        step: int | None = None,
    ) -> None:
        """Log latents with words and thumbnails of each, the first 10,000 of them.

        Args:
            points: An `N x D` array.
            columns: Words of each by the name of the column, such as `{"label": [...], "predicted": [...]}`.
            images: An `N x C x H x W` array of bytes, or of floats in [0, 1].
            name: Name of the latents.
            step: Their step; by default the last epoch.

        Raises:
            ValueError: If their lengths or shapes differ.
        """
        self._require_open()
        name, step = safe_name(name), self._epoch if step is None else step
        latents = Latents(points, columns or {}, images)
        self._once(f"latents:{name}:{step}", lambda: self._latents(name, latents, step))

    @final
    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Log final figures: nested mappings, whose numbers are named by their path, such as `test/elbo`."""
        self._require_open()
        self._once("summary", lambda: self._summary(summary, numbers(summary)))

    @final
    def close(self, status: Status = "finished") -> None:
        """Close the log, if it is open.

        Args:
            status: The end of the fit.
        """
        self._held = False
        if not self.opened:
            return
        self.opened = False
        if self._failed:
            with suppress(Exception):
                self._close(status)
        else:
            self._try(lambda: self._close(status), saved=False)

    def on_fit_begin(self, state: TrainingState) -> None:
        """See `Callback.on_fit_begin`."""
        if not self.opened:
            self._open("", {}, state.epoch > 0)
            self.log_config({"fit": {"seed": state.seed, "data": state.length, "batch_size": state.batch_size}})

    def on_checkpoint(self, state: TrainingState) -> None:
        """See `Callback.on_checkpoint`."""
        for record in state.history if self.opened else ():
            if record.epoch <= self._epoch:
                continue
            bounds = {"train": record.training, "validation": record.validation}
            values = {
                f"{term}/{split}": value
                for split, bound in bounds.items()
                if bound is not None
                for term, value in {"elbo": -bound.loss, **asdict(bound)}.items()
            }
            values |= {name: getattr(record, name) for name in ("learning_rate", "seconds", "skipped")}
            self._epoch = record.epoch
            self.log_scalars(values, record.epoch)

    def on_fit_end(self, state: TrainingState) -> None:
        """See `Callback.on_fit_end`; a process that died after the last epoch may not have logged it."""
        self.on_checkpoint(state)
        if not self._held:
            self.close()

    def on_error(self, state: TrainingState, error: BaseException) -> None:
        """See `Callback.on_error`."""
        if not self._held:
            self.close(status_of(error))

    def _open(self, title: str, tags: Mapping[str, str], resume: bool) -> None:
        self.check()
        self._failed, self._id, self._epoch, self._done, self._earlier = False, None, 0, {}, frozenset()
        self._configuration = {}
        if resume:
            self._read_state()
        try:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                remove_unfinished(self.folder)
            self._id = self._begin(title or "fit", {str(key): str(value) for key, value in tags.items()}, self._id)
            self._write_state()
        except Exception as error:
            if self._epoch == 0:
                raise ValueError(
                    f"Expected a log that {self.name} can open; got {type(error).__name__}: {_sentence(error)}"
                ) from error
            self._give_up(error)
        self.opened = True
        pending, self._pending = self._pending, []
        for config in pending:
            self.log_config(config)

    def _require_open(self) -> None:
        if not self.opened:
            raise ValueError(f"Expected an open log by {self.name}; got none: fit and log within `with ... as log`.")

    def _once(self, key: str, log: Callable[[], None]) -> None:
        """Log what an earlier process, which was interrupted, has not logged yet."""
        if key in self._earlier:
            return
        self._done[key] = None
        self._try(log)

    def _try(self, log: Callable[[], None], *, saved: bool = True) -> None:
        if self._failed:
            return
        try:
            log()
            if saved:
                self._write_state()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._failed = True
        warnings.warn(
            f"The log by {self.name} ends here, and all else goes on: {type(error).__name__}: {_sentence(error)}",
            stacklevel=4,
        )

    def _read_state(self) -> None:
        """Find the log that the folder holds; a damaged `log.json` is that of none."""
        if self.folder is None:
            return
        with suppress(ValueError):
            file = inside(self.folder, STATE)
            saved = read_json(file, "the state of a log") if file.is_file() else None
            if not isinstance(saved, dict) or not _ID.fullmatch(str(saved.get("id"))):
                return
            epoch, done = saved.get("epoch"), saved.get("done")
            if isinstance(epoch, int) and epoch >= 0 and isinstance(done, list):
                self._id, self._epoch, self._earlier = str(saved["id"]), epoch, frozenset(map(str, done))
                self._done = dict.fromkeys(map(str, done))

    def _write_state(self) -> None:
        if self.folder is not None:
            state = {"id": self._id, "epoch": self._epoch, "done": list(self._done)}
            write_atomically(inside(self.folder, STATE), json.dumps(state).encode())

    @abstractmethod
    def _begin(self, title: str, tags: Mapping[str, str], id: str | None) -> str:
        """Open a new log, or continue that of an identifier after `self._epoch`; the identifier is returned."""

    @abstractmethod
    def _config(self, config: Mapping[str, Any], flat: Mapping[str, Any]) -> None:
        """Log a configuration: all that is logged so far, and the last part of it, flat."""

    @abstractmethod
    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log figures of a step."""

    @abstractmethod
    def _picture(self, name: str, image: Pixels, step: int) -> None:
        """Log an `H x W x 3` image of bytes."""

    @abstractmethod
    def _latents(self, name: str, latents: Latents, step: int) -> None:
        """Log latents."""

    @abstractmethod
    def _summary(self, summary: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """Log final figures, which come as they are and as numbers by their path."""

    @abstractmethod
    def _close(self, status: Status) -> None:
        """Close the log."""


def status_of(error: BaseException | None) -> Status:
    """The end of a fit by the error that ended it: an interrupt is no failure."""
    return "finished" if error is None else "failed" if isinstance(error, Exception) else "killed"


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{text[:200]} ..." if len(text) > 200 else f"{text}." if text else "no reason given."


def coordinates(points: NDArray[np.float64]) -> list[str]:
    """Names of the columns of latents."""
    return [f"z{index + 1}" for index in range(points.shape[1])]
