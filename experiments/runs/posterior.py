"""Posteriors of a run's mixtures: `posterior.nc`, written when the run is measured, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from latentmix.experiments.reading.trees import check_draws, read_tree
from latentmix.experiments.runs.posterior_tree import FORMAT, fits_with_draws, run_tree
from latentmix.models.files import inside
from latentmix.models.reading import REMEDY

if TYPE_CHECKING:
    from latentmix.experiments.runs.mixtures import FittedMixture

__all__ = ["POSTERIOR", "check_posterior", "posterior_bytes", "posterior_of", "read_posterior"]

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
        path: The file, a `.nc`, or the folder of the run.

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
    tree = read_tree(file, max_mib=_MOST_MIB, what=_EXPECTED, remedy=remedy)
    check_posterior(tree, file, remedy)
    return tree


def check_posterior(tree: xr.DataTree, file: Path, remedy: str = REMEDY) -> None:
    """Refuse a tree that is none of a run, is one of a newer version, or has draws that are not finite.

    Args:
        tree: The tree.
        file: Its file, for messages.
        remedy: What to do about it, likewise.

    Raises:
        ValueError: If so.
    """
    found = tree.attrs.get("latentmix_format")
    if not isinstance(found, int | np.integer) or "posterior" not in tree.children:
        raise ValueError(f"Expected {_EXPECTED} in {file}; got another netCDF file: {remedy}.")
    if found > FORMAT:
        raise ValueError(
            f"Expected {_EXPECTED} of format {FORMAT} or less in {file}; got {found}, of a newer LatentMix: update it "
            "(pip install -U latentmix)."
        )
    check_draws(tree, file)


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
