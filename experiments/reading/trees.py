"""Trees of posteriors for ArviZ in files: netCDF, and zarr where that is installed."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from latentmix.experiments.reading.limits import MAX_GIB
from latentmix.models.files import write_atomically
from latentmix.models.process_state import kept_warnings
from latentmix.models.reading import REMEDY, one_sentence, open_regular

if TYPE_CHECKING:
    import h5py
    import xarray as xr

__all__ = ["TREE_SUFFIXES", "check_draws", "check_tree_suffix", "hdf5_fault", "read_tree", "write_tree"]

TREE_SUFFIXES = (".nc", ".zarr")
DRAWS = ("chain", "draw")
_MOST_OBJECTS = 1000


def check_tree_suffix(path: Path, what: str) -> None:
    """Refuse a path that ends in neither `.nc` nor `.zarr`, and one in `.zarr` without the package.

    Args:
        path: The path.
        what: Whose path it is, for the message.

    Raises:
        ValueError: If so.
    """
    if path.suffix not in TREE_SUFFIXES:
        raise ValueError(f"Expected {what} that ends in .nc or .zarr; got {path}.")
    if path.suffix == ".zarr" and importlib.util.find_spec("zarr") is None:
        raise ValueError(
            f"Expected the package zarr for {path}; it is not installed: `pip install 'latentmix[zarr]'`, or name a "
            ".nc file."
        )


def read_tree(path: Path, *, max_gib: float = MAX_GIB) -> xr.DataTree:
    """Read a tree for ArviZ, with the draws of a posterior, whole into memory.

    Args:
        path: A `.nc` file or a `.zarr` folder, by `to_datatree(...).to_netcdf` or of another program.
        max_gib: Most memory, in GiB.

    Raises:
        ValueError: If it cannot be read, holds no draws of a posterior, or takes more memory.
    """
    import h5py
    import xarray as xr

    check_tree_suffix(path, "a file of a posterior")
    expected = "a tree of a posterior for ArviZ"
    try:
        if path.suffix == ".zarr":
            if not path.is_dir():
                raise ValueError(f"Expected {expected} in {path}; got no folder: {REMEDY}.")
            tree = xr.open_datatree(path, engine="zarr")
        else:
            with open_regular(path), h5py.File(path, "r") as stored:
                fault = hdf5_fault(stored, max_gib=float("inf"))  # the limit is checked below
            if fault is not None:
                raise ValueError(f"Expected {expected} in {path}; got {fault}: {REMEDY}.")
            tree = xr.open_datatree(path, engine="h5netcdf")
    except OSError as error:
        cause = error.strerror if error.strerror else "a damaged or half-written file"
        raise ValueError(f"Expected {expected} in {path}; got {cause}: {REMEDY}.") from error
    except Exception as error:  # of h5py, zarr or their codecs
        text = one_sentence(error)
        if isinstance(error, ValueError) and text.startswith("Expected"):
            raise
        raise ValueError(f"Expected {expected} in {path}; got another file ({text:.120}): {REMEDY}.") from error
    with tree:
        gib = sum(node.to_dataset(inherit=False).nbytes for node in tree.subtree) / 2**30
        if gib > max_gib:
            raise ValueError(
                f"Expected {expected} of at most {max_gib:g} GiB in {path}; got {gib:.1f}: allow more by --max_gib."
            )
        try:
            return tree.load()
        except Exception as error:
            raise ValueError(f"Expected {expected} in {path}; got damaged values: {REMEDY}.") from error


def hdf5_fault(stored: h5py.File, *, max_gib: float = MAX_GIB) -> str | None:
    """The first content of an HDF5 file that is refused: a link, data elsewhere, or too much; None if there is none.

    Args:
        stored: The file, opened for reading.
        max_gib: Most memory of its values, in GiB.
    """
    import h5py

    groups: list[tuple[str, h5py.Group, int]] = [("", stored, 0)]
    objects, size = 0, 0
    while groups:
        place, group, depth = groups.pop()
        for name in group:
            objects += 1
            where = f"{place}/{name}"
            if objects > _MOST_OBJECTS or depth > 8:
                return f"more than {_MOST_OBJECTS} variables"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                return f"the link {where}"
            thing = group[name]
            if isinstance(thing, h5py.Group):
                groups.append((where, thing, depth + 1))
            elif isinstance(thing, h5py.Dataset):
                if thing.external or thing.is_virtual:
                    return f"data outside the file at {where}"
                size += thing.size * max(thing.dtype.itemsize, 1)
            if size > max_gib * 2**30:
                return f"more than {max_gib:g} GiB of values at {where}"
    return None


def check_draws(tree: xr.DataTree, path: Path) -> None:
    """Refuse a tree without draws of a posterior, or with draws, of any fit in it, that are not finite numbers.

    Args:
        tree: The tree.
        path: Its file, for the message.

    Raises:
        ValueError: If so; the message names the variable.
    """
    import numpy as np

    wrong = _not_draws(tree)
    if wrong is not None:
        raise ValueError(
            f"Expected draws of a posterior, with the dimensions chain and draw, in {path}; got {wrong}: write it by "
            "to_datatree(...).to_netcdf, or by ArviZ's converters."
        )
    groups = [node.to_dataset() for node in tree.subtree if node.name == "posterior" and {*DRAWS} <= set(node.dims)]
    for name, values in ((name, values) for group in groups for name, values in group.items()):
        draws = values.transpose(*DRAWS, ...).values.reshape(values.sizes["chain"] * values.sizes["draw"], -1)
        bad = int((~np.isfinite(draws)).any(-1).sum()) if draws.dtype.kind == "f" else 0
        if bad:
            raise ValueError(
                f"Expected draws that are finite in {path}; got NaN or infinity at site {name!r} in {bad} of "
                f"{len(draws)} draws: restore the file from a copy, or draw again."
            )


def _not_draws(tree: xr.DataTree) -> str | None:
    """In words, what a tree has in the place of draws of a posterior; None if it has these."""
    if "posterior" not in tree.children:
        return f"the groups {', '.join(map(str, tree.children))}" if tree.children else "no groups"
    group = tree["posterior"]
    if not group.data_vars:
        return "a posterior without variables"
    for name, values in group.data_vars.items():
        if not {*DRAWS} <= set(values.dims):
            return f"{name!r} with the dimensions {', '.join(map(str, values.dims)) or 'none'}"
        if values.dtype.kind not in "fiub":
            return f"{name!r} that is no number"
        if not values.size:
            return f"no draws of {name!r}"
    return None


def write_tree(tree: xr.DataTree, path: Path) -> None:
    """Write a tree to a new `.nc` file or `.zarr` folder, in one step.

    Args:
        tree: The tree.
        path: The file or folder, which is not there.

    Raises:
        ValueError: If its ending is another, or zarr is not installed.
        OSError: If it cannot be written.

    Example:
        >>> import tempfile, numpy as np, xarray as xr
        >>> from pathlib import Path
        >>> from latentmix.experiments.reading.trees import read_tree, write_tree
        >>> tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"mu": (("chain", "draw"), np.zeros((2, 5)))})})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tree(tree, Path(folder) / "posterior.nc")
        ...     read_tree(Path(folder) / "posterior.nc").identical(tree)
        True
    """
    check_tree_suffix(path, "a file for the tree")
    if path.suffix == ".nc":
        write_atomically(path, bytes(tree.to_netcdf(engine="h5netcdf")))
        return
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        with kept_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)  # of zarr about its own format
            tree.to_zarr(beside)
        os.rename(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
