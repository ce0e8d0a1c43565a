"""`latentmix compare`: finished runs side by side, with intervals over seeds and paired differences."""

from __future__ import annotations

import sys
from pathlib import Path

from latentmix.experiments.commands import Usage, UsageError, add_trust, allowed_modules, command_parser
from latentmix.experiments.places import check_new_folder, check_run

USAGE = Usage(
    35,
    "compare RUN RUN ... | SWEEP [--out DIR]",
    "runs side by side: intervals, paired differences",
    lasting=True,
)
FORMATS = ("table", "json", "csv", "markdown")
EPILOG = """\
Runs that differ by their seeds alone are one group, with intervals over seeds. A sweep stands for its finished cells.
"""


def main(words: list[str]) -> None:
    """Print a comparison of runs and, with --out, write its page, its pictures and its files, and print the folder."""
    parser = command_parser("compare", epilog=EPILOG)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folders of finished runs, or of sweeps")
    parser.add_argument(
        "--reference", metavar="RUN", help="the run whose group others are compared with (default: the first)"
    )
    parser.add_argument(
        "--level", type=float, default=0.9, metavar="P", help="level of intervals, between 0 and 1 (default: 0.9)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="a new folder for the comparison (default: none)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="what is printed (default: table)")
    add_trust(parser, "a run")
    arguments = parser.parse_args(words)
    runs: list[Path] = arguments.runs
    out: Path | None = arguments.out
    if not 0 < arguments.level < 1:
        raise UsageError(f"Expected --level between 0 and 1; got {arguments.level}.")
    sweeps = [run for run in runs if (run / "sweep.json").is_file()]
    for run in runs:
        if run not in sweeps:
            check_run(run)
    if len(runs) < 2 and not sweeps:
        raise UsageError(f"Expected two runs or more to compare, or a sweep; got {runs[0]} alone.")
    resolved = [run.resolve() for run in runs]
    for place, run in enumerate(runs):
        if resolved[place] in resolved[:place]:
            raise UsageError(f"Expected different runs to compare; got {run} twice: name each once.")
    if out is not None:
        check_new_folder(out)

    from latentmix.experiments.comparison.compare import compare_runs
    from latentmix.experiments.comparison.files import printed, write_files
    from latentmix.experiments.comparison.page import write_comparison

    comparison = compare_runs(
        runs, reference=arguments.reference, level=arguments.level, trust=allowed_modules(arguments.trust)
    )
    print(printed(comparison, arguments.format), end="")
    if out is not None:
        write_files(comparison, out)
        write_comparison(comparison, out, command=["latentmix", "compare", *words])
        print(f"\n{out}", file=sys.stdout if arguments.format == "table" else sys.stderr)  # JSON stays JSON
