"""`latentmix bench svi` and `latentmix bench all`."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from latentmix.experiments.benchmarks.svi import speed
from latentmix.experiments.cli import main

SVI = ["--networks", "digits", "--batch_sizes", "16, 32", "--images", "64", "--turns", "1", "--threads", "1"]
EM = ["--sizes", "200x2x2", "--iterations", "1", "--repeats", "1", "--seconds", "0"]
MACHINE = {"processor", "cores", "memory_mib", "system", "python", "time", "versions"}
CASE = {"network", "batch_size", "images", "steps", "threads", "load", "turns", "contestants", "floors", "missing"}


def written(path: Path) -> dict:
    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def check_svi(figures: dict) -> None:
    assert figures["finished"] is True
    assert set(figures["machine"]) == MACHINE
    assert all(figures["machine"]["versions"][name] for name in ("latentmix", "torch", "pyro-ppl", "numpy"))
    assert [row["batch_size"] for row in figures["svi"]] == [16, 32]
    for row in figures["svi"]:
        assert set(row) == CASE
        assert list(row["contestants"]) == ["trains"]
        assert row["missing"] == {"fails": "failed: ValueError: no such thing"}
        assert row["floors"]["float32"]["parameters"] == 10
        assert row["contestants"]["trains"]["to_pytorch"] is None


def test_bench_svi_prints_and_writes_every_comparison(log: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "speed.json"
    assert not main(["bench", "svi", *SVI, "--contestants", "trains,fails", "--out", str(out)])
    printed, progress = capsys.readouterr()
    assert printed.startswith("s/epoch")
    assert re.findall(r"^digits, batch (\d+): 64 images, (\d+) steps", printed, re.MULTILINE) == [
        ("16", "4"),
        ("32", "2"),
    ]
    assert progress == ""
    check_svi(written(out))
    assert main(["bench", "svi", *SVI, "--contestants", "trains", "--out", str(out)]) == 2
    assert "Expected a new file" in capsys.readouterr().err


def test_bench_all_writes_both(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", os.environ.get("SCIPY_ARRAY_API", "0"))
    monkeypatch.setattr("latentmix.experiments.benchmarks.libraries.find_spec", lambda name: None)
    out = tmp_path / "speed.json"
    assert not main(["bench", "all", *SVI, *EM, "--contestants", "trains,fails", "--json", str(out)])
    printed = capsys.readouterr().out
    assert printed.index("digits, batch 32") < printed.index("200 x 2, 2 components, full, float64, 1 thread, load")
    assert len(re.findall(r", 1 turn$", printed, re.MULTILINE)) == 3
    figures = written(out)
    check_svi(figures)
    (row,) = figures["em"]
    assert (row["size"], row["threads"]) == ([200, 2, 2], 1)


@pytest.mark.parametrize("done", [0, 1])
def test_an_interrupt_keeps_the_comparisons_that_are_done(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, done: int
) -> None:
    measure = speed._Comparison.measure
    left = [None] * done

    def interrupted(*arguments):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return measure(*arguments)

    monkeypatch.setattr(speed._Comparison, "measure", interrupted)
    out = tmp_path / "speed.json"
    assert main(["bench", "svi", *SVI, "--contestants", "trains", "--out", str(out)]) == 130
    told = capsys.readouterr().err
    if not done:
        assert not out.exists()
        assert told == "latentmix: interrupted\n"
        return
    assert told == f"latentmix: interrupted; {out} has the 1 comparison so far\n"
    figures = written(out)
    assert figures["finished"] is False
    assert [row["batch_size"] for row in figures["svi"]] == [16]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--covariance_type", "round"], "Expected covariance_type in"),
        (["--dtype", "float16"], "Expected --dtype float64 or float32"),
        (["--sizes", "3x2x4"], "as many points as components"),
        (["--contestants", "trainz"], "out of latentmix, .*; got 'trainz'"),
        (["--images", "8"], "Expected --batch_sizes of at most --images, 8; got 32"),
    ],
)
def test_bench_all_checks_all_options_before_it_measures(log: Path, capsys, words: list[str], message: str) -> None:
    assert main(["bench", "all", *SVI, *EM, "--contestants", "trains", *words]) == 2
    out, err = capsys.readouterr()
    assert re.search(message, err)
    assert (out, err.count("\n"), log.exists()) == ("", 1, False)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are listed in /proc")
def test_ctrl_c_ends_the_command_and_its_processes(tmp_path: Path) -> None:
    words = [*SVI, "--turns", "1000000", "--contestants", "pytorch"]
    ours, theirs = pty.openpty()  # on a terminal the steps are told
    command = [sys.executable, "-m", "latentmix.experiments", "bench", "svi", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    try:
        told = ""
        while "turn 3" not in told:
            told += os.read(ours, 1000).decode()
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(workers) == 2, "a contestant and the floor"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        while "interrupted" not in told:
            told += os.read(ours, 1000).decode()
        assert "Traceback" not in told
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
