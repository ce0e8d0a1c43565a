"""`latentmix report`: the report of a run, written again."""

from __future__ import annotations

from pathlib import Path

from latentmix.experiments.commands import Usage, add_run, command_parser
from latentmix.experiments.places import check_run

USAGE = Usage(100, "report RUN", "write report.html again")


def main(words: list[str]) -> None:
    """Write `report.html` from the files of a run, and print its path."""
    parser = command_parser("report")
    add_run(parser, trust=False)
    path: Path = parser.parse_args(words).run
    check_run(path)

    from latentmix.experiments.runs.artifacts import RunFolder
    from latentmix.experiments.runs.report import write_report

    folder = RunFolder.existing(path)
    folder.read_summary()
    with folder.locked():
        print(write_report(path))
