"""Signals end a command with the code that shells expect, and leave nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals are those of Unix")

WRITING = """
import os, signal, sys, time
from pathlib import Path
from latentmix.experiments import cli
from latentmix.models import files
from latentmix.models.files import write_atomically

number, again = signal.Signals[sys.argv[1]], sys.argv[2] == "again"
unlink = Path.unlink

def slow(path, **options):
    if again:
        os.kill(os.getpid(), number)
        time.sleep(0.1)
    unlink(path, **options)

def half(file):
    file.write(b"half")
    exec("os.kill(os.getpid(), number)\\ntime.sleep(0.2)")  # after which Python ends by SIGINT, unless told otherwise

def dispatch(words, streams):
    Path.unlink = slow
    write_atomically(Path("out.csv"), half)
    return 0

cli.dispatch = dispatch
sys.exit(cli.main([]))
"""
HEARING = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # whatever started the tests
IMPORTING = """
import os, signal, sys
from latentmix.experiments import cli

class Finder:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe()
        while frame is not None:
            if type(frame.f_locals.get("self")).__name__ == "ExtensionFileLoader":
                sys.meta_path.remove(self)
                os.kill(os.getpid(), signal.SIGINT)
                print("signalled within", frame.f_locals["self"].name)
                return None
            frame = frame.f_back
        return None

def dispatch(words, streams):
    import time
    sys.meta_path.insert(0, Finder())
    try:
        import numpy
        time.sleep(5)
    finally:
        print("whole" if "numpy._core._multiarray_umath" in sys.modules else "cut short")

cli.dispatch = dispatch
sys.exit(cli.main([]))
"""
STARTING = """
import os, signal, sys
from latentmix.experiments.__main__ import main

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "latentmix.experiments.cli":
            os.kill(os.getpid(), signal.SIGINT)
        return None

sys.meta_path.insert(0, Finder())
sys.exit(main())
"""


def ended(program: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The outcome of a program in an empty folder, as `python -m` runs it."""
    (cwd / "code").mkdir()
    (cwd / "work").mkdir()
    (cwd / "code" / "program.py").write_text(program)
    paths = os.pathsep.join([str(cwd / "code"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "program", *words],
        cwd=cwd / "work",
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "times", "code", "word"),
    [
        ("SIGINT", "again", 130, "interrupted"),
        ("SIGTERM", "once", 143, "terminated"),
        ("SIGHUP", "once", 129, "terminated"),
    ],
)
def test_a_signal_ends_a_command_and_what_is_half_written_goes(
    tmp_path: Path, name: str, times: str, code: int, word: str
) -> None:
    done = ended(HEARING + WRITING, name, times, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith(f"latentmix: {word}")
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "work").iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """As `nohup` asks for."""
    ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + WRITING
    assert ended(ignoring, "SIGHUP", "once", cwd=tmp_path).returncode == 0
    assert (tmp_path / "work" / "out.csv").read_text() == "half"


def test_a_signal_waits_for_compiled_modules(tmp_path: Path) -> None:
    """An exception through such code can end in `terminate called after throwing an instance of ...`."""
    done = ended(IMPORTING, cwd=tmp_path)
    assert done.stdout == "signalled within numpy._core._multiarray_umath\nwhole\n"
    assert (done.returncode, done.stderr) == (130, "latentmix: interrupted\n")


def test_a_signal_at_the_start_leaves_no_traceback(tmp_path: Path) -> None:
    done = ended(STARTING, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
