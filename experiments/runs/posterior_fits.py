"""Posteriors to be inspected: of a run, or of a file for ArviZ; and the fit that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentmix.experiments.hints import did_you_mean
from latentmix.experiments.options.names import fit_name
from latentmix.experiments.reading.limits import MAX_GIB
from latentmix.experiments.reading.trees import read_tree

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["chosen_fit", "load_posterior"]

FITS = "fits"  # attribute with the names of a run's fits, and the node of those that are not at the root
ESTIMATES = {"em": "EM's answer"}


def load_posterior(source: Path, trust: Sequence[str] = (), *, max_gib: float = MAX_GIB) -> xr.DataTree:
    """The tree of a run, or of a file.

    Args:
        source: The folder of a run; or a `.nc` or `.zarr` file of any tree for ArviZ.
        trust: Modules that the run may import, where it has no `posterior.nc` and its draws are read from its mixtures.
        max_gib: Most memory of a file's values, in GiB.

    Raises:
        ValueError: If the run has no posterior, or the file cannot be read or holds none.
    """
    if source.is_dir() and source.suffix != ".zarr":
        from latentmix.experiments.runs.artifacts import load_run

        return load_run(source, trust).to_datatree()
    tree = read_tree(source, max_gib=max_gib)
    wrong = _not_draws(tree)
    if wrong is not None:
        raise ValueError(
            f"Expected draws of a posterior, with the dimensions chain and draw, in {source}; got {wrong}: write it by "
            "to_datatree(...).to_netcdf, or by ArviZ's converters."
        )
    return tree


def _not_draws(tree: xr.DataTree) -> str | None:
    """In words, what a tree has in the place of draws of a posterior; None if it has these."""
    if "posterior" not in tree.children:
        return f"the groups {', '.join(map(str, tree.children))}" if tree.children else "no groups"
    group = tree["posterior"]
    if not group.data_vars:
        return "a posterior without variables"
    for name, values in group.data_vars.items():
        if not {"chain", "draw"} <= set(values.dims):
            return f"{name!r} with the dimensions {', '.join(map(str, values.dims)) or 'none'}"
        if values.dtype.kind not in "fiub":
            return f"{name!r} that is no number"
        if not values.size:
            return f"no draws of {name!r}"
    return None


def chosen_fit(tree: xr.DataTree, name: str | None, source: Path) -> xr.DataTree:
    """The tree of one fit, without those of others.

    Args:
        tree: A tree; of a run its `fits` are named in an attribute, the first at the root and others in a node.
        name: The name of the fit; by default the first.
        source: Where it comes from, for messages.

    Raises:
        ValueError: If there is no such fit with draws.
    """
    import xarray as xr

    names = [word for word in str(tree.attrs.get(FITS, "")).split(", ") if word]
    if name is not None and name not in names:
        known = ", ".join(names) or "none, for it holds a single posterior"
        if name in ESTIMATES:
            raise ValueError(
                f"Expected a fit with a posterior in {source}, {known}; got {name}: {ESTIMATES[name]} is a point "
                "without draws, whose standard errors `latentmix.inference.standard_errors` gives."
            )
        hint = did_you_mean(name, names, otherwise=": a fit without draws is no posterior.")
        raise ValueError(f"Expected a fit with a posterior in {source}, {known}; got {name!r:.40}{hint}")
    node = tree if name is None or name == names[0] else tree[f"{FITS}/{name}"]
    root = node.path.rstrip("/")
    groups = {
        each.path.removeprefix(root) or "/": each.to_dataset(inherit=False)
        for each in node.subtree
        if not (each.path + "/").startswith(f"{root}/{FITS}/")
    }
    return xr.DataTree.from_dict(groups)


def fit_heading(tree: xr.DataTree) -> str:
    """The name of a run's fit; empty of another tree."""
    name = tree.attrs.get("fit")
    return "" if name is None else fit_name(str(name))
