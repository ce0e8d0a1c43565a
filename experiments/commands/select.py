"""`latentmix select`: the number of components of mixtures over a run's latents, or over points."""

from __future__ import annotations

import importlib
import textwrap
from itertools import groupby
from pathlib import Path

from latentmix.experiments.commands import (
    Usage,
    UsageError,
    add_limit,
    add_numbers,
    add_trust,
    allowed_modules,
    comma_list,
    command_parser,
    new_folder,
)
from latentmix.experiments.reading.limits import MAX_GIB

USAGE = Usage(
    70,
    "select RUN|FILE [--n_components 1..10] [--out DIR]",
    "how many components: criteria, picture, modes",
    lasting=True,
)
MOST_COMPONENTS = 10_000
NUMBERS = {
    "points": (5000, "most points; of more, a random draw"),
    "starts": (5, "starts of every fit, the best is kept"),
    "mode_starts": (20, "starts of the mode report"),
    "folds": (5, "folds of the held-out log-likelihood"),
    "draws": (1000, "posterior draws for loo, from 50"),
    "seed": (0, "seed of starts, folds and draws"),
    "n-jobs": (1, "fits at a time; -1 for as many as there are cores"),
}


def main(words: list[str]) -> None:
    """Print every criterion for mixtures of a run's latents, or of points, and, last, the folder of the results."""
    parser = command_parser("select", epilog=criteria_help() if {"-h", "--help"} & set(words) else None)
    parser.add_argument(
        "source",
        metavar="RUN|FILE",
        type=Path,
        help="a run's folder, for its training latents, or a .npy, .npz, .csv or .parquet file of points",
    )
    parser.add_argument("--label", metavar="COLUMN", help="column of labels in the file, which is left out")
    parser.add_argument("--columns", metavar="NAMES", help="columns of the file to take, by commas (default: all)")
    parser.add_argument(
        "--n_components", default="1..10", metavar="K", help="numbers of components, as 1..10 or 2,5,8 (default: 1..10)"
    )
    types = "full,diag,tied,spherical"
    parser.add_argument("--covariance_types", default=types, metavar="TYPES", help=f"covariances (default: {types})")
    parser.add_argument(
        "--criteria",
        metavar="NAMES",
        help="criteria to measure, by commas; MODULE.NAME for one that a module of yours registers (default: those "
        "shipped)",
    )
    parser.add_argument(
        "--criterion", metavar="NAME", help="criterion that chooses the mixture of the mode report (default: bic)"
    )
    folder = "folder, new or of the same selection if that was interrupted (default: runs/select-NAME-DATE-TIME)"
    add_numbers(parser, NUMBERS)
    add_limit(parser, "max_gib", MAX_GIB, "most memory of the points of a file, in GiB")
    parser.add_argument("--out", type=Path, metavar="DIR", help=folder)
    add_trust(parser, "the run")
    options = vars(parser.parse_args(words))
    source = options.pop("source")
    if not source.exists():
        raise UsageError(f"Expected the folder of a run, or a file of points, that is there; got {str(source)!r}.")
    if source.is_dir() and (options["label"] or options["columns"]):
        raise UsageError(f"Expected a file of points for --label and --columns; got {str(source)!r}, a folder.")
    counts = component_counts(options.pop("n_components"))

    from latentmix.experiments.runs.selection import Choice, choose
    from latentmix.inference.mixtures.analysis.criteria import CRITERIA

    out, names, max_gib = (options.pop(name) for name in ("out", "criteria", "max_gib"))
    label, columns = options.pop("label"), options.pop("columns")
    trust = allowed_modules(options.pop("trust"), ["--criteria", names or ""])
    settings = Choice(
        n_components=counts,
        covariance_types=tuple(comma_list("--covariance_types", options.pop("covariance_types"))),
        criteria=CRITERIA if names is None else tuple(criterion_name(word) for word in comma_list("--criteria", names)),
        **options,
    )
    out = out or new_folder(f"select-{source.resolve().stem}")
    columns = comma_list("--columns", columns) if columns else None
    points = {"label": label, "columns": columns, "max_gib": max_gib}
    selection, report = choose(source, settings, out, print, trust=trust, **points)
    print(f"\n{selection.table()}\n\n{report.table()}\n\n{out}")


def component_counts(text: str) -> list[int]:
    """The numbers of components in `1..10`, `2,5,8` or a mix of both, ascending.

    Raises:
        ValueError: If the text is none of these.

    Example:
        >>> from latentmix.experiments.commands.select import component_counts
        >>> component_counts("1..3,10")
        [1, 2, 3, 10]
    """
    counts: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        if not first.strip().isdecimal() or (dots and not last.strip().isdecimal()):
            raise UsageError(f"Expected --n_components as 1..10 or 2,5,8; got {text!r}.")
        lowest, highest = int(first), int(last if dots else first)
        if highest > MOST_COMPONENTS:
            raise UsageError(f"Expected --n_components of at most {MOST_COMPONENTS:,}; got {text!r:.60}.")
        counts.update(range(lowest, highest + 1))
    if not counts or min(counts) < 1:
        raise UsageError(f"Expected --n_components from 1, as 1..10 or 2,5,8; got {text!r}.")
    return sorted(counts)


def criterion_name(word: str) -> str:
    """The name of a criterion; of `MODULE.NAME` it is `NAME`, after the import of the module, which registers it.

    Raises:
        ValueError: If there is no such module.

    Example:
        >>> from latentmix.experiments.commands.select import criterion_name
        >>> criterion_name("bic")
        'bic'
    """
    module, _, name = word.rpartition(".")
    try:
        if module:
            importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"Expected a criterion of a module that can be imported; got {word!r}: {error}.") from error
    return name


def criteria_help() -> str:
    """A paragraph on each registered criterion; those of the same help have one in common."""
    from latentmix.inference.mixtures.analysis.criteria import criteria

    groups = groupby(criteria().values(), lambda criterion: criterion.help)
    texts = {", ".join(criterion.name for criterion in group): text for text, group in groups}
    width = max(map(len, texts))
    lines = [
        textwrap.fill(f"  {names:{width}}  {text}", 120, subsequent_indent=" " * (width + 4), break_on_hyphens=False)
        for names, text in texts.items()
    ]
    return "\n".join(["criteria:", *lines])
