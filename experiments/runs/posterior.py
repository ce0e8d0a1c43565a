"""Posteriors of a run's mixtures: `posterior.nc`, written when the run is measured, and read back."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from latentmix.experiments.reading.trees import check_draws, hdf5_fault
from latentmix.experiments.runs.posterior_tree import FORMAT, fits_with_draws, run_tree
from latentmix.models.files import inside
from latentmix.models.process_state import kept_warnings
from latentmix.models.reading import one_sentence, open_regular

if TYPE_CHECKING:
    from latentmix.experiments.runs.mixtures import FittedMixture

__all__ = ["POSTERIOR", "posterior_bytes", "posterior_of", "read_posterior"]

POSTERIOR = "posterior.nc"

_MOST_MIB = 64  # of the file
_EXPECTED = "the posterior of a run"


def posterior_bytes(mixtures: Mapping[str, Mapping[str, FittedMixture]], latents: NDArray[np.float64]) -> bytes | None:
    """The content of `posterior.nc`; `None` if no fit has draws.

    Args:
        mixtures: Fitted mixtures by inference and label budget.
        latents: The `N x D` latents that they were fitted to.
    """
    return bytes(run_tree(mixtures, latents).to_netcdf(engine="h5netcdf")) if fits_with_draws(mixtures) else None


def read_posterior(path: str | Path) -> xr.DataTree:
    """The posterior of a run, as plain xarray reads it, in memory and checked.

    Nothing in the file is executed, and nothing outside it is read: links and external data are refused.

    Args:
        path: The file, or the folder of the run.

    Returns:
        The tree, of `run_tree`.

    Raises:
        ValueError: If the file is not there, is not whole, is no posterior of a run or one of a newer version, has more
            than 64 MiB or takes more than 2 GiB of memory, or has draws that are not finite; the message names the
            variable.

    Example:
        >>> import arviz  # doctest: +SKIP
        >>> arviz.summary(read_posterior("runs/digits"))  # doctest: +SKIP
    """
    file = Path(path)
    file = inside(file, POSTERIOR) if file.is_dir() else file
    remedy = f"remove it, and load_run({str(file.parent)!r}).to_datatree() makes it of the draws that the run keeps"
    try:
        with open_regular(file) as opened:
            data = opened.read(_MOST_MIB * 2**20 + 1)
    except OSError as error:
        raise ValueError(f"Expected {_EXPECTED} in {file}; got {error.strerror or error}.") from error
    if len(data) > _MOST_MIB * 2**20:
        raise ValueError(f"Expected {_EXPECTED} of at most {_MOST_MIB} MiB in {file}; got more: {remedy}.")
    try:
        with h5py.File(io.BytesIO(data), "r") as stored:
            found = hdf5_fault(stored)
        if found is not None:
            raise ValueError(f"Expected {_EXPECTED} in {file}; got {found}: {remedy}.")
        with kept_warnings():
            warnings.simplefilter("ignore")
            with xr.open_datatree(io.BytesIO(data), engine="h5netcdf", decode_times=False) as lazy:
                _check_tree(lazy, file, remedy)
                tree: xr.DataTree = lazy.load()
    except ValueError as error:
        if str(error).startswith("Expected"):
            raise
        raise _broken(file, error, remedy) from error
    except Exception as error:  # HDF5's and xarray's own, on bytes that they do not know
        raise _broken(file, error, remedy) from error
    check_draws(tree, file)
    return tree


def posterior_of(mixtures: Mapping[str, Mapping[str, FittedMixture]], path: Path | None) -> xr.DataTree:
    """The tree of a run's `posterior.nc`, or without one that of the draws which the run keeps of its mixtures.

    Args:
        mixtures: The run's mixtures.
        path: Its folder, if it was read from one.

    Raises:
        ValueError: If the file cannot be read, or no fit has draws.
    """
    if path is not None and inside(path, POSTERIOR).exists():
        return read_posterior(path)
    return run_tree(mixtures)


def _broken(file: Path, error: Exception, remedy: str) -> ValueError:
    got = (
        "a damaged or half-written file" if isinstance(error, OSError) else f"another file ({one_sentence(error):.120})"
    )
    return ValueError(f"Expected {_EXPECTED} in {file}; got {got}: {remedy}.")


def _check_tree(tree: xr.DataTree, file: Path, remedy: str) -> None:
    found = tree.attrs.get("latentmix_format")
    if not isinstance(found, int | np.integer) or "posterior" not in tree.children:
        raise ValueError(f"Expected {_EXPECTED} in {file}; got another netCDF file: {remedy}.")
    if found > FORMAT:
        raise ValueError(
            f"Expected {_EXPECTED} of format {FORMAT} or less in {file}; got {found}, of a newer LatentMix: update it "
            "(pip install -U latentmix)."
        )
