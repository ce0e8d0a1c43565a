"""`python -m tests.verify.fuzz KIND FIRST LAST`: outcomes of cases, in bounded memory, a JSON line each."""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.verify.fuzz.configurations import configuration
from tests.verify.fuzz.files import broken_file
from tests.verify.fuzz.outcomes import outcome_of
from tests.verify.fuzz.pictures import picture

__all__ = ["KINDS", "cases", "make_run"]

MEMORY = 3 * 2**30  # bytes beyond those of the libraries
RUN = (
    *(
        "run",
        "digits_mlp2",
        "--data.limit",
        "120",
        "--data.labels_per_class",
        "2",
        "--epochs",
        "1",
        "--mixture.draws",
        "1",
        "--mixture.n_init",
        "1",
    ),
    *("--mixture.posterior.guide", "AutoNormal", "--mixture.posterior.epochs", "2"),
    *("--mixture.svi.epochs", "2", "--mixture.max_iter", "20", "--encoder.hidden", "[8]", "--decoder.hidden", "[8]"),
)
KINDS = ("configurations", "files", "pictures")


def make_run(folder: Path) -> Path:
    """A finished run on the digits, without pictures."""
    outcome = outcome_of([*RUN, "--out", str(folder / "run")])
    assert outcome.status == "finished", outcome
    return folder / "run"


def without_pictures() -> None:
    """Leave figures and reports out of runs in this process."""
    from latentmix.experiments.runs import pipeline

    for name in ("draw_vae", "draw_mixtures"):
        setattr(pipeline, name, lambda *_, **__: ())


def cases(kind: str, first: int, last: int, run: Path | None) -> Iterator[dict[str, Any]]:
    """The outcome of each case of a kind, from its seed."""
    for seed in range(first, last):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if kind == "configurations":
                words = configuration(folder, seed)
            else:
                assert run is not None
                words = (broken_file if kind == "files" else picture)(folder, seed, run)
            began = time.perf_counter()
            outcome = outcome_of(words)
            seconds = time.perf_counter() - began
        text = outcome.text[-1500:].replace(name, "FOLDER")
        yield {
            "kind": kind,
            "seed": seed,
            "words": [word.replace(name, "FOLDER") for word in words],
            "status": outcome.status,
            "right": outcome.right,
            "text": text,
            "seconds": round(seconds, 2),
        }


def main(words: list[str]) -> None:
    """Run the cases, and print their outcomes."""
    kind, first, last = words[0], int(words[1]), int(words[2])
    torch.set_num_threads(1)
    without_pictures()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for row in cases(kind, first, last, run):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
