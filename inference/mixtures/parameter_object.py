"""Parameter objects of scikit-learn's kind, without its import."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self

__all__ = ["ParameterObject", "Requirement", "real", "whole"]


class Requirement(NamedTuple):
    """A condition on the value of an option.

    Attributes:
        words: As messages say it.
        met: Whether a value is so.
    """

    words: str
    met: Callable[[Any], bool]

    def or_none(self) -> Requirement:
        """This, or None."""
        return Requirement(f"{self.words}, or None", lambda value: value is None or self.met(value))


def whole(least: int) -> Requirement:
    """A whole number of at least `least`."""
    return Requirement(
        f"a whole number of at least {least}",
        lambda value: not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least,
    )


def real(least: float, *, above: bool = False, below: float | None = None) -> Requirement:
    """A number of at least `least`, or above it, and below `below`."""
    words = f"above {least}" if above else f"of at least {least}"

    def met(value: Any) -> bool:
        number = not isinstance(value, bool) and isinstance(value, Real)
        return number and (value > least or (value == least and not above)) and (below is None or value < below)

    return Requirement(f"a number {words}" + (f" and below {below}" if below is not None else ""), met)


class ParameterObject:
    """An object whose constructor stores its arguments under their names.

    `get_params`, `set_params`, `repr`, and scikit-learn's `clone` and grids, treat it as they do an estimator of
    scikit-learn, whose import takes as long as half of torch's.

    Attributes:
        requirements: Those on options, by name; `check_params` goes through them.

    Example:
        >>> from latentmix.inference.mixtures.parameter_object import ParameterObject, whole
        >>> class Own(ParameterObject):
        ...     requirements = {"steps": whole(1)}
        ...
        ...     def __init__(self, *, steps: int = 10) -> None:
        ...         self.steps = steps
        >>> Own().set_params(steps=3)
        Own(steps=3)
    """

    requirements: ClassVar[Mapping[str, Requirement]] = {}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The options by name; `deep` is scikit-learn's, and of no effect: no option has options of its own."""
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self, **params: Any) -> Self:
        """Set options by name.

        Raises:
            ValueError: If there is none of that name; nothing is set then.
        """
        known = self._defaults()
        unknown = next((name for name in params if name not in known), None)
        if unknown is not None:
            names = ", ".join(known) or "none, as it has no options"
            raise ValueError(f"Expected options of {type(self).__name__} out of {names}; got {unknown!r}.")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def check_params(self) -> None:
        """Refuse options that do not meet their requirements.

        Raises:
            ValueError: If there is one; the message names the option.
        """
        for name, requirement in self.requirements.items():
            if not requirement.met(value := getattr(self, name)):
                raise ValueError(
                    f"Expected {name} of {type(self).__name__} to be {requirement.words}; got {value!r:.80}."
                )

    def __repr__(self) -> str:
        defaults = self._defaults()
        given = {name: value for name, value in self.get_params().items() if repr(value) != repr(defaults[name])}
        return f"{type(self).__name__}({', '.join(f'{name}={_named(value)}' for name, value in given.items())})"

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        if cls.__init__ is object.__init__:
            return {}
        return {name: argument.default for name, argument in inspect.signature(cls).parameters.items()}


def _named(value: Any) -> str:
    """A class by its name, in tuples and lists too; any other value as it shows itself."""
    if type(value) is tuple or type(value) is list:
        inner = ", ".join(map(_named, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    return value.__name__ if isinstance(value, type) else repr(value)
