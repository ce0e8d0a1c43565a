"""`latentmix sweep`: every cell of a grid of options, compared."""

from __future__ import annotations

from pathlib import Path

from latentmix.experiments.commands import Usage, add_trust, allowed_modules, command_parser, new_folder, preset_words
from latentmix.experiments.presets import preset_path

USAGE = Usage(
    20,
    "sweep PRESET --grid NAME=V1,V2,... [--n-jobs N] [--any.option value ...]",
    "every cell of a grid, compared",
    lasting=True,
)


EPILOG = """\
Any other option is one of all cells, as for `latentmix run`. Every combination is a cell; those that cannot be
built are listed before any is trained. Exit code: 0 if all cells of this grid are done, 1 if one was refused or
failed, 2 if the command was refused or failed.
"""


def main(words: list[str]) -> int:
    """Run a sweep, print its tables and, last, its folder; 1 if a cell of its grid was refused or failed."""
    preset_words(words, "sweep digits --grid epochs=5,10")
    parser = command_parser("sweep", epilog=EPILOG)
    parser.add_argument("preset", metavar="PRESET", help="a preset (`latentmix list`) or a YAML file of options")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=V1,V2,...",
        help="an option that varies and its values, as in prior=StandardNormal,VampPrior; repeat it to vary several",
    )
    parser.add_argument(
        "--n-jobs",
        type=int,
        default=1,
        metavar="N",
        help="cells at a time; -1 for as many as there are cores (default: 1)",
    )
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

    from latentmix.experiments.options.grids import parse_grid
    from latentmix.experiments.sweeps.sweep import sweep

    out = arguments.out or new_folder(f"{Path(arguments.preset).stem}-sweep")
    grid = parse_grid(arguments.grid)
    typed = [word for name, values in grid.items() for value in values for word in (f"--{name}", value)]
    results = sweep(
        arguments.preset,
        options,
        grid,
        out,
        n_jobs=arguments.n_jobs,
        backend=arguments.backend,
        pictures=arguments.pictures,
        trust=allowed_modules(arguments.trust, [*options, *typed]),
    )
    print(out)
    asked = set(results["asked"])
    return 0 if all(cell["status"] == "done" for cell in results["cells"] if cell["id"] in asked) else 1
