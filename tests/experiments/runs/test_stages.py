"""A run that dies at any moment is finished by `resume`; a folder that changes under a run is an error."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self

import pytest
import torch

from latentmix.experiments.cli import main
from latentmix.experiments.runs import pipeline
from latentmix.experiments.runs.artifacts import LEFT_OUT, RunFolder, load_tree, save_tree
from latentmix.experiments.runs.locks import FolderLock
from latentmix.models import files

QUICK = [
    *("--epochs", "2", "--data.limit", "100", "--data.classes", "1,4", "--data.labels_per_class", "2"),
    *("--encoder.hidden", "8", "--decoder.hidden", "8", "--mixture.draws", "1", "--mixture.n_init", "1"),
    *("--mixture.posterior.guide", "none"),
    *("--mixture.svi.epochs", "3"),
]
MOMENTS = [
    *(("training-odd.safetensors", "before"), ("metrics.jsonl", "after"), ("training-even.safetensors", "before")),
    *(("vae.json", "after"), ("mixtures.safetensors", "after"), ("pointwise.npz", "after")),
    *(("summary.json", "before"), ("summary.json", "after")),
    *(("two.png", "before"), ("report.html", "before"), ("report.html", "after")),
]


class Death(BaseException):
    """A kill that this process survives."""


@pytest.fixture(autouse=True)
def plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than all the rest; clocks stand still, so that files are compared by their bytes."""

    def draw(folder: Path, *_: Any, **__: Any) -> Iterator[Path]:
        for name in ("one", "two"):
            files.write_atomically(folder / f"{name}.png", name.encode())
            yield folder / f"{name}.png"

    monkeypatch.setattr(pipeline, "draw_vae", draw)
    monkeypatch.setattr(pipeline, "draw_mixtures", lambda *_, **__: ())
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    monkeypatch.setattr("latentmix.experiments.runs.provenance.datetime", Stopped)


class Stopped(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2026, 1, 1, tzinfo=tz)


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is in the folder `run`, by which its files name it."""
    monkeypatch.chdir(tmp_path)


def run(folder: Path) -> int:
    return main(["run", "digits_mlp2", *QUICK, "--out", str(folder)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run, and its folder as a process that is killed leaves it before or after it first puts a file in place."""
    folder, replace = tmp_path_factory.mktemp("whole"), os.replace

    def photographed(source: Any, target: Any) -> None:
        for when, act in (("before", lambda: None), ("after", lambda: replace(source, target))):
            act()
            snapshot = folder / f"{Path(target).name}-{when}"
            if (folder / "run").is_dir() and not snapshot.exists():
                shutil.copytree(folder / "run", snapshot)

    with pytest.MonkeyPatch.context() as patch:
        plain_pictures.__wrapped__(patch)  # type: ignore[attr-defined]
        patch.chdir(folder)
        patch.setattr(files.os, "replace", photographed)
        assert run(Path("run")) == 0
    return folder


@pytest.fixture(scope="module")
def whole(snapshots: Path) -> dict[str, bytes]:
    return contents(snapshots / "run")


@pytest.fixture
def killed(snapshots: Path, working_folder: None) -> Callable[[str, str], Path]:
    """A run that was killed at that moment."""
    return lambda name, when: shutil.copytree(snapshots / f"{name}-{when}", Path("run"))


def kill(monkeypatch: pytest.MonkeyPatch, name: str, when: str, act: Callable[[], int]) -> None:
    """Let a command die while it writes a file of that name."""
    replace = os.replace

    def dying(source: Any, target: Any) -> None:
        if Path(target).name == name and when == "before":
            raise Death
        replace(source, target)
        if Path(target).name == name:
            raise Death

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", dying)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a dead process cleans nothing up
        with pytest.raises(Death):
            act()


@pytest.mark.parametrize(("name", "when"), MOMENTS)
def test_death_at_every_file_is_resumed(
    killed: Callable[[str, str], Path], whole: dict[str, bytes], name: str, when: str
) -> None:
    folder = killed(name, when)
    finished = (name, when) == ("report.html", "after")
    assert main(["resume", str(folder)]) == (2 if finished else 0)
    with suppress(FileNotFoundError):
        (folder / "lock").unlink()  # of the process that died, which would not hold it
    left = contents(folder)
    assert {name: left[name] for name in whole} == whole
    assert finished or left.keys() == whole.keys()


def test_death_in_a_resumed_run_is_resumed(monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]) -> None:
    folder = Path("run")
    kill(monkeypatch, "training-odd.safetensors", "after", lambda: run(folder))
    kill(monkeypatch, "mixtures.safetensors", "after", lambda: main(["resume", str(folder)]))
    kill(monkeypatch, "two.png", "before", lambda: main(["resume", str(folder)]))
    assert main(["resume", str(folder)]) == 0
    assert contents(folder) == whole


@pytest.mark.parametrize("broken", [["even"], ["odd"], ["odd", "even"]])
def test_a_broken_state_of_training_is_told_and_the_other_taken(
    killed: Callable[[str, str], Path],
    capsys: pytest.CaptureFixture[str],
    whole: dict[str, bytes],
    broken: list[str],
) -> None:
    folder = killed("vae.json", "before")
    for name in broken:
        file = folder / "checkpoints" / f"training-{name}.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
    capsys.readouterr()
    assert main(["resume", str(folder)]) == 0
    told = capsys.readouterr()
    assert told.err.count("It is left out, and the epoch that it ended is repeated.") == len(broken)
    assert ("from epoch" in told.out) == (len(broken) == 1)
    older = {"checkpoints/training-odd.safetensors"} if broken == ["odd"] else set()  # it stays as it is
    left = contents(folder)
    assert left.keys() == whole.keys()
    assert {name for name in whole if left[name] != whole[name]} == older


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a learning rate below 0": lambda state: state["optimizer"]["param_groups"][0].update(lr=-1.0),
    "moments of another shape": lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
    "other parameters": lambda state: state["parameters"].update(other=torch.zeros(1)),
    "another seed": lambda state: state.update(seed=5),
    "more epochs than the run has": lambda state: state.update(
        epoch=4, history=[{**state["history"][0], "epoch": epoch} for epoch in range(1, 5)]
    ),
}


def damage(file: Path, name: str) -> None:
    """Make a state of training one of another run."""
    state = load_tree(file)
    STATES[name](state)
    save_tree(file, state)


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_is_none_of_this_run_is_told_and_the_older_taken(
    killed: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str], whole: dict[str, bytes], name: str
) -> None:
    folder = killed("vae.json", "before")
    damage(newest := folder / "checkpoints" / "training-even.safetensors", name)
    capsys.readouterr()
    assert main(["resume", str(folder)]) == 0
    told = capsys.readouterr()
    (warning,) = [line for line in told.err.splitlines() if line.startswith("latentmix: ")]
    assert warning.startswith(f"latentmix: warning: {newest}: Expected ")
    assert warning.endswith(LEFT_OUT)
    assert "from epoch 1" in told.out
    assert contents(folder) == whole


def test_states_of_which_none_is_of_this_run_are_refused(
    killed: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = killed("vae.json", "before")
    newest, older = (folder / "checkpoints" / f"training-{name}.safetensors" for name in ("even", "odd"))
    damage(newest, "another seed")
    damage(older, "another seed")
    before = contents(folder)
    assert main(["resume", str(folder)]) == 2
    before = {name: data for name, data in before.items() if not name.endswith(".part") and name != "lock"}
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("latentmix: ")]
    assert [str(newest) in errors[0], str(older) in errors[1], len(errors)] == [True, True, 2]
    assert contents(folder) == before


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "one.png"])
def test_a_folder_that_changes_under_a_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str, name: str
) -> None:
    folder = tmp_path / "run"
    replace = os.replace

    def changing(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).name == name and folder.exists():
            if how == "moved":
                folder.rename(tmp_path / "moved")
            else:
                shutil.rmtree(folder)
            if how == "replaced":
                folder.mkdir()

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", changing)
        assert run(folder) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len([line for line in errors if line.startswith("latentmix: Expected")]) == 1
    assert how == "replaced" or not folder.exists()
    if how == "moved":
        assert main(["resume", str(tmp_path / "moved")]) == 0


@pytest.mark.parametrize(
    ("moment", "changed", "how"),
    [
        ("training-odd.safetensors", "config.yaml", "removed"),
        ("mixtures.safetensors", "checkpoints/vae.safetensors", "removed"),
        ("summary.json", "metrics.jsonl", "changed"),
        ("two.png", "summary.json", "changed"),
        ("two.png", "figures/one.png", "removed"),
        ("report.html", "config.yaml", "changed"),
    ],
)
def test_a_finished_file_that_changes_under_a_run_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moment: str, changed: str, how: str
) -> None:
    replace = os.replace

    def changing(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).name == moment:
            file = Path("run", changed)
            file.unlink() if how == "removed" else file.write_bytes(file.read_bytes() + b" ")

    monkeypatch.setattr(files.os, "replace", changing)
    assert run(Path("run")) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("latentmix: ")]
    assert f"Expected run/{changed} to stay as it is until the run ends; got" in error


def test_a_finished_file_may_be_written_again_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def touching(source: Any, target: Any) -> None:
        replace(source, target)
        for file in Path("run").glob("config.yaml"):
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)

    monkeypatch.setattr(files.os, "replace", touching)
    assert run(Path("run")) == 0


@pytest.mark.parametrize("name", ["training-even", "summary", "two", "report"])
def test_a_full_disk_is_told_by_the_file_and_by_what_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], whole: dict[str, bytes], name: str
) -> None:
    folder = Path("run")
    opened = os.open

    def full(path: Any, *arguments: Any, **options: Any) -> int:
        if f".{name}." in Path(path).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "open", full)
        assert run(folder) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("latentmix: ")]
    assert f"{name}." in error
    assert f"No space left on device; once that is mended, `latentmix resume {folder}` finishes the run" in error
    assert main(["resume", str(folder)]) == 0
    assert contents(folder) == whole


def test_a_run_beside_a_live_one_is_refused(
    killed: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = killed("summary.json", "before")
    with FolderLock(folder):
        before = contents(folder)
        assert main(["resume", str(folder)]) == 2
        assert contents(folder) == before
    assert f"which process {os.getpid()} writes" in capsys.readouterr().err


@pytest.mark.parametrize("linked", ["checkpoints", "figures", "metrics.jsonl", "report.html", "summary.json", "lock"])
def test_nothing_is_written_through_a_link(
    killed: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], linked: str
) -> None:
    folder, elsewhere = killed("vae.json", "before"), tmp_path / "elsewhere"
    if (folder / linked).is_dir():
        (folder / linked).rename(elsewhere)
    else:
        (folder / linked).unlink(missing_ok=True)
        elsewhere.mkdir()
        (elsewhere / "file").write_text("mine")
    before = contents(elsewhere)
    (folder / linked).symlink_to(elsewhere if "." not in linked and linked != "lock" else elsewhere / "file")
    assert main(["resume", str(folder)]) == 2
    assert "which is not followed" in capsys.readouterr().err
    assert contents(elsewhere) == before


def test_a_link_among_the_figures_is_not_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: dict[str, bytes]
) -> None:
    for name, data in whole.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(data)
    (tmp_path / "private").write_text("secret")
    (tmp_path / "run" / "figures" / "x.png").symlink_to(tmp_path / "private")
    assert main(["report", str(tmp_path / "run")]) == 2
    assert "x.png, which is not followed" in capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").read_bytes() == whole["report.html"]
    (tmp_path / "run" / "figures" / "x.png").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert main(["report", str(tmp_path / "link")]) == 0


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    record = {"epoch": 1, "training": {"loss": 2.0, "log_likelihood": -1.5, "kl": 0.5}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + '\n{"epo')
    assert RunFolder(tmp_path).read_metrics() == [record]
    (tmp_path / "metrics.jsonl").write_text('{"epo\n' + json.dumps(record))
    with pytest.raises(ValueError, match=r"line 1 of .*metrics\.jsonl; got no JSON"):
        RunFolder(tmp_path).read_metrics()


@pytest.mark.parametrize("name", ["vae.safetensors", "guide.safetensors"])
def test_a_measured_run_without_its_weights_is_refused(
    killed: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = killed("summary.json", "after")
    (folder / "checkpoints" / name).unlink()
    assert main(["resume", str(folder)]) == 2
    assert f"Expected {name} in {folder}/checkpoints; got none" in capsys.readouterr().err
    assert not (folder / "report.html").exists()


def test_the_working_folder_may_be_that_of_a_run(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.0123456789abcdef.part").touch()  # a run was killed there
    assert run(Path(".")) == 0
    assert os.path.samefile(".", tmp_path)
    assert {path.name for path in Path(".").iterdir()} >= {"config.yaml", "report.html", "summary.json"}
    assert not list(Path(".").glob(".*"))


@pytest.mark.parametrize("name", ["vae.json", "guide.json"])
@pytest.mark.parametrize("content", [None, b"", b"[]"], ids=["missing", "empty", "a list"])
def test_resume_writes_the_descriptions_of_a_measured_run_anew(
    tmp_path: Path, whole: dict[str, bytes], name: str, content: bytes | None
) -> None:
    folder = tmp_path / "run"
    for file, stored in whole.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(stored)
    (folder / "report.html").unlink()
    (folder / "checkpoints" / name).unlink()
    if content is not None:
        (folder / "checkpoints" / name).write_bytes(content)
    assert main(["resume", str(folder)]) == 0
    assert contents(folder)["checkpoints/" + name] == whole["checkpoints/" + name]
