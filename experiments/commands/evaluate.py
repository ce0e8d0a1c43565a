"""`latentmix evaluate`: a finished run measured on a split of its own or of another data set."""

from __future__ import annotations

import json
from pathlib import Path

from latentmix.experiments.commands import (
    Usage,
    add_run,
    allowed_modules,
    command_parser,
    write_result,
)
from latentmix.experiments.places import check_new_file, check_run
from latentmix.experiments.reading.limits import check_count

USAGE = Usage(
    50,
    "evaluate RUN [--split S] [--samples N] [--data.option value ...]",
    "measure a run on another split or data set",
)


def main(words: list[str]) -> None:
    """Print the figures of a run, and write them to a file if asked."""
    parser = command_parser(
        "evaluate",
        epilog="--data.source, --data.root, --data.classes, ...: other data than the run's, as for `latentmix run`",
    )
    add_run(parser)
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        default="test",
        help="data to measure on (default: test)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=0,
        metavar="N",
        help="samples of q per datum, for log p(x) by importance weighting (default: 0, without)",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="a new JSON file for the figures")
    arguments, options = parser.parse_known_args(words)
    check_count("--samples", arguments.samples, 0)
    check_new_file(arguments.out)
    check_run(arguments.run)

    from latentmix.experiments.runs.run import load_run

    run = load_run(arguments.run, allowed_modules(arguments.trust))
    data = run.known_data.chosen(options)

    from latentmix.experiments.runs.evaluation import evaluate_run
    from latentmix.experiments.runs.report import headline, summary_table

    figures = evaluate_run(run, data, arguments.split, arguments.samples)
    write_result(arguments.out, json.dumps({"run": str(arguments.run), **figures}, indent=2))
    kind = "images" if len(run.vae.shape) == 3 else "points"
    print(f"{arguments.split} split of {data.source}: {figures['images']} {kind}")
    print(f"{headline(figures)}\n\n{summary_table({'mixtures': figures['mixtures']})}")
