"""Posteriors to be inspected: of a run, or of a file for ArviZ; and the fit that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentmix.experiments.hints import did_you_mean
from latentmix.experiments.reading.limits import MAX_GIB
from latentmix.experiments.reading.trees import check_draws, read_tree

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["chosen_fit", "load_posterior"]

FITS = "fits"  # attribute with the names of a run's fits
FORMAT = "latentmix_format"  # attribute of a run's posterior, whose reader knows its versions
DRAWLESS = {  # why a run has no draws of a fit
    "em": "EM's answer is a point without draws, and `latentmix.inference.standard_errors` gives its standard errors.",
    "svi": "SVI's answer is a point without draws, unless its guide has a density (--mixture.svi.guide AutoNormal).",
    "nuts": "a run with --mixture.nuts.draws 500 has draws by NUTS.",
    "posterior": "a run with --mixture.posterior.guide best, the default, has them.",
}


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
        from latentmix.experiments.runs.run import load_run

        return load_run(source, trust).to_datatree()
    tree = read_tree(source, max_gib=max_gib)
    if FORMAT in tree.attrs and source.suffix == ".nc":
        from latentmix.experiments.runs.posterior import check_posterior

        check_posterior(tree, source)
    else:
        check_draws(tree, source)
    return tree


def chosen_fit(tree: xr.DataTree, name: str | None, source: Path) -> xr.DataTree:
    """The tree of one fit, without those of others.

    Args:
        tree: A tree; of a run its `fits` are named in an attribute, the first at the root and others in nodes.
        name: The name of the fit; by default the first.
        source: Where it comes from, for messages.

    Raises:
        ValueError: If there is no such fit with draws.
    """
    import xarray as xr

    from latentmix.experiments.runs.posterior_tree import fit_node

    first, *others = str(tree.attrs.get(FITS, "")).split(", ")
    names = [first, *(other for other in others if fit_node(other) in tree.children)] if first else []
    if name is not None and name not in names:
        if not names:
            raise ValueError(
                f"Expected a run for --inference; got {source}, which holds a single posterior: leave the option out."
            )
        known = f"Expected for --inference a fit of which {source} has draws ({', '.join(names)}); got {name!r:.40}"
        reason = DRAWLESS.get(name)
        raise ValueError(known + (did_you_mean(name.lower(), names) if reason is None else f": {reason}"))
    node = tree if name is None or name == names[0] else tree[fit_node(name)]
    apart = tuple(f"/{fit_node(other)}/" for other in names)
    root = node.path.rstrip("/")
    groups = {
        each.path.removeprefix(root) or "/": each.to_dataset(inherit=False)
        for each in node.subtree
        if root or not f"{each.path}/".startswith(apart)
    }
    fit = xr.DataTree.from_dict(groups)
    if "fit" in fit.attrs and "posterior_predictive" not in fit.children:
        mixture = f"run.mixtures[{fit.attrs['fit']!r}]['none'].mixture"
        made_by = (
            f"to_datatree({mixture}, X=latents, posterior_predictive=True) makes it, of the training latents, by "
            "default run.latents(run.data.train).mean."
        )
        fit.attrs.setdefault("posterior_predictive_omitted", made_by)
    if "prior" not in fit.children and "log_prior_omitted" in fit.attrs:
        fit.attrs.setdefault("prior_omitted", fit.attrs["log_prior_omitted"])
    return fit
