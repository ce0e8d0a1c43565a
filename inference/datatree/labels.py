"""Names and coordinates of dimensions, and data sets that bear them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from arviz_base import dict_to_dataset, rcParams
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentmix.inference.datatree.sites import Site, check_names

__all__ = ["SAMPLE_DIMS", "Labels", "as_array"]

SAMPLE_DIMS = ("chain", "draw")

_TAKEN = {"chain", "ci_bound", "draw", "group", "plot_axis", "sample", "summary", "variable"}


def as_array(value: Any) -> NDArray[Any]:
    """A tensor on any device, or anything like an array, as a NumPy array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return np.asarray((value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy())
    return np.asarray(value)


class Labels:
    """Names and coordinates of the dimensions of a model's sites.

    Args:
        sites: The model's sites, whose plates give names.
        dims: Names by variable, which come before those of plates.
        coords: Coordinates by dimension; those of a plate that holds a part of its size may have its full size.
        indices: The index of each plate that holds a part of its size.
        index_origin: The first of coordinates that nothing else gives; by default ArviZ's.

    Raises:
        ValueError: If a dimension has a name that ArviZ uses itself.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        *,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, ArrayLike] | None = None,
        indices: Mapping[str, NDArray[np.int64]] | None = None,
        index_origin: int | None = None,
    ) -> None:
        self.sites = dict(sites)
        for name, names in (dims or {}).items():
            check_names(name, names)
        self.dims = {name: list(names) for name, names in (dims or {}).items()}
        self.coords = {name: np.asarray(values) for name, values in (coords or {}).items()}
        self.index_origin = rcParams["data.index_origin"] if index_origin is None else index_origin
        for plate, index in (indices or {}).items():
            if plate not in self.coords:
                self.coords[plate] = index + self.index_origin
            elif len(self.coords[plate]) != len(index) and len(self.coords[plate]) > index.max(initial=0):
                self.coords[plate] = self.coords[plate][index]
        named = [(name, dim) for name, site in self.sites.items() if name not in self.dims for dim in site.dims]
        named += [(name, dim) for name, names in self.dims.items() for dim in names]
        for name, dim in named:
            if dim in _TAKEN:
                raise ValueError(
                    f"Expected dimensions that ArviZ does not use itself ({', '.join(sorted(_TAKEN))}); got {dim!r} "
                    f"for site {name!r}: rename the plate, or name its dimensions by dims={{{name!r}: [...]}}."
                )
            if dim in self.sites:
                raise ValueError(
                    f"Expected dimensions and sites of different names; got {dim!r} as a dimension of site {name!r}: "
                    "rename it."
                )

    def alias(self, name: str, site: str) -> None:
        """Give a variable the dimensions of a site of another name."""
        if name not in self.sites:
            self.sites[name] = self.sites[site]
            if site in self.dims:
                self.dims[name] = self.dims[site]

    def renamed(self, dims: Mapping[str, Sequence[str]]) -> Labels:
        """Labels with other names of dimensions."""
        return Labels(self.sites, dims=dims, coords=self.coords, index_origin=self.index_origin)

    def dataset(
        self,
        data: Mapping[str, Any],
        *,
        sample_dims: Sequence[str] = SAMPLE_DIMS,
        batch: bool = False,
        strict: bool = True,
        attrs: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Arrays as a data set with named dimensions.

        Args:
            data: Arrays by variable, whose first dimensions are `sample_dims`.
            sample_dims: Names of those.
            batch: Whether the arrays have a site's batch dimensions alone.
            strict: Whether coordinates of another size than the array are refused, rather than replaced by a range.
            attrs: Attributes of the data set.

        Raises:
            ValueError: If names or coordinates do not fit the shapes.
        """
        arrays = {name: as_array(value) for name, value in data.items()}
        dims: dict[Any, Any] = {
            name: self._dims(name, array.shape[len(sample_dims) :], batch=batch) for name, array in arrays.items()
        }
        sizes: dict[str, int] = {}
        coords: dict[Any, Any] = dict(self.coords)
        for name, array in arrays.items():
            for dim, size in zip(dims[name], array.shape[len(sample_dims) :], strict=True):
                if dim is None:
                    continue
                if sizes.setdefault(dim, size) != size:
                    raise ValueError(
                        f"Expected dimension {dim!r} to have one size; got {sizes[dim]} and {size}, the latter for "
                        f"{name!r}: name its dimensions by dims={{{name!r}: [...]}}."
                    )
                if dim in coords and len(coords[dim]) != size:
                    if strict:
                        raise ValueError(
                            f"Expected {size} coordinate{'s' * (size != 1)} for dimension {dim!r} of {name!r}; got "
                            f"{len(coords[dim])}."
                        )
                    del coords[dim]
        return dict_to_dataset(
            arrays,
            attrs=dict(attrs or {}),
            inference_library=pyro,
            coords=coords,
            dims=dims,
            sample_dims=list(sample_dims),
            index_origin=self.index_origin,
            check_conventions=False,  # names are checked above
        )

    def _dims(self, name: str, shape: Sequence[int], *, batch: bool) -> list[str | None]:
        """A name per dimension of a variable's value; None where ArviZ's default is to be taken."""
        site = self.sites.get(name)
        if name in self.dims:
            given: list[str | None] = list(self.dims[name])
            if batch and site is not None:
                given = given[: site.batch_ndim]
            elif len(given) > len(shape):
                most = f"{len(shape)} dimension{'s' * (len(shape) != 1)}"
                raise ValueError(f"Expected at most {most} for {name!r}; got {given}.")
        else:
            given = [] if site is None else list(site.batch_dims if batch else site.dims)
        names = (given + [None] * len(shape))[: len(shape)]
        repeated = {dim for dim in names if dim is not None and names.count(dim) > 1}
        if repeated:
            raise ValueError(f"Expected dimensions of different names for {name!r}; got {names}: rename one.")
        return names
