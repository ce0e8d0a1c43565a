"""Weights in a folder, with what is needed to build the module again: safetensors and JSON, never pickle."""

from __future__ import annotations

import inspect
import json
import os
import sys
from abc import ABC
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from latentmix.models.process_state import kept_random_state

__all__ = [
    "Part",
    "build",
    "describe",
    "load_pretrained",
    "load_weights",
    "pretrained_folder",
    "read_weights",
    "save_pretrained",
]

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


class Part(ABC):  # noqa: B024
    """Base of everything that a description may name: decoders, encoders, priors, likelihoods, families.

    No other class is ever called for a file: most classes of a running program would do more than build a part.

    Example:
        >>> from latentmix.models import Decoder
        >>> from latentmix.models.pretrained import Part
        >>> issubclass(Decoder, Part)
        True
    """


def describe(part: Any) -> Any:
    """The class of an object and its constructor's arguments, as plain values.

    An argument is read from the attribute of its name, or all are from a method `arguments` where there is one;
    arguments that are parts are described likewise.

    Args:
        part: A part that keeps its arguments, or a plain value.

    Raises:
        ValueError: If an argument is not kept, or has no plain value.

    Example:
        >>> from latentmix.models import StandardNormal
        >>> from latentmix.models.pretrained import describe
        >>> describe(StandardNormal(2))
        {'class_path': 'latentmix.models.priors.StandardNormal', 'init_args': {'latent_dim': 2}}
    """
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, list | tuple):
        return [describe(value) for value in part]
    kind = type(part)
    if not isinstance(part, Part):
        raise ValueError(f"Expected plain values, lists and parts of a VAE or guide; got {part!r:.80}.")
    arguments = part.arguments() if hasattr(part, "arguments") else _attributes(part)
    arguments = {name: describe(value) for name, value in arguments.items()}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def _attributes(part: Any) -> dict[str, Any]:
    kind = type(part)
    arguments = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(part, name):
            raise ValueError(
                f"Expected {kind.__name__} to keep its argument {name!r} as an attribute of that name, so that it can "
                "be built again; got none."
            )
        arguments[name] = getattr(part, name)
    return arguments


def build(description: Any) -> Any:
    """Build what `describe` described; no module is imported for it, and no class called that is not a `Part`.

    Raises:
        ValueError: If a class is not known, since its module has not been imported, or is no part.
    """
    if isinstance(description, list):
        return [build(value) for value in description]
    if not isinstance(description, dict):
        return description
    path = description["class_path"]
    module, _, name = path.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if not isinstance(kind, type):
        raise ValueError(f"Expected the class {path} to be imported before weights are loaded into it; got none.")
    if not issubclass(kind, Part):
        raise ValueError(f"Expected a part of a VAE or guide; got the class {path}, which is none and is not called.")
    return kind(**{name: build(value) for name, value in description["init_args"].items()})


def pretrained_folder(folder: str | Path) -> Path:
    """Where the weights are: in the folder, or in the `checkpoints` of a run.

    Raises:
        ValueError: If there is no such folder.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"Expected a folder of pre-trained weights, or a run; got {folder}, which is not there.")
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def save_pretrained(module: nn.Module, folder: str | Path, name: str) -> None:
    """Write `name.safetensors` and `name.json`; each replaces an earlier file in one step.

    Args:
        module: The module.
        folder: Is made where there is none.
        name: Name of both files.
    """
    described = json.dumps(describe(module), indent=2)
    weights = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in module.state_dict().items()}
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    _replace(path / f"{name}.safetensors", safetensors.torch.save(weights))
    _replace(path / f"{name}.json", described.encode())


def load_pretrained[M: nn.Module](folder: str | Path, name: str, kind: type[M]) -> M:
    """Build the module that `save_pretrained` wrote, with its weights; nothing in the files is executed.

    It has the weights' dtype. torch's random state stays as it is.

    Raises:
        ValueError: If a file is missing or is something else, or the weights do not fit the module.
    """
    folder = pretrained_folder(folder)
    file = folder / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"Expected {file.name} in {folder}; it is not there.")
    try:
        with kept_random_state(), torch.inference_mode(False):
            module = build(json.loads(file.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"Expected the description of a module in {file}; got {error}.") from error
    if not isinstance(module, kind):
        raise ValueError(f"Expected a {kind.__name__} in {file}; got {type(module).__name__}.")
    weights = read_weights(folder, name)
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        module.to(dtypes.pop())
    load_weights(module, weights)
    return module


def read_weights(folder: str | Path, name: str) -> dict[str, Tensor]:
    """The tensors of `name.safetensors`, on the CPU.

    Raises:
        ValueError: If the file is missing or is something else. Pickled weights can run code, and are never opened.
    """
    folder = pretrained_folder(folder)
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        reason = f"{pickled[0]}, which can run code when it is opened and never is: convert it" if pickled else "none"
        raise ValueError(f"Expected {file.name} in {folder}; got {reason}.")
    try:
        return safetensors.torch.load_file(file)
    except Exception as error:
        raise ValueError(f"Expected safetensors in {file}; got {error}.") from error


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights into a module.

    Raises:
        ValueError: If a tensor is missing, unknown, or of another shape.
    """
    expected = module.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        shapes = [tuple(side[name].shape) if name in side else "none" for side in (expected, weights)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"Expected weights {name!r} of shape {shapes[0]}; got {shapes[1]}.")
    module.load_state_dict(weights)


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(data)
    os.replace(beside, path)
