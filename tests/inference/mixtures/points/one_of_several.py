"""One of the processes of a distributed fit: `torchrun --nproc-per-node 2 one_of_several.py FOLDER`.

It reads its part of the points from the folder, and writes its results there under its rank.
"""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist

from latentmix.inference.mixtures.em import initialization as starts
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

TYPES = ("full", "diag", "tied", "spherical")
METHODS = ("kmeans", "k-means++", "random", "random_from_data")
CUT = 70  # process 0 has the rows before it


def fits(points, labels, random_state):
    """Fits that one process and several should agree on; `labels` are those of the process's own rows."""
    with patch.multiple(starts, _SAMPLE=10, _PER_COMPONENT=10):
        return _fits(points, labels, random_state)


def _fits(points, labels, random_state):
    mixtures = {}
    for method in METHODS:
        mixtures[f"start {method}"] = starts.start(
            points, 4, covariance_structure("full"), method=method, random_state=random_state
        )
    mixtures["start labels"] = starts.from_labels(points, labels, 4, covariance_structure("full"))
    for covariance_type in TYPES:
        first = starts.start(points, 4, covariance_structure(covariance_type), random_state=random_state)
        mixtures[f"em {covariance_type}"] = fit_em(points, first, tol=0.0, max_iter=10).parameters
        dead = MixtureParameters(
            first.weights, first.means + 1e4 * torch.eye(4)[2][:, None], first.covariances, first.structure
        )
        mixtures[f"dead {covariance_type}"] = fit_em(points, dead, tol=0.0, max_iter=6).parameters
    return {name: (mixture.weights, mixture.means, mixture.covariances) for name, mixture in mixtures.items()}


def refusals(x, rank):
    """The messages of the errors where only process 1 does anything wrong."""
    bad = x.clone()
    bad[3, 1] = torch.nan
    cases = {
        "features": x[:, : 3 - rank],
        "dtype": x if rank else x.float(),
        "value": bad if rank else x,
        "rows": x[:0] if rank else x,
        "generator": (part for part in [x]) if rank else [x],
    }
    messages = {}
    for name, given in cases.items():
        try:
            as_points(given, distributed=True)
        except ValueError as error:
            messages[name] = str(error)
    labels = torch.arange(len(x)) % 4
    calls = {
        "estimator, one axis": {"X": x[:, 0] if rank else x},
        "estimator, no rows": {"X": x[:0] if rank else x},
        "estimator, value": {"X": bad if rank else x},
        "estimator, labels on one": {"X": x, "labels": labels if rank else None},
        "estimator, labels of text": {"X": x, "labels": ["a"] * len(x) if rank else labels},
    }
    calls |= {"estimator, options": {"X": x}, "estimator, bad option": {"X": x}}
    calls["estimator, noise on one"] = {"X": x, "noise_covariance": np.ones((1, 3)) if rank else None}
    options = {"estimator, options": {"max_iter": 2 + rank}, "estimator, bad option": {"verbose": -rank}}
    for name, call in calls.items():
        try:
            GaussianMixture(4, distributed=True, **options.get(name, {})).fit(**call)
        except ValueError as error:
            messages[name] = str(error)
    fitted = GaussianMixture(4, distributed=True, random_state=0).fit(x)
    fresh = GaussianMixture(4, distributed=True, random_state=0, warm_start=True)
    again = {
        "estimator, warm start on one": (fitted.set_params(warm_start=True) if rank else fresh).fit,
        "estimator, step on one": (fitted if rank else fresh).partial_fit,
        "estimator, score with noise on one": lambda x: fitted.score(
            x, noise_covariance=np.ones((1, 3)) if rank else None
        ),
    }
    for name, call in again.items():
        try:
            call(x)
        except ValueError as error:
            messages[name] = str(error)
    return messages


class Spoiled:
    """Batches that process 1 can no longer read after some passes."""

    def __init__(self, x, passes):
        self.x, self.left = x, passes

    def __iter__(self):
        self.left -= 1
        if self.left < 0 and dist.get_rank() == 1:
            raise ValueError("the file is gone")
        return iter(self.x.split(11))


def spoiled(x):
    """The messages where a reader fails after that many passes."""
    messages = {}
    for passes in range(1, 8):
        try:
            points = as_points(Spoiled(x, passes), distributed=True)
            begin = starts.start(points, 4, covariance_structure("full"), random_state=np.random.RandomState(0))
            dead = MixtureParameters(
                begin.weights, begin.means + 1e4 * torch.eye(4)[2][:, None], begin.covariances, begin.structure
            )
            fit_em(points, dead, tol=0.0, max_iter=4)
        except ValueError as error:
            messages[passes] = str(error)
    return messages


def exchanges(points):
    """The collectives of torch.distributed that reductions of few and of many numbers take, and their sums."""
    called, outcome = [], {}

    def counted(name):
        function = getattr(dist, name)

        def call(*arguments, **options):
            called.append(name)
            return function(*arguments, **options)

        return call

    names = ("all_reduce", "all_gather_object", "broadcast", "broadcast_object_list")
    with patch.multiple(dist, **{name: counted(name) for name in names}):
        for size in (3, 4095, 4096, 10_000):
            total = points.reduce(lambda size=size: torch.arange(size) + float(dist.get_rank()))
            outcome[size] = (bool((total == 2 * torch.arange(size) + 1).all()), list(called))
            called.clear()
        outcome["gather"] = (points.gather(dist.get_rank), list(called))
        called.clear()
        outcome["agree"] = (points.processes.agree(dist.get_rank() == 0), list(called))
    return outcome


def run_two(folder, seconds):
    """Run this file in two processes on the loopback address; end them at the time limit."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launcher, __file__, str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0] + f"\nended after {seconds} seconds"
    if process.returncode:
        raise RuntimeError(output[-3000:])
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    x, weight, labels = torch.load(folder / "points.pt")
    own = slice(0, CUT) if rank == 0 else slice(CUT, None)
    warnings.simplefilter("ignore")
    points = as_points(x[own], weight[own], distributed=True)
    fitted = fits(points, labels[own], np.random.RandomState(rank))
    batches = list(zip(x[own].split(11), weight[own].split(11), strict=True))
    streamed = fits(as_points(batches, distributed=True), labels[own], np.random.RandomState(rank))
    alone = as_points(x[own]).count
    messages = refusals(x[own], rank)
    with patch.multiple(starts, _SAMPLE=10, _PER_COMPONENT=10):
        gone = spoiled(x[own])
    counts = exchanges(points)
    torch.save((fitted, streamed, messages, alone, points.count, gone, counts), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
