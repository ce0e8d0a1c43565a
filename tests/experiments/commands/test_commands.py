"""A finished run is loaded, evaluated, used and reported; an interrupted one is resumed."""

import csv
import json
import re
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from latentmix.experiments import load_run
from latentmix.experiments.cli import main
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.pixels import ToFloat
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.pipeline import Session
from latentmix.inference import Callback

from tests.inference.test_isolation import differences, snapshot

pytestmark = pytest.mark.usefixtures("coarse")

QUICK = [
    *("--epochs", "3", "--data.limit", "150", "--data.classes", "1,4,8", "--data.labels_per_class", "2"),
    *("--mixture.draws", "2", "--mixture.n_init", "2", "--mixture.svi.epochs", "30"),
    *("--mixture.posterior.guide", "AutoNormal", "--mixture.posterior.epochs", "3"),
]


@pytest.fixture(scope="module")
def finished(coarse, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert main(["run", "digits_mlp2", *QUICK, "--mixture.posterior.guide", "best", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def images():
    return Data(classes=[1, 4, 8], limit=150).load()


def test_a_run_is_read_back(finished, images):
    run = load_run(finished)
    latents = run.guide.encode(images.test.x, transform=ToFloat())
    for inference in ("em", "svi"):
        for budget in ("none", "few", "all"):
            fitted = run.mixtures[inference][budget]
            probabilities = fitted.classify(latents)
            assert probabilities.shape == (len(images.test), 3)
            np.testing.assert_allclose(probabilities.sum(1), 1.0)
            figures = run.summary["mixtures"][inference][budget]
            accuracy = (fitted.predict(latents) == images.test.labels.numpy()).mean()
            assert accuracy == pytest.approx(figures["draws"][0] if budget == "few" else figures["accuracy"])
    assert not run.vae.training


def test_the_same_configuration_gives_the_same_run(finished, tmp_path, no_pictures):
    again = tmp_path / "again"
    assert main(["run", str(finished / "config.yaml"), "--out", str(again)]) == 0
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (finished, again))
    assert first["test"] == second["test"]
    assert first["mixtures"]["svi"]["few"]["draws"] == second["mixtures"]["svi"]["few"]["draws"]
    assert (again / "config.yaml").read_text() == (finished / "config.yaml").read_text()


def test_evaluate_on_the_test_split_repeats_the_summary(finished, tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert main(["evaluate", str(finished), "--out", str(out)]) == 0
    figures, summary = json.loads(out.read_text()), json.loads((finished / "summary.json").read_text())
    for name in ("mse", "ssim", "elbo"):
        assert figures[name] == pytest.approx(summary["test"][name])
    for budget in ("none", "all"):
        assert figures["mixtures"]["em"][budget]["f1"] == summary["mixtures"]["em"][budget]["f1"]
    assert "accuracy" in capsys.readouterr().out
    assert main(["evaluate", str(finished), "--out", str(out)]) == 2


def test_evaluate_on_another_split_or_data_set(finished, tmp_path, capsys):
    words = [
        "evaluate",
        str(finished),
        "--split",
        "validation",
        "--data.classes",
        "1,4",
        "--out",
        str(tmp_path / "two"),
    ]
    assert main(words) == 0
    assert "validation split of digits" in capsys.readouterr().out
    figures = json.loads((tmp_path / "two").read_text())["mixtures"]["em"]["few"]
    each = [figures["per_class"][label]["recall"] for label in ("1", "4")]
    assert figures["recall"] == pytest.approx(np.mean(each))
    assert main(["evaluate", str(finished), "--split", "all"]) == 0
    assert "344 images" in capsys.readouterr().out
    assert main(["evaluate", str(finished), "--data.classes", "1,2"]) == 2
    assert "Expected images of the classes [1, 4, 8]" in capsys.readouterr().err


def test_classify_arrays_and_pictures(finished, images, tmp_path, capsys):
    np.save(tmp_path / "images.npy", images.test.x[:5].numpy())
    Image.fromarray(images.test.x[0, 0].numpy()).resize((56, 56)).save(tmp_path / "picture.png")
    words = ["classify", str(finished), str(tmp_path / "images.npy"), str(tmp_path / "picture.png")]
    assert main(words) == 0
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert rows[0] == ["image", "predicted", "class 1", "class 4", "class 8"]
    assert [row[0] for row in rows[1:]] == [*(f"images.npy:{index}" for index in range(5)), "picture.png"]
    for row in rows[1:]:
        assert sum(map(float, row[2:])) == pytest.approx(1.0, abs=2e-4)
        assert row[1] in ("1", "4", "8")
    out = tmp_path / "table.csv"
    assert main([*words, "--inference", "svi", "--labels", "all", "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 7


def test_classify_averages_as_asked(finished, images, tmp_path, capsys):
    np.save(tmp_path / "images.npy", images.test.x.numpy())
    words = ["classify", str(finished), str(tmp_path / "images.npy")]

    def probabilities(*options):
        assert main([*words, *options]) == 0
        return np.array([row.split(",")[2:] for row in capsys.readouterr().out.splitlines()[1:]], float)

    run = load_run(finished)
    plug_in = run.fitted().classify(run.guide.encode(images.test.x, transform=ToFloat()))
    np.testing.assert_allclose(probabilities("--average", "none"), plug_in, atol=6e-5)
    for average in ("draws", "noise"):
        averaged = probabilities("--average", average)
        np.testing.assert_allclose(averaged, run.classify(images.test.x, average=average), atol=6e-5)
        assert not np.allclose(averaged, plug_in, atol=1e-3)
    few = probabilities("--draws", "5", "--seed", "3")
    np.testing.assert_array_equal(few, probabilities("--draws", "5", "--seed", "3"))
    assert not np.array_equal(few, probabilities("--draws", "5", "--seed", "4"))
    for options, message in (
        (["--draws", "0"], "Expected --draws from 1 to 100,000; got 0."),
        (["--seed", "-1"], "Expected --seed of at least 0; got -1."),
        (["--average", "mean"], "Expected draws, noise, none for --average; got 'mean'"),
        (["--inference", "nuts"], "Expected a fit of this run, em, svi, posterior; got 'nuts'."),
    ):
        assert main([*words, *options]) == 2
        assert message in capsys.readouterr().err


def test_a_run_measures_and_draws_calibration(finished):
    run = load_run(finished)
    for budgets in (run.summary["mixtures"][inference] for inference in ("em", "svi")):
        for budget in ("none", "few", "all"):
            measured = budgets[budget]["calibration"]
            first = budgets[budget]["draws"][0] if budget == "few" else budgets[budget]["accuracy"]
            assert measured["plug_in"]["accuracy"] == pytest.approx(first)
            assert {*measured["draws"]} == {*measured["noise"]} == {"accuracy", "ece", "nll", "bins"}
            assert (finished / "figures" / f"reliability_{budget}.png").is_file()
    report = (finished / "report.html").read_text()
    assert "Class probabilities" in report
    assert f"{measured['draws']['ece']:.3f}" in report
    assert re.search(
        r'id="calibration".*<tr><th class="word" scope="row">SVI</th>(<td>[^<]+</td>){9}</tr>', report, re.S
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words.png", b"no picture", "cannot be read as one"),
        ("missing.png", None, "missing.png, which is missing"),
        ("missing.npy", None, "missing.npy"),
    ],
)
def test_classify_refuses_files_that_are_no_images(finished, tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["classify", str(finished), str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_sample_is_seeded_and_overwrites_nothing(finished, tmp_path, capsys):
    first, second = tmp_path / "one.npy", tmp_path / "two.npy"
    for file in (first, second):
        assert main(["sample", str(finished), "-n", "7", "--out", str(file)]) == 0
    np.testing.assert_array_equal(np.load(first), np.load(second))
    assert np.load(first).shape == (7, 1, 28, 28)
    assert main(["sample", str(finished), "--out", str(tmp_path / "grid.png")]) == 0
    assert main(["sample", str(finished), "--out", str(first)]) == 2
    assert main(["sample", str(finished), "--out", str(tmp_path / "grid.jpg")]) == 2
    assert "Expected a .png or .npy file" in capsys.readouterr().err


def test_report_is_written_again(finished):
    (finished / "report.html").unlink()
    assert main(["report", str(finished)]) == 0
    assert (finished / "report.html").is_file()


def test_an_interrupted_run_is_resumed(tmp_path, monkeypatch, capsys):
    words = ["--epochs", "40", "--patience", "1", "--optimizer.lr", "0.03", *QUICK[2:]]
    with monkeypatch.context() as patch:
        patch.setattr(Session, "draw", lambda *_: None)
        assert main(["run", "digits_mlp2", *words, "--out", str(tmp_path / "whole")]) == 0
    whole = json.loads((tmp_path / "whole" / "summary.json").read_text())

    def interrupt(self, state):
        if state.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Callback, "on_batch_end", interrupt)
        folder = tmp_path / "interrupted"
        assert main(["run", "digits_mlp2", *words, "--out", str(folder)]) == 130
    assert f"latentmix resume {folder}" in capsys.readouterr().err
    assert not (folder / "summary.json").exists()
    assert main(["report", str(folder)]) == 2
    assert "latentmix resume" in capsys.readouterr().err
    assert main(["resume", str(folder)]) == 0
    assert "from epoch 2" in capsys.readouterr().out
    resumed = json.loads((folder / "summary.json").read_text())
    assert 2 < whole["epochs"] < 40
    for name in ("test", "epochs", "preset"):
        assert resumed[name] == whole[name]
    assert resumed["command"] == ["latentmix", "run", "digits_mlp2", *words, "--out", str(folder)]
    assert main(["resume", str(folder)]) == 2


UNREAD = {("report", "config.yaml"), ("report", "checkpoints/vae.safetensors")}


@pytest.mark.parametrize("file", ["config.yaml", "summary.json", "checkpoints/vae.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{broken: [", b"nonsense: 3"])
@pytest.mark.parametrize("command", ["evaluate", "sample", "report", "resume"])
def test_a_broken_run_is_refused_in_one_line(
    finished, tmp_path, monkeypatch, capsys, no_pictures, file, content, command
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("figures"))
    (folder / file).write_bytes(content)
    if command == "resume":
        (folder / "report.html").unlink()  # else it would be finished, whatever the file holds
    code = main([command, str(folder)])
    errors = capsys.readouterr().err.splitlines()
    if (command, file) in {*UNREAD, ("resume", "summary.json")}:
        assert code == 0
        assert json.loads((folder / "summary.json").read_text())["preset"] == "digits_mlp2"  # resume writes it anew
    else:
        (line,) = errors
        assert (code, line.startswith("latentmix: Expected ")) == (2, True)
        assert file in line


def test_unlabelled_images_give_a_mixture_without_metrics(tmp_path, images, capsys):
    np.save(tmp_path / "images.npy", images.train.x.numpy())
    words = ["run", "digits_mlp2", "--epochs", "1", "--data.source", str(tmp_path / "images.npy")]
    assert main([*words, "--out", str(tmp_path / "no")]) == 2
    assert "Expected --mixture.n_components" in capsys.readouterr().err
    assert main([*words, "--mixture.n_components", "4", "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["mixtures"]["em"]) == ["none"]
    assert "accuracy" not in summary["mixtures"]["em"]["none"]
    np.save(tmp_path / "one.npy", images.test.x[:1].numpy())
    assert main(["classify", str(tmp_path / "run"), str(tmp_path / "one.npy")]) == 0
    table = capsys.readouterr().out.splitlines()[-2:]
    assert table[0] == "image,predicted,component 1,component 2,component 3,component 4"  # as in pictures
    assert table[1].split(",")[1] in "1234"


def test_a_users_own_class_is_imported_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_parts.py").write_text(
        "from latentmix.models import Bernoulli, Likelihood\n"
        "class Soft(Likelihood):\n"
        "    support = 'binary'\n"
        "    def __init__(self, heat: float = 1.0):\n"
        "        super().__init__()\n"
        "        self.heat, self.inner = heat, Bernoulli()\n"
        "    def forward(self, outputs):\n"
        "        return self.inner(outputs / self.heat)\n"
        "    def mean(self, outputs):\n"
        "        return self.inner.mean(outputs / self.heat)\n"
    )
    words = ["run", "digits_mlp2", *QUICK, "--likelihood", "own_parts.Soft", "--likelihood.heat", "2.0", "--out", "run"]
    assert main(words) == 0
    assert load_run("run").vae.likelihood.heat == 2.0


@pytest.mark.parametrize(
    "options",
    [
        ["--mixture.svi.guide", "AutoNormal"],
        ["--mixture.svi.guide", "AutoMultivariateNormal", "--mixture.svi_start", "em"],
        ["--mixture.svi.optimizer", "torch.optim.Adam", "--mixture.svi.optimizer.lr", "0.05"],
        ["--mixture.latents", "sample", "--mixture.covariance_type", "diag"],
        ["--mixture.n_components", "5"],
        ["--data.binarize", "static", "--patience", "1", "--scheduler", "ExponentialLR", "--scheduler.gamma", "0.9"],
        ["--loggers", "TensorBoard", "--objective", "pyro.infer.TraceMeanField_ELBO", "--device", "cpu"],
    ],
    ids=lambda options: options[0],
)
def test_a_run_with_other_options_completes(tmp_path, monkeypatch, options):
    folder = tmp_path / "run"
    if options[0] not in ("--mixture.latents", "--mixture.n_components"):  # the others change no picture
        monkeypatch.setattr(Session, "draw", lambda *_: None)
    assert main(["run", "digits_mlp2", *QUICK, *options, "--out", str(folder)]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert np.isfinite(summary["test"]["elbo"])
    assert ("few" in summary["mixtures"]["svi"]) == ("--mixture.n_components" not in options)
    assert (folder / "tensorboard").exists() == ("--loggers" in options)


def test_a_run_changes_nothing_process_wide(finished, tmp_path):
    before = snapshot()
    load_run(finished)
    assert main(["evaluate", str(finished)]) == 0
    assert main(["sample", str(finished), "--out", str(tmp_path / "samples.npy")]) == 0
    session = Session.prepare(Experiment.from_config(parse_experiment("digits_mlp2", QUICK)), tell=lambda _: None)
    folder = RunFolder.create(tmp_path / "run")
    session.run(folder, progress=False)
    assert differences(before, snapshot()) == []


def test_the_report_holds_every_figure(finished):
    page = (finished / "report.html").read_text()
    assert page.count('src="data:image/webp;base64,') == 2 * len(list((finished / "figures").glob("*.png"))) == 42
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # Bokeh holds addresses that it may ask for
    assert not re.search(r"(src|href)=[\"']?(http|file|/)", outside)


def test_metrics_are_one_line_per_epoch(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert set(lines[0]) == {"epoch", "training", "validation", "learning_rate", "seconds", "skipped"}
    assert asdict(Data())["source"] == "digits"
