"""Commands run in this process, and the judgement of what they print."""

from __future__ import annotations

import contextlib
import io
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from latentmix.experiments.cli import main

__all__ = ["Outcome", "outcome_of"]

LEAKS = re.compile(
    r"--debug shows where|Traceback|typing\.|<class '|site-packages|object at 0x|Error:|Warning:|NoneType|"
    r"positional argument|keyword argument|has no attribute|unhashable|not subscriptable|not iterable|"
    r"set_parsing_settings|collections\.abc\."
)


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        status: `finished`, `refused`, or what is wrong.
        text: What it printed to standard error.
    """

    status: str
    text: str

    @property
    def right(self) -> bool:
        """Whether the command finished, or refused in one sentence."""
        return self.status in ("finished", "refused")


def outcome_of(words: Sequence[str], *, seconds: int = 180) -> Outcome:
    """Run a command.

    Args:
        words: The words after `latentmix`.
        seconds: Time after which it is interrupted.
    """
    out, errors = io.StringIO(), io.StringIO()
    try:
        with _time_limit(seconds), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code: Any = main(list(words))
    except _Late:
        return Outcome(f"took more than {seconds} s", errors.getvalue())
    except SystemExit as exit:
        code = exit.code
    except BaseException as error:
        return Outcome(f"raised {type(error).__name__}", f"{errors.getvalue()}{error!r:.300}")
    return Outcome(_status(code, errors.getvalue()), errors.getvalue())


def _status(code: Any, text: str) -> str:
    lines = [line for line in re.split(r"[\n\r]", text) if line.strip() and "%|" not in line and "/s]" not in line]
    sentences = [line for line in lines if not line.startswith("latentmix: warning: ")]
    if any(LEAKS.search(line) for line in lines):
        return "an unforeseen line"
    if code == 0:
        return "finished" if not sentences else "other lines beside the result"
    if code != 2:
        return f"exit code {code}"
    one = len(sentences) == 1 and sentences[0].startswith("latentmix: ")
    return "refused" if one and len(sentences[0]) < 1200 else f"{len(sentences)} sentences"


class _Late(BaseException):
    pass


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
