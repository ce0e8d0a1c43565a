"""`latentmix resume`: an interrupted run, continued from its last complete epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latentmix.experiments.commands import Usage, command_parser, complete_run

if TYPE_CHECKING:
    from latentmix.experiments.runs.artifacts import RunFolder

USAGE = Usage(30, "resume RUN", "continue an interrupted run")


def main(words: list[str]) -> None:
    """Resume a run, print its table and, last, its folder."""
    parser = command_parser("resume")
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of the run")
    path: Path = parser.parse_args(words).run

    from latentmix.experiments.runs.artifacts import RunFolder
    from latentmix.experiments.runs.pipeline import Session

    folder = RunFolder.existing(path)
    if _is_finished(folder):
        raise ValueError(f"Expected an interrupted run; got {path}, which is finished.")
    experiment = folder.load_experiment()
    state = folder.load_training()
    print("from the start" if state is None else f"from epoch {state.epoch}")
    complete_run(lambda: Session.prepare(experiment).run(folder, progress=True, state=state), path)


def _is_finished(folder: RunFolder) -> bool:
    """Whether a run has a summary that can be read; a truncated one is written anew."""
    try:
        folder.read_json("summary.json")
    except ValueError:
        return False
    return True
