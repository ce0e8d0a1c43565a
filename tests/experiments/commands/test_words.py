"""What people mistype is refused in one sentence that says what to type, before anything is trained or written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from latentmix.experiments.cli import main
from latentmix.experiments.options.experiment import experiment_parser
from latentmix.experiments.options.faults import known_options

FORBIDDEN = re.compile(
    r"Literal|Sequence|Union|Optional|NoneType|Callable|Namespace|typing|collections\.abc|<class|dot import path|"
    r"class_path|init_args|Parser key|validate against|Traceback|Expected an? (int|float|bool|str|list|tuple)\b|"
    r"NestedArg|set_parsing_settings|unrecognized|invalid \w+ value|invalid choice"
)
CLASSES = {
    "encoder": ("mlpencoder", "MLPEncoder"),
    "decoder": ("convdecoder", "ConvDecoder"),
    "prior": ("mixtureprior", "MixturePrior"),
    "likelihood": ("gaussian", "Gaussian"),
    "family": ("fullnormal", "FullNormal"),
    "objective": ("renyielbo", "RenyiELBO"),
    "optimizer": ("adam", "Adam"),
    "scheduler": ("steplr", "StepLR"),
    "mixture.svi.optimizer": ("sgd", "SGD"),
    "mixture.svi.scheduler": ("exponentiallr", "ExponentialLR"),
}
WHOLE = (
    *(
        "epochs",
        "batch_size",
        "latent_dim",
        "patience",
        "warmup",
        "start_prior",
        "seed",
        "max_skipped",
        "data.limit",
        "data.seed",
    ),
    *(
        "data.labels_per_class",
        "data.points",
        "data.max_corrupt",
        "mixture.n_components",
        "measure.images",
    ),
    *("mixture.n_init", "mixture.max_iter", "mixture.draws", "mixture.svi.epochs", "mixture.svi.batch_size"),
    "mixture.posterior.epochs",
    *("mixture.nuts.draws", "mixture.nuts.chains", "measure.samples"),
)
NUMBERS = (
    *("beta", "free_bits", "clip_norm", "optimizer.lr", "optimizer.eps", "optimizer.weight_decay", "mixture.tol"),
    *("mixture.reg_covar", "mixture.svi.tol", "mixture.nuts.target_accept"),
)
BOOLEANS = ("drop_last", "schedule_steps", "data.download", "optimizer.amsgrad", "optimizer.fused")
CHOICES = {"data.binarize": "dynamic", "mixture.latents": "sample", "mixture.svi_start": "common"}
CHOICES |= {"precision": "bf16-mixed", "mixture.svi.guide": "AutoNormal", "mixture.posterior.guide": "best"}


def cases() -> dict[str, tuple[list[str], str]]:
    """Words after `run digits`, and what the sentence has to hold."""
    listed: dict[str, tuple[list[str], str]] = {}
    for option, (wrong, right) in CLASSES.items():
        for text, meant in (
            (wrong, f"did you mean {right}?"),
            (f"{wrong}(3)", f"did you mean '{right}(3)'?"),
            (f"{right} 3", f"did you mean '{right}(3)'?"),
            (f"{right}(3", f"did you mean '{right}(3)'?"),
            (f"{right}(3))", f"got ')' too many in '{right}(3))' (option --{option})"),
            (f"{right}('3)", 'Expected brackets and quotes in pairs; got no "\'"'),
            ("Nothing_like_it", f"for --{option}, or the import path of a class of your own; got 'Nothing_like_it'."),
            ("nowhere.Own", "no module nowhere: run the command from the folder that holds nowhere.py"),
            (f"{right}(a, nonsense=1, nonsense=2)", f"Expected arguments of {right} out of"),
        ):
            listed[f"{option} {text}"] = ([f"--{option}", text], meant)
        listed[f"{option} without a value"] = ([f"--{option}"], f"Expected a value after --{option}; got none")
    for option in WHOLE:
        for text in ("many", "1.5"):
            words = [f"--{option}", text]
            listed[f"{option} {text}"] = (words, f"Expected a whole number for --{option}; got {text!r}")
    for option in NUMBERS:
        listed[f"{option} fast"] = ([f"--{option}", "fast"], f"Expected a number for --{option}; got 'fast'")
    for option in BOOLEANS:
        listed[f"{option} maybe"] = ([f"--{option}", "maybe"], f"Expected true or false for --{option}; got 'maybe'")
    for option, word in CHOICES.items():
        listed[f"{option} {word[:-1]}"] = (
            [f"--{option}", word[:-1]],
            f"for --{option}; got {word[:-1]!r}: did you mean",
        )
    for option in CLASSES:
        if not option.endswith("scheduler") and option != "mixture.svi.optimizer":
            listed[f"{option} null"] = (
                [f"--{option}", "null"],
                f"for --{option}, or the import path of a class",
            )
    return listed


CASES = cases() | {
    "closed choices": (
        ["--likelihood", "Gaussian(pixels)"],
        "Expected a number, shared or pixel for --likelihood.var_x",
    ),
    "closed choices of an option": (
        ["--likelihood", "Gaussian", "--likelihood.var_x", "pixels"],
        "did you mean pixel?",
    ),
    "a part of a name": (["--objective", "Renyi"], "got 'Renyi': did you mean RenyiELBO?"),
    "a truth value or a word": (["--compile", "maybe"], "Expected true, false or auto for --compile; got 'maybe'"),
    "a class of another option": (["--prior", "Bernoulli"], "Bernoulli is for --likelihood"),
    "an import path of another kind": (["--encoder", "latentmix.models.Bernoulli"], "is no subclass of Encoder"),
    "no such name in a module": (["--encoder", "latentmix.guides.Own"], "no 'Own' in latentmix.guides"),
    "an argument within a call": (["--prior", "MixturePrior(many)"], "a whole number for --prior.n_components"),
    "a choice within a call": (
        ["--prior", "MixturePrior(2, bad)"],
        "full, diag, tied, spherical or tied_diag for --pri",
    ),
    "an unknown argument": (["--prior", "MixturePrior(2, components=3)"], "did you mean --prior.n_components?"),
    "an argument of another class": (["--prior.n_components", "3"], "it is one of MixturePrior, VampPrior"),
    "a missing argument": (["--scheduler", "StepLR"], "a value for --scheduler.step_size, which StepLR requires"),
    "an argument before its class": (["--scheduler.gamma", "0.9"], "Expected --scheduler with a class before"),
    "a rate": (["--mixture.svi.optimizer", "Adam", "--mixture.svi.optimizer.lr", "x"], "mixture.svi.optimizer.lr; got"),
    "a pair": (["--optimizer.betas", "3"], "Expected 2 numbers in brackets such as (0.5, 0.5) for --optimizer.betas"),
    "a list of words": (["--encoder.hidden", "wide"], "Expected whole numbers such as 4,8 for --encoder.hidden"),
    "a list with a word": (["--data.classes", "1, four"], "Expected --data.classes of 'digits', which has 0, 1, 2"),
    "another source's": (["--data.size", "many"], "Expected --data.size with the source celeba or image_folder"),
    "a size of images": (
        ["--data.source", "natural_patches", "--data.size", "wide"],
        "Expected --data.size as 32, or height and width as 32x48; got 'wide'",
    ),
    "a logger": (["--loggers", "tensorbord"], "got 'tensorbord': did you mean TensorBoard?"),
    "a logger among others": (["--loggers", "mlflow,nothing.Own"], "no module nothing: run the command from"),
    "a logger's argument": (["--loggers", "WandB(mode=maybe)"], "online or offline for --loggers.mode; got 'maybe'"),
    "a logger's unknown argument": (["--loggers", "MLflow(adress=x)"], "adress"),
    "a logger twice": (["--loggers", "mlflow,MLflow"], "Expected each of --loggers once; got MLflow 2 times."),
    "a logger's folder": (["--loggers", "MLflow(folder=x)"], "Expected no folder of MLflow in --loggers"),
    "a logger without its class": (["--loggers.mode", "offline"], "loggers"),
    "an earlier option": (["--tensorboard", "true"], "Expected --loggers TensorBoard; got --tensorboard, its earlier"),
    "a group": (["--data", "3"], "Expected options of data by their names"),
    "lr": (["--lr", "0.01"], "got --lr 0.01: did you mean --optimizer.lr or --mixture.svi.optimizer.lr?"),
    "hidden": (["--hidden", "3"], "got --hidden 3: did you mean --encoder.hidden or --decoder.hidden"),
    "n_components": (["--n_components", "3"], "--mixture.n_components or --prior.n_components?"),
    "classes": (["--classes", "1,4"], "did you mean --data.classes?"),
    "step_size": (["--step_size", "1"], "did you mean --scheduler.step_size"),
    "a letter": (["--epoch", "3"], "did you mean --epochs?"),
    "a dash": (["-epochs", "3"], "did you mean --epochs?"),
    "a stray word": (["--epochs", "3", "4"], "got 4: quote a value that has spaces"),
    "a step of none": (
        ["--scheduler", "StepLR", "--scheduler.step_size", "0"],
        "got StepLR(step_size=0): it divides by a number that is 0.",
    ),
    "a schedule too short": (
        ["--scheduler", "OneCycleLR(0.1, total_steps=3)"],
        "Expected --scheduler to be a schedule",
    ),
    "steps of no schedule": (
        ["--schedule_steps", "true"],
        "Expected a --scheduler for --schedule_steps true; got none.",
    ),
    "steps of a plateau": (
        ["--scheduler", "ReduceLROnPlateau", "--schedule_steps", "true"],
        "got ReduceLROnPlateau, which is stepped by the loss of an epoch: pass another",
    ),
    "a period of none": (["--scheduler", "CosineAnnealingLR(0)"], "got CosineAnnealingLR(T_max=0)"),
    "a schedule of the mixture": (
        ["--mixture.svi.optimizer", "Adam", "--mixture.svi.scheduler", "StepLR(0)"],
        "Expected --mixture.svi.scheduler to be a schedule",
    ),
    "too large a rate": (["--optimizer", "SGD(-1)"], "got SGD(lr=-1.0, fused=True): Invalid learning rate"),
    "few data": (["--data.limit", "60"], "got 2: lower --data.labels_per_class, or raise --data.limit"),
    "few points": (
        ["--data.limit", "60", "--data.labels_per_class", "1", "--mixture.n_components", "61"],
        "--data.limit",
    ),
    "no data": (["--data.limit", "0"], "Expected --data.limit of at least 1"),
    "no device": (["--device", "cudaa"], "(option --device)"),
    "no weights": (["--init_from", "nowhere"], "(option --init_from)"),
    "variance": (["--likelihood", "Gaussian(0)"], "got 0.0 (option --likelihood)"),
    "covariance type": (["--mixture.covariance_type", "round"], "(option --mixture.covariance_type)"),
    "a source of another case": (["--data.source", "Digits"], "got 'Digits': did you mean digits?"),
    "a folder as a source": (["--data.source", "/"], "--data.source image_folder --data.root /."),
    "a file as weights": (["--init_from", __file__], "which is no folder (option --init_from)"),
    "a negative warm-up": (["--warmup", "-1"], "Expected --warmup of at least 0; got -1"),
    "no epochs": (["--epochs", "0"], "Expected --epochs of at least 1"),
    "chains": (["--mixture.nuts.warmup", "-1"], "to be a whole number of at least 0; got -1 (option --mixture.nuts)"),
    "a file": (["--config", "nowhere.yaml"], "in nowhere.yaml; got No such file"),
}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence by which the command line refuses the words."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1, err
    assert "run: " not in out
    assert err.startswith("latentmix: Expected ")
    assert not FORBIDDEN.search(err), err
    return err


@pytest.mark.parametrize("case", CASES)
def test_a_mistyped_option_is_refused_in_words(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, message = CASES[case]
    assert message in refused(["run", "digits", *words], capsys)
    assert not list(tmp_path.iterdir())


COMMANDS = {
    "another command": (["rnu", "digits"], "got 'rnu': did you mean run?"),
    "another case": (["Sweep"], "did you mean sweep?"),
    "another preset": (["run", "digit"], "got 'digit': did you mean digits?"),
    "no preset": (["run"], "Expected PRESET; got none"),
    "a file without its ending": (["run", "mine"], "did you mean mine.yaml?"),
    "a folder of a run": (["run", "folder"], "did you mean folder/config.yaml?"),
    "bad YAML": (["run", "bad.yaml"], "in bad.yaml; got a fault in line 2, column 7: mapping values are not allowed"),
    "an open bracket": (["run", "open.yaml"], "in open.yaml; got a fault in line 2, column 1"),
    "an empty file": (["run", "empty.yaml"], "in empty.yaml; got an empty file"),
    "a list": (["run", "list.yaml"], "in list.yaml; got a list"),
    "a binary file": (["run", "binary.yaml"], "in binary.yaml; got bytes that are no UTF-8"),
    "parts that are missing in a file": (["run", "mine.yaml"], "Expected values of --decoder, --encoder, --family, "),
    "a value in a file": (["run", "many.yaml"], "a whole number for --epochs; got 'many' (in many.yaml)"),
    "a class in a file": (["run", "lower.yaml"], "got 'bernoulli': did you mean Bernoulli?"),
    "an option in a file": (["run", "unknown.yaml"], "got epoch: did you mean epochs?"),
    "missing pictures": (["classify", "folder", "nothere.png"], "got nothere.png, which is missing"),
    "a split": (["evaluate", "folder", "--split", "tst"], "for --split; got 'tst': did you mean test?"),
    "a number of samples": (["evaluate", "folder", "--samples", "x"], "Expected a whole number for --samples; got 'x'"),
    "no value": (["run", "digits", "--out"], "Expected a value after --out; got none"),
    "a superfluous word": (["resume", "a", "b"], "got b (see `latentmix resume --help`)"),
    "a word too few": (["classify"], "Expected RUN, FILE; got none"),
    "an own option": (["sweep", "digits", "--n_jobs", "2"], "got --n_jobs: did you mean --n-jobs?"),
    "no grid": (["sweep", "digits", "--gird", "epochs=1"], "did you mean --grid?"),
    "a nested name in a grid": (["sweep", "digits", "--grid", "lr=1"], "did you mean --optimizer.lr"),
    "a criterion": (["select", "points.npy", "--criteria", "bic, icll"], "got 'icll'"),
    "an empty word": (["select", "points.npy", "--criteria", "bic,,icl"], "Expected words with commas between them"),
    "a covariance type": (["select", "points.npy", "--covariance_types", "full, round"], "(option --covariance_types)"),
    "a size": (["bench", "em", "--sizes", "10x2x2, a"], "Expected --sizes"),
    "a network": (["bench", "svi", "--networks", "mlp,conv"], "out of mlp, digits, conv16, conv64; got 'conv'"),
    "a batch size": (["bench", "all", "--batch_sizes", "64,x"], "with commas between them for --batch_sizes, as in"),
    "of samples": (["sample", "folder", "-n", "0"], "Expected -n of at least 1"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_mistyped_command_is_refused_in_words(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    texts = {
        "folder/config.yaml": "epochs: 3",
        "mine.yaml": "epochs: 3",
        "bad.yaml": "epochs: 3\n  data: {source: digits",
        "open.yaml": "epochs: [3\n",
        "empty.yaml": "",
        "list.yaml": "- epochs\n",
        "many.yaml": "epochs: many",
        "lower.yaml": "likelihood: {class_path: bernoulli}",
        "unknown.yaml": "epoch: 3",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.yaml").write_bytes(bytes(range(128, 256)))
    np.save(tmp_path / "points.npy", np.zeros((10, 2)))
    words, message = COMMANDS[case]
    assert message in refused(words, capsys)


def test_lists_are_typed_with_commas_spaces_or_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ways = (["1,4,8"], ["1, 4, 8"], ["1", "4", "8"], ["1,", "4,", "8"], ["[1, 4, 8]"], ["(1, 4, 8)"])
    for words in ways:
        assert main(["run", "digits", "--print_config", "--data.classes", *words, "--encoder.hidden", "256, 128"]) == 0
        printed = capsys.readouterr().out
        assert "  classes:\n  - 1\n  - 4\n  - 8\n" in printed
        assert "    hidden:\n    - 256\n    - 128\n" in printed


def test_the_printed_configuration_is_complete_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "digits", "--print_config", "--epochs", "3", "--prior", "MixturePrior(4)"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    (tmp_path / "mine.yaml").write_text(printed.out)
    assert main(["run", "mine.yaml", "--print_config"]) == 0
    assert capsys.readouterr().out == printed.out
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


def test_the_help_of_an_experiment_lists_every_option_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert not FORBIDDEN.search(text), FORBIDDEN.search(text)
    for option in known_options(experiment_parser()):
        assert f"--{option} " in text
    assert "--data.classes (whole numbers such as 4,8)" in text
    assert "MLPEncoder(hidden)" in text
    assert max(map(len, text.splitlines())) <= 125
