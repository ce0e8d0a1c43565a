"""Trees of posteriors for ArviZ in files: netCDF, and zarr where that is installed."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from latentmix.experiments.reading.limits import MAX_GIB
from latentmix.models.files import write_atomically
from latentmix.models.process_state import kept_warnings
from latentmix.models.reading import REMEDY, one_sentence, open_regular

if TYPE_CHECKING:
    import h5py
    import xarray as xr

__all__ = ["TREE_SUFFIXES", "check_draws", "check_tree_suffix", "read_tree", "write_tree"]

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


def read_tree(
    path: Path,
    *,
    max_gib: float = MAX_GIB,
    max_mib: float | None = None,
    what: str = "a tree of a posterior for ArviZ",
    remedy: str = REMEDY,
) -> xr.DataTree:
    """Read a tree for ArviZ, with the draws of a posterior, whole into memory.

    Nothing in the file is executed, and nothing outside it is read: links and external data are refused.

    Args:
        path: A `.nc` file or a `.zarr` folder, by `to_datatree(...).to_netcdf` or of another program.
        max_gib: Most memory, in GiB.
        max_mib: Most size of the file, in MiB; by default any.
        what: What the file is expected to hold, for messages.
        remedy: What to do about a file that cannot be read, for messages.

    Raises:
        ValueError: If it cannot be read, holds no tree, or is or takes more.
    """
    import xarray as xr

    check_tree_suffix(path, "a file of a posterior")
    try:
        with kept_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")
            if path.suffix == ".zarr":
                if not path.is_dir():
                    raise ValueError(f"Expected {what} in {path}; got no folder: {remedy}.")
                lazy = stack.enter_context(xr.open_datatree(path, engine="zarr"))
            else:
                file = stack.enter_context(open_regular(path))
                _check_hdf5(file, path, max_gib, max_mib, what, remedy)
                lazy = stack.enter_context(xr.open_datatree(file, engine="h5netcdf"))
            gib = sum(node.to_dataset(inherit=False).nbytes for node in lazy.subtree) / 2**30
            if gib > max_gib:
                raise ValueError(
                    f"Expected {what} of at most {max_gib:g} GiB in {path}; got {gib:.1f}: allow more by --max_gib."
                )
            try:
                return lazy.load()
            except Exception as error:
                raise ValueError(f"Expected {what} in {path}; got damaged values: {remedy}.") from error
    except OSError as error:
        cause = error.strerror if error.strerror else "a damaged or half-written file"
        raise ValueError(f"Expected {what} in {path}; got {cause}: {remedy}.") from error
    except Exception as error:  # of h5py, zarr or their codecs
        text = one_sentence(error)
        if isinstance(error, ValueError) and text.startswith("Expected"):
            raise
        raise ValueError(f"Expected {what} in {path}; got another file ({text:.120}): {remedy}.") from error


def _check_hdf5(file: BinaryIO, path: Path, max_gib: float, max_mib: float | None, what: str, remedy: str) -> None:
    """Refuse an open file for its size, or for what is in it."""
    import h5py

    if max_mib is not None and os.fstat(file.fileno()).st_size > max_mib * 2**20:
        raise ValueError(f"Expected {what} of at most {max_mib:g} MiB in {path}; got more: {remedy}.")
    with h5py.File(file, "r") as stored:
        fault = _hdf5_fault(stored, max_gib)
    if fault is not None:
        rather = "allow more by --max_gib" if "GiB" in fault and max_mib is None else remedy
        raise ValueError(f"Expected {what} in {path}; got {fault}: {rather}.")
    file.seek(0)


def _hdf5_fault(stored: h5py.File, max_gib: float) -> str | None:
    """The first content of an HDF5 file that is refused: a link, data elsewhere, or too much; None if there is none."""
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
