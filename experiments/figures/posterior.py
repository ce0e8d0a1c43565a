"""Posteriors drawn by ArviZ: draws and their diagnostics, predictive checks, and cross-validation."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from latentmix.experiments.figures.arviz_figures import arviz_style
from latentmix.experiments.figures.short_ticks import short_ticks
from latentmix.experiments.figures.style import (
    BLUE,
    COLOURS,
    INK,
    SMALL,
    VERMILION,
    WIDTH,
    clean,
    legend_below,
    new_figure,
    note,
    shortened,
    title,
)
from latentmix.experiments.options.names import LEVEL
from latentmix.inference.datatree.elpd import pointwise_elpd
from latentmix.inference.datatree.needs import obstacle
from latentmix.models.process_state import kept_warnings
from latentmix.models.words import plural

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PLOTS", "Panels", "PosteriorPlot", "flat", "plot_obstacle", "quantity_names"]

ABREAST = 3
DRAWS = ("chain", "draw")
ROW = 1.65  # inches
P_VALUE = re.compile(r"^p=([\d.]+)\(α=[\d.]+\)\s*$")


@dataclass(frozen=True)
class Panels:
    """The quantities of a picture.

    Attributes:
        names: Names of those shown, such as `means[2, 0]`.
        total: Number of those that there are.
        chosen: By what those shown were chosen, as in "of highest R-hat".
    """

    names: Sequence[str]
    total: int
    chosen: str = ""

    @property
    def words(self) -> str:
        """The number shown, of the total, and the rule that chose them."""
        count = plural(self.total, "quantity", "quantities")
        return count if len(self.names) == self.total else f"{len(self.names)} of {count}, those {self.chosen}"


@dataclass(frozen=True)
class PosteriorPlot:
    """A plot of ArviZ.

    Attributes:
        function: ArviZ's function.
        most: Most quantities of a picture; 0 of a picture of data, which shows none.
        draw: Draws it.
        within: A group that has to have the quantities.
        by_feature: Whether each feature of the data has a panel, which ArviZ's function by itself does not give it.
    """

    function: str
    most: int
    draw: Callable[[xr.DataTree, Panels], Figure]
    within: str = "posterior"
    by_feature: bool = False


def quantity_names(variables: xr.Dataset) -> list[str]:
    """Names of all scalars of a group, variable by variable, as in ArviZ's tables: `means[2, 0]`.

    Args:
        variables: A group with dimensions `chain` and `draw`.

    Example:
        >>> import numpy as np, xarray as xr
        >>> from latentmix.experiments.figures.posterior import quantity_names
        >>> means = (("chain", "draw", "component"), np.zeros((1, 5, 2)))
        >>> quantity_names(xr.Dataset({"means": means}, {"component": ["a", "b"]}))
        ['means[a]', 'means[b]']
    """
    return [name for name, _, _ in _scalars(variables)]


def flat(variables: xr.Dataset, names: Iterable[str] | None = None) -> xr.Dataset:
    """A group with a variable for each scalar, so that no dimension but those of draws is left.

    Args:
        variables: A group with dimensions `chain` and `draw`.
        names: Names of the scalars to keep, in this order; by default all.

    Example:
        >>> import numpy as np, xarray as xr
        >>> from latentmix.experiments.figures.posterior import flat
        >>> means = (("chain", "draw", "component"), np.zeros((1, 5, 2)))
        >>> flat(xr.Dataset({"means": means}, {"component": [0, 1]}), ["means[1]"])["means[1]"].dims
        ('chain', 'draw')
    """
    import xarray as xr

    places = {name: (variable, place) for name, variable, place in _scalars(variables)}
    chosen = [name for name in (places if names is None else names) if name in places]
    arrays = {name: variables[places[name][0]].isel(places[name][1]).reset_coords(drop=True) for name in chosen}
    return xr.Dataset(arrays)


def plot_obstacle(tree: xr.DataTree, name: str) -> str | None:
    """The reason, in one sentence, that a plot of `PLOTS` cannot be drawn of a tree; None if it can.

    Names of the tree's dimensions are no obstacle, since pictures of quantities are drawn without them.
    """
    import xarray as xr

    plot = PLOTS[name]
    if not plot.most:
        return obstacle(
            _by_feature(tree) if plot.by_feature and "posterior_predictive" in tree else tree, plot.function
        )
    groups = {group: node.to_dataset() for group, node in tree.children.items() if group != "posterior"}
    sizes = {dim: tree["posterior"].sizes[dim] for dim in DRAWS}
    draws = xr.Dataset({"draws": (DRAWS, np.zeros(tuple(sizes.values())))})
    bare = xr.DataTree.from_dict({**groups, "posterior": draws})
    bare.attrs.update(tree.attrs)
    return obstacle(bare, plot.function)


def _scalars(variables: xr.Dataset) -> Iterable[tuple[str, str, dict[str, int]]]:
    for variable, values in variables.data_vars.items():
        dims = [str(dim) for dim in values.dims if dim not in DRAWS]
        labels = [values[dim].values for dim in dims]
        for index in np.ndindex(*(values.sizes[dim] for dim in dims)):
            words = ", ".join(str(label[place]) for label, place in zip(labels, index, strict=True))
            yield (
                (f"{variable}[{words}]" if dims else str(variable)),
                str(variable),
                dict(zip(dims, index, strict=True)),
            )


def _group(tree: xr.DataTree, name: str) -> xr.Dataset:
    return tree[name].to_dataset()


def _flat_tree(tree: xr.DataTree, names: Sequence[str], *groups: str) -> xr.DataTree:
    import xarray as xr

    flattened = {group: flat(_group(tree, group), names) for group in ("posterior", *groups)}
    if "sample_stats" in tree:
        flattened["sample_stats"] = _group(tree, "sample_stats")
    return xr.DataTree.from_dict(flattened)


def _grid(count: int, *, abreast: int = ABREAST, extra: float = 1.2) -> dict[str, Any]:
    """Options of ArviZ for panels side by side, in a figure as wide as a page."""
    rows = -(-count // abreast)
    return {"col_wrap": abreast, "figure_kwargs": {"figsize": (WIDTH, ROW * rows + extra)}}


def _finish(collection: Any, heading: str, caption: str, handles: Sequence[Line2D] = ()) -> Figure:
    """Give a figure of ArviZ's its title, caption and legend, and the axes of the project's style."""
    figure: Figure = collection.viz["figure"].item()
    for legend in list(figure.legends):
        legend.remove()
    panels = [panel for panel in figure.axes if panel.axison]
    for panel in panels:
        clean(panel, grid=False)
        panel.title.set(fontsize=SMALL, text=shortened(panel.get_title()))
        for text in panel.texts:
            _place_p_value(text, panel)
    _label_lowest(panels)
    title(figure, heading)
    note(figure, caption)
    if handles:
        legend_below(figure, handles)
    return figure


def _place_p_value(text: Text, panel: Axes) -> None:
    """Write ArviZ's "p=0.37(α=0.01)" as "p = 0.37", in the upper left corner of its panel."""
    found = P_VALUE.match(text.get_text())
    if found is not None:
        text.set_text("p < 0.01" if found[1] == "0.00" else f"p = {found[1]}")
        text.set(color=INK, transform=panel.transAxes, position=(0.02, 0.98), ha="left", va="top")


def _label_lowest(panels: Sequence[Axes]) -> None:
    """Number the axes of the lowest panel of each column, where columns have unequal lengths."""
    lowest: dict[int, Axes] = {}
    for panel in panels:
        place = panel.get_subplotspec()
        if place is not None:
            lowest[place.colspan.start] = panel
    for panel in lowest.values():
        panel.xaxis.set_tick_params(labelbottom=True)


def _chains(tree: xr.DataTree) -> list[Line2D]:
    """Handles of a legend of the chains, if there are several."""
    chains = [str(chain) for chain in _group(tree, "posterior")["chain"].values]
    if not 1 < len(chains) <= len(COLOURS):
        return []
    return [Line2D([], [], color=colour, label=f"chain {name}") for name, colour in zip(chains, COLOURS, strict=False)]


def _by_svi(tree: xr.DataTree) -> bool:
    return bool(tree.attrs.get("inference") == "svi")


def _trace(tree: xr.DataTree, panels: Panels) -> Figure:
    import arviz

    with arviz_style():
        collection = arviz.plot_trace(
            _flat_tree(tree, panels.names),
            visuals={"trace": {"width": 0.5, "alpha": 0.8}, "xlabel": False},
            **_grid(len(panels.names)),
        )
        words = "Values draw by draw; chains that agree lie over each other."
        if _by_svi(tree):
            words = "Values draw by draw; draws of a guide are independent, and cannot fail to mix."
        return _finish(collection, f"Traces of {panels.words}", words, _chains(tree))


def _rank(tree: xr.DataTree, panels: Panels) -> Figure:
    import arviz

    with arviz_style():
        collection = arviz.plot_rank(
            _flat_tree(tree, panels.names),
            visuals={"xlabel": False},
            **_grid(len(panels.names)),
        )
        for panel in collection.viz["figure"].item().axes:
            low, high = panel.get_ylim()
            panel.set_ylim(low, high + 0.25 * (high - low))  # for the p-value
        words = (
            "Cumulative distribution of each chain's ranks among all draws, less that of uniform ranks, by the rank. "
            "Lines of chains of one distribution stay near 0; p is that of a test of it, quantity by quantity, and "
            "where that fails dots mark the ranks that contradict it most."
        )
        return _finish(collection, f"Ranks of {panels.words}", words, _chains(tree))


def _interval_words() -> str:
    """The intervals of a forest, whose kind ArviZ's settings choose."""
    import arviz_base

    kind = {"eti": "central", "hdi": "highest-density"}[arviz_base.rcParams["stats.ci_kind"]]
    return f"{kind} intervals of 50% (thick) and {100 * LEVEL:.0f}% (thin)"


def _point_words() -> str:
    import arviz_base

    return f"{str(arviz_base.rcParams['stats.point_estimate']).capitalize()}s"


def _forest(tree: xr.DataTree, panels: Panels) -> Figure:
    """One panel per variable, since variables have scales of their own."""
    import arviz

    values = _flat_tree(tree, panels.names)
    variables: dict[str, list[str]] = {}
    for name in values["posterior"].data_vars:
        variables.setdefault(str(name).partition("[")[0], []).append(str(name))
    heights = [len(names) + 0.9 for names in variables.values()]
    figure = new_figure(WIDTH, 0.235 * sum(heights) + 0.2 * len(heights) + 1.0)
    rows = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    unseen = Figure()
    for panel, names in zip(rows, variables.values(), strict=True):

        def make(*_: Any, panel: Axes = panel, **__: Any) -> tuple[Figure, Any]:
            return figure, np.array([unseen.add_subplot(), panel])

        with arviz_style(make):
            collection = arviz.plot_forest(
                values,
                var_names=names,
                combined=True,
                visuals={"trunk": {"color": BLUE}, "twig": {"color": BLUE}, "point_estimate": {"color": BLUE}},
            )
        heights_of = collection.get_aes_as_dataset("y")
        clean(panel)
        panel.spines["left"].set_visible(False)
        panel.set_yticks([float(heights_of[name]) for name in names], [shortened(name) for name in names])
        panel.set_ylim(-0.7, len(names) - 0.3)
        panel.tick_params(axis="y", length=0)
    title(figure, f"Intervals of {panels.words}")
    note(figure, f"{_point_words()}, with {_interval_words()}.")
    return figure


def _pair(tree: xr.DataTree, panels: Panels) -> Figure:
    import arviz

    count = len(panels.names)
    side = WIDTH / max(count, 2)
    stats = tree.get("sample_stats")
    diverging = stats is not None and "diverging" in stats and bool(stats["diverging"].any())
    with arviz_style():
        collection = arviz.plot_pair(
            _flat_tree(tree, panels.names),
            marginal=count > 1,
            visuals={
                "scatter": {"color": BLUE, "alpha": 0.25, "size": 6},
                "dist": {"color": BLUE},
                "divergence": {"color": VERMILION, "alpha": 0.9, "size": 14} if diverging else False,
            },
            figure_kwargs={"figsize": (WIDTH, side * count + 1.1)},
        )
        for name in panels.names if count > 1 else ():
            collection.get_target(name, {}, name, {}).set_yticks([])  # of a density, beside the label of a quantity
        for panel in collection.viz["figure"].item().axes:
            for axis in (panel.xaxis, panel.yaxis):
                name = axis.get_label_text()
                words = short_ticks(axis, numbered=bool(name)) if axis.get_majorticklocs().size else []
                axis.set_label_text("\n".join([_in_two_lines(name), *words]) if name else "")
        figure = _finish(collection, f"Pairs of {panels.words}", "Draws, and on the diagonal their densities.")
    handles = [Line2D([], [], color=VERMILION, marker="o", linestyle="", label="divergent transition")]
    if diverging:
        legend_below(figure, handles)
    return figure


def _in_two_lines(name: str) -> str:
    """The name of a quantity; of a long one the index below the variable."""
    if len(name) <= 14:
        return name
    variable, bracket, index = name.partition("[")
    return "\n".join(shortened(part, 15) for part in (variable, bracket + index) if part)


def _energy(tree: xr.DataTree, panels: Panels) -> Figure:
    import arviz

    with arviz_style():
        collection = arviz.plot_energy(
            tree,
            visuals={"legend": False, "title": False, "bfmi_points": {"color": BLUE}, "ylabel": {"text": "chain"}},
            figure_kwargs={"figsize": (WIDTH, 3.7), "width_ratios": [1, 3]},
        )
        bfmi, energy = collection.viz["figure"].item().axes
        chains = [str(chain) for chain in _group(tree, "posterior")["chain"].values]
        bfmi.set_yticks(range(len(chains)), chains)
        bfmi.set_ylim(-0.5, len(chains) - 0.5)
        bfmi.set_xlim(0.0, max(1.05 * bfmi.get_xlim()[1], 1.0))
        bfmi.set_xlabel("BFMI")
        energy.set_xlabel("energy less its mean")
        handles = [
            Line2D([], [], color=colour, label=label)
            for colour, label in zip(COLOURS, ("marginal energy", "change of energy between draws"), strict=False)
        ]
        words = (
            "Where the second is much narrower than the first, the chain explores its tails slowly: BFMI, by chain on "
            "the left, then lies below 0.3."
        )
        return _finish(collection, "Energy of the Markov chains", words, handles)


def _observed_names(tree: xr.DataTree) -> list[str]:
    observed = tree["observed_data"].data_vars if "observed_data" in tree else ()
    predictive = tree["posterior_predictive"].data_vars
    return [str(name) for name in predictive if "observed_data" not in tree or name in observed]


def _by_feature(tree: xr.DataTree, most: int = 12) -> xr.DataTree:
    """Predictions and data with a variable for each feature, since features are not on one scale.

    Each has the log likelihood of its datum, by which that is left out with all its features.
    """
    import xarray as xr

    groups: dict[str, dict[str, xr.DataArray]] = {}
    draws = _group(tree, "posterior_predictive")["draw"]  # of a run's file, a part of the posterior's
    for group in ("posterior_predictive", "observed_data"):
        for name in _observed_names(tree) if group in tree else ():
            values = _group(tree, group)[name]
            split = "feature" in values.dims
            parts = {name: values}
            if split:
                labels = enumerate(values["feature"].values[:most])
                parts = {f"{name}[{label}]": values.isel(feature=place, drop=True) for place, label in labels}
            groups.setdefault(group, {}).update(parts)
            if "log_likelihood" in tree and name in tree["log_likelihood"]:
                densities = dict.fromkeys(parts, _of_draws(_group(tree, "log_likelihood"), draws)[name])
                groups.setdefault("log_likelihood", {}).update(densities)
    datasets = {group: xr.Dataset(parts) for group, parts in groups.items()}
    if "sample_stats" in tree:
        datasets["sample_stats"] = _of_draws(_group(tree, "sample_stats"), draws)
    split_tree = xr.DataTree.from_dict({"posterior": _of_draws(_group(tree, "posterior"), draws), **datasets})
    split_tree.attrs.update(tree.attrs)
    return split_tree


def _of_draws(variables: xr.Dataset, draws: xr.DataArray) -> xr.Dataset:
    """The draws of a group that another one has, where these are among them."""
    among = bool(np.isin(draws, variables["draw"]).all())
    return variables.sel(draw=draws) if among else variables


def _left_out(tree: xr.DataTree, shown: xr.DataTree) -> str:
    """A sentence on features that are not shown; empty if all are."""
    total = sum(tree["posterior_predictive"][name].sizes.get("feature", 1) for name in _observed_names(tree))
    count = len(shown["posterior_predictive"].data_vars)
    return "" if count == total else f" {count} of {total} features {'is' if count == 1 else 'are'} shown, the first."


def _ppc(tree: xr.DataTree, panels: Panels) -> Figure:
    import arviz

    shown = _by_feature(tree)
    groups = shown["posterior_predictive"]
    draws = min(50, groups.sizes["chain"] * groups.sizes["draw"])
    count, observed = len(groups.data_vars), "observed_data" in shown
    with arviz_style():
        collection = arviz.plot_ppc_dist(
            shown,
            num_samples=draws,
            visuals={
                "predictive_dist": {"color": BLUE, "alpha": 0.25, "width": 0.6},
                "observed_dist": {"color": INK, "width": 1.6} if observed else False,
            },
            **_grid(count, abreast=min(count, ABREAST), extra=2.6 if count == 1 else 1.5),
        )
        handles = [Line2D([], [], color=BLUE, label=f"data drawn from the posterior, {draws} times")]
        handles += [Line2D([], [], color=INK, linewidth=1.6, label="observed data")] if observed else []
        cumulative = next(iter(groups.data_vars.values())).size / groups.sizes["chain"] / groups.sizes["draw"] < 100
        words = f"{'Distribution functions' if cumulative else 'Densities'} of all data.{_left_out(tree, shown)}"
        return _finish(collection, "Posterior predictive check", words, handles)


def _pit(tree: xr.DataTree, panels: Panels) -> Figure:
    import arviz

    shown = _by_feature(tree)
    return _pit_figure(
        lambda **options: arviz.plot_ppc_pit(shown, **options),
        len(shown["posterior_predictive"].data_vars),
        "Calibration of the posterior predictive distribution",
        "of the data among their predictions",
        _left_out(tree, shown),
    )


def _loo_pit(tree: xr.DataTree, panels: Panels) -> Figure:
    import arviz

    shown = _by_feature(tree)
    names = [str(name) for name in shown["log_likelihood"].data_vars]
    return _pit_figure(
        lambda **options: arviz.plot_loo_pit(shown, var_names=names, **options),
        len(names),
        "Calibration of the leave-one-out predictive distribution",
        "of each datum among predictions from all others",
        _left_out(tree, shown),
    )


def _pit_figure(draw: Callable[..., Any], count: int, heading: str, ranks: str, left_out: str) -> Figure:
    with arviz_style():
        collection = draw(
            method="pot_c",
            visuals={"xlabel": False, "ylabel": False, "ecdf_lines": {"color": BLUE}},
            **_grid(count, abreast=min(count, ABREAST), extra=2.6 if count == 1 else 1.5),
        )
        words = (
            f"Cumulative distribution of the ranks {ranks}, less that of uniform ranks, by the rank. Calibrated "
            f"predictions stay near 0; p is that of a test of uniformity, against which marked points speak.{left_out}"
        )
        return _finish(collection, heading, words)


def _prior_posterior(tree: xr.DataTree, panels: Panels) -> Figure:
    import arviz

    values = _flat_tree(tree, panels.names, "prior")
    names = [str(name) for name in values["posterior"].data_vars if name in values["prior"]]
    prior, posterior = (_group(values, group) for group in ("prior", "posterior"))
    near = {name: _near(prior[name], posterior[name]) for name in names}
    values["prior"] = prior.assign({name: draws for name, (draws, _) in near.items()})
    with arviz_style():
        collection = arviz.plot_prior_posterior(
            values, var_names=names, kind="kde", visuals={"dist": {"width": 1.4}}, **_grid(len(names))
        )
        for name, (_, share) in near.items():
            line = collection.viz["dist"][name].sel(group="prior").item()
            line.set_ydata(np.asarray(line.get_ydata()) * share)
        handles = [
            Line2D([], [], color=colour, label=label)
            for colour, label in zip(COLOURS, ("prior", "posterior"), strict=False)
        ]
        words = "Densities near the posterior; where both agree, the data say little of the quantity."
        return _finish(collection, f"Prior and posterior of {panels.words}", words, handles)


def _near(prior: xr.DataArray, posterior: xr.DataArray) -> tuple[xr.DataArray, float]:
    """Draws of the prior within two widths of the posterior's range, others NaN; and the share of those within.

    The density of a wide prior is otherwise a spike, and the posterior's another.
    """
    low, high = float(posterior.min()), float(posterior.max())
    within = (prior > low - 2 * (high - low)) & (prior < high + 2 * (high - low))
    return prior.where(within), float(within.mean())


def _khat(tree: xr.DataTree, panels: Panels) -> Figure:
    import arviz

    name = next(iter(tree["log_likelihood"].data_vars))
    with kept_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto")  # the caption counts them
        elpd = pointwise_elpd(tree)
    k = np.asarray(elpd.pareto_k)
    good = float(elpd.good_k)
    with arviz_style():
        collection = arviz.plot_khat(
            elpd,
            visuals={"khat": {"color": BLUE, "size": 14}, "xlabel": {"text": "datum"}, "ylabel": {"text": "Pareto k"}},
            figure_kwargs={"figsize": (WIDTH, 4.2)},
        )
        high = int((k > good).sum())
        verdict = (
            f"all {k.size} lie below {good:.2g}, so that the leave-one-out predictions are reliable"
            if not high
            else f"{high} of {k.size} lie above {good:.2g}, where leave-one-out predictions from these draws are not "
            "reliable"
        )
        panel = collection.viz["figure"].item().axes[0]
        panel.axhline(good, color=VERMILION, linestyle="--", linewidth=1.0)
        return _finish(
            collection,
            f"Pareto k of the leave-one-out predictions of {name}",
            f"Expected log predictive density {float(elpd.elpd):.1f} nats, standard error {float(elpd.se):.1f}; "
            f"{verdict}.",
        )


PLOTS: Mapping[str, PosteriorPlot] = {
    "trace": PosteriorPlot("plot_trace", 12, _trace),
    "rank": PosteriorPlot("plot_rank", 12, _rank),
    "forest": PosteriorPlot("plot_forest", 40, _forest),
    "pair": PosteriorPlot("plot_pair", 5, _pair),
    "energy": PosteriorPlot("plot_energy", 0, _energy),
    "ppc": PosteriorPlot("plot_ppc_dist", 0, _ppc),
    "pit": PosteriorPlot("plot_ppc_pit", 0, _pit),
    "loo_pit": PosteriorPlot("plot_loo_pit", 0, _loo_pit, by_feature=True),
    "prior_posterior": PosteriorPlot("plot_prior_posterior", 12, _prior_posterior, within="prior"),
    "khat": PosteriorPlot("plot_khat", 0, _khat),
}
