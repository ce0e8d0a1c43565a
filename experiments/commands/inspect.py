"""`latentmix inspect`: the posterior of a run, or of a file for ArviZ, in words and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from latentmix.experiments.commands import (
    Usage,
    UsageError,
    add_limit,
    add_trust,
    allowed_modules,
    comma_list,
    command_parser,
    new_folder,
)
from latentmix.experiments.hints import did_you_mean
from latentmix.experiments.options.names import POSTERIOR_PLOTS
from latentmix.experiments.places import check_new_file, check_run, check_writable
from latentmix.experiments.reading.limits import MAX_GIB

USAGE = Usage(
    75,
    "inspect RUN|FILE [--plots P] [--to FILE]",
    "a posterior: ArviZ's summary, diagnostics, plots",
)
SUFFIXES = (".nc", ".zarr")
EPILOG = f"""\
plots, by commas, or all that the posterior can serve:
  {", ".join(POSTERIOR_PLOTS)}
"""


def main(words: list[str]) -> None:
    """Print a summary of a posterior; draw its plots, and write its tree, if asked."""
    parser = command_parser("inspect", epilog=EPILOG)
    parser.add_argument(
        "source", metavar="RUN|FILE", type=Path, help="a run's folder, or a .nc or .zarr file of a posterior for ArviZ"
    )
    parser.add_argument(
        "--inference", metavar="FIT", help="which fit of the run: nuts or posterior (default: the best that it has)"
    )
    text = "variables to show, by commas (default: those of at most 200 quantities)"
    parser.add_argument("--var", metavar="NAMES", help=text)
    parser.add_argument("--plots", metavar="NAMES", help="plots to draw, by commas, or all")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder of the plots (default: runs/inspect-NAME-TIME)")
    parser.add_argument("--to", metavar="FILE", type=Path, help="a new .nc or .zarr file for the tree")
    add_limit(parser, "max_gib", MAX_GIB, "most memory of the values of a file, in GiB")
    add_trust(parser, "the run")
    arguments = parser.parse_args(words)
    source: Path = arguments.source
    plots, every = _plot_names(arguments.plots)
    variables = None if arguments.var is None else comma_list("--var", arguments.var)
    out: Path | None = arguments.out
    if out is not None and not plots:
        raise UsageError("Expected --plots with --out, which is the folder of the plots; got none.")
    if not source.exists():
        raise UsageError(f"Expected the folder of a run, or a .nc or .zarr file, that is there; got {str(source)!r}.")
    if source.is_dir() and source.suffix != ".zarr":
        check_run(source)
    elif source.suffix not in SUFFIXES:
        raise UsageError(f"Expected the folder of a run, or a .nc or .zarr file; got {str(source)!r}.")

    if arguments.to is not None:
        if arguments.to.suffix not in SUFFIXES:
            raise UsageError(f"Expected a .nc or .zarr file for the tree; got {arguments.to}.")
        check_new_file(arguments.to, "--to")
    out = out or (new_folder(f"inspect-{source.resolve().stem}") if plots else None)
    places = {plot: out / f"posterior_{plot}.png" for plot in plots} if out is not None else {}
    if out is not None:
        check_writable(out)
    for place in places.values():
        if out is not None and out.exists():
            check_new_file(place)

    from latentmix.experiments.figures import save
    from latentmix.experiments.reading.trees import check_tree_suffix, write_tree
    from latentmix.experiments.runs.inspection import Inspection
    from latentmix.experiments.runs.posterior_fits import chosen_fit, load_posterior
    from latentmix.models.files import inside

    if arguments.to is not None:
        check_tree_suffix(arguments.to, "a file for the tree")
    whole = load_posterior(source, allowed_modules(arguments.trust), max_gib=arguments.max_gib)
    inspection = Inspection(chosen_fit(whole, arguments.inference, source), variables)
    obstacles = {plot: reason for plot in plots if (reason := inspection.obstacle(plot)) is not None}
    if obstacles and not every:
        raise ValueError(next(iter(obstacles.values())))
    drawn = [plot for plot in plots if plot not in obstacles]
    with _locked(out if drawn else None):
        print(inspection.text())
        for plot in drawn:
            place = places[plot]
            place.parent.mkdir(parents=True, exist_ok=True)
            print(save(inspection.draw(plot), inside(place.parent, place.name)), flush=True)
    for plot, reason in obstacles.items():
        print(f"No {plot}: {reason}")
    if arguments.to is not None:
        write_tree(whole if arguments.inference is None else inspection.tree, arguments.to)
        print(arguments.to)


@contextmanager
def _locked(out: Path | None) -> Iterator[None]:
    """A block in which nothing else writes the run that a folder of pictures belongs to, if it does to one."""
    from latentmix.experiments.runs.artifacts import RunFolder

    with ExitStack() as stack:
        if out is not None and out.name == "figures" and (out.parent / "config.yaml").is_file():
            stack.enter_context(RunFolder.existing(out.parent).locked())
        yield


def _plot_names(text: str | None) -> tuple[list[str], bool]:
    """The plots that an option names, and whether they are all.

    Raises:
        UsageError: If one is unknown.
    """
    names = [] if text is None else comma_list("--plots", text)
    for name in names:
        if name not in (*POSTERIOR_PLOTS, "all"):
            hint = did_you_mean(name, [*POSTERIOR_PLOTS, "all"])
            raise UsageError(f"Expected plots out of {', '.join(POSTERIOR_PLOTS)}, all; got {name!r}{hint}")
    return (list(POSTERIOR_PLOTS), True) if "all" in names else (list(dict.fromkeys(names)), False)
