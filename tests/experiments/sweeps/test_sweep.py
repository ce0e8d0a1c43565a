"""Sweeps run or refuse their cells, resume after an interruption, and rank within a measure only."""

import csv
import json
import os
import re
import shutil
from unittest import mock

import pytest
import torch
import yaml

from latentmix.experiments.cli import main
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.options.grids import parse_grid
from latentmix.experiments.presets import preset_path
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.locks import FolderLock, LockedError
from latentmix.experiments.runs.pipeline import Session, run_experiment
from latentmix.experiments.sweeps.cells import base_configuration, plan
from latentmix.experiments.sweeps.sweep import sweep
from latentmix.experiments.sweeps.tables import as_csv, as_markdown, as_text, figures_of, group_of
from latentmix.inference import Callback, DivergenceError

from tests.experiments.loggers.read_back import read_tensorboard
from tests.inference.test_isolation import differences, snapshot

QUICK = [
    *("--epochs", "1", "--data.limit", "100", "--data.classes", "1,4,8", "--data.labels_per_class", "2"),
    *("--encoder.hidden", "8", "--decoder.hidden", "8", "--mixture.draws", "1", "--mixture.n_init", "1"),
    *("--mixture.posterior.guide", "none"),
    *("--mixture.svi.epochs", "3"),
]


def summary(elbo=-100.0, *, measure="mass on {0, 1}", binarize="dynamic"):
    fit = {"log_likelihood": -1.0, "iterations": 3, "seconds": 0.1}
    fits = {"none": {**fit, "accuracy": 0.5}, "few": {**fit, "accuracy": 0.75}}
    bound = {"elbo": elbo, "log_likelihood": elbo + 5, "kl": 5.0, "mse": 0.1}
    return {
        "preset": "digits_mlp2",
        "description": "",
        "seed": 0,
        "epochs": 1,
        "validation": bound,
        "test": {**bound, "ssim": 0.5, "kl_per_dimension": [5]},
        "mixtures": {"em": fits, "svi": fits},
        "data": {"source": "digits", "classes": [], "binarize": binarize, "train": 1, "validation": 1, "test": 1},
        "measure": measure,
        "parameters": 1234,
        "threads": 1,
        "seconds": {"train": 1.0, "mixtures": 0.5, "total": 2.5},
    }


class Runs:
    """Replaces the run of a cell, and records the requested ones."""

    def __init__(self, action=None):
        self.action, self.options = action, []

    def __call__(self, experiment, path, pictures):
        self.options.append((experiment.training.epochs, experiment.data.seed))
        given = self.action(experiment, path) if self.action else None
        shutil.rmtree(path, ignore_errors=True)
        folder = RunFolder.create(path, experiment.config)
        folder.write_json("summary.json", given or summary(-100.0 - experiment.data.seed))
        return given or summary(-100.0 - experiment.data.seed)


def stubbed(out, *grid, action=None, words=(), **options):
    runs, lines = Runs(action), []
    with mock.patch("latentmix.experiments.sweeps.sweep._draw"):  # a picture takes longer than all cells
        results = sweep("digits_mlp2", words, parse_grid(grid), out, run=runs, tell=lines.append, **options)
    return results, runs, lines


def quick(out, *grid, words=QUICK, **options):
    return sweep("digits_mlp2", words, parse_grid(grid), out, tell=lambda _: None, **options)


def statuses(results):
    return [cell["status"] for cell in results["cells"]]


def test_cells_are_the_product_with_stable_ids():
    grid = parse_grid(["decoder=MLPDecoder([8]),latentmix.models.MLPDecoder([9])", "data.seed=0,1"])
    base = base_configuration("digits_mlp2", QUICK)
    cells = plan("digits_mlp2", QUICK, grid, base)
    assert [cell.id for cell in cells] == [cell.id for cell in plan("digits_mlp2", QUICK, grid, base)]
    assert [cell.id.rpartition("-")[0] for cell in cells] == [
        *("MLPDecoder_8-data.seed=0", "MLPDecoder_8-data.seed=1"),
        *("MLPDecoder_9-data.seed=0", "MLPDecoder_9-data.seed=1"),
    ]
    assert len({cell.id for cell in cells}) == 4
    assert cells[3].config["decoder"]["init_args"] == {"hidden": [9]}
    assert cells[3].config["data"]["seed"] == 1
    assert cells[3].config["name"] == "digits_mlp2"
    wider = parse_grid(["decoder=MLPDecoder([8])", "data.seed=1,2"])
    assert plan("digits_mlp2", QUICK, wider, base)[0].id == cells[1].id
    assert plan("digits_mlp2", [*QUICK, "--epochs", "2"], grid, base)[0].id != cells[0].id


def test_cells_run_or_are_refused_with_a_reason(tmp_path):
    out = tmp_path / "sweep"
    before = snapshot()
    results = quick(out, "data.binarize=dynamic,none", "encoder=MLPEncoder,ConvEncoder([4, 4, 4])", "beta=1,-1")
    assert differences(before, snapshot()) == []
    assert results["counts"] == {"done": 1, "refused": 7, "failed": 0, "waiting": 0}
    assert json.loads((out / "sweep.json").read_text()) == results
    by_options = {tuple(cell["options"].values()): cell for cell in results["cells"]}
    assert "beta" in by_options["dynamic", "MLPEncoder", "-1"]["reason"]
    assert "zeros and ones" in by_options["none", "MLPEncoder", "1"]["reason"]
    assert "divisible by 8" in by_options["dynamic", "ConvEncoder([4, 4, 4])", "1"]["reason"]
    done = by_options["dynamic", "MLPEncoder", "1"]
    assert {"elbo", "log_likelihood", "kl", "mse", "ssim", "parameters"} <= set(done["figures"])
    assert {f"accuracy_{fit}_{labels}" for fit in ("em", "svi") for labels in ("none", "few")} <= set(done["figures"])
    assert done["group"] == "mass on {0, 1}, binarize=dynamic"
    assert [path.name for path in (out / "cells").iterdir()] == [done["id"]]
    files = {"cells", "sweep.json", "sweep.md", "sweep.csv", "sweep.png", "learning_curves.png"}
    assert {path.name for path in out.iterdir()} == files
    cell = out / "cells" / done["id"]
    assert json.loads((cell / "summary.json").read_text())["test"]["elbo"] == done["figures"]["elbo"]
    assert not (cell / "report.html").exists()
    (alone,) = plan("digits_mlp2", QUICK, {"data.binarize": ["dynamic"]}, base_configuration("digits_mlp2", QUICK))
    assert yaml.safe_load((cell / "config.yaml").read_text()) == alone.config
    again = run_experiment(
        Experiment.from_config(_parsed(cell)), tmp_path / "again", progress=False, pictures=False, tell=lambda _: None
    )
    assert again["test"]["elbo"] == done["figures"]["elbo"]


def _parsed(cell):
    from latentmix.experiments.options.command_line import parse_experiment

    return parse_experiment(str(cell / "config.yaml"), [])


def test_a_grid_may_be_refused_throughout(tmp_path):
    results = quick(tmp_path / "sweep", "data.classes=[1,11],[11,12]")
    assert statuses(results) == ["refused", "refused"]
    assert "11" in results["cells"][0]["reason"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["prior=StandardNormal,Vamp"], "got 'Vamp': did you mean VampPrior?"),
        (["latent_dim=2,3", "optimizer.lr=0.1,fast"], "a number for --optimizer.lr; got 'fast'"),
        (["prior=StandardNormal,VampPrior", "prior.n_components=3,x"], "a number for --prior.n_components; got 'x'"),
    ],
)
def test_a_value_that_is_none_of_its_option_refuses_the_sweep(tmp_path, grid, message):
    with pytest.raises(
        ValueError, match=re.escape(message.replace("a number for --prior", "a whole number for --prior"))
    ):
        stubbed(tmp_path / "sweep", *grid)
    assert not list(tmp_path.iterdir())


def test_values_that_only_a_trusted_file_takes_do_not_refuse_the_sweep(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "grid_helpers.py").write_text(
        "from latentmix.models import MixturePrior\nclass P(MixturePrior):\n    pass\n"
    )
    preset = yaml.safe_load(preset_path("digits_mlp2").read_text())
    preset["prior"] = {"class_path": "grid_helpers.P", "init_args": {"n_components": 2}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(preset))
    grid = {"prior": ["StandardNormal"], "prior.n_components": ["3"]}
    cells = plan(str(tmp_path / "own.yaml"), [], grid, {"name": "own"}, trust=["grid_helpers"])
    assert [cell.status for cell in cells] == ["refused"]
    assert "n_components" in cells[0].reason


def test_every_cell_is_built_before_any_is_run_and_data_are_read_once(tmp_path, monkeypatch):
    events = []
    load, prepare = Data.load, Session.prepare.__func__

    def counted(data):
        events.append(f"load {data.seed}")
        return load(data)

    def prepared(kind, experiment, *arguments):
        events.append(f"build {experiment.data.seed}")
        return prepare(kind, experiment, *arguments)

    monkeypatch.setattr(Data, "load", counted)
    monkeypatch.setattr(Session, "prepare", classmethod(prepared))
    grid = ("data.seed=0,1", "prior=StandardNormal,MixturePrior(2)", "objective=Trace_ELBO,TraceMeanField_ELBO")
    results, _, lines = stubbed(tmp_path / "sweep", *grid, words=QUICK, action=lambda *_: events.append("run"))
    assert events == ["load 0", *["build 0"] * 4, "load 1", *["build 1"] * 4, *["run"] * 6]
    assert results["counts"] == {"done": 6, "refused": 2, "failed": 0, "waiting": 0}
    assert "8 cells: 2 refused, 6 waiting" in lines
    (line,) = (line for line in lines if line.startswith("refused: "))
    assert "prior=MixturePrior(2), objective=TraceMeanField_ELBO" in line
    assert "analytic KL divergence" in line


def test_a_refused_cell_makes_the_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("latentmix.experiments.sweeps.sweep.run_or_resume", Runs())
    monkeypatch.setattr("latentmix.experiments.sweeps.sweep._draw", lambda *_: None)
    words = ["sweep", "digits_mlp2", *QUICK, "--grid", "data.classes=[1,4],[1,11]", "--out", str(tmp_path / "sweep")]
    assert main(words) == 1
    assert "[1/1] data.classes" in capsys.readouterr().out
    assert main([*words[:-3], "data.classes=[1,4]", "--out", str(tmp_path / "sweep")]) == 0  # that of this grid
    results = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert statuses(results) == ["done", "refused"]
    assert results["asked"] == [results["cells"][0]["id"]]
    assert main(words) == 1
    assert main([*words[:-3], "prior=Vamp", "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_finished_cells_are_not_run_again_and_cells_are_added(tmp_path):
    out = tmp_path / "sweep"
    first, runs, _ = stubbed(out, "data.seed=0,1")
    assert runs.options == [(100, 0), (100, 1)]
    again, runs, lines = stubbed(out, "data.seed=0,1")
    assert runs.options == []
    assert "2 done" in lines[1]
    assert again["cells"] == first["cells"]
    wider, runs, _ = stubbed(out, "data.seed=1,2", "epochs=100,3")
    assert runs.options == [(3, 1), (100, 2), (3, 2)]
    assert wider["grid"] == {"data.seed": ["0", "1", "2"], "epochs": ["100", "3"]}
    assert wider["counts"]["done"] == 5
    folder = out / "cells" / first["cells"][0]["id"]
    (folder / "summary.json").unlink()
    _, runs, _ = stubbed(out, "data.seed=0,1")
    assert runs.options == [(100, 0)]


def test_the_folder_is_locked_before_anything_in_it_is_read(tmp_path, monkeypatch):
    out = tmp_path / "a" / "sweep"
    stubbed(out, "data.seed=0")
    read = []
    monkeypatch.setattr("latentmix.experiments.sweeps.sweep._earlier", lambda *_: read.append("results"))
    monkeypatch.setattr("latentmix.experiments.sweeps.sweep.rehearse", lambda *_: read.append("data"))
    with FolderLock(out), pytest.raises(LockedError, match="Expected a folder that no process is writing"):
        stubbed(out, "data.seed=0,1")
    assert read == []


def test_two_sweeps_at_a_time_into_a_new_folder_run_no_cell_twice(tmp_path):
    out, refusals = tmp_path / "sweep", []

    def second(*_):
        with pytest.raises(LockedError) as caught:
            stubbed(out, "data.seed=0,1")
        refusals.append(caught.value)

    with mock.patch("latentmix.experiments.sweeps.sweep.plan", side_effect=lambda *a, **k: second() or plan(*a, **k)):
        _, runs, _ = stubbed(out, "data.seed=0")
    assert len(refusals) == len(runs.options) == 1


def test_what_is_refused_leaves_no_folder_and_what_a_kill_leaves_is_continued(tmp_path):
    with (
        mock.patch("latentmix.experiments.sweeps.sweep.rehearse", side_effect=ValueError("Expected data; got none.")),
        pytest.raises(ValueError, match="Expected data"),
    ):
        stubbed(tmp_path / "a" / "sweep", "data.seed=0")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "lock").write_text("1\n")
    (tmp_path / "sweep" / ".sweep.json.0123456789abcdef.part").touch()
    results, _, _ = stubbed(tmp_path / "sweep", "data.seed=0")
    assert statuses(results) == ["done"]
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"cells", "sweep.json", "sweep.md", "sweep.csv"}


def test_values_of_the_same_configuration_are_one_cell(tmp_path):
    results, runs, _ = stubbed(tmp_path / "sweep", "decoder=MLPDecoder,MLPDecoder([400])")
    assert len(runs.options) == len(results["cells"]) == 1


@pytest.mark.parametrize(
    "grid",
    ["scheduler=StepLR(0),StepLR(step_size=0)", "objective=RenyiELBO(num_particles=1),RenyiELBO(0,num_particles=1)"],
)
def test_values_of_the_same_configuration_are_one_cell_where_it_is_refused_too(tmp_path, grid):
    results, runs, _ = stubbed(tmp_path / "sweep", grid)
    assert (statuses(results), runs.options) == (["refused"], [])
    assert grid.partition("=")[0] in results["cells"][0]["reason"]


def test_cells_do_not_depend_on_the_description(tmp_path):
    grid, file = parse_grid(["data.seed=0"]), tmp_path / "own.yaml"
    file.write_text(preset_path("digits_mlp2").read_text())
    sweep(str(file), ["--name", "n"], grid, tmp_path / "sweep", run=Runs(), tell=lambda _: None)
    runs, words = Runs(), ["--name", "n", "--description", "Mine."]
    results = sweep(str(file), words, grid, tmp_path / "sweep", run=runs, tell=lambda _: None)
    assert (statuses(results), runs.options) == (["done"], [])


def test_a_sweep_of_an_earlier_version_is_refused_and_unchanged(tmp_path):
    earlier = json.dumps({"base": {"epochs": 1, "mixture": {"svi_steps": 3}}, "cells": [], "grid": {}})
    (tmp_path / "sweep.json").write_text(earlier)
    with pytest.raises(ValueError, match="whose options have the names of an earlier version: name another folder"):
        stubbed(tmp_path, "epochs=1")
    assert (tmp_path / "sweep.json").read_text() == earlier


def test_a_folder_of_something_else_is_refused_and_unchanged(tmp_path):
    out = tmp_path / "sweep"
    stubbed(out, "data.seed=0")
    with pytest.raises(ValueError, match=r"Expected the preset and options .* got another batch_size, epochs:"):
        stubbed(out, "data.seed=0", words=["--epochs", "3", "--batch_size", "7"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("mine")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "precious"):
        with pytest.raises(ValueError, match="Expected a new folder or that of a sweep"):
            stubbed(folder, "data.seed=0")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ("epoch=1,2", {}, "did you mean --epochs"),
        ("epochs=1", {"backend": "abacus"}, "abacus"),
        ("epochs=1", {"n_jobs": 0}, r"Expected --n-jobs of 1 to 1,024, or below 0, .*; got 0\."),
        ("epochs=1", {"backend": "threading", "n_jobs": 2}, "a --backend of processes"),
        ("epochs=1", {"words": ["--latent", "2"]}, "--latent"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tmp_path, grid, options, message):
    with pytest.raises(Exception, match=message):
        stubbed(tmp_path / "sweep", grid, **options)
    assert not list(tmp_path.iterdir())


def test_an_unexpected_error_fails_only_its_cell(tmp_path):
    def action(experiment, path):
        if experiment.data.seed == 0:
            raise RuntimeError("a shape\nof the wrong kind")
        if experiment.data.seed == 1:
            raise DivergenceError("Expected a finite loss; got nan.")
        if experiment.data.seed == 2:
            path.mkdir(parents=True)
            (path / "config.yaml").touch()
            raise ValueError("Expected something else within an epoch.")
        if experiment.data.seed == 3:
            raise ValueError("Expected something else before it.")
        return summary(float("nan")) if experiment.data.seed == 4 else None

    out = tmp_path / "sweep"
    results, _, lines = stubbed(out, "data.seed=0,1,2,3,4,5", action=action)
    assert statuses(results) == ["failed", "failed", "failed", "refused", "failed", "done"]
    reasons = [cell["reason"] for cell in results["cells"]]
    assert reasons[0] == "RuntimeError: a shape of the wrong kind"
    assert reasons[3] == "Expected something else before it."
    assert reasons[4] == "Expected finite figures; got elbo nan, log_likelihood nan."
    assert "elbo" not in results["cells"][4]["figures"]
    assert "NaN" not in (out / "sweep.json").read_text()
    assert "Traceback" in (out / "cells" / results["cells"][0]["id"] / "error.txt").read_text()
    assert not (out / "cells" / results["cells"][3]["id"]).exists()
    assert sum("failed: " in line for line in lines[2:8]) == 4


def test_a_failed_cell_is_run_again(tmp_path):
    out = tmp_path / "sweep"

    def fail(experiment, path, pictures):
        raise RuntimeError("no memory")

    assert statuses(quick(out, "data.seed=3", run=fail)) == ["failed"]
    assert statuses(quick(out, "data.seed=3")) == ["done"]
    assert not list((out / "cells").rglob("error.txt"))


def test_an_interrupted_sweep_resumes_from_the_last_epoch(tmp_path, monkeypatch):
    out, grid = tmp_path / "sweep", ("epochs=3",)
    whole = quick(tmp_path / "whole", *grid)
    epochs = []
    before = snapshot()

    def interrupt(self, state):
        epochs.append((state.epoch, state.batch))
        if len(epochs) > 3 and state.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Callback, "on_batch_end", interrupt)
        with pytest.raises(
            KeyboardInterrupt, match=r"0 of 1 cell are finished: the same command with --out .* continues"
        ):
            quick(out, *grid)
    assert differences(before, snapshot()) == []
    left = json.loads((out / "sweep.json").read_text())
    assert statuses(left) == ["waiting"]
    assert "1 waiting" in (out / "sweep.md").read_text()
    started = []
    monkeypatch.setattr(Callback, "on_fit_begin", lambda self, state: started.append(state.epoch))
    resumed = quick(out, *grid)
    assert [cell["figures"] for cell in resumed["cells"]] == [cell["figures"] for cell in whole["cells"]]
    assert started[0] == 2


def test_a_second_sweep_of_a_folder_is_refused(tmp_path):
    out = tmp_path / "sweep"
    stubbed(out, "data.seed=0")
    with FolderLock(out), pytest.raises(LockedError, match=f"which process {os.getpid()} writes"):
        stubbed(out, "data.seed=0,1")


def test_a_cell_that_another_process_runs_is_left_alone(tmp_path):
    out = tmp_path / "sweep"
    (cell,) = stubbed(out, "data.seed=0")[0]["cells"]
    folder = out / "cells" / cell["id"]
    (folder / "summary.json").unlink()
    with FolderLock(folder), mock.patch("latentmix.experiments.sweeps.sweep._draw"):
        (again,) = quick(out, "data.seed=0", words=[])["cells"]
    assert (again["status"], again["reason"][:45]) == ("failed", "Expected a folder that no process is writing;")
    assert [file.name for file in folder.iterdir()] == ["config.yaml"]


def test_a_folder_that_vanishes_ends_the_sweep_and_is_not_made_again(tmp_path):
    out = tmp_path / "sweep"
    with pytest.raises(LockedError, match="it was moved, replaced or removed"):
        stubbed(out, "data.seed=0,1", action=lambda experiment, path: out.rename(tmp_path / "moved"))
    assert not (out / "sweep.json").exists()


def test_an_interruption_keeps_finished_cells(tmp_path):
    def action(experiment, path):
        if experiment.data.seed == 1:
            raise KeyboardInterrupt

    out = tmp_path / "sweep"
    with pytest.raises(KeyboardInterrupt, match="1 of 3 cells"):
        stubbed(out, "data.seed=0,1,2", action=action)
    assert statuses(json.loads((out / "sweep.json").read_text())) == ["done", "waiting", "waiting"]
    _, runs, _ = stubbed(out, "data.seed=0,1,2")
    assert runs.options == [(100, 1), (100, 2)]


def test_sweep_json_describes_the_sweep(tmp_path):
    results, _, _ = stubbed(tmp_path / "sweep", "data.seed=0,1", words=["--epochs", "7", "--seed", "3"])
    assert results["preset"] == "digits_mlp2"
    assert results["options"] == ["--epochs", "7", "--seed", "3"]
    assert results["base"]["epochs"] == 7
    assert results["seeds"] == {"training": 3, "data": 0}
    assert results["threads"] == torch.get_num_threads()
    assert "torch" in results["versions"]
    cell = results["cells"][1]
    assert cell["options"] == {"data.seed": "1"}
    assert cell["figures"]["elbo"] == -101.0
    assert (cell["seconds"], cell["threads"]) == (2.5, 1)


def record(likelihood, elbo, group, status="done", reason=""):
    figures = figures_of(summary(elbo)) if status == "done" else {}
    options = {"likelihood": likelihood, "objective": "A|B"}
    fields = {"id": likelihood, "status": status, "reason": reason, "group": group, "seconds": 1.0, "threads": 1}
    return {**fields, "options": options, "figures": figures, "warnings": []}


TABLE = {
    "preset": "digits",
    "grid": {"likelihood": ["..."], "objective": ["A|B"]},
    "counts": {"done": 3, "refused": 3, "failed": 1, "waiting": 0},
    "cells": [
        record("Bernoulli", -120.0, "mass on {0, 1}"),
        record("Gaussian", 900.0, "density"),
        record("Soft", -110.0, "mass on {0, 1}"),
        record("Laplace", 0, "", "refused", "Expected grey values."),
        record("Logistic", 0, "", "refused", "Expected grey values."),
        record("Other", 0, "", "refused", "Expected one | the other."),
        record("Broken", 0, "", "failed", "RuntimeError: no"),
    ],
}


def test_elbos_are_ranked_within_a_measure_only():
    text = as_markdown(TABLE)
    assert "not across groups" in text
    density, mass = text.index("## density"), text.index("## mass on {0, 1}")
    refused, failed = text.index("## Refused"), text.index("## Failed")
    assert density < text.index("| Gaussian |") < mass < text.index("| Soft |") < text.index("| Bernoulli |") < refused
    assert text.index("| 2 | Expected grey values. | likelihood=Laplace or Logistic, objective=A\\|B |") > refused
    assert text.index("| 1 | Expected one \\| the other. |") > text.index("| 2 | Expected grey")
    assert text.index("RuntimeError: no") > failed
    assert "| ELBO | E_q log p(x\\|z) | KL(q, prior) | MSE | SSIM | accuracy EM none | accuracy EM few |" in text
    assert "log-lik" not in text.replace("expected log-likelihood E_q log p(x|z)", "")
    assert "| 900.00 | 905.00 | 5.00 | 0.1000 | 0.500 | 0.500 | 0.750 |" in text


def test_the_terminal_shows_the_best_of_each_group():
    text = as_text(TABLE, most=1)
    assert "Soft" in text
    assert "Bernoulli" not in text
    assert "... and 1 more" in text
    assert "2  Expected grey values." in text


def test_the_csv_holds_every_cell():
    rows = list(csv.DictReader(as_csv(TABLE).splitlines()))
    assert [row["status"] for row in rows] == ["done"] * 3 + ["refused"] * 3 + ["failed"]
    assert float(rows[1]["elbo"]) == 900.0
    assert rows[3]["elbo"] == ""
    assert rows[3]["reason"] == "Expected grey values."


def test_other_data_are_another_group():
    options = {"prior": "A", "data.classes": "[1]", "data.binarize": "static", "data.labels_per_class": "3"}
    assert group_of(summary(), options) == "mass on {0, 1}, binarize=dynamic, data.classes=[1]"
    assert group_of(summary(measure="density", binarize="none"), {}) == "density"


def test_the_accuracy_of_a_mixture_prior_is_a_figure():
    assert figures_of({**summary(), "prior": {"accuracy": 0.9}})["accuracy_prior"] == 0.9
    assert "kl_per_dimension" not in figures_of(summary())


def test_worker_processes_give_the_same_figures_and_log_each_cell(tmp_path):
    before, words = snapshot(), [*QUICK, "--loggers", "TensorBoard"]
    parallel = quick(tmp_path / "parallel", "latent_dim=2,3", n_jobs=2, words=words)
    assert differences(before, snapshot()) == []
    assert statuses(parallel) == ["done", "done"]
    assert [cell["threads"] for cell in parallel["cells"]] == [parallel["threads"]] * 2
    logs = {file.parents[1].name: file.parent for file in (tmp_path / "parallel").rglob("tensorboard/log.json")}
    for cell in parallel["cells"]:
        log = read_tensorboard(logs.pop(cell["id"]))
        assert log.status == "finished"
        assert log.config["latent_dim"] == int(cell["options"]["latent_dim"])
    assert logs == {}
    alone = quick(tmp_path / "alone", "latent_dim=3", words=words)
    assert alone["cells"][0]["id"] == parallel["cells"][1]["id"]
    assert alone["cells"][0]["figures"] == pytest.approx(parallel["cells"][1]["figures"], rel=1e-4)
