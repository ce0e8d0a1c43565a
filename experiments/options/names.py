"""Names of the fits and of the label budgets, as summaries, figures and the command line use them, and the level of
intervals.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

__all__ = ["BUDGETS", "FITS", "FIT_NAMES", "LEVEL", "POSTERIOR_PLOTS", "chosen_budget", "fit_name"]

FITS: dict[Literal["em", "svi"], str] = {"em": "EM", "svi": "SVI"}
FIT_NAMES: dict[str, str] = {
    **dict(FITS.items()),
    "posterior": "SVI posterior",
    "nuts": "NUTS",
    "prior": "mixture prior",
}
BUDGETS = ("none", "few", "all")
LEVEL = 0.9  # of the intervals of tables and pictures, over seeds and over draws
POSTERIOR_PLOTS = (
    *("trace", "rank", "forest", "pair", "energy"),
    *("ppc", "pit", "loo_pit", "prior_posterior", "khat"),
)


def fit_name(fit: str) -> str:
    """The name of a fit in tables and pictures."""
    return FIT_NAMES.get(fit, fit)


def chosen_budget(budgets: Container[str], labels: str | None) -> str:
    """The label budget that is asked for, by default `few` if a fit has it, else `none`."""
    return labels or ("few" if "few" in budgets else "none")
