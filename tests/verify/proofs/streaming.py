"""Points in files larger than memory, in batches, and divided among processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import start
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.covariances import covariance_structure

from tests.inference.mixtures.clouds import TYPES, synthetic
from tests.inference.mixtures.points.one_of_several import fits, run_two
from tests.verify.registry import BESIDES_EM, ROOT, Figures, Unavailable, proof

ROWS, FEATURES, COMPONENTS, ITERATIONS = 50_000_000, 2, 5, 2


def write_points(path: Path, rows: int) -> None:
    """A file of float32 points from five clouds, written chunk by chunk."""
    generator = np.random.default_rng(0)
    centres = generator.uniform(-4, 4, (COMPONENTS, FEATURES))
    with path.open("wb") as file:
        for first in range(0, rows, 500_000):
            n = min(500_000, rows - first)
            chosen = generator.integers(COMPONENTS, size=n)
            (centres[chosen] + generator.standard_normal((n, FEATURES))).astype(np.float32).tofile(file)


def output(*command: str, seconds: int) -> str:
    """The output of a command, on one thread, within a time limit."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


@proof("tests/verify/streamed_fit.py", without=BESIDES_EM)
def a_mapped_file_is_streamed() -> Figures:
    """50 million mapped points within 256 MiB of anonymous memory, at a cost per point that does not grow.

    The cost per point of an EM iteration, the better of two runs, is at most a quarter more than at 5 million.
    """
    if not Path("/proc/self/status").exists():
        raise Unavailable("there is no /proc/self/status")
    by_rows: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "points"
        write_points(path, ROWS)
        for rows in (ROWS // 10, ROWS):
            command = ["tests/verify/streamed_fit.py", str(path), *map(str, (rows, FEATURES, COMPONENTS, ITERATIONS))]
            by_rows[rows] = [json.loads(output(*command, seconds=3600)) for _ in range(2)]
    costs = {rows: min(run["seconds_per_iteration"] for run in runs) / rows for rows, runs in by_rows.items()}
    growth = costs[ROWS] / costs[ROWS // 10]
    most = max(run["mebibytes"] for runs in by_rows.values() for run in runs)
    watched = min(run["readings"] for runs in by_rows.values() for run in runs)
    rose = all(run["lower_bounds"][-1] > run["lower_bounds"][0] for runs in by_rows.values() for run in runs)
    return {
        "passed": bool(most <= 256 and growth <= 1.25 and watched >= 20 and rose),
        "most_mebibytes": most,
        "growth_of_cost_per_point": growth,
        "runs": [run for runs in by_rows.values() for run in runs],
    }


@proof(without=BESIDES_EM)
def two_processes_agree_with_one() -> Figures:
    """Starts, EM and re-seeded components: two processes under torchrun, in memory and in batches, within 1e-10."""
    x = torch.from_numpy(synthetic(n=4000, n_components=4))
    weight = torch.from_numpy(np.random.RandomState(0).randint(0, 4, len(x))).double()
    labels = torch.full((len(x),), -1)
    labels[::100] = torch.arange(40) % 4
    with tempfile.TemporaryDirectory() as folder:
        torch.save((x, weight, labels), Path(folder) / "points.pt")
        processes = run_two(Path(folder), seconds=600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = fits(as_points(x, weight), labels, np.random.RandomState(0))
    worst = {
        kind: max(
            float((other - first).abs().max())
            for name, tensors in expected.items()
            for process in processes
            for first, other in zip(tensors, process[at][name], strict=True)
        )
        for at, kind in enumerate(("in memory", "in batches"))
    }
    return {"passed": max(worst.values()) <= 1e-10, "compared": len(expected), **worst}


@proof(without=BESIDES_EM)
def batches_are_the_full_batch() -> Figures:
    """EM on an iterator of batches, or on a mapped file, is EM on the full batch within 1e-10 after 20 iterations."""
    x = torch.from_numpy(synthetic(n=200_000))
    worst = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "points"
        x.numpy().tofile(path)
        mapped = np.memmap(path, dtype=np.float64, mode="r", shape=tuple(x.shape))
        for covariance_type in TYPES:
            structure = covariance_structure(covariance_type)
            results = []
            for given in (x, x.split(999), mapped):
                points = as_points(given)
                first = start(points, 10, structure, random_state=np.random.RandomState(0))
                results.append(fit_em(points, first, tol=0.0, max_iter=20).parameters)
            worst[covariance_type] = max(
                float((getattr(other, name) - getattr(results[0], name)).abs().max())
                for other in results[1:]
                for name in ("weights", "means", "covariances")
            )
    return {"passed": max(worst.values()) <= 1e-10, **worst}
