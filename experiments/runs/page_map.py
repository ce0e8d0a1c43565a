"""The map of the latents in a run's report: what the page needs of its file, checked, and its scripts."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from latentmix.experiments.figures.style import FIT_STYLE, GREY, class_styles, shortened
from latentmix.experiments.options.names import BUDGETS, fit_name
from latentmix.experiments.runs.captions import groups
from latentmix.experiments.runs.map_points import LONGEST_SIDE, MAP, MOST_POINTS, MOST_VALUES
from latentmix.experiments.runs.packed import unpack
from latentmix.experiments.runs.page import PACKAGE
from latentmix.experiments.runs.page_values import (
    column_names,
    dark_colour,
    is_pictorial,
    labelled_classes,
    latent_use,
)
from latentmix.models.files import inside
from latentmix.models.reading import read_text

__all__ = ["map_scripts", "map_section"]

BOKEH = "bokeh.min.js"  # its WebGL compiles functions from text, which the page's policy forbids
BROKEN = "The map of the latents cannot be read from map.json, and the rest of the page does without it."
MOST_LATENTS = 1024
MOST_COMPONENTS = 4096
MOST_FITS = 32
MOST_PIXELS = 40_000_000  # of the sprite
MOST_FILE = 20_000_000  # bytes
LONGEST_NAME = 200


def map_section(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of `map.html`, from `map.json` of a run; `None` of a run without that file.

    Args:
        folder: The folder of the run.
        summary: The contents of `summary.json`.

    Returns:
        A mapping whose `reason` is a sentence where the file cannot be read; else `data` is what the script reads, and
        the rest is for the page's elements.

    Raises:
        ValueError: If the file is a link.
    """
    file = inside(folder, MAP)
    if not file.exists():
        return None
    classes = list(labelled_classes(summary).values())
    try:
        data = _read(file, len(classes), [int(side) for side in (summary.get("data") or {}).get("shape") or ()])
    except ValueError:
        return {"reason": BROKEN}
    size = len(data["centre"])
    usage = latent_use(summary, size)
    order = sorted(range(size), key=lambda k: -usage[k]) if usage and size > 2 else range(size)
    colours = [light for light, _ in class_styles(len(classes))]
    group, several = groups(summary)
    fits = [
        {
            "fit": place,
            "budget": budget,
            "name": fit_name(fit["inference"]) + (f", labels: {budget}" if classes else ""),
            "names": [shortened(name) for name in named["names"]],
        }
        for place, fit in enumerate(data["fits"])
        for budget, named in fit["budgets"].items()
    ]
    ellipses = [
        {
            "fit": place,
            "name": fit_name(fit["inference"]) + (", few labels" if "few" in fit["budgets"] else ""),
            "colours": _both(_fit_colour(fit["inference"])),
            "dashed": "few" in fit["budgets"],
            "known": fit["covariances"] is not None,
        }
        for place, fit in enumerate(data["fits"])
    ]
    return {
        "reason": "",
        "group": group,
        "groups": several,
        "classes": [shortened(name) for name in classes],
        "colours": [_both(colour) for colour in colours],
        "labelled": data["labels"] is not None,
        "count": data["count"],
        "total": data["total"],
        "latents": [(k, f"z{k + 1}", usage[k] if usage else None) for k in order],
        "plane": data["plane"],
        "tsne": data["tsne"],
        "images": data["images"],
        "values": data["values"] is not None,
        "fits": fits,
        "ellipses": ellipses,
        "missing": [ellipse["name"] for ellipse in ellipses if not ellipse["known"]],
        "data": {
            **data,
            "classes": classes,
            "colours": [_both(colour) for colour in colours] or [_both(GREY)],
            "grey": _both(GREY),
            "choices": fits,
            "ellipses": ellipses,
            "columns": column_names(summary, data["width"]) if data["values"] is not None else [],
            "words": {"group": group, "groups": several},
        },
    }


def map_scripts() -> list[Markup]:
    """The scripts of the section, in their order: Bokeh's, and that of the map."""
    spec = find_spec("bokeh")
    assert spec is not None
    assert spec.submodule_search_locations
    bokeh = Path(spec.submodule_search_locations[0], "server", "static", "js", BOKEH)
    own = [resources.files(PACKAGE).joinpath(name) for name in ("map_data.js", "map_plot.js", "map.js")]
    return [Markup(file.read_text("utf-8")) for file in (bokeh, *own)]


def _both(colour: str) -> list[str]:
    """A colour on light and on dark pages."""
    return [colour, dark_colour(colour)]


def _fit_colour(inference: str) -> str:
    return FIT_STYLE.get(fit_name(inference), (GREY, "o"))[0]


def _read(file: Path, classes: int, shape: Sequence[int]) -> dict[str, Any]:
    """The values of `map_points`, read and checked.

    Raises:
        ValueError: If they are not such values.
    """
    try:
        stored = json.loads(read_text(file, "a map of latents", most=MOST_FILE))
        count, total, size = _whole(stored["count"], MOST_POINTS), _whole(stored["total"]), len(stored["centre"])
        if not 2 <= size <= MOST_LATENTS or total < count:
            raise ValueError
        data: dict[str, Any] = {
            "count": count,
            "total": total,
            "centre": _numbers(stored["centre"], size),
            "step": _numbers([stored["step"]], 1)[0],
            "latents": _packed(stored["latents"], "<i2", (size, count)),
            "labels": None,
            "plane": None,
            "tsne": None,
            "images": None,
            "values": None,
            "width": 0,
            "fits": [_fit(fit, count, size, classes) for fit in _few(stored["fits"], MOST_FITS)],
        }
        if classes and stored["labels"] is not None:
            data["labels"] = _packed(stored["labels"], "<u2", (count,), below=classes)
        if (plane := stored["plane"]) is not None:
            data["plane"] = {
                "origin": _numbers(plane["origin"], size),
                "directions": [_numbers(direction, size) for direction in _exactly(plane["directions"], 2)],
                "explained": _numbers(plane["explained"], 2),
            }
        if (tsne := stored["tsne"]) is not None:
            some = _whole(tsne["count"], count)
            rows = _packed(tsne["rows"], "<u2", (some,), below=count)
            data["tsne"] = {"count": some, "rows": rows, "points": _packed(tsne["points"], "<u2", (2, some))}
        if (images := stored["images"]) is not None:
            data["images"] = _sprite(images, count, shape)
        if stored["values"] is not None:
            data["width"] = _whole(shape[0] if len(shape) == 1 else None, MOST_VALUES)
            data["values"] = _packed(stored["values"], "<f4", (data["width"], count))
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"Expected a map of latents in {file}; got something else.") from error
    return data


def _fit(stored: Any, count: int, size: int, classes: int) -> dict[str, Any]:
    components = _whole(stored["components"], MOST_COMPONENTS)
    budgets = {}
    for budget, named in stored["budgets"].items():
        names = [str(name)[:LONGEST_NAME] for name in _exactly(named["names"], components)]
        of_classes = [_whole(place, classes - 1, least=0) for place in named["classes"]] if classes else []
        if budget not in BUDGETS or (classes and len(of_classes) != components):
            raise ValueError
        predicted = _packed(named["predicted"], "<u2", (count,), below=classes) if classes else None
        budgets[str(budget)] = {"names": names, "classes": of_classes, "predicted": predicted}
    fit: dict[str, Any] = {
        "inference": str(stored["inference"])[:40],
        "components": components,
        "responsibilities": _packed(stored["responsibilities"], "<u1", (components, count)),
        "assigned": _packed(stored["assigned"], "<u2", (count,), below=components),
        "means": None,
        "scales": None,
        "covariances": None,
        "budgets": budgets,
    }
    if stored["covariances"] is not None:
        fit["means"] = _packed(stored["means"], "<f4", (components, size))
        fit["scales"] = _numbers(stored["scales"], size)
        fit["covariances"] = _packed(stored["covariances"], "<f2", (components, size * (size + 1) // 2))
    return fit


def _sprite(stored: Any, count: int, shape: Sequence[int]) -> dict[str, Any]:
    """A picture of the images side by side, of the size that they have together."""
    if not is_pictorial(shape):
        raise ValueError
    some = _whole(stored["count"], count)
    columns = _whole(stored["columns"], some)
    data = base64.b64decode(stored["data"], validate=True)
    lines = -(-some // columns)
    width, height = columns * shape[2], lines * shape[1]
    if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
        raise ValueError
    try:
        with Image.open(BytesIO(data), formats=["WEBP"]) as picture:
            if picture.size != (width, height):
                raise ValueError
            picture.verify()
    except (OSError, SyntaxError, Image.DecompressionBombError, binascii.Error) as error:
        raise ValueError from error
    return {
        "count": some,
        "columns": columns,
        "width": shape[2],
        "height": shape[1],
        "rows": _packed(stored["rows"], "<u2", (some,), below=count),
        "data": base64.b64encode(data).decode(),
    }


def _packed(text: Any, dtype: str, shape: tuple[int, ...], *, below: int | None = None) -> str:
    """The text of packed numbers that are finite, and less than a bound if there is one."""
    values: NDArray[Any] = unpack(text, dtype, shape)
    if below is not None and not (values < below).all():
        raise ValueError
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError
    return text


def _whole(value: Any, most: int = 10**9, *, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError
    return value


def _numbers(values: Any, count: int) -> list[float]:
    numbers = np.asarray(_exactly(values, count), dtype=np.float64)
    if numbers.shape != (count,) or not (np.abs(numbers) < 1e12).all():
        raise ValueError
    return [float(f"{number:.9g}") for number in numbers]


def _exactly(values: Any, count: int) -> list[Any]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError
    return values


def _few(values: Any, most: int) -> list[Any]:
    if not isinstance(values, list) or len(values) > most:
        raise ValueError
    return values
