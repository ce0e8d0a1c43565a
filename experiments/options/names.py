"""Names of the fits and of the label budgets, as summaries, figures and the command line use them."""

from __future__ import annotations

from typing import Literal

__all__ = ["BUDGETS", "FITS", "fit_name"]

FITS: dict[Literal["em", "svi"], str] = {"em": "EM", "svi": "SVI"}
BUDGETS = ("none", "few", "all")


def fit_name(fit: str) -> str:
    """The name of a fit in tables and pictures."""
    names: dict[str, str] = {**dict(FITS.items()), "nuts": "NUTS"}
    return names.get(fit, fit)
