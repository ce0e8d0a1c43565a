"""The dispatcher: its help, its refusals, and the modules that they load."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from latentmix.experiments import commands
from latentmix.experiments.cli import find_commands, main

HEAVY = ("torch", "pyro", "numpy", "sklearn", "matplotlib", "jsonargparse")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["--help"], 0),
        (["--version"], 0),
        (["list"], 0),
        (["walk"], 2),
        (["run"], 2),
        (["sweep", "--grid", "epochs=1,2"], 2),
        (["evaluate", "--help"], 0),
        (["select", "runs/digits", "--folds", "many"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_refusals_load_neither_torch_nor_pyro(words: list[str], code: int) -> None:
    program = (
        "import sys\n"
        "from latentmix.experiments.cli import main\n"
        "try:\n"
        "    code = main(sys.argv[1:])\n"
        "except SystemExit as exit:\n"
        "    code = exit.code\n"
        f"print(code, *(name for name in {HEAVY} if name in sys.modules))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, timeout=60
    )
    assert process.stdout.splitlines()[-1] == str(code)
    assert len(process.stderr.splitlines()) == (code == 2 and bool(words))


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["run", "sweep", "resume", "compare", "list", "evaluate", "ex-post", "select", "inspect", "classify"]
    names += ["encode", "sample", "report", "gallery", "bench"]
    assert list(find_commands()) == names
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")][: len(names)] == names
    for name, command in find_commands().items():
        assert command.USAGE.words.split()[0] == name


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"latentmix {version('latentmix')}\n"


@pytest.mark.parametrize(
    "command", ["sweep", "resume", "evaluate", "ex-post", "select", "inspect", "classify", "encode", "sample", "bench"]
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: latentmix {command}")


HELLO = """
from latentmix.experiments.commands import Usage, command_parser

USAGE = Usage(25, "say-hello NAME [--times N]", "a greeting")

def main(words):
    parser = command_parser("say-hello")
    parser.add_argument("name")
    parser.add_argument("--times", type=int, default=1)
    arguments = parser.parse_args(words)
    print(f"hello {arguments.name}\\n" * arguments.times, end="")
    return arguments.times
"""


def test_a_command_is_added_by_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "say_hello.py").write_text(HELLO)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert main(["say-hello", "world", "--times", "3"]) == 3
    assert capsys.readouterr().out == "hello world\n" * 3
    assert list(find_commands())[1:4] == ["sweep", "say-hello", "resume"]
    assert main(["--help"]) == 0
    assert "say-hello NAME [--times N]                  a greeting" in capsys.readouterr().out
    assert main(["say-hello", "world", "--time", "3"]) == 2
    assert "got --time: did you mean --times? (see `latentmix say-hello --help`)" in capsys.readouterr().err
    sys.modules.pop(f"{commands.__name__}.say_hello")


def test_the_recorded_command_raises_limits_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[list[str]] = []
    monkeypatch.setattr(
        "latentmix.experiments.runs.pipeline.run_experiment", lambda *_, command: recorded.append(command) or exit(0)
    )
    words = ["run", "digits", "--epochs", "1", "--out", str(tmp_path / "run")]
    for typed in (["--max_yaml_values", "200000"], ["--max_yaml_values=200000"], ["--max_yaml_mib", "20"], []):
        with pytest.raises(SystemExit):
            main([*words[:2], *typed, *words[2:]])
        assert recorded[-1] == ["latentmix", *words, *" ".join(typed).replace("=", " ").split()]
