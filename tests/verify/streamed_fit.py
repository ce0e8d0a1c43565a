"""A fit of points in a mapped file, in a process of its own, that watches its memory.

`python streamed_fit.py FILE ROWS FEATURES COMPONENTS ITERATIONS` prints a line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import start
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.covariances import covariance_structure


def anonymous() -> int:
    """Anonymous memory of this process now, in bytes (`RssAnon`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon")


class Watch(threading.Thread):
    """Records the peak of anonymous memory, every five milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = anonymous()
        self.readings = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.most = max(self.most, anonymous())
            self.readings += 1


def main() -> None:
    path, rows, features, components, iterations = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(1)
    baseline = anonymous()
    watch = Watch()
    watch.start()
    seconds = [time.perf_counter()]
    mapped = np.memmap(path, dtype=np.float32, mode="r", shape=(rows, features))
    points = as_points(mapped)
    seconds.append(time.perf_counter())
    first = start(points, components, covariance_structure("full"), random_state=np.random.RandomState(0))
    seconds.append(time.perf_counter())
    result = fit_em(points, first, tol=0.0, max_iter=iterations)
    seconds.append(time.perf_counter())
    watch.over.set()
    watch.join()
    measure, begin, em = np.diff(seconds)
    figures = {
        "rows": points.count,
        "mebibytes": (watch.most - baseline) / 2**20,
        "readings": watch.readings,
        "seconds_measuring": measure,
        "seconds_start": begin,
        "seconds_per_iteration": em / iterations,
        "lower_bounds": result.lower_bounds,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
