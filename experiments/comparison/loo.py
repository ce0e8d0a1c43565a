"""Leave-one-out cross-validation of the mixtures of several runs, where these are of the same latents."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentmix.experiments.comparison.results import LooRow
from latentmix.experiments.comparison.sources import Source
from latentmix.experiments.options.messages import one_line
from latentmix.experiments.options.names import fit_name
from latentmix.experiments.runs.posterior import POSTERIOR, read_posterior
from latentmix.experiments.runs.posterior_fits import chosen_fit
from latentmix.inference.datatree.elpd import pointwise_elpd
from latentmix.inference.datatree.needs import obstacle
from latentmix.models.files import inside
from latentmix.models.process_state import kept_warnings

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["compare_loo"]


def compare_loo(sources: Sequence[Source]) -> tuple[list[LooRow], list[str]]:
    """Compare the posteriors of runs by fit, within runs whose mixtures were fitted to the same latents.

    The digest of the latents proves that they are the same: log densities of different latents are of different
    variables, and cannot be ranked. Draws are read from `posterior.nc`, which holds the latents.

    Args:
        sources: The runs.

    Returns:
        Rows, the best of each digest and fit first; and sentences on what is not compared.
    """
    alike: dict[tuple[str, str], list[Source]] = {}
    refusals: list[str] = []
    without: list[str] = []
    for source in sources:
        found = [(fit, _digest(tree)) for fit, tree in _fits(source, refusals)]
        without += [] if found else [source.name]
        for key in found:
            alike.setdefault(key, []).append(source)
    rows: list[LooRow] = []
    for (fit, latents), runs in alike.items():
        if len(runs) > 1:
            try:
                rows += _compared(fit, latents, runs)
            except Exception as error:  # ArviZ's own, on draws that it cannot smooth
                names = ", ".join(source.name for source in runs)
                refusals.append(f"LOO of {fit_name(fit)} of {names} is not compared: {one_line(error)}")
    compared = {row.run for row in rows}
    apart = [source.name for runs in alike.values() if len(runs) == 1 for source in runs]
    apart = [name for name in apart if name not in compared]
    if len(without) == len(sources):
        refusals.append(
            "LOO of mixtures is not compared: no run keeps draws of a mixture's posterior with its latents."
        )
    elif apart:
        of_runs = f"of {', '.join(dict.fromkeys(apart))} " if rows or without else ""
        refusals.append(
            f"LOO of mixtures {of_runs}is not compared: each is of the run's own latents, and densities of different "
            "latents cannot be ranked."
        )
    return rows, refusals


def _fits(source: Source, refusals: list[str]) -> Iterator[tuple[str, xr.DataTree]]:
    """The fits of a run that have draws and pointwise densities, with their trees; a fault is told in `refusals`."""
    if source.path is None or not inside(source.path, POSTERIOR).exists():
        return
    try:
        whole = read_posterior(source.path)
    except ValueError as error:
        refusals.append(f"LOO of the mixtures of {source.name} is not compared: {one_line(error)}")
        return
    for name in str(whole.attrs.get("fits", "")).split(", "):
        tree = chosen_fit(whole, name, source.path) if name else whole
        if obstacle(tree, "plot_khat") is None and "observed_data" in tree.children:
            yield name, tree


def _compared(fit: str, latents: str, sources: Sequence[Source]) -> list[LooRow]:
    import arviz

    with kept_warnings():
        warnings.simplefilter("ignore")  # rows count the latents that ArviZ warns of
        elpds = {source.name: pointwise_elpd(dict(_fits(source, []))[fit]) for source in sources}
        table = list(arviz.compare(elpds, round_to="none").iterrows())
    rows = []
    for name, row in table:
        k = np.asarray(elpds[str(name)].pareto_k)
        rows.append(
            LooRow(
                run=str(name),
                fit=fit,
                latents=latents,
                rank=int(row["rank"]),
                elpd=float(row["elpd"]),
                se=float(row["se"]),
                difference=float(row["elpd_diff"]),
                difference_se=float(row["dse"]),
                p=float(row["p"]),
                weight=float(row["weight"]),
                n=k.size,
                high_k=int((k > float(elpds[str(name)].good_k)).sum()),
            )
        )
    return rows


def _digest(tree: xr.DataTree) -> str:
    """SHA-256 of the latents of a tree."""
    values = np.ascontiguousarray(tree["observed_data"]["x"].values, dtype=np.float64)
    return hashlib.sha256(f"{values.shape};".encode() + values.tobytes()).hexdigest()
