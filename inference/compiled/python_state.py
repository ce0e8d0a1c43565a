"""The Python values that a step reads: attributes, closures, globals and generators, which a graph would freeze."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, Self

import numpy as np
import torch
from pyro.infer.elbo import ELBO
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from latentmix.inference.objectives.base import Objective

__all__ = ["Place", "PythonState"]

_ABSENT = object()
_NUMBERS = (bool, int, float, complex, str, bytes, torch.dtype, torch.Size)
_LIBRARIES = {"builtins", "functools", "math", "numpy", "opt_einsum", "pyro", "scipy", "torch", "zuko"}
_LIMIT = 10_000  # values


@dataclass(frozen=True, eq=False)
class Place:
    """A place of a Python value, with the value that it had.

    Attributes:
        name: Its name in messages.
        value: The value: a number, a string, a tensor, the length of a list, the state of a generator, or None.
        read: Returns the present value.
        write: Writes a value back.
    """

    name: str
    value: Any
    read: Callable[[], Any]
    write: Callable[[Any], None]

    @property
    def changed(self) -> bool:
        """Whether the value is another one; tensors are compared by identity."""
        present = self.read()
        if present is self.value:
            return False
        if isinstance(self.value, Tensor) or isinstance(present, Tensor) or type(present) is not type(self.value):
            return True
        return not _equal(present, self.value)


class PythonState:
    """Values within reach of callables and modules, by the place where they are.

    Followed are attributes of modules, handlers, objectives and of the user's own objects; closures, defaults and the
    globals that functions name; items of lists, tuples and dictionaries. What belongs to torch, Pyro or NumPy is not,
    except for modules, handlers and generators of random numbers; globals of this package are not either.

    Args:
        places: The places.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.places = tuple(places)

    @classmethod
    def of(cls, *roots: Any) -> Self:
        """The present values within reach of the roots."""
        return cls(_Walk().places(roots))

    def changes(self) -> list[Place]:
        """The places with other values."""
        return [place for place in self.places if place.changed]

    def restore(self) -> None:
        """Write the values back."""
        for place in self.changes():
            if place.value is not _ABSENT:
                place.write(place.value)


class _Walk:
    """One walk over all that is within reach of some objects."""

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}

    def places(self, roots: Iterable[Any]) -> Iterator[Place]:
        count = 0
        waiting: list[tuple[str, Any]] = [(_name(root), root) for root in reversed(list(roots))]
        while waiting and count < _LIMIT:
            name, part = waiting.pop()
            if id(part) in self._seen:
                continue
            self._seen[id(part)] = part
            if (generator := _generator(name, part)) is not None:
                yield generator
                continue
            for place in _contents(name, part):
                count += 1
                if place.value is None or isinstance(place.value, (*_NUMBERS, Tensor)) or place.value is _ABSENT:
                    yield place
                else:
                    waiting.append((place.name, place.value))


def _contents(name: str, part: Any) -> Iterator[Place]:
    """The places within an object."""
    if isinstance(part, FunctionType):
        if not _of_library(part.__module__) and not (part.__module__ or "").startswith("latentmix."):
            yield from _names(part, part.__code__)
        for variable, cell in zip(part.__code__.co_freevars, part.__closure__ or (), strict=True):
            yield _cell(variable, cell)
        for value in (*(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values()):
            yield _fixed(name, value)
    elif isinstance(part, MethodType):
        yield _fixed(name, part.__self__)
        yield _fixed(name, part.__func__)
    elif isinstance(part, functools.partial):
        for value in (part.func, *part.args, *part.keywords.values()):
            yield _fixed(name, value)
    elif isinstance(part, list):
        yield Place(f"the length of {name}", len(part), functools.partial(len, part), functools.partial(_shorten, part))
        for index in range(len(part)):
            yield Place(
                f"{name}[{index}]",
                part[index],
                functools.partial(_item, part, index),
                functools.partial(_set, part, index),
            )
    elif isinstance(part, tuple):
        for value in part:
            yield _fixed(name, value)
    elif isinstance(part, dict):
        for key in part:
            yield _entry(f"{name}[{key!r}]", part, key)
    elif _has_attributes(part):
        yield from _attributes(name, part)


def _attributes(name: str, part: Any) -> Iterator[Place]:
    own = vars(part)
    inherited = {key for kind in type(part).__mro__ if not _of_library(kind.__module__) for key in vars(kind)}
    for key in own:
        if isinstance(part, nn.Module) and key in ("_parameters", "_buffers", "_modules"):
            for child in own[key]:
                yield _entry(f"{name}.{child}", own[key], child)
        elif not key.startswith("_pyro"):
            yield _entry(f"{name}.{key}", own, key)
    for key in inherited - set(own):
        value = getattr(type(part), key, None)
        if isinstance(value, (*_NUMBERS, Tensor)) and not key.startswith("__"):
            yield Place(
                f"{name}.{key}", _ABSENT, functools.partial(own.get, key, _ABSENT), functools.partial(_set, own, key)
            )
    for kind in type(part).__mro__:
        if not _of_library(kind.__module__):
            yield from (_fixed(name, value) for value in vars(kind).values() if isinstance(value, FunctionType))


def _names(function: FunctionType, code: CodeType) -> Iterator[Place]:
    """The globals that a function names, those of functions within it included."""
    for name in code.co_names:
        if name in function.__globals__:
            yield _entry(name, function.__globals__, name)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(function, constant)


def _entry(name: str, mapping: dict[Any, Any], key: Any) -> Place:
    return Place(
        name, mapping[key], functools.partial(mapping.get, key, _ABSENT), functools.partial(_set, mapping, key)
    )


def _cell(name: str, cell: CellType) -> Place:
    def read() -> Any:
        try:
            return cell.cell_contents
        except ValueError:  # not yet assigned
            return None

    return Place(name, read(), read, functools.partial(setattr, cell, "cell_contents"))


def _fixed(name: str, value: Any) -> Place:
    """A value that cannot be exchanged for another one."""
    return Place(name, value, lambda: value, lambda _: None)


def _generator(name: str, part: Any) -> Place | None:
    """The state of a generator of random numbers; None for other objects."""
    name = f"the state of {name}"
    if isinstance(part, torch.Generator):
        return Place(
            name,
            bytes(part.get_state().numpy()),
            lambda: bytes(part.get_state().numpy()),
            lambda state: _seed(part, state),
        )
    if isinstance(part, np.random.Generator):
        bits = part.bit_generator
        return Place(name, bits.state, lambda: bits.state, functools.partial(setattr, bits, "state"))
    if isinstance(part, np.random.RandomState):
        return Place(name, part.get_state(legacy=False), lambda: part.get_state(legacy=False), part.set_state)
    if isinstance(part, random.Random):
        return Place(name, part.getstate(), part.getstate, part.setstate)
    return None


def _seed(generator: torch.Generator, state: bytes) -> None:
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _has_attributes(part: Any) -> bool:
    if isinstance(part, type) or not isinstance(getattr(part, "__dict__", None), dict):
        return False
    if isinstance(part, (nn.Module, Messenger, Objective, ELBO)):
        return not isinstance(part, IndepMessenger)
    return not _of_library(type(part).__module__) and not _is_module(part)


def _is_module(part: Any) -> bool:
    return type(part).__name__ == "module"


def _of_library(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _LIBRARIES


def _equal(present: Any, value: Any) -> bool:
    """Equality of numbers, strings and states of generators; NaN equals itself."""
    if isinstance(value, Mapping):
        return present.keys() == value.keys() and all(_equal(present[key], value[key]) for key in value)
    if isinstance(value, np.ndarray):
        return np.array_equal(present, value)
    return bool(present == value) or (isinstance(value, float) and value != value and present != present)


def _item(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else _ABSENT


def _set(container: Any, key: Any, value: Any) -> None:
    container[key] = value


def _shorten(items: list[Any], length: int) -> None:
    del items[length:]


def _name(root: Any) -> str:
    if isinstance(root, dict):
        return "the parameter store"
    return getattr(root, "__qualname__", type(root).__name__).rpartition(".")[2]
