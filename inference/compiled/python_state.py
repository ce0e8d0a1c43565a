"""The Python values that a step reads: attributes, closures, globals and generators, which a graph would freeze."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import getitem, is_
from types import CellType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, NamedTuple, Self

import numpy as np
import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.infer.elbo import ELBO
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from latentmix.inference.objectives.base import Objective

__all__ = ["LIMIT", "Place", "PythonState", "State"]

_ABSENT = object()
_NUMBERS = (bool, int, float, complex, str, bytes, torch.dtype, torch.Size)
_LIBRARIES = {"builtins", "functools", "math", "numpy", "opt_einsum", "pyro", "scipy", "torch", "zuko"}
_CONTAINERS = (list, tuple, dict, set, deque, np.ndarray)
LIMIT = 50_000  # values
_LONGEST = 1_000  # items of a container that are followed
_MODULE_FIELDS = frozenset(vars(nn.Module()))


class State(NamedTuple):
    """A value that is compared as a whole, such as the state of a generator of random numbers.

    Attributes:
        state: The value.
    """

    state: Any


@dataclass(frozen=True, eq=False)
class Place:
    """A place of a Python value, with the value that it had.

    Attributes:
        name: Its name in messages.
        value: The value: a number, a string, a tensor, the length of a list, the state of a generator, None, or an
            object, what is in it having places of its own.
        read: Returns the present value.
        write: Writes a value back.
        library: Whether it is an attribute of an object of Pyro or torch.
    """

    name: str
    value: Any
    read: Callable[[], Any]
    write: Callable[[Any], None]
    library: bool = False

    @property
    def changed(self) -> bool:
        """Whether the value is another one; tensors and objects are compared by identity."""
        present = self.read()
        if present is self.value:
            return False
        if self.is_object:
            return True
        if isinstance(self.value, Tensor) or isinstance(present, Tensor) or type(present) is not type(self.value):
            return True
        return not _equal(present, self.value)

    @property
    def is_object(self) -> bool:
        """Whether the value is none that is compared, but an object that holds some."""
        return _is_object(self.value)


class PythonState:
    """Values within reach of callables and modules, by the place where they are.

    Followed are attributes of modules, handlers, objectives and of the user's own objects and classes; closures,
    defaults and the globals that functions, properties and methods of any kind name; items of lists, queues, sets,
    tuples, dictionaries and NumPy's arrays, if there are at most 1,000; and hooks of parameters. What belongs to torch,
    Pyro or NumPy is not, except for modules, handlers and generators of random numbers; globals and classes of this
    package, methods that are exchanged, and what another module of the user's names by two dots are not either.

    Args:
        places: The places.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.places = tuple(places)
        entries, sized, self._others = _kinds(self.places)
        self._mappings = [place.read.func.__self__ for place in entries]
        self._keys = [place.read.args[0] for place in entries]
        self._entries = [place.value for place in entries]
        self._sized = [place.read.args[0] for place in sized]
        self._lengths = [place.value for place in sized]

    @property
    def same(self) -> bool:
        """Whether there are no changes, which is asked in every step: most places are compared without Python."""
        try:
            identical = all(map(is_, map(getitem, self._mappings, self._keys), self._entries))
        except KeyError:  # removed since
            identical = False
        if identical and list(map(len, self._sized)) == self._lengths:
            return not any(place.changed for place in self._others)
        return not self.changes()

    @classmethod
    def of(cls, *roots: Any) -> Self:
        """The present values within reach of the roots."""
        return cls(_Walk().places(roots))

    def changes(self) -> list[Place]:
        """The places with other values."""
        return [place for place in self.places if place.changed]

    def present(self) -> Self:
        """The places with other values, with these values."""
        return type(self)(replace(place, value=place.read()) for place in self.changes())

    def restore(self) -> None:
        """Write the values back."""
        for place in self.changes():
            place.write(place.value)


def _kinds(places: Iterable[Place]) -> tuple[list[Any], list[Any], list[Place]]:
    """Places of entries of dictionaries, of lengths, and others."""
    entries: list[Any] = []
    sized: list[Any] = []
    others: list[Place] = []
    for place in places:
        function = place.read.func if isinstance(place.read, functools.partial) else None
        if function is len:
            sized.append(place)
        elif getattr(function, "__name__", None) == "get" and isinstance(getattr(function, "__self__", None), dict):
            (others if place.value is _ABSENT else entries).append(place)
        else:
            others.append(place)
    return entries, sized, others


class _Walk:
    """One walk over all that is within reach of some objects."""

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}

    def places(self, roots: Iterable[Any]) -> Iterator[Place]:
        count = 0
        waiting: list[tuple[str, Any]] = [(_name(root), root) for root in reversed(list(roots))]
        while waiting and count < LIMIT:
            name, part = waiting.pop()
            if id(part) in self._seen:
                continue
            self._seen[id(part)] = part
            if (generator := _generator(name, part)) is not None:
                yield generator
                continue
            for place in _contents(name, part):
                if isinstance(place, Place):
                    count += 1
                    yield place
                if _is_object(place.value):
                    waiting.append((place.name, place.value))
                elif (
                    isinstance(place.value, Tensor) and place.value.requires_grad and id(place.value) not in self._seen
                ):
                    self._seen[id(place.value)] = place.value
                    hooks = _hooks(place.name, place.value)
                    yield hooks
                    if hooks.value is not None:
                        waiting.append((hooks.name, hooks.value))


class _Fixed(NamedTuple):
    """A value that cannot be exchanged for another one."""

    name: str
    value: Any


def _is_object(value: Any) -> bool:
    return not (value is None or isinstance(value, (*_NUMBERS, Tensor, State)))


def _contents(name: str, part: Any) -> Iterator[Place | _Fixed]:
    """The places within an object."""
    if isinstance(part, FunctionType):
        if not _of_library(part.__module__) and not (part.__module__ or "").startswith("latentmix."):
            yield from _names(part, part.__code__)
        for variable, cell in zip(part.__code__.co_freevars, part.__closure__ or (), strict=True):
            yield _cell(variable, cell)
        for value in (*(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values()):
            yield _Fixed(name, value)
        for key in vars(part):
            yield _entry(f"{name}.{key}", vars(part), key)
    elif isinstance(part, MethodType):
        yield _Fixed(name, part.__self__)
        yield _Fixed(name, part.__func__)
    elif isinstance(part, functools.partial):
        for value in (part.func, *part.args, *part.keywords.values()):
            yield _Fixed(name, value)
    elif isinstance(part, np.ndarray):
        if part.size <= _LONGEST and not part.dtype.hasobject:
            yield Place(
                f"the numbers of {name}", State(part.copy()), lambda: State(part), lambda value: _fill(part, value)
            )
    elif isinstance(part, set):
        if len(part) <= _LONGEST:
            yield Place(
                f"the items of {name}", State(set(part)), lambda: State(part), lambda value: _refill(part, value)
            )
    elif isinstance(part, list | deque):
        yield Place(f"the length of {name}", len(part), functools.partial(len, part), functools.partial(_shorten, part))
        for index in range(len(part) if len(part) <= _LONGEST else 0):
            yield Place(
                f"{name}[{index}]",
                part[index],
                functools.partial(_item, part, index),
                functools.partial(_set, part, index),
            )
    elif isinstance(part, tuple):
        for value in part[:_LONGEST]:
            yield _Fixed(name, value)
    elif isinstance(part, dict):
        if part is not pyro.get_param_store()._params:  # which a first step fills
            yield Place(
                f"the length of {name}", len(part), functools.partial(len, part), functools.partial(_shrink, part)
            )
        for key in part if len(part) <= _LONGEST else ():
            yield _entry(f"{name}[{key!r}]", part, key)
    elif isinstance(part, type):
        if not _of_library(part.__module__) and not part.__module__.startswith("latentmix."):
            yield from _class_attributes(name, part)
    elif _has_attributes(part):
        yield from _attributes(name, part)


def _attributes(name: str, part: Any) -> Iterator[Place | _Fixed]:
    own = getattr(part, "__dict__", {})
    inherited = {key for kind in type(part).__mro__ if not _of_library(kind.__module__) for key in vars(kind)}
    library = _of_library(type(part).__module__) or isinstance(part, AutoGuide)
    for key in own:
        if isinstance(part, nn.Module) and key in ("_parameters", "_buffers", "_modules"):
            for child in own[key]:
                yield _entry(f"{name}.{child}", own[key], child)
        elif not (key.startswith("_pyro") or key == "_non_persistent_buffers_set"):
            yield replace(_entry(f"{name}.{key}", own, key), library=library or key in _MODULE_FIELDS)
    for key in inherited - set(own):
        value = getattr(type(part), key, None)
        if isinstance(value, (*_NUMBERS, *_CONTAINERS, Tensor)) and not key.startswith("__"):
            yield Place(
                f"{name}.{key}",
                value,
                functools.partial(getattr, part, key, None),
                functools.partial(_remove, own, key),
            )
        elif isinstance(value, MemberDescriptorType):
            yield Place(
                f"{name}.{key}",
                getattr(part, key, None),
                functools.partial(getattr, part, key, None),
                functools.partial(object.__setattr__, part, key),
            )
    for kind in type(part).__mro__:
        if not _of_library(kind.__module__):
            yield from (_Fixed(name, function) for value in vars(kind).values() for function in _functions(value))


def _functions(value: Any) -> Iterator[FunctionType]:
    """The function of an attribute of a class: a method, a static or class method, or a property."""
    for function in (
        value,
        getattr(value, "__func__", None),
        getattr(value, "fget", None),
        getattr(value, "func", None),
    ):
        if isinstance(function, FunctionType):
            yield function


def _class_attributes(name: str, kind: type) -> Iterator[Place]:
    """Numbers and containers of a class that a function names, as of a class of settings."""
    for key, value in list(vars(kind).items()):
        if isinstance(value, (*_NUMBERS, *_CONTAINERS, Tensor)) and not key.startswith("__"):
            yield Place(
                f"{name}.{key}",
                value,
                functools.partial(getattr, kind, key, _ABSENT),
                functools.partial(setattr, kind, key),
            )


def _hooks(name: str, tensor: Tensor) -> Place:
    return Place(
        f"the hooks of {name}",
        tensor._backward_hooks,
        lambda: tensor._backward_hooks,
        lambda value: setattr(tensor, "_backward_hooks", value),
    )


def _names(function: FunctionType, code: CodeType) -> Iterator[Place]:
    """The globals that a function names, those of functions within it included."""
    known = function.__globals__
    for name in code.co_names:
        if name in known:
            yield _entry(name, known, name)
        if isinstance(module := known.get(name), ModuleType) and not _of_library(module.__name__):
            own = vars(module)
            yield from (_entry(f"{name}.{each}", own, each) for each in code.co_names if each in own)
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


def _generator(name: str, part: Any) -> Place | None:
    """The state of a generator of random numbers; None for other objects."""
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    if isinstance(part, torch.Generator):
        read, write = lambda: bytes(part.get_state().numpy()), functools.partial(_seed, part)
    elif isinstance(part, np.random.Generator):
        bits = part.bit_generator
        read, write = lambda: bits.state, functools.partial(setattr, bits, "state")
    elif isinstance(part, np.random.RandomState):
        read, write = lambda: part.get_state(legacy=False), part.set_state
    elif isinstance(part, random.Random):
        read, write = part.getstate, part.setstate
    else:
        return None
    return Place(f"the state of {name}", State(read()), lambda: State(read()), lambda value: write(value.state))


def _seed(generator: torch.Generator, state: bytes) -> None:
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _has_attributes(part: Any) -> bool:
    if isinstance(part, (type, ModuleType)):
        return False
    if isinstance(part, (nn.Module, Messenger, Objective, ELBO)):
        return not isinstance(part, IndepMessenger)
    return not _of_library(type(part).__module__)


def _of_library(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _LIBRARIES


def _equal(present: Any, value: Any) -> bool:
    """Equality of numbers, strings and states of generators; NaN equals itself."""
    if isinstance(value, State):
        return _equal(present.state, value.state)
    if isinstance(value, Mapping):
        return present.keys() == value.keys() and all(_equal(present[key], value[key]) for key in value)
    if isinstance(value, np.ndarray):
        return np.array_equal(present, value) or np.array_equal(present, value, equal_nan=value.dtype.kind in "fc")
    return bool(present == value) or (isinstance(value, float) and value != value and present != present)


def _item(items: list[Any] | deque[Any], index: int) -> Any:
    return items[index] if index < len(items) else _ABSENT


def _set(container: Any, key: Any, value: Any) -> None:
    container[key] = value


def _remove(own: dict[str, Any], key: str, _: Any) -> None:
    """Take back an attribute of an object that hides one of its class."""
    own.pop(key, None)


def _shrink(mapping: dict[Any, Any], length: int) -> None:
    while len(mapping) > length:
        mapping.popitem()


def _shorten(items: list[Any] | deque[Any], length: int) -> None:
    while len(items) > length:
        items.pop()


def _fill(array: np.ndarray[Any, Any], value: State) -> None:
    array[...] = value.state


def _refill(items: set[Any], value: State) -> None:
    items.clear()
    items.update(value.state)


def _name(root: Any) -> str:
    if isinstance(root, dict):
        return "the parameter store"
    return getattr(root, "__qualname__", type(root).__name__).rpartition(".")[2]
