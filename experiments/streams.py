"""Standard streams of a command that are closed, full, or no longer read."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TextIO, cast

__all__ = ["Outlet", "StandardStreams"]


class Outlet:
    """A standard stream, flushed after every line, that notes when it can no longer be written.

    Args:
        stream: The stream.
        name: Its name, for messages.
        lasting: Whether the command goes on without it; else the error is raised.

    Attributes:
        error: The first error of writing.
    """

    def __init__(self, stream: TextIO, name: str, *, lasting: bool) -> None:
        self.stream, self.name, self.lasting = stream, name, lasting
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, and flush it if a line ends."""
        if self.error is None:
            try:
                self.stream.write(text)
                if "\n" in text:
                    self.stream.flush()
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        if self.error is None:
            try:
                self.stream.flush()
            except OSError as error:
                self._give_up(error)

    def check(self) -> None:
        """Refuse a stream that could not be written, at the end of a command; a lasting one may lack its reader.

        Raises:
            OSError: If so.
        """
        self.flush()
        if self.error is not None and not (self.lasting and self.error.errno in (errno.EPIPE, errno.EBADF)):
            raise self.error

    def _give_up(self, error: OSError) -> None:
        """Note the error, and drop what the stream still holds: the interpreter flushes it at its end."""
        self.error = OSError(error.errno, error.strerror, self.name)  # a BrokenPipeError by its number
        with suppress(OSError, ValueError):
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, self.stream.fileno())
            os.close(sink)
        if not self.lasting:
            raise self.error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class StandardStreams:
    """A block with standard streams that are there and, as `output` and `errors`, `Outlet`s.

    A stream that was closed at the start is opened: else the next file that the process opens would take its place, and
    messages would be written into it. Standard output is then one that cannot be written, and is refused as such.
    """

    def __enter__(self) -> Self:
        self._before = sys.stdin, sys.stdout, sys.stderr
        for handle, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
            try:
                os.fstat(handle)
            except OSError:
                os.open(os.devnull, mode)  # takes the lowest number that is free
        sys.stdin = sys.stdin or open(0, closefd=False)
        self.output = Outlet(sys.stdout or open(1, "w", closefd=False), "standard output", lasting=False)
        self.errors = Outlet(sys.stderr or open(2, "w", closefd=False), "standard error", lasting=True)
        sys.stdout, sys.stderr = cast("TextIO", self.output), cast("TextIO", self.errors)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self.output.flush()
        self.errors.flush()
        sys.stdin, sys.stdout, sys.stderr = self._before
