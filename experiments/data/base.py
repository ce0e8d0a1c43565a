"""Data sets in memory, and the interface of the sources that they are read from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from latentmix.experiments.data.schema import Schema, Standardisation
from latentmix.models import MixtureParameters
from latentmix.models.display import Displayed

__all__ = ["Dataset", "Reading", "Source", "Split"]


@final
@dataclass(frozen=True, repr=False)
class Split(Displayed):
    """Data and their labels.

    Args:
        x: An `N x C x H x W` uint8 tensor of images, or an `N x D` float tensor of points, float32 in a `Dataset`.
        labels: N int64 labels, as the data set names them; `None` if it has none.
        attributes: An `N x A` boolean tensor of named attributes; `None` if there are none.
    """

    x: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def things(self) -> str:
        """The kind of the data: `images` or `points`."""
        return "images" if self.x.dim() == 4 else "points"

    def to(self, device: torch.device | str) -> Split:
        """The same split on another device."""
        return self._map(lambda part: part.to(device))

    def take(self, rows: Tensor) -> Split:
        """A copy of the data of these rows."""
        return self._map(lambda part: part[rows])

    def first(self, count: int) -> Split:
        """A view of the first rows; memory-mapped images are not loaded."""
        return self._map(lambda part: part[:count])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Split:
        parts = (None if part is None else change(part) for part in (self.labels, self.attributes))
        return Split(change(self.x), *parts)


@final
@dataclass(frozen=True, repr=False)
class Dataset(Displayed):
    """A loaded data set.

    Args:
        name: The source it was loaded from.
        train: Data that models are fitted to.
        validation: Data for choices between models.
        test: Data for reported figures.
        classes: The labels that occur in any split, ascending; empty if the data set has no labels.
        attributes: Names of the columns of `Split.attributes`; empty if there are none.
        truth: The mixture that the data were drawn from, in the data's units, if known.
        class_names: The name of each class.
        columns: The name of each feature of points; empty if they have none.
        standardisation: Centre and scale by which the points of all splits are standardised; `None` if they are not.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[int, ...] = ()
    attributes: tuple[str, ...] = ()
    truth: MixtureParameters | None = None
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    standardisation: Standardisation | None = None

    @property
    def schema(self) -> Schema:
        """Classes, columns and units, as other data have to have them."""
        return Schema(self.classes, self.class_names, self.columns, self.standardisation)

    def restore(self, x: Tensor) -> Tensor:
        """Points in the data's units: `N x D`, from `N x D` points as the splits hold them."""
        return x if self.standardisation is None else self.standardisation.restore(x)

    def shown(self) -> dict[str, Any]:
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        kind = "images" if self.pictorial else "points"
        shape = " x ".join(map(str, self.shape))
        figures = {"source": self.name, kind: f"{shape}; {sizes}", "classes": self.classes}
        known = {"attributes": self.attributes, "truth": self.truth}
        return figures | {name: value for name, value in known.items() if value}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one datum: channels, height and width of an image, or the length of a point."""
        return tuple(self.train.x.shape[1:])

    @property
    def pictorial(self) -> bool:
        """Whether the data are images."""
        return len(self.shape) == 3

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name: `train`, `validation`, `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device; images as uint8, so that MNIST's training split moves as 38 MB."""
        train, validation, test = (split.to(device) for split in self.splits.values())
        return replace(self, train=train, validation=validation, test=test)


@final
@dataclass(frozen=True, repr=False)
class Reading(Displayed):
    """Data as a source provides them.

    Args:
        splits: All data in one split, training and test data, or training, validation and test data; `Data` divides
            one or two into three, and draws a split that is `None` from the first.
        attributes: Names of the columns of `Split.attributes`.
        class_names: Names of labels; a label without one is its own name.
        columns: Names of the features of points.
    """

    splits: Sequence[Split | None]
    attributes: tuple[str, ...] = ()
    class_names: Mapping[int, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Source:
    """A source of data, found by its name.

    Args:
        name: The name, as `Data(source=name)`.
        read: Reads the data. Its parameters are named as options of `Data`, which receive their values; an option of
            `None` is passed only to a parameter without a default.
        suffixes: Endings of paths that stand for the name, if the source is a file.
        shared_root: Whether `root` defaults to the environment variable LATENTMIX_DATA.
        truth: The mixture that the data of some classes are drawn from, if known.
    """

    name: str
    read: Callable[..., Reading]
    suffixes: tuple[str, ...] = ()
    shared_root: bool = True
    truth: Callable[[Collection[int] | None], MixtureParameters] | None = None

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The options of `Data` that the source depends on."""
        return inspect.signature(self.read).parameters

    def load(self, options: Mapping[str, Any]) -> Reading:
        """Read the data by the options of `Data` that the source depends on."""
        arguments = {
            name: options[name]
            for name, parameter in self.parameters.items()
            if options[name] is not None or parameter.default is parameter.empty
        }
        return self.read(**arguments)
