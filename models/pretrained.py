"""Saved modules: weights as safetensors and a description as JSON, never pickle."""

from __future__ import annotations

import inspect
import json
import sys
from abc import ABC
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from latentmix.models.allocation import BoundedAllocation
from latentmix.models.arguments import first_mismatch
from latentmix.models.files import inside, write_atomically
from latentmix.models.process_state import kept_random_state
from latentmix.models.reading import REMEDY, damaged, read_json, read_tensors

__all__ = [
    "Part",
    "build",
    "describe",
    "load_pretrained",
    "load_weights",
    "pretrained_folder",
    "read_weights",
    "restore_weights",
    "save_pretrained",
]

_PACKAGE = __name__.partition(".")[0]
SLACK = 2**26  # bytes that the construction of a module may take besides its weights
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


class Part(ABC):  # noqa: B024
    """Base class of everything that a file may describe: decoders, encoders, priors, likelihoods, families.

    Only parts are built for a file, as the constructor of any other class may have side effects.

    Example:
        >>> from latentmix.models import Decoder
        >>> from latentmix.models.pretrained import Part
        >>> issubclass(Decoder, Part)
        True
    """


def describe(part: Any) -> Any:
    """The class of a part and its constructor's arguments, as plain values.

    LatentMix's own classes are named by their public path, a user's by module and name. Arguments are those that the
    part's method `arguments` gives, if it has one, else the attributes of the same names; parts among them are
    described in turn.

    Args:
        part: A part that keeps its arguments, or a plain value.

    Raises:
        ValueError: If an argument is not kept, or has no plain value; or if the class is not public.

    Example:
        >>> from latentmix.models import StandardNormal
        >>> from latentmix.models.pretrained import describe
        >>> describe(StandardNormal(2))
        {'class_path': 'latentmix.models.StandardNormal', 'init_args': {'latent_dim': 2}}
    """
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, list | tuple):
        return [describe(value) for value in part]
    if not isinstance(part, Part):
        raise ValueError(f"Expected plain values, lists and parts of a VAE or guide; got {part!r:.80}.")
    path = public_path(type(part))
    arguments = part.arguments() if hasattr(part, "arguments") else _attributes(part)
    return {"class_path": path, "init_args": {name: describe(value) for name, value in arguments.items()}}


def public_path(kind: type) -> str:
    """The dotted path of a class in a saved file.

    Args:
        kind: A class that its room exports, such as `latentmix.models`, or a user's own class in a module.

    Raises:
        ValueError: If the path does not lead back to the class, as for a private or a local one.

    Example:
        >>> from latentmix.models.networks import MLPDecoder
        >>> from latentmix.models.pretrained import public_path
        >>> public_path(MLPDecoder)
        'latentmix.models.MLPDecoder'
    """
    path = _public(f"{kind.__module__}.{kind.__qualname__}")
    if _class_at(path) is not kind:
        raise ValueError(
            f"Expected a class that can be found again by its path {path}; got a private or a local one: export it, "
            "or define it at the top level of a module."
        )
    return path


def _public(path: str) -> str:
    """The path of an exported class: files of earlier versions name the module within the room."""
    package, *inner = path.split(".")
    return ".".join((package, inner[0], inner[-1])) if package == _PACKAGE and len(inner) > 2 else path


def _class_at(path: str) -> type | None:
    """The class at a path, if its module has been imported."""
    module, _, name = path.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    return kind if isinstance(kind, type) else None


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
    """Build what `describe` described, without importing any module.

    Raises:
        ValueError: If the module of a class has not been imported, or a class is not a `Part`.
    """
    if isinstance(description, list):
        return [build(value) for value in description]
    if not isinstance(description, dict):
        return description
    path, arguments = description["class_path"], description["init_args"]
    if not isinstance(path, str) or not isinstance(arguments, dict):
        raise ValueError(f"Expected a class_path and init_args of a part; got {description!r:.80}.")
    kind = _class_at(_public(path))
    if kind is None:
        raise ValueError(f"Expected the class {path} to be imported before weights are loaded into it; got none.")
    if not issubclass(kind, Part):
        raise ValueError(f"Expected a part of a VAE or guide; got the class {path}, which is none and is not called.")
    return kind(**{name: build(value) for name, value in arguments.items()})


def pretrained_folder(folder: str | Path) -> Path:
    """The folder of the weights: the given one, or the `checkpoints` of a run.

    Raises:
        ValueError: If there is no such folder, or the `checkpoints` are a link.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(
            f"Expected a folder of pre-trained weights, or a run; got {folder}, which is "
            f"{'no folder' if path.exists() else 'not there'}."
        )
    checkpoints = inside(path, "checkpoints")
    return checkpoints if checkpoints.is_dir() else path


def save_pretrained(module: nn.Module, folder: str | Path, name: str) -> None:
    """Write `name.safetensors` and `name.json`, each in one step.

    Args:
        module: The module.
        folder: The folder; it is made if it does not exist.
        name: Name of both files.

    Raises:
        ValueError: If the module cannot be described, see `describe`; nothing is written then.
    """
    described = json.dumps(describe(module), indent=2)
    weights = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in module.state_dict().items()}
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / f"{name}.safetensors", safetensors.torch.save(weights))
    write_atomically(path / f"{name}.json", described.encode())


def load_pretrained[M: nn.Module](folder: str | Path, name: str, kind: type[M], *, part: str | None = None) -> M:
    """Build the module that `save_pretrained` wrote, with its weights and in their dtype.

    Nothing in the files is executed, and torch's random state is unchanged.

    Args:
        folder: The folder, or the folder of a run.
        name: Name of both files.
        kind: The expected class.
        part: The argument of the module to build in its place, which is a part of it: the classes of others may be
            unknown.

    Raises:
        ValueError: If a file is missing or invalid, or the weights do not fit the module.
    """
    folder = pretrained_folder(folder)
    file = inside(folder, f"{name}.json")
    if not file.exists():
        raise ValueError(f"Expected {file.name} in {folder}; it is not there.")
    description = read_json(file, "the description of a module")
    weights = read_weights(folder, name)
    if part is not None:
        with damaged(file, "the description of a module"):
            description = description["init_args"][part]
        weights = {
            key.removeprefix(f"{part}."): tensor for key, tensor in weights.items() if key.startswith(f"{part}.")
        }
    bound = BoundedAllocation(
        SLACK + 16 * sum(tensor.numel() for tensor in weights.values()),
        f"a module of the size of {name}.safetensors in {file}",
        "take the description that was saved with the weights",
    )
    with damaged(file, "the description of a module"), kept_random_state(), torch.inference_mode(False), bound:
        module = build(description)
    if not isinstance(module, kind):
        found = type(module).__name__ if isinstance(module, nn.Module) else "the description of no module"
        raise ValueError(f"Expected the description of {kind.__name__} in {file}; got {found}: {REMEDY}.")
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        module.to(dtypes.pop())
    load_weights(module, weights, folder / f"{name}.safetensors")
    return module


def read_weights(folder: str | Path, name: str) -> dict[str, Tensor]:
    """The tensors of `name.safetensors`, on the CPU.

    Raises:
        ValueError: If the file is missing or invalid. Pickled weights can run code, and are never opened.
    """
    folder = pretrained_folder(folder)
    file = inside(folder, f"{name}.safetensors")
    if not file.exists():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        reason = f"{pickled[0]}, which can run code when it is opened and never is: convert it" if pickled else "none"
        raise ValueError(f"Expected {file.name} in {folder}; got {reason}.")
    return read_tensors(file)[0]


def restore_weights(module: nn.Module, folder: str | Path, name: str) -> None:
    """Load the weights of `name.safetensors` into a module; raises as `read_weights` and `load_weights` do."""
    folder = pretrained_folder(folder)
    load_weights(module, read_weights(folder, name), folder / f"{name}.safetensors")


def load_weights(module: nn.Module, weights: dict[str, Tensor], file: Path | None = None) -> None:
    """Load weights into a module.

    Args:
        module: The module.
        weights: Tensors by name, as `module.state_dict()` gives them.
        file: The file that they are from, for messages.

    Raises:
        ValueError: If a tensor is missing, unknown, of another shape or dtype, or not finite where the module's own is;
            nothing is loaded then.
    """
    own = dict(sorted(module.state_dict().items()))
    where = "" if file is None else f" in {file}"
    mismatch = first_mismatch(own, weights)
    if mismatch is not None:
        expected, given = ("none" if shape is None else shape for shape in mismatch[1:])
        raise ValueError(f"Expected weights {mismatch.name!r} of shape {expected}; got {given}{where}.")
    for name, tensor in weights.items():
        if tensor.dtype != own[name].dtype:
            raise ValueError(
                f"Expected weights {name!r} of {own[name].dtype}; got {tensor.dtype}{where}: convert them before they "
                "are saved."
            )
        if tensor.is_floating_point() and bool((~tensor.isfinite() & own[name].cpu().isfinite()).any()):
            raise ValueError(
                f"Expected finite weights {name!r}; got NaN or infinity{where}: take weights of a fit that has not "
                "diverged."
            )
    module.load_state_dict(weights)
