"""`latentmix resume`: an interrupted run, continued from its last complete epoch, or from its figures."""

from __future__ import annotations

from pathlib import Path

from latentmix.experiments.commands import Usage, add_run, allowed_modules, command_parser, complete_run
from latentmix.experiments.places import check_run

USAGE = Usage(30, "resume RUN", "finish an interrupted run", lasting=True)


def main(words: list[str]) -> None:
    """Resume a run, print its table and, last, its folder."""
    parser = command_parser("resume")
    add_run(parser)
    arguments = parser.parse_args(words)
    path: Path = arguments.run

    check_run(path)

    from latentmix.experiments.runs.artifacts import RunFolder
    from latentmix.experiments.runs.pipeline import Session

    folder = RunFolder.existing(path, allowed_modules(arguments.trust))
    with folder.locked() as folder:
        if folder.finished():
            raise ValueError(
                f"Expected an interrupted run; got {path}, which is finished: `latentmix report {path}` writes its "
                "report again."
            )
        experiment = folder.load_experiment()
        complete_run(lambda: Session.prepare(experiment).run(folder, progress=True), path)
