"""ArviZ's functions on the trees of eight models of the kind that Pyro's tutorials show, by MCMC and by SVI."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr

from latentmix.inference.datatree import obstacle
from latentmix.inference.isolation import isolated

from tests.inference.datatree.both import MCMC_FUNCTIONS, SVI_FUNCTIONS, by_mcmc, by_svi
from tests.inference.datatree.examples import EXAMPLES
from tests.inference.process import off_screen
from tests.verify.registry import Figures, proof

TAKEN = "taken"
BINARY = "look binary"  # ArviZ's advice to prefer another plot


def outcome(function: Callable[[xr.DataTree], Any], tree: xr.DataTree) -> str:
    """Whether a function takes a tree without a warning, except on single data; else its error or warning."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto")  # of a few data, which k tells
        try:
            function(tree)
        except Exception as error:  # the outcome is the figure
            return f"{type(error).__name__}: {error!s:.100}"
        finally:
            plt.close("all")
    return TAKEN


def outcomes(tree: xr.DataTree, functions: Mapping[str, Callable[[xr.DataTree], Any]]) -> dict[str, str]:
    """By function, `taken`; or `refused`, with the sentence that `obstacle` has for it; or what went wrong."""
    found = {}
    for name, function in functions.items():
        reason = obstacle(tree, name)
        renamed = name == "psense_summary" and "component" in tree["posterior"].dims
        found[name] = f"refused: {reason}" if reason is not None and not renamed else outcome(function, tree)
    return found


@proof()
def arviz_takes_the_trees() -> Figures:
    """ArviZ's functions take trees of eight models, warnings as errors; one that does not has a sentence for it."""
    with off_screen(), isolated(seed=0):
        figures = {
            name: {
                "mcmc": outcomes(by_mcmc(example), MCMC_FUNCTIONS),
                "svi": outcomes(by_svi(example), SVI_FUNCTIONS),
            }
            for name, example in EXAMPLES.items()
        }
    found = [word for kinds in figures.values() for named in kinds.values() for word in named.values()]
    passed = all(word == TAKEN or word.startswith("refused: ") or BINARY in word for word in found)
    return {"passed": passed, "functions": len(found), "taken": found.count(TAKEN), **figures}
