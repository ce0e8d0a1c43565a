"""Figures of ArviZ's plots: of the project's style, and not managed by pyplot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from latentmix.experiments.figures.style import COLOURS, INK, PAPER, SMALL, WIDTH, new_figure
from latentmix.experiments.options.names import LEVEL
from latentmix.models.process_state import exclusive, kept_filters

__all__ = ["Make", "arviz_style"]

Make = Callable[..., tuple[Any, Any]]
"""Makes a figure and its axes: called as `matplotlib.pyplot.subplots`."""

STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.labelsize": SMALL,
    "axes.titlesize": SMALL,
    "figure.facecolor": PAPER,
    "figure.figsize": (WIDTH, 4.0),
    "font.size": SMALL,
    "lines.linewidth": 1.0,
    "text.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
}


@contextmanager
def arviz_style(make: Make | None = None) -> Iterator[None]:
    """A block in which ArviZ draws by Matplotlib in the project's style, into figures that pyplot does not know.

    ArviZ makes its figures by pyplot, whose register and choice of a back end belong to the process; inside the block
    they are made by `make`, for this thread alone. Settings of Matplotlib and ArviZ are restored after the block.

    Args:
        make: Makes a figure with its axes, as `matplotlib.pyplot.subplots`; by default one of constrained layout.
    """
    import arviz_base
    from arviz_plots.backend import matplotlib as backend

    core: Any = backend.core
    with exclusive(), kept_filters():  # what is restored is read when this thread holds the locks
        thread, original, ours = threading.get_ident(), core.subplots, make or _subplots
        settings = dict(matplotlib.rcParams)

        def subplots(*rows_and_columns: Any, **options: Any) -> tuple[Any, Any]:
            inside = threading.get_ident() == thread
            return (ours if inside else original)(*rows_and_columns, **options)

        def restore() -> None:
            core.subplots = original
            dict.update(matplotlib.rcParams, settings)

        with exclusive(restore), ExitStack() as stack:
            stack.enter_context(matplotlib.rc_context(STYLE))
            options = {"plot.backend": "matplotlib", "plot.max_subplots": 200, "stats.ci_prob": LEVEL}
            stack.enter_context(arviz_base.rc_context(options))
            stack.callback(setattr, core, "subplots", original)
            core.subplots = subplots
            yield


def _subplots(rows: int, columns: int, *, figsize: Any, subplot_kw: Any, **options: Any) -> tuple[Figure, Any]:
    figure = new_figure(*(figsize or (WIDTH, 4.0)))
    return figure, figure.subplots(rows, columns, subplot_kw=subplot_kw, **options)
