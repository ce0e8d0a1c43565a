"""Trees with other names of dimensions."""

from __future__ import annotations

import xarray as xr

__all__ = ["renamed"]


def renamed(tree: xr.DataTree, **dims: str) -> xr.DataTree:
    """The tree with other names of dimensions, in every group that has them.

    Two functions of ArviZ 1.3 give a dimension of their own a name that those of a posterior may have: `psense_summary`
    concatenates along `component`, and `plot_forest` places its panels along `column`.

    Args:
        tree: A tree.
        dims: New names by the present ones.

    Raises:
        ValueError: If no group has such a dimension, or one has the new name already.

    Example:
        >>> import torch
        >>> from latentmix.inference.datatree import Draws, from_pyro, renamed
        >>> tree = from_pyro(Draws({"mu": torch.zeros(1, 4, 2)}), dims={"mu": ["component"]})
        >>> renamed(tree, component="cluster").posterior["mu"].dims
        ('chain', 'draw', 'cluster')
    """
    present = {str(dim) for node in tree.subtree for dim in node.dims}
    for old, new in dims.items():
        if old not in present:
            raise ValueError(f"Expected a dimension of the tree, {', '.join(sorted(present))}; got {old!r}.")
        if new in present:
            raise ValueError(f"Expected a new name for the dimension {old!r}; got {new!r}, which another one has.")
    groups = {}
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=False)
        own = {old: new for old, new in dims.items() if old in dataset.dims}
        groups[node.path] = dataset.rename(own)
    return xr.DataTree.from_dict(groups, name=tree.name)
