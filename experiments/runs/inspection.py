"""Posteriors in words and pictures: ArviZ's summary, diagnostics of the draws, plots of the least certain ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from latentmix.experiments.figures.posterior import PLOTS, Panels, flat, plot_obstacle, quantity_names
from latentmix.experiments.hints import did_you_mean
from latentmix.experiments.options.names import LEVEL
from latentmix.inference.diagnostics.guides import ImportanceWeights, importance_weights
from latentmix.models.process_state import kept_warnings
from latentmix.models.words import plural

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]
    import xarray as xr

__all__ = ["Inspection"]

MOST_ROWS = 200  # of a variable that was not asked for
AGREED = 1.01  # R-hat of chains that agree (Vehtari et al., 2021)
ENOUGH = 100  # effective draws per chain (likewise)
TECHNICAL = ("inference", "kernel", "guide", "fit", "sample_dims", "dataset_name", "latentmix_format")
ALGORITHMS = {"mcmc": "MCMC", "svi": "SVI", "em_sandwich": "EM with sandwich covariance"}
WORDS = {  # of attributes that are false or true
    "converged": ("The fit says that it has not converged.", "The fit says that it has converged."),
    "aligned": (
        "Components are not aligned across label switching: means over draws mix them.",
        "Components are aligned across label switching.",
    ),
}
HEADINGS = {
    "left_out": "Left out of the file",
    "thinned_from": "Thinned; draws of each chain that were made",
    "fits": "Fits with a posterior, by --inference",
    "component_classes": "Classes of the components, in the order of their indices from 0",
}


@dataclass(frozen=True)
class Inspection:
    """A posterior that is looked at.

    Args:
        tree: A tree for ArviZ, with a group `posterior`.
        variables: Names of the variables to show; by default all.

    Raises:
        ValueError: If a variable is not in the posterior.

    Example:
        >>> from latentmix.experiments import load_run
        >>> inspection = Inspection(load_run("runs/digits").to_datatree(), ["weights"])  # doctest: +SKIP
        >>> print(inspection.text())  # doctest: +SKIP
        >>> inspection.draw("pair").savefig("pair.png")  # doctest: +SKIP
    """

    tree: xr.DataTree
    variables: Sequence[str] | None = None

    def __post_init__(self) -> None:
        known = [str(name) for name in self._posterior.data_vars]
        for name in self.variables or ():
            if name not in known:
                hint = did_you_mean(name, known)
                raise ValueError(
                    f"Expected variables of the posterior, {', '.join(known)}, for --var; got {name!r}{hint}"
                )

    @property
    def kind(self) -> str:
        """The algorithm: `mcmc`, `svi`, or another that the tree names."""
        return str(self.tree.attrs.get("inference", "mcmc"))

    @property
    def by_guide(self) -> bool:
        """Whether the draws are independent draws of a distribution, so that they have no chains to compare."""
        return self.kind != "mcmc"

    @property
    def _posterior(self) -> xr.Dataset:
        return self.tree["posterior"].to_dataset()

    @property
    def _statistics(self) -> Mapping[str, NDArray[Any]]:
        """Statistics of the draws by name; none of a tree without them."""
        if "sample_stats" not in self.tree:
            return {}
        return {str(name): values.values for name, values in self.tree["sample_stats"].to_dataset().items()}

    @cached_property
    def _shown(self) -> list[str]:
        """Names of the variables of the table and the pictures."""
        if self.variables:
            return list(self.variables)
        small = [name for name in map(str, self._posterior.data_vars) if self._count(name) <= MOST_ROWS]
        return small or list(map(str, self._posterior.data_vars))

    def _count(self, variable: str) -> int:
        values = self._posterior[variable]
        return int(np.prod([size for dim, size in values.sizes.items() if dim not in ("chain", "draw")], dtype=int))

    @cached_property
    def _quantities(self) -> list[str]:
        """Names of the scalars that vary."""
        chosen = flat(self._posterior[self._shown])
        return [str(name) for name, values in chosen.data_vars.items() if float(np.ptp(values.values)) > 0]

    @cached_property
    def table(self) -> pandas.DataFrame:
        """ArviZ's summary with intervals of 90%, a scalar a row; without diagnostics of chains where there are none."""
        import arviz

        with kept_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of constants, which are left out
            kind = "stats" if self.by_guide else "all"
            table = arviz.summary(self._posterior[self._shown], kind=kind, ci_prob=LEVEL)
        return table.loc[self._quantities]

    @cached_property
    def weights(self) -> ImportanceWeights | None:
        """Importance weights of the draws of a guide, if their densities are known."""
        stats = self._statistics
        if not self.by_guide or not {"log_p", "log_q"} <= set(stats):
            return None
        try:
            return importance_weights(stats["log_p"], stats["log_q"])
        except ValueError:
            return None

    def text(self) -> str:
        """The summary in full width, then the diagnostics, a line each."""
        if not self._quantities:
            return "\n".join([self._heading(), "No quantity varies among the draws.", *self._notes()])
        lines = [*(self._of_guide() if self.by_guide else self._of_chains()), *self._notes()]
        return "\n".join([self._heading(), "", self.table.to_string(), "", *lines])

    def _heading(self) -> str:
        sizes = self._posterior.sizes
        chains, draws = sizes["chain"], sizes["draw"]
        maker = self.tree.attrs.get("kernel") or self.tree.attrs.get("guide")
        by = ALGORITHMS.get(self.kind, self.kind)
        many = (
            plural(draws, "independent draw")
            if self.by_guide
            else f"{plural(chains, 'chain')} of {plural(draws, 'draw')}"
        )
        fit = f"Fit {self.tree.attrs['fit']}, " if "fit" in self.tree.attrs else ""
        names = ", ".join(map(str, self._posterior.data_vars))
        return f"{fit}{by}{f' ({maker})' if maker else ''}: {many} of {names}"

    def _of_chains(self) -> list[str]:
        """R-hat, effective sizes, divergences, tree depth and energy of Markov chains."""
        import arviz

        lines = [self._convergence()]
        stats, sizes = self._statistics, self._posterior.sizes
        total = sizes["chain"] * sizes["draw"]
        if "diverging" in stats:
            count = int(stats["diverging"].sum())
            remedy = "; draws near them are biased: raise the target acceptance, or reparametrise" if count else ""
            lines.append(f"Divergent transitions: {count:,} of {total:,}{remedy}.")
        if "reached_max_tree_depth" in stats:
            count = int(stats["reached_max_tree_depth"].sum())
            remedy = "; these were cut short, and explore slowly: raise max_tree_depth" if count else ""
            lines.append(f"Trees at the greatest depth: {count:,} of {total:,}{remedy}.")
        if "energy" in stats:
            bfmi = np.asarray(arviz.bfmi(self.tree)["energy"])
            low = float(bfmi.min())
            remedy = "" if low >= 0.3 else "; below 0.3 a chain explores the tails slowly: reparametrise"
            lines.append(f"Least BFMI of a chain: {low:.2f}{remedy}.")
        return lines

    def _convergence(self) -> str:
        table = self.table
        if not np.isfinite(table["r_hat"]).any():
            return "R-hat and effective sample sizes need four draws or more in each chain."
        worst, least = table["r_hat"].idxmax(), table["ess_bulk"].idxmin()
        tail = table["ess_tail"].idxmin()
        r_hat, bulk = float(table["r_hat"].max()), float(table["ess_bulk"].min())
        enough = ENOUGH * self._posterior.sizes["chain"]
        wrong = [
            *(["the chains have not agreed yet"] if r_hat > AGREED else []),
            *([f"fewer than {enough} effective draws"] if min(bulk, float(table["ess_tail"].min())) < enough else []),
        ]
        verdict = f": {' and '.join(wrong)}; sample longer" if wrong else ""
        return (
            f"Greatest R-hat {r_hat:.3f} ({worst}), least effective sample size {bulk:.0f} ({least}), of the tails "
            f"{float(table['ess_tail'].min()):.0f} ({tail}){verdict}."
        )

    def _of_guide(self) -> list[str]:
        """k-hat of draws of a guide, in a sentence."""
        draws = self._posterior.sizes["draw"]
        error = f"Monte Carlo standard error of a mean: its sd / {np.sqrt(draws):.1f}."
        if self.kind == "em_sandwich":
            return ["Draws of the asymptotic normal distribution of an estimate, which is no posterior.", error]
        if self.kind != "svi":
            return [error]
        weights = self.weights
        if weights is None:
            missing = [self.tree.attrs.get(f"{name}_omitted") for name in ("log_p", "log_q")]
            reason = next((text for text in missing if text), "the tree has no densities of its draws.")
            return [f"No k-hat: {reason}", error]
        k = weights.k_hat
        if k <= 0.5:
            verdict = "the guide is close to the posterior"
        elif k <= 0.7:
            verdict = "the guide differs from the posterior, but importance weights still correct its draws"
        else:
            verdict = (
                "the guide misses parts of the posterior, and importance weights cannot correct it: take its intervals "
                "with caution, and compare with NUTS or a richer guide"
            )
        number = "below 0" if k < 0 else f"{k:.2f}"
        size = f"effective sample size {weights.effective_size:,.0f} of {draws:,} draws, weighted"
        return [f"k-hat {number}: {verdict} ({size}).", error]

    def _notes(self) -> list[str]:
        """Variables left out of the table or the tree, and other attributes, a line each."""
        lines = []
        for name in map(str, self._posterior.data_vars):
            if name not in self._shown and not self.variables:
                lines.append(
                    f"Not in the table: {name}, {plural(self._count(name), 'quantity', 'quantities')}; show them by "
                    f"--var {name}."
                )
        constant = [name for name in quantity_names(self._posterior[self._shown]) if name not in set(self._quantities)]
        if constant:
            lines.append(f"Constant: {_some(constant)}.")
        if "fit" in self.tree.attrs:
            lines.append("Feature 0 is dimension 1 of the run's tables, and z1 of its pictures.")
        return [
            *lines,
            *(_note(str(name), value) for name, value in self.tree.attrs.items() if _is_told(str(name), value)),
        ]

    def obstacle(self, plot: str) -> str | None:
        """The reason, in one sentence, that a plot cannot be drawn; None if it can."""
        reason = plot_obstacle(self.tree, plot)
        if reason is None and PLOTS[plot].most and not self._candidates(plot):
            return f"Expected a quantity that varies among the draws for {PLOTS[plot].function}; got none."
        return reason

    def draw(self, plot: str) -> Figure:
        """Draw a plot of the quantities that are the least certain, in the order of the table."""
        most, names = PLOTS[plot].most, self._candidates(plot)
        rank, chosen = self._ranking
        kept = set(sorted(names, key=rank)[:most])
        return PLOTS[plot].draw(self.tree, Panels([name for name in names if name in kept], len(names), chosen))

    def _candidates(self, plot: str) -> list[str]:
        within = PLOTS[plot].within
        if within == "posterior" or within not in self.tree:
            return self._different
        known = set(quantity_names(self.tree[within].to_dataset()))
        return [name for name in self._different if name in known]

    @cached_property
    def _different(self) -> list[str]:
        """Quantities without those that repeat another, as the two halves of a covariance matrix do."""
        draws = flat(self._posterior, self._quantities)
        first = {np.asarray(values, np.float32).tobytes(): str(name) for name, values in reversed(list(draws.items()))}
        kept = set(first.values())
        return [name for name in self._quantities if name in kept]

    @cached_property
    def _ranking(self) -> tuple[Any, str]:
        """A key by which quantities come first that are the least certain, and its words."""
        places = {name: place for place, name in enumerate(self._quantities)}
        if not self.by_guide and np.isfinite(self.table["r_hat"]).any():
            values: Mapping[str, float] = self.table["r_hat"].fillna(-np.inf).to_dict()
            return (lambda name: (-values[name], places[name])), "of greatest R-hat"
        if self.weights is not None:
            draws = flat(self._posterior, self._quantities)
            shift = {
                str(name): abs(float(self.weights.weights @ column.values.ravel()) - float(column.mean()))
                / float(column.std())
                for name, column in draws.data_vars.items()
            }
            return (lambda name: (-shift[name], places[name])), "whose means importance weights shift most"
        return places.__getitem__, "that come first"


def _is_told(name: str, value: Any) -> bool:
    """Whether an attribute of a tree is worth a line, and not in the heading."""
    single = name == "fits" and ", " not in str(value)
    return name not in TECHNICAL and not single and not name.startswith(("creat", "inference_lib", "arviz"))


def _note(name: str, value: Any) -> str:
    """An attribute of a tree as a line."""
    if name.endswith("_omitted"):
        return f"Not in the tree: {name.removesuffix('_omitted')}: {str(value).rstrip('.')}."
    if name in WORDS:
        return WORDS[name][bool(value)]
    text = f"{str(value)[:1].lower()}{str(value)[1:]}" if name == "left_out" else value
    return f"{HEADINGS.get(name, name.replace('_', ' ').capitalize())}: {text}."


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first of several names, and how many others there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
