"""Runs that are killed end whole by `latentmix resume`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.verify.registry import ROOT, Figures, Unavailable, proof
from tests.verify.runs import PARTS, preset


@proof(*PARTS, *preset("digits_mlp2"), "experiments", "tests/verify/killed_runs.py")
def killed_runs_end_whole() -> Figures:
    """Of 60 runs killed at random moments and within every kind of file, `resume` ends 60 with the same bytes.

    Compared are all files: configuration, weights, mixtures, states of training, metrics, summary, figures and report.
    Clocks stand still in these runs, so that durations and dates, which alone would differ, are the same too.
    """
    if not Path("/proc/self/fd").is_dir():
        raise Unavailable("processes are aimed at by /proc/self/fd, which this system does not have")
    shares = 2
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.verify.killed_runs", str(share), str(shares)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for share in range(shares)
    ]
    outcomes = [outcome for process in processes for outcome in json.loads(process.communicate()[0])]
    failed = [outcome for outcome in outcomes if not outcome["whole"]]
    return {
        "passed": len(outcomes) == 60 and not failed,
        "whole": len(outcomes) - len(failed),
        "trials": dict(Counter(outcome["trial"]["kind"] for outcome in outcomes)),
        "finished before they were killed": sum(outcome["finished before"] for outcome in outcomes),
        "failed": failed,
    }
