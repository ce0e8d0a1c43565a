"""`latentmix resume`: an interrupted run, continued from its last complete epoch."""

from __future__ import annotations

from pathlib import Path

from latentmix.experiments.commands import Usage, check_run, command_parser, complete_run

USAGE = Usage(30, "resume RUN", "continue an interrupted run")


def main(words: list[str]) -> None:
    """Resume a run, print its table and, last, its folder."""
    parser = command_parser("resume")
    parser.add_argument("run", type=Path, help="the folder of the run")
    path: Path = parser.parse_args(words).run

    check_run(path)

    from latentmix.experiments.runs.artifacts import RunFolder

    folder = RunFolder.existing(path)
    if (path / "summary.json").is_file():
        raise ValueError(f"Expected an interrupted run; got {path}, which is finished.")
    experiment = folder.load_experiment()
    state = folder.load_training()

    from latentmix.experiments.runs.pipeline import Session

    print("from the start" if state is None else f"from epoch {state.epoch}")
    complete_run(lambda: Session.prepare(experiment).run(folder, progress=True, state=state), path)
