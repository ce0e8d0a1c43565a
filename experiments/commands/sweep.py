"""`latentmix sweep`: every cell of a grid of options, compared."""

from __future__ import annotations

from pathlib import Path

from latentmix.experiments.commands import (
    Usage,
    add_seeds,
    add_trust,
    command_parser,
    complete_sweep,
    new_folder,
    preset_words,
)
from latentmix.experiments.places import check_continued_folder
from latentmix.experiments.presets import preset_path

USAGE = Usage(
    20,
    "sweep PRESET --grid NAME=V1,V2,... [--seeds N] [--any.option value ...]",
    "every cell of a grid, compared",
    lasting=True,
)


EPILOG = """\
Any other option is one of all cells, as for `latentmix run`. Every combination is a cell; those that cannot be
built are listed before any is trained. --seeds 5 --seed 3 is the same as --grid seed=3,4,5,6,7. Cells that differ by
their seed alone are a row of the tables, of means with intervals over seeds, and share ranks where these overlap.
Exit code: 0 if all cells of this grid are done, 1 if one was refused or failed, 2 if the command was refused or
failed.
"""


def main(words: list[str]) -> int:
    """Run a sweep, print its tables and, last, its folder; 1 if a cell of its grid was refused or failed."""
    preset_words(words, "sweep digits --grid epochs=5,10")
    parser = command_parser("sweep", epilog=EPILOG, others=("--seed",))
    parser.add_argument("preset", metavar="PRESET", help="a preset (`latentmix list`) or a YAML file of options")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=V1,V2,...",
        help="an option that varies and its values, as in prior=StandardNormal,VampPrior; repeat it to vary several",
    )
    add_seeds(parser)
    parser.add_argument(
        "--backend",
        default="loky",
        metavar="NAME",
        help="joblib's back end: loky, multiprocessing, dask, ray (default: loky)",
    )
    parser.add_argument("--pictures", action="store_true", help="figures and a report for every cell")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the sweep, new or to be continued (default: runs/PRESET-sweep-DATE-TIME)",
    )
    add_trust(parser, "a file of options")
    arguments, options = parser.parse_known_args(words)
    preset_path(arguments.preset)

    out = arguments.out or new_folder(f"{Path(arguments.preset).stem}-sweep")
    check_continued_folder(out, "sweep.json", "a sweep")

    from latentmix.experiments.options.grids import parse_grid

    grid = parse_grid(arguments.grid) if arguments.grid or arguments.seeds is None else {}
    return complete_sweep(
        arguments.preset, options, grid, out, arguments, backend=arguments.backend, pictures=arguments.pictures
    )
