"""Self-contained HTML pages with their pictures, light and dark."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any, final

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup
from PIL import Image

from latentmix.experiments.figures.dark import dark_overlay
from latentmix.models.files import write_atomically
from latentmix.models.reading import open_regular

__all__ = ["Picture", "load_picture", "number", "typeset", "write_page"]

MOST_PIXELS = 40_000_000
PACKAGE = "latentmix.experiments.runs"


@final
@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        name: Its heading.
        caption: A sentence below it.
        alternative: What it shows, for those who cannot see it.
        anchor: Its address within the page.
        light: Its data; empty if it cannot be shown.
        dark: The data of the layer over it in dark mode; empty if there is none.
        width: Width in pixels.
        height: Height in pixels.
        reason: Why it cannot be shown.
    """

    name: str
    caption: str
    alternative: str
    anchor: str
    light: str = ""
    dark: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""


def load_picture(path: Path, name: str, caption: str, alternative: str, *, prefix: str = "picture") -> Picture:
    """A picture from a PNG file that `save` wrote, with its layer for dark mode.

    Pixels are stored without loss as WebP, which takes half the space of PNG; the layer has fewer colours. A file that
    is no picture, or one of more than 40 million pixels, is replaced by the reason.

    Args:
        path: The file.
        name: Heading of the picture.
        caption: A sentence below it.
        alternative: What it shows, for those who cannot see it.
        prefix: Beginning of its address within the page.
    """
    anchor = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")
    words = (name, caption, alternative, f"{prefix}-{anchor}")
    try:
        with open_regular(path) as stored, Image.open(stored, formats=["PNG"]) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                return Picture(*words, reason=f"{path.name} has {width:,} x {height:,} pixels, too many for this page.")
            picture.load()
            dark = dark_overlay(picture)
            light = _data(picture.convert("RGB"))
            return Picture(*words, light, "" if dark is None else _data(dark), width, height)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return Picture(*words, reason=f"{path.name} cannot be read as a PNG picture.")


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> Path:
    """Write a page from a template of this folder; every value is escaped.

    The page runs its own `scripts` alone, which it names by their digests: nothing that a value smuggled in would run.

    Args:
        path: The file.
        template: Name of the template.
        values: Its variables.

    Returns:
        The path.
    """
    write_atomically(path, _environment().get_template(template).render(values).encode())
    return path


@cache
def _environment() -> Environment:
    """The templates of this folder, each compiled once."""
    loader = FunctionLoader(lambda name: resources.files(PACKAGE).joinpath(name).read_text("utf-8"))
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=loader)
    environment.filters["number"] = typeset
    environment.filters["unbroken"] = _unbroken
    environment.filters["digest"] = _digest
    return environment


def number(value: Any, digits: int) -> str:
    """A number with a fixed number of decimals and separated thousands; a dash if it is missing."""
    if not isinstance(value, int | float) or value != value:
        return "-"
    return f"{value:,.{digits}f}"


def typeset(value: Any, digits: int) -> str:
    """A formatted number with a typographic minus."""
    return number(value, digits).replace("-", "−")


def _data(picture: Image.Image) -> str:
    buffer = BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=75, method=1)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _digest(script: str) -> str:
    """The source expression of a script for a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _unbroken(command: str) -> Markup:
    """A command whose lines break between its words, and not at the dashes of its options."""
    return Markup(" ").join(Markup("<span>{}</span>").format(word) for word in command.split(" "))
