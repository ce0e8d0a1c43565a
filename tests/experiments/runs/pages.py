"""Pages in a browser, with what they say and ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Opened", "opening"]


@dataclass
class Opened:
    """A page, with what it said and asked for."""

    page: Any
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def opening[P: Opened](
    browser: Any, kind: type[P], settle: Callable[[Any], Any], *, height: int
) -> Iterator[Callable[..., P]]:
    """A function that opens a page, as a `kind`; where scripts run, `settle` waits until it is drawn."""
    contexts = []

    def open_page(path: Path, *, width: int = 1280, dark: bool = False, script: bool = True) -> P:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
            device_scale_factor=1,
        )
        contexts.append(context)
        opened = kind(context.new_page())
        opened.page.on("console", lambda message: opened.messages.append(message.text))
        opened.page.on("pageerror", lambda error: opened.messages.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(path.as_uri())
        if script:
            settle(opened.page)
        return opened

    yield open_page
    for context in contexts:
        context.close()
