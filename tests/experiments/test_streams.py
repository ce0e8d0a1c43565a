"""Standard streams that are closed, full or no longer read."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentmix.experiments.cli import main
from latentmix.experiments.streams import Outlet, StandardStreams

PROGRAM = """
import pathlib, sys
from latentmix.experiments import commands
from latentmix.experiments.cli import main

pathlib.Path(sys.argv[1], "talk.py").write_text('''
from latentmix.experiments.commands import Usage
USAGE = Usage(1, "talk", "much", lasting=%s)
def main(words):
    import pathlib, sys, time
    for number in range(5000):
        print(number)
        if number == 10:
            time.sleep(0.3)  # until the reader has gone
    print("note", file=sys.stderr)
    pathlib.Path("done").write_text("done")
''' % sys.argv[2])
commands.__path__.append(sys.argv[1])
sys.exit(main(["talk"]))
"""


def talk(folder: Path, lasting: bool, redirection: str) -> subprocess.CompletedProcess[str]:
    """Run a command that prints much and then writes a file; redirected in a shell."""
    words = [sys.executable, "-c", PROGRAM, str(folder), str(lasting)]
    script = f'"$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", script, "talk", *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("lasting", "redirection", "code", "done"),
    [
        (True, "| head -1; exit ${PIPESTATUS[0]}", 0, True),
        (False, "| head -1; exit ${PIPESTATUS[0]}", 141, False),
        (True, "2>&1 | head -1; exit ${PIPESTATUS[0]}", 0, True),
        (True, ">&-", 0, True),
        (False, ">&-", 2, False),
        (True, "2>&-", 0, True),
        (False, ">&- 2>&- <&-", 2, False),
        (True, ">&- 2>&- <&-", 0, True),
        (True, "> /dev/full", 2, True),
        (False, "> /dev/full", 2, False),
        (True, "2> /dev/full", 0, True),
    ],
)
def test_a_run_goes_on_and_other_commands_end(
    tmp_path: Path, lasting: bool, redirection: str, code: int, done: bool
) -> None:
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    process = talk(tmp_path, lasting, redirection)
    assert (process.returncode, (tmp_path / "done").exists()) == (code, done)
    if done:
        assert (tmp_path / "done").read_text() == "done"  # and no message in its place
    wanted = code == 2 and "2>&-" not in redirection
    assert process.stderr.count("latentmix: Expected to read or write standard output; got: ") == wanted
    assert "Traceback" not in process.stderr
    assert "Exception ignored" not in process.stderr


@pytest.mark.parametrize("words", ["run --help", "sweep -h", "resume --help", "run digits_mlp2 --print_config"])
@pytest.mark.parametrize(("number", "code"), [(errno.EPIPE, 141), (errno.EBADF, 2)])
def test_help_that_nobody_can_read_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, number: int, code: int
) -> None:
    class Broken(io.StringIO):
        def flush(self) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sys, "stdout", Broken())
    assert main(words.split()) == code
    assert ("latentmix: Expected to read or write standard output" in capsys.readouterr().err) == (code == 2)


def test_an_outlet_notes_the_first_error() -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    outlet = Outlet(Full(), "standard output", lasting=True)
    assert outlet.write("word") == 4
    assert outlet.error is None
    assert outlet.write("line\n") == 5
    assert outlet.error is not None
    assert outlet.error.errno == errno.ENOSPC
    with pytest.raises(BrokenPipeError):
        Outlet(Gone(), "standard output", lasting=False).write("line\n")


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_streams_are_restored() -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    with StandardStreams():
        assert sys.stdout is not before[1]
    assert (sys.stdin, sys.stdout, sys.stderr) == before
