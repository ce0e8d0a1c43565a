"""Signals that end a command: exceptions, so that what is half written is removed on the way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["EndingSignals"]

WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "terminated: its terminal has gone"}
UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)
DELAY, PAUSE = 0.02, 1.0  # seconds


class EndingSignals:
    """A block in which SIGINT, SIGTERM and SIGHUP raise a `KeyboardInterrupt` in the main thread.

    Signals that are ignored, as by `nohup`, or handled by others stay so, and outside the main thread nothing is
    changed. A signal that comes while a compiled module is being initialised waits for its end: an exception that
    passes through such code may abort the process. Another within a second of the last is dropped, so that a key that
    is pressed twice does not interrupt the cleaning up.

    Attributes:
        received: The first signal that was received.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._last = -PAUSE
        self._before: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in WORDS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) in UNTOUCHED:
                    self._before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def ignore(self) -> None:
        """Ignore these signals until the block ends: the command is over.

        `python -m` ends by SIGINT, whatever the exit code, once a text that `exec` runs was interrupted, such as that
        of a dataclass; running another makes Python forget it.
        """
        exec("")
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    @property
    def word(self) -> str:
        """The command's end in a word or a clause."""
        return WORDS["SIGINT" if self.received is None else self.received.name]

    @property
    def code(self) -> int:
        """The exit code of a command that a signal has ended: 128 and the signal's number."""
        return 128 + (self.received or signal.SIGINT)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if _initialising(frame):
            again = threading.Timer(DELAY, signal.raise_signal, (number,))
            again.daemon = True
            again.start()
            return
        if time.monotonic() - self._last < PAUSE:
            return
        self.received, self._last = self.received or signal.Signals(number), time.monotonic()
        raise KeyboardInterrupt


def _initialising(frame: FrameType | None) -> bool:
    """Whether a compiled module is being initialised below a frame."""
    while frame is not None:
        importing = frame.f_code.co_filename.startswith("<frozen importlib")
        if importing and isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False
