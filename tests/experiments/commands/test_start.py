"""What the command line imports before it refuses, helps or lists; times follow from it."""

import json
import subprocess
import sys

HEAVY = {"sklearn", "scipy", "torchvision", "arviz", "matplotlib", "torchmetrics", "pandas", "PIL", "joblib"} | {
    *("tensorboard", "mlflow", "wandb"),
}
SCRIPT = """
import contextlib, io, json, sys
from latentmix.experiments.cli import main

results = []
for words in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(words)
    results.append([code, errors.getvalue(), sorted({name.partition(".")[0] for name in sys.modules})])
print(json.dumps(results))
"""


def outcomes(*commands, cwd):
    """Exit code, words on standard error and imported packages after each command, all in one fresh process."""
    lines = json.dumps([command.split() for command in commands])
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=lines, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zip(commands, json.loads(done.stdout), strict=True)


def test_wrong_commands_import_no_torch(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.yaml").touch()
    refused = (
        "",
        "rnu",
        "list many",
        "run",
        "run --epochs 3",
        "run digitz",
        "sweep digitz --grid epochs=1,2",
        "run digits --out there",
        "run digits --out there/config.yaml/x",
        "run digits --seeds 1",
        "run digits --seeds two",
        "run digits --seeds 2 --print_config",
        "run digits --n-jobs 2",
        "run digits --seeds 2 --out there",
        "sweep digits --grid epochs=1,2 --out there",
        "sweep digits --grid epochs=1,2 --seeds 0",
        "sample there -n 0",
        "sample there --out there",
        "sample nothere",
        "evaluate nothere",
        "evaluate there --samples -1",
        "evaluate there --split odd",
        "ex-post nothere",
        "ex-post there --out there",
        "classify nothere digit.png",
        "classify there there --max_pixels 0",
        "classify there there --max_pixels many",
        "classify there there --max_gib nan",
        "encode there",
        "encode nothere --split test",
        "encode there --split tests",
        "encode there there --split test",
        "encode there digit.png",
        "encode there there --out latents.txt",
        "encode there there --draws 0",
        "compare there",
        "compare nothere there",
        "compare there there",
        "compare there nothere --level 0.9",
        "compare there there --level 1",
        "compare there there --format html",
        "select there --max_gib 0",
        "select there --max_gib two",
        "resume nothere",
        "report nothere",
        "select nothere.npy",
        "inspect nothere",
        "inspect there/config.yaml",
        "inspect there --plots trase",
        "inspect there --plots trace,",
        "inspect there --out figures",
        "inspect there --to posterior.txt",
        "inspect there --to there/config.yaml",
        "inspect there --max_gib 0",
        "select there --n_components few",
        "bench speed",
        "bench em --sizes large",
        "bench svi --networks large",
        "bench svi --batch_sizes 64,large",
        "bench svi --out there/nothere/speed.json",
        "bench all --json there/config.yaml",
    )
    for command, (code, error, packages) in outcomes("list", "--version", "--help", *refused, cwd=tmp_path):
        assert code == (2 if command in refused else 0), command
        assert error.count("\n") == bool(command in refused and command), error
        assert not {"torch", "pyro", *HEAVY} & set(packages), command


def test_options_are_refused_without_what_only_runs_need(tmp_path):
    refused = (
        "run digits --epochs many",
        "run digits --prior Vamp",
        "run digits --lr 0.01",
        "run digits --epochs 0",
        "run digits --mixture.svi.epochs 0",
        "run digits --mixture.nuts.chains 0",
        "run digits --objective Renyi",
        "sweep digits --grid epochs",
        "sweep digits --grid epoch=1,2",
        "sweep digits --grid epochs=1,2 --prior Vamp",
    )
    for command, (code, error, packages) in outcomes("run --help", *refused, cwd=tmp_path):
        assert code == (2 if command in refused else 0), command
        assert error.count("\n") == (command in refused), error
        assert "torch" in packages
        assert not (HEAVY - {"joblib"} if command.startswith("sweep") else HEAVY) & set(packages), command
