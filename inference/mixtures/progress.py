"""Progress reports and warnings of the mixture estimators."""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
import torch.utils._contextlib

__all__ = ["Progress", "warn"]

# Frames that a warning does not name: this package, and torch's decorators such as `inference_mode`.
_SKIPPED = (f"{Path(__file__).parents[1]}{os.sep}", str(torch.utils._contextlib.__file__).removesuffix(".py"))


@final
@dataclass
class Progress:
    """Prints starts, every `interval`-th iteration and ends of a fit.

    Args:
        verbose: 0 prints nothing, 1 the iterations, 2 or more also times and bounds.
        interval: Number of iterations between prints.

    Example:
        >>> from latentmix.inference.mixtures.progress import Progress
        >>> progress = Progress(verbose=1)
        >>> progress.begin(0)
        Initialization 0
        >>> progress.step(10, 0.1)
          Iteration 10
        >>> progress.end(-1.0, True)
        Initialization converged.
    """

    verbose: int = 0
    interval: int = 10
    _begun: float = field(default=0.0, init=False)
    _last: float = field(default=0.0, init=False)

    def begin(self, attempt: int) -> None:
        """Report the beginning of a start."""
        if self.verbose:
            print(f"Initialization {attempt}")
        self._begun = self._last = time.perf_counter()

    def step(self, iteration: int, change: float) -> None:
        """Report an iteration and its change of the bound."""
        if not self.verbose or iteration % self.interval:
            return
        if self.verbose == 1:
            print(f"  Iteration {iteration}")
            return
        now = time.perf_counter()
        print(f"  Iteration {iteration}\t time lapse {now - self._last:.5f}s\t ll change {change:.5f}")
        self._last = now

    def end(self, bound: float, converged: bool) -> None:
        """Report the end of the fit from this start."""
        if not self.verbose:
            return
        outcome = f"Initialization {'converged' if converged else 'did not converge'}."
        took = f" time lapse {time.perf_counter() - self._begun:.5f}s\t lower bound {bound:.5f}."
        print(outcome + (took if self.verbose > 1 else ""))


def warn(message: str, category: type[Warning] | None = None) -> None:
    """Warn, by default of an unreliable fit (`ConvergenceWarning`), at the calling line outside this package."""
    from sklearn.exceptions import ConvergenceWarning

    warnings.warn(message, category or ConvergenceWarning, stacklevel=2, skip_file_prefixes=_SKIPPED)
