"""`latentmix sweep`: every cell of a grid of options, compared."""

from __future__ import annotations

from pathlib import Path

from latentmix.experiments.commands import Usage, command_parser, new_folder, preset_words

USAGE = Usage(
    20,
    "sweep PRESET --grid NAME=V1,V2,... [--n-jobs N] [--any.option value ...]",
    "every cell of a grid, compared",
)


def main(words: list[str]) -> int:
    """Run a sweep, print its tables and, last, its folder; 1 if a cell was refused or failed."""
    preset_words(words, "sweep digits --grid epochs=5,10")
    parser = command_parser("sweep", epilog="--any.option value: an option of all cells, as for `latentmix run`")
    parser.add_argument("preset", help="a preset (`latentmix list`) or a YAML file of options")
    parser.add_argument("--grid", action="append", default=[], metavar="NAME=V1,V2,...", help="an option that varies")
    parser.add_argument("--n-jobs", type=int, default=1, help="cells at a time; -1 for as many as there are cores")
    parser.add_argument("--backend", default="loky", help="joblib's back end: loky, multiprocessing, dask, ray")
    parser.add_argument("--pictures", action="store_true", help="figures and a report for every cell")
    parser.add_argument("--out", type=Path, help="folder of the sweep, new or to be continued")
    arguments, options = parser.parse_known_args(words)

    from latentmix.experiments.options.grids import parse_grid
    from latentmix.experiments.sweeps.sweep import sweep

    out = arguments.out or new_folder(f"{Path(arguments.preset).stem}-sweep")
    results = sweep(
        arguments.preset,
        options,
        parse_grid(arguments.grid),
        out,
        n_jobs=arguments.n_jobs,
        backend=arguments.backend,
        pictures=arguments.pictures,
    )
    print(out)
    return 1 if results["counts"]["failed"] or results["counts"]["refused"] else 0
