"""Figures of two versions of LatentMix, set side by side.

    python tests/verify/comparison.py measure OLD.json      # in an environment that imports the earlier version
    python tests/verify/comparison.py measure NEW.json
    python tests/verify/comparison.py compare OLD.json NEW.json

`measure` trains every preset for an epoch, runs the demo and a sweep of twelve cells, and fits mixtures of every
covariance type by every algorithm to fixed points. `compare` prints the greatest relative difference of each group, and
exits with 1 where a figure of training differs in its last digit, one of EM or SVI by more than 1e-9, or one of NUTS by
more than five Monte Carlo standard errors. Data that are not on the machine are left out and named.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

TYPES: tuple[Any, ...] = ("full", "tied", "diag", "spherical")
TIMES = ("seconds", "versions", "time")  # and what depends on the machine alone
EXACT, CLOSE, MONTE_CARLO = 0.0, 1e-9, 5.0
DISTANCE = 1e-7  # between fits that agree: differences of figures that are themselves within CLOSE


def measure(only: str | None = None) -> dict[str, Any]:
    """All figures of the version that is imported."""
    torch.set_num_threads(1)
    groups = {"presets": presets, "demo": demo, "sweep": sweep, "mixtures": mixtures, "draws": draws}
    return {name: group() for name, group in groups.items() if only in (None, name)}


def presets() -> dict[str, Any]:
    """Every preset for one epoch: losses, bounds, and mixtures by a few steps."""
    words = ["--epochs", "1", "--mixture.n_init", "2", "--mixture.draws", "1", epochs_option(), "20"]
    small = ("digits", "digits_mlp2", "gmm3d")
    large = ("mnist_mlp2", "mnist_mlp40", "mnist_conv16", "mnist_conv64", "celeba", "natural_patches")
    figures = {name: run([name, *words]) for name in small}
    return figures | {name: run([name, *words, "--data.limit", "1000"]) for name in large}


def demo() -> dict[str, Any]:
    """The two runs of `make demo`."""
    return {
        "digits": run(["digits"]),
        "digits_mlp2": run(["digits_mlp2", "--epochs", "60", "--mixture.draws", "3"]),
    }


def sweep() -> dict[str, Any]:
    """Twelve cells of a sweep."""
    words = ["--epochs", "1", "--mixture.n_init", "1", "--mixture.draws", "1", epochs_option(), "10"]
    grid = ["--grid", "prior=StandardNormal,MixturePrior(3),VampPrior(5)"]
    grid += ["--grid", "likelihood=Bernoulli,ContinuousBernoulli", "--grid", "family=DiagonalNormal,FullNormal"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sweep"
        failure = command(["sweep", "digits_mlp2", *words, *grid, "--out", str(out)])
        if failure:
            return {"left out": failure}
        results: dict[str, Any] = json.loads((out / "sweep.json").read_text())
    cells = [{name: value for name, value in cell.items() if name != "id"} for cell in results["cells"]]
    return {"cells": untimed(cells)}  # their names, and the options, are those of a version


def mixtures() -> dict[str, Any]:
    """EM, SVI, and variational Bayes of fixed points."""
    from latentmix.inference import BayesianGaussianMixture, GaussianMixture

    x, noise = points(), np.random.RandomState(1).uniform(0.01, 0.3, (600, 3))
    holes = np.where(np.random.RandomState(2).uniform(size=x.shape) < 0.1, np.nan, x)
    weight = np.random.RandomState(3).uniform(0.5, 2.0, len(x))
    figures: dict[str, Any] = {}
    for covariance_type in TYPES:
        fits: dict[str, Any]
        options: dict[str, Any] = {"covariance_type": covariance_type, "random_state": 0, "tol": 1e-8, "max_iter": 300}
        fits = {
            "em": lambda options=options: GaussianMixture(4, **options).fit(x),
            "em, weights": lambda options=options: GaussianMixture(4, **options).fit(x, sample_weight=weight),
            "em, missing": lambda options=options: GaussianMixture(4, missing="marginalize", **options).fit(holes),
            "em, noise": lambda options=options: GaussianMixture(4, **options).fit(x, noise_covariance=noise),
            "em, batches": lambda options=options: GaussianMixture(4, **options).fit(np.array_split(x, 7)),
            "em, float32": lambda options=options: GaussianMixture(4, **options).fit(x.astype(np.float32)),
            "svi": lambda options=options: GaussianMixture(4, inference="svi", **options).fit(x),
            "bayesian": lambda options=options: BayesianGaussianMixture(n_components=4, **options).fit(x),
        }
        for name, fit in fits.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mixture = fit()
            own = holes if "missing" in name else x
            figures[f"{name}, {covariance_type}"] = {
                "lower_bounds": [float(bound) for bound in mixture.lower_bounds_],
                "weights": np.asarray(mixture.weights_).tolist(),
                "means": np.asarray(mixture.means_).tolist(),
                "covariances": np.asarray(mixture.covariances_).tolist(),
                "score": float(mixture.score(own)),
            }
    return figures


def draws() -> dict[str, Any]:
    """Posterior means by NUTS, with their Monte Carlo standard errors."""
    from latentmix.inference import GaussianMixture

    figures: dict[str, Any] = {}
    for covariance_type in TYPES:
        mixture = GaussianMixture(2, covariance_type=covariance_type, random_state=0, **nuts_options(300, 200))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mixture.fit(points()[:150])
        posterior = mixture.posterior_
        for name in ("weights", "means"):
            order = posterior.sites["means"].mean((0, 1))[:, 0].argsort()  # labels are arbitrary
            values, ess = posterior.sites[name][:, :, order], posterior.ess()[name][order.numpy()]
            error = values.std((0, 1)).numpy() / np.sqrt(ess)
            figures[f"{name}, {covariance_type}"] = {
                "mean": values.mean((0, 1)).flatten().tolist(),
                "error": error.ravel().tolist(),
            }
    return figures


def points() -> np.ndarray[Any, np.dtype[np.float64]]:
    """600 points of four Gaussians in three dimensions, of different scales."""
    state = np.random.RandomState(0)
    centres, shapes = 4 * state.normal(size=(4, 3)), state.normal(size=(4, 3, 3))
    x = np.concatenate([state.normal(size=(150, 3)) @ shapes[k] + centres[k] for k in range(4)])
    return np.asarray(x[state.permutation(600)] * (1.0, 30.0, 0.01))


def nuts_options(draws: int, warmup: int) -> dict[str, Any]:
    """Options for NUTS: an object, or words of versions before 0.2."""
    try:
        from latentmix.inference import NUTS
    except ImportError:
        return {"inference": "nuts", "nuts_chains": 2, "nuts_draws": draws, "nuts_warmup": warmup}
    return {"inference": NUTS(chains=2, draws=draws, warmup=warmup)}


def epochs_option() -> str:
    """The option for SVI's epochs."""
    import latentmix.inference

    return "--mixture.svi.epochs" if hasattr(latentmix.inference, "SVI") else "--mixture.svi_steps"


def run(words: list[str]) -> dict[str, Any]:
    """Metrics and summary of a run, without its times."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        failure = command(["run", *words, "--out", str(out)])
        if failure:
            return {"left out": failure}
        history = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return untimed({"history": history, "summary": json.loads((out / "summary.json").read_text())})


def command(words: list[str]) -> str:
    """Run a command; gives its complaint where it fails."""
    from latentmix.experiments.cli import main

    print(f"latentmix {' '.join(words)}", file=sys.stderr, flush=True)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    return errors.getvalue().strip().splitlines()[-1] if code else ""


def untimed(node: Any) -> Any:
    """Nested figures without times and versions."""
    if isinstance(node, dict):
        return {key: untimed(value) for key, value in node.items() if not any(word in key for word in TIMES)}
    return [untimed(value) for value in node] if isinstance(node, list) else node


def leaves(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """All values with their places."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{where}/{key}")
    else:
        yield where, node


def difference(first: Any, second: Any) -> float:
    """Relative difference of numbers; infinite where other values differ."""
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second)]
    if first == second or (all(numbers) and math.isnan(first) and math.isnan(second)):
        return 0.0
    if not all(numbers):
        return math.inf
    return abs(first - second) / max(abs(first), abs(second), 1e-12)


def compare(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Print what differs; whether all is within its tolerance."""
    good = True
    for group in old:
        before, after = dict(leaves(old[group])), dict(leaves(new[group]))
        missing = sorted(before.keys() ^ after.keys())
        rows = []
        for where in before.keys() & after.keys():
            size = difference(before[where], after[where])
            fitted = group == "mixtures" or "/mixtures/" in where or "/coverage" in where
            if "/agreement/" in where and isinstance(before[where], float):
                rows.append((abs(before[where] - after[where]), where, DISTANCE))
            else:
                rows.append((size, where, CLOSE if fitted else EXACT))
        if group == "draws":
            rows = monte_carlo(old[group], new[group])
        worst = sorted((row for row in rows if row[0] > row[2]), reverse=True)
        greatest = max((row[0] for row in rows), default=0.0)
        unequal = sum(row[0] > 0 for row in rows)
        print(
            f"{group}: {len(rows)} figures, {unequal} not equal, greatest difference {greatest:.2g}, "
            f"{len(worst)} beyond tolerance, {len(missing)} in one version alone"
        )
        for size, where, _ in worst[:10]:
            print(f"    {size:.3g} {where}: {before.get(where)} {after.get(where)}")
        for where in missing[:10]:
            print(f"    alone: {where}")
        good = good and not worst and not missing
    return good


def monte_carlo(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[float, str, float]]:
    """Differences of posterior means in standard errors of their difference."""
    rows = []
    for name, before in old.items():
        errors = np.hypot(before["error"], new[name]["error"])
        sizes = np.abs(np.subtract(before["mean"], new[name]["mean"])) / np.maximum(errors, 1e-300)
        rows += [(float(size), f"{name}/{index}", MONTE_CARLO) for index, size in enumerate(sizes)]
    return rows


def main() -> int:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("out", type=Path)
    measuring.add_argument("--only", help="one group")
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    options = parser.parse_args()
    if options.command == "measure":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        options.out.write_text(json.dumps(measure(options.only)))
        return 0
    return 0 if compare(*(json.loads(path.read_text()) for path in (options.old, options.new))) else 1


if __name__ == "__main__":
    sys.exit(main())
