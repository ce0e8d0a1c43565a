"""Names and units of data: what a model that was trained on some has to know of any others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from latentmix.models.words import plural

__all__ = ["Schema", "Standardisation", "single_precision"]


@final
@dataclass(frozen=True)
class Standardisation:
    """Map points to `(x - centre) / scale`, feature by feature.

    Args:
        centre: The mean of each feature.
        scale: The standard deviation of each feature; 1 for a constant one.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of(cls, x: Tensor) -> Standardisation:
        """Centre and scale of an `N x D` tensor of points.

        Example:
            >>> import torch
            >>> from latentmix.experiments.data.schema import Standardisation
            >>> Standardisation.of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
            Standardisation(centre=(2.0, 5.0), scale=(1.0, 1.0))
        """
        points = x.detach().double()
        centre, scale = points.mean(0), points.std(0, correction=0)
        constant = scale <= 1e-12 * centre.abs()
        return cls(tuple(centre.tolist()), tuple(scale.masked_fill(constant, 1.0).tolist()))

    def standardise(self, x: Tensor) -> Tensor:
        """Standardised points in float64: `N x D`, from `N x D` points in the data's units."""
        return (x.double() - self._row(self.centre, x)) / self._row(self.scale, x)

    def restore(self, x: Tensor) -> Tensor:
        """Points in the data's units, in float64: `N x D`, from `N x D` standardised points."""
        return x.double() * self._row(self.scale, x) + self._row(self.centre, x)

    @staticmethod
    def _row(values: Sequence[float], x: Tensor) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=x.device)


@final
@dataclass(frozen=True)
class Schema:
    """Classes, columns and units of the data of a model.

    Args:
        classes: The labels, ascending; empty without labels.
        class_names: The name of each class; `None` where they are not known, so that labels alone tell classes apart.
        columns: The name of each feature; empty where they have none.
        standardisation: Centre and scale that points are standardised by; `None` if they are not.
    """

    classes: tuple[int, ...] = ()
    class_names: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    standardisation: Standardisation | None = None

    def as_dict(self) -> dict[str, Any]:
        """The schema as plain values, in exact floats, for the entry `data` of `summary.json`."""
        units = self.standardisation
        return {
            "classes": list(self.classes),
            "class_names": None if self.class_names is None else list(self.class_names),
            "columns": list(self.columns),
            "standardisation": units and {"centre": list(units.centre), "scale": list(units.scale)},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Schema:
        """The schema of `as_dict`; what an earlier version did not write is not known.

        Raises:
            ValueError: If a value is of another kind, or names or units are not as many as classes or columns.
        """
        classes, columns = (_listed(values, name, kind) for name, kind in (("classes", int), ("columns", str)))
        names, units = (values.get(name) for name in ("class_names", "standardisation"))
        if names is not None:
            names = _listed(values, "class_names", str)
            if len(names) != len(classes) or len({*names}) < len(names):
                raise ValueError(
                    f"Expected a class_name of its own for each of {plural(len(classes), 'class', 'classes')}; got "
                    f"{names}."
                )
        if units is not None:
            if not isinstance(units, Mapping):
                raise ValueError(f"Expected centre and scale as standardisation; got {units!r:.60}.")
            centre, scale = (_listed(units, name, (int, float)) for name in ("centre", "scale"))
            if len(centre) != len(scale) or (columns and len(columns) != len(scale)):
                raise ValueError(f"Expected a centre and a scale of each feature; got {len(centre)} and {len(scale)}.")
            if not all(map(math.isfinite, centre)) or not all(0 < value < math.inf for value in scale):
                raise ValueError("Expected finite centres and scales above 0; got others.")
            units = Standardisation(centre, scale)
        return cls(classes, names, columns, units)

    def arrange(self, x: Tensor, columns: Sequence[str], where: str) -> Tensor:
        """Points with the features of this schema, in its order, matched by name where both have names.

        Args:
            x: An `N x D` tensor of points.
            columns: Their D names; empty if they have none.
            where: Names their source in messages.

        Raises:
            ValueError: If a feature is missing, or one of them is not of the schema.
        """
        if not self.columns or not columns:
            if self.columns and x.shape[1] != len(self.columns):
                raise ValueError(
                    f"Expected the {plural(len(self.columns), 'column')} {', '.join(self.columns)} in {where}; "
                    f"got {x.shape[1]} without names."
                )
            return x
        for wrong, got in (
            (set(self.columns) - set(columns), "none named"),
            (set(columns) - set(self.columns), "also"),
        ):
            if wrong:
                raise ValueError(
                    f"Expected the columns {', '.join(self.columns)} in {where}; got {got} "
                    f"{', '.join(sorted(map(repr, wrong)))}."
                )
        return x[:, [list(columns).index(name) for name in self.columns]]

    def relabel(self, names: Mapping[int, str], things: str, *, attribute: bool = False) -> dict[int, int]:
        """The label in this schema of every class of other data, by their names.

        Labels tell classes apart where names are not known, and where those of an attribute are but its values 0 and 1,
        as in runs of earlier versions.

        Args:
            names: The names of the classes by the labels of the other data.
            things: The data in messages: `images` or `points`.
            attribute: Whether the classes of the other data are the values of an attribute.

        Raises:
            ValueError: If a class is not of the schema.
        """
        labels = tuple(map(str, self.classes))
        own = dict(zip(self.class_names or labels, self.classes, strict=True))
        if self.class_names is None or (attribute and self.class_names == labels):
            names = {label: str(label) for label in names}
        unknown = [names[label] for label in sorted(names) if names[label] not in own]
        if unknown:
            raise ValueError(
                f"Expected {things} of the classes [{', '.join(own)}] of this run; got classes [{', '.join(unknown)}] "
                "too: choose with --data.classes."
            )
        return {label: own[name] for label, name in names.items()}


def single_precision(points: Tensor, where: str) -> Tensor:
    """Finite points in float32.

    Raises:
        ValueError: If a value is too large for it.
    """
    single = points.float()
    if not single.isfinite().all():
        raise ValueError(f"Expected numbers below 3e38 in {where}, once standardised; got larger ones: scale them.")
    return single


def _listed(values: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
    listed = values.get(name, ())
    if not isinstance(listed, list | tuple) or not all(isinstance(value, kind) for value in listed):
        raise ValueError(f"Expected a list of {'words' if kind is str else 'numbers'} as {name}; got {listed!r:.60}.")
    return tuple(listed)
