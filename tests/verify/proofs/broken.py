"""Broken configurations, files and pictures: every command finishes, or refuses in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.verify.registry import ROOT, Figures, proof
from tests.verify.runs import PARTS, preset

CASES = {"configurations": 300, "files": 300, "pictures": 100}
CHUNK = 50


@proof(
    "tests/verify/fuzz",
    "experiments/commands",
    *PARTS,
    *preset("digits", "digits_mlp2", "gmm3d"),
    without=("experiments/benchmarks", "experiments/figures"),
)
def broken_input_is_refused_in_a_sentence() -> Figures:
    """Each of 300 configurations, 300 files and 100 pictures finishes, or is refused in one sentence: exit code 2."""
    chunks = [
        (kind, first, min(first + CHUNK, count)) for kind, count in CASES.items() for first in range(0, count, CHUNK)
    ]
    with ThreadPoolExecutor(2) as threads:
        rows = [row for part in threads.map(_outcomes, chunks) for row in part]
    counts = {kind: dict(Counter(row["status"] for row in rows if row["kind"] == kind)) for kind in CASES}
    wrong = [row for row in rows if not row["right"]]
    return {
        "passed": not wrong and len(rows) == sum(CASES.values()),
        "counts": counts,
        "wrong": wrong[:20],
        "longest_seconds": max(row["seconds"] for row in rows),
    }


def _outcomes(chunk: tuple[str, int, int]) -> list[dict[str, Any]]:
    """The outcomes of a chunk of cases, each of those after a crash of the process included."""
    kind, first, last = chunk
    rows: list[dict[str, Any]] = []
    while first < last:
        command = [sys.executable, "-m", "tests.verify.fuzz", kind, str(first), str(last)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        done = [json.loads(line) for line in process.stdout.splitlines()]
        rows += done
        first += len(done)
        if first < last:
            text = f"exit code {process.returncode}: {process.stderr[-500:]}"
            rows.append(
                {"kind": kind, "seed": first, "status": "crashed", "right": False, "text": text, "seconds": 0.0}
            )
            first += 1
    return rows
