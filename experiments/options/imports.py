"""The one door to code that a value names: every import that an option's value asks for passes the check in force."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jsonargparse import _actions, _typehints

__all__ = ["check_import", "checked_imports"]

Check = Callable[[str], None]

_CHECK: ContextVar[Check | None] = ContextVar("_CHECK", default=None)


@contextmanager
def checked_imports(check: Check) -> Iterator[None]:
    """A block in which values import what a check lets pass, in this thread.

    Args:
        check: Called with an import path before anything of it is imported; it raises an error to refuse it.
    """
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


def check_import(path: str) -> None:
    """Refuse an import path as the check in force does; without one, any passes."""
    check = _CHECK.get()
    if check is not None:
        check(path)


def _guard(module: Any, name: str, tail: str = "") -> None:
    """Let a function of the option parser ask before it imports; outside `checked_imports` it does as ever."""
    function = vars(module)[name]

    def guarded(path: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(path, str) and "." in path + tail and all(part.isidentifier() for part in path.split(".")):
            check_import(path + tail)
        return function(path, *arguments, **options)

    vars(module)[name] = guarded


_guard(_actions, "import_object")
_guard(_typehints, "import_object")
_guard(_typehints, "check_import_path", ".*")  # of options whose values are modules
