"""The help on every option of an experiment: what to type, what it means, and the default."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from latentmix.experiments.options.classes import CLASSES, argument_types, class_names, find_class
from latentmix.experiments.options.faults import known_options
from latentmix.experiments.options.parts import PARTS
from latentmix.experiments.options.type_words import expected

__all__ = ["options_help"]

WIDTH = 110
GENERAL = ("name", "description", "latent_dim")
SECTIONS = {
    "mixture.svi.": "SVI of these mixtures",
    "mixture.posterior.": "Posterior of these mixtures by SVI",
    "mixture.nuts.": "NUTS of these mixtures",
    "mixture.": "Mixtures over the latents",
    "data.": "Data",
    "measure.": "Figures beyond the bound and the reconstructions",
}
ORDER = ("General", "Parts, a class each", "Training", "Data", "Mixtures over the latents", *SECTIONS.values())
MEANINGS = {
    "encoder": "Network from a datum x to features, of which the family makes q(z given x).",
    "decoder": "Network from a latent z to what the likelihood needs.",
    "prior": "Distribution over z.",
    "likelihood": "Distribution over x given the decoder's output.",
    "family": "Family of q(z given x).",
    "objective": "Evidence lower bound that training maximises.",
}


def options_help(parser: ArgumentParser) -> str:
    """A paragraph on each option of an experiment, in sections.

    Args:
        parser: The options.
    """
    helps = {action.dest: action.help or "" for action in parser._actions}
    sections: dict[str, list[str]] = {title: [] for title in ORDER}
    sections["General"].append(_paragraph("--config FILE", "A YAML file of options; later options override it."))
    for option, kind in known_options(parser).items():
        takes = "CLASS" if option in CLASSES else f"({expected(kind)})"
        meaning = " ".join([MEANINGS.get(option, helps[option]), *_classes(option), *_default(option, parser)])
        sections[_section(option)].append(_paragraph(f"--{option} {takes}", meaning))
    return "\n".join("\n".join([f"{title}:", *paragraphs, ""]) for title, paragraphs in sections.items())


def _section(option: str) -> str:
    if option in (*PARTS, "objective"):
        return "Parts, a class each"
    prefix = next((prefix for prefix in SECTIONS if option.startswith(prefix)), None)
    return SECTIONS[prefix] if prefix else "General" if option in GENERAL else "Training"


def _classes(option: str) -> list[str]:
    """The classes of an option, in words."""
    if option not in CLASSES:
        return []
    names = [name for name in class_names(CLASSES[option]) if not name.startswith("Jit")]
    if option in (*PARTS, "loggers"):
        names = [_call(option, name) for name in names]
    return [f"One of {', '.join(names)}, or an import path."]


def _call(option: str, name: str) -> str:
    kind = find_class(name, option)
    arguments = ", ".join(argument_types(kind)) if kind else ""
    return f"{name}({arguments})" if arguments else name


def _default(option: str, parser: ArgumentParser) -> list[str]:
    value: Any = parser.get_default(option)
    value = vars(value) if isinstance(value, Namespace) else value
    if isinstance(value, Mapping):
        return [f"Default: {str(value.get('class_path')).rpartition('.')[2]}."]
    if value is None or value == "":
        return []
    return [f"Default: {value if isinstance(value, str) else json.dumps(value)}."]


def _paragraph(option: str, meaning: str) -> str:
    text = textwrap.fill(meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)
    return f"  {option}\n{text}"
