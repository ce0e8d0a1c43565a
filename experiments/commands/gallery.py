"""`latentmix gallery`: every picture of every preset in one page."""

from __future__ import annotations

from pathlib import Path

from latentmix.experiments.commands import Usage, comma_list, command_parser

USAGE = Usage(
    105,
    "gallery [--presets NAME,...] [--full] [--n-jobs N] [--out DIR]",
    "every picture of every preset in one page",
    lasting=True,
)

EPILOG = """\
Interrupted, the same command continues; finished runs are kept. Exit code: 0 if no entry failed, 1 if one failed, 2 if
the command was refused or failed. An entry whose data are not here is refused and left out, which is no failure.
"""


def main(words: list[str]) -> int:
    """Run presets and variants, and print the path of the page; 1 if an entry failed."""
    parser = command_parser("gallery", epilog=EPILOG)
    parser.add_argument("--presets", metavar="NAME,...", help="presets, by commas, with their variants (default: all)")
    parser.add_argument("--full", action="store_true", help="full length (default: few data and epochs, for minutes)")
    parser.add_argument("--n-jobs", type=int, default=1, help="runs at a time; -1 for as many as there are cores")
    parser.add_argument("--out", type=Path, help="folder, new or to be continued (default: runs/gallery)")
    arguments = parser.parse_args(words)

    from latentmix.experiments.sweeps.gallery import gallery

    names = None if arguments.presets is None else comma_list("--presets", arguments.presets)
    out = arguments.out or Path("runs") / ("gallery-full" if arguments.full else "gallery")
    outcomes = gallery(out, names=names, full=arguments.full, n_jobs=arguments.n_jobs)
    print(out / "gallery.html")
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0
