from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from latentmix.experiments import figures
from latentmix.experiments.cli import main
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.presets import presets
from latentmix.experiments.runs import selection
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.locks import FolderLock, LockedError
from latentmix.experiments.runs.report import write_report
from latentmix.experiments.runs.selection import Choice
from latentmix.experiments.sweeps import gallery as module
from latentmix.experiments.sweeps import gallery_extras
from latentmix.experiments.sweeps.cells import base_configuration
from latentmix.experiments.sweeps.gallery import DRAWN, VARIANTS, gallery
from latentmix.experiments.sweeps.gallery_extras import EXTRAS, Job
from latentmix.models.files import write_atomically

pytestmark = pytest.mark.usefixtures("coarse")

TINY = [
    *("--data.limit", "150", "--mixture.draws", "1", "--mixture.n_init", "1", "--mixture.svi.epochs", "20"),
    *("--mixture.posterior.guide", "AutoNormal", "--mixture.posterior.epochs", "5"),
    *("--data.labels_per_class", "1", "--measure.images", "20"),
]


def drawing_functions() -> set[str]:
    """Public functions of `figures` that return a figure, apart from parts of others."""
    names = set()
    for found in pkgutil.iter_modules(figures.__path__):
        part = importlib.import_module(f"{figures.__name__}.{found.name}")
        for name in getattr(part, "__all__", ()):
            function = getattr(part, name)
            if inspect.isfunction(function) and inspect.signature(function).return_annotation == "Figure":
                names.add(name)
    return names - {"new_figure", "tableau"}


def test_every_drawing_function_is_in_the_gallery() -> None:
    assert drawing_functions() == set(DRAWN)
    extra = {stem for entry in EXTRAS.values() for stem in entry.captions}
    source = inspect.getsource(importlib.import_module("latentmix.experiments.runs.pictures"))
    for function, stem in DRAWN.items():
        assert stem in extra or f"figures.{function}(" in source


@pytest.mark.parametrize("name", list(VARIANTS))
def test_variants_are_configurations_of_presets(name: str) -> None:
    preset, words = VARIANTS[name]
    assert preset in presets()
    assert base_configuration(preset, words) != base_configuration(preset, [])


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that were started; each writes one picture, apart from celeba, whose data are missing."""
    started: list[str] = []

    def run(experiment: Experiment, path: Path, pictures: bool) -> dict[str, Any]:
        started.append(path.name)
        if path.name == "celeba":
            raise ValueError("Expected CelebA <here>; got none.")
        if path.name == "broken":
            raise RuntimeError("out of memory")
        folder = RunFolder.create(path, experiment.config)
        bound = {"elbo": -3.0, "log_likelihood": -2.0, "kl": 1.0, "mse": 0.1}
        data = {"source": "digits", "classes": [], "binarize": "none", "train": 1, "validation": 1, "test": 1}
        summary = {
            "preset": path.name,
            "description": "",
            "measure": "density",
            "data": data,
            "mixtures": {},
            "seed": 0,
            "threads": 1,
            "parameters": 3,
            "epochs": 1,
            "validation": bound,
            "test": bound,
            "seconds": {"train": 0.1, "mixtures": 0.1, "total": 0.3},
        }
        figures.save(Figure(figsize=(0.2, 0.2)), folder.subfolder("figures") / "losses.png")
        folder.write_json("summary.json", summary)
        write_report(path)
        return summary

    monkeypatch.setattr(module, "run_or_resume", run)
    monkeypatch.setattr(module, "VARIANTS", {"broken": ("gmm3d", [])})
    calibration = replace(EXTRAS["calibration"], draw=blank)
    monkeypatch.setattr(module, "EXTRAS", {"calibration": calibration, "attributes": EXTRAS["attributes"]})
    return started


def blank(job: Job) -> None:
    """A picture in place of that of calibration, whose ranks take seconds."""
    figures.save(Figure(figsize=(0.2, 0.2)), job.folder / "calibration.png")


def test_one_page_holds_every_picture_and_names_what_is_left_out(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXTRAS", {name: EXTRAS[name] for name in ("calibration", "attributes")})
    told: list[str] = []
    outcomes = gallery(tmp_path / "g", names=["digits_mlp2", "celeba"], tell=told.append)
    assert [(outcome.name, outcome.status) for outcome in outcomes] == [
        ("digits_mlp2", "done"),
        ("celeba", "refused"),
        ("calibration", "done"),
        ("attributes", "refused"),
    ]
    page = (tmp_path / "g/gallery.html").read_text("utf-8")
    assert page.count("<img src=") == page.count('<img class="dark"') == 2
    assert "refused: Expected CelebA &lt;here&gt;; got none." in page
    assert "It needs the run digits" in page
    assert "attribute_vectors" in page
    assert 'href="#digits_mlp2-losses"' in page
    assert 'id="digits_mlp2-losses"' in page
    assert any(line.startswith("[1/2] digits_mlp2: done") for line in told)


def test_an_interrupted_gallery_continues(runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(module, "_draw", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"the same command with --out .*g continues"):
            gallery(tmp_path / "g", names=["digits_mlp2"], tell=lambda _: None)
    assert not (tmp_path / "g/gallery.html").exists()
    gallery(tmp_path / "g", names=["digits_mlp2", "digits"], tell=lambda _: None)
    assert runs == ["digits_mlp2", "digits"]
    drawn = (tmp_path / "g/calibration/calibration.png").stat().st_mtime_ns
    gallery(tmp_path / "g", names=["digits_mlp2"], tell=lambda _: None)
    assert runs == ["digits_mlp2", "digits"]
    assert (tmp_path / "g/calibration/calibration.png").stat().st_mtime_ns == drawn


def test_a_selection_that_was_killed_or_lost_its_picture_is_drawn_again(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Death(BaseException):
        """A kill: nothing is cleaned up after it."""

    def dying(path: Path, data: bytes) -> None:
        write_atomically(path, data)
        if path.name == "selection.json":
            raise Death

    latents = np.random.RandomState(0).randn(40, 2)
    monkeypatch.setattr(selection, "read_points", lambda *_, **__: latents)
    monkeypatch.setattr(gallery_extras, "Choice", lambda *_, **__: Choice((1, 2), ("full",), ("bic",), mode_starts=2))
    monkeypatch.setattr(module, "VARIANTS", {})
    monkeypatch.setattr(module, "EXTRAS", {"select": EXTRAS["select"]})
    with monkeypatch.context() as patched:
        patched.setattr(selection, "write_atomically", dying)
        with pytest.raises(Death):
            gallery(tmp_path / "g", names=["digits"], tell=lambda _: None)
    (tmp_path / "g/select/notes.txt").write_text("mine")
    for _ in range(2):
        outcomes = gallery(tmp_path / "g", names=["digits"], tell=lambda _: None)
        assert [(outcome.name, outcome.status) for outcome in outcomes] == [("digits", "done"), ("select", "done")]
        (tmp_path / "g/select/selection.png").unlink()
    assert (tmp_path / "g/select/notes.txt").read_text() == "mine"


def test_one_gallery_at_a_time_fills_a_folder_and_what_a_kill_leaves_is_continued(
    runs: list[str], tmp_path: Path
) -> None:
    (tmp_path / "g").mkdir()
    with FolderLock(tmp_path / "g"), pytest.raises(LockedError, match="Expected a folder that no process is writing"):
        gallery(tmp_path / "g", names=["digits"], tell=lambda _: None)
    assert runs == []
    (tmp_path / "g/lock").write_text("1\n")
    (tmp_path / "g/.gallery.json.0123456789abcdef.part").touch()
    gallery(tmp_path / "g", names=["digits_mlp2"], tell=lambda _: None)
    names = {path.name for path in (tmp_path / "g").iterdir()}
    assert names == {"gallery.json", "gallery.html", "digits_mlp2", "calibration"}


def test_a_folder_of_something_else_is_left_alone(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXTRAS", {})
    RunFolder.create(tmp_path / "runs/digits")
    with pytest.raises(ValueError, match=r"^Expected a new folder or that of a gallery, .*; got .*runs, which holds"):
        gallery(tmp_path / "runs", names=["digits"])
    gallery(tmp_path / "g", names=["digits"], tell=lambda _: None)
    with pytest.raises(ValueError, match=r"^Expected a new folder, or that of a gallery with --full; got "):
        gallery(tmp_path / "g", names=["digits"], full=True)
    assert runs == ["digits"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits"]
    (tmp_path / "g/gallery.json").write_text('{"full": ')
    with pytest.raises(ValueError, match=r"^Expected the mark of a gallery in .*gallery.json; got no JSON"):
        gallery(tmp_path / "g", names=["digits"])


def test_a_failure_makes_the_exit_code_1_and_the_page_all_the_same(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gallery", "--presets", "gmm3d", "--out", str(tmp_path / "g")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "g/gallery.html")
    assert "failed: RuntimeError: out of memory" in (tmp_path / "g/gallery.html").read_text("utf-8")


def test_an_extra_that_fails_is_named_on_the_page(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(_: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(module, "VARIANTS", {})
    monkeypatch.setattr(module, "EXTRAS", {"calibration": replace(EXTRAS["calibration"], draw=draw)})
    outcomes = gallery(tmp_path / "g", names=["digits"], tell=lambda _: None)
    assert [(outcome.status, outcome.reason) for outcome in outcomes] == [("done", ""), ("failed", "no room")]
    assert "no room" in (tmp_path / "g/gallery.html").read_text("utf-8")


def test_unknown_presets_are_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gallery", "--presets", "digits, nothing", "--out", str(tmp_path / "g")]) == 2
    assert "got nothing" in capsys.readouterr().err
    assert not (tmp_path / "g").exists()


def test_extras_are_drawn_from_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUICK", TINY)
    monkeypatch.setattr(module, "EPOCHS", {"digits": 1})
    monkeypatch.setattr(module, "VARIANTS", {})
    monkeypatch.setattr(module, "EXTRAS", {"attributes": EXTRAS["attributes"]})
    outcomes = gallery(tmp_path, names=["digits"], tell=lambda _: None)
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    assert [picture.name for picture in outcomes[1].pictures] == ["Attributes"]
    assert json.loads((tmp_path / "digits/summary.json").read_text())["epochs"] == 1
