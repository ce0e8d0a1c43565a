"""`latentmix report`: the report of a run, written again."""

from __future__ import annotations

from pathlib import Path

from latentmix.experiments.commands import Usage, command_parser

USAGE = Usage(100, "report RUN", "write report.html again")


def main(words: list[str]) -> None:
    """Write `report.html` from the files of a run, and print its path."""
    parser = command_parser("report")
    parser.add_argument("run", type=Path, help="the folder of the run")
    path: Path = parser.parse_args(words).run

    from latentmix.experiments.runs.artifacts import RunFolder
    from latentmix.experiments.runs.report import write_report

    RunFolder.existing(path).read_summary()
    print(write_report(path))
