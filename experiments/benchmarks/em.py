"""The speed of EM, beside scikit-learn, pomegranate and torchgmm: one process, one start, as many iterations."""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from latentmix.inference import GaussianMixture
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.em.density import log_joint
from latentmix.models.mixture.covariances import CovarianceType, covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["OURS", "SIZES", "Contestant", "EMSpeed", "em_speed", "table"]

OURS = "latentmix"
SIZES = ((60_000, 20, 10), (200_000, 10, 50), (1_000_000, 8, 10))

Fit = Callable[[NDArray[Any], MixtureParameters, int], MixtureParameters]


@dataclass(frozen=True)
class Contestant:
    """What one library was measured at.

    Attributes:
        seconds: Per iteration, the start excluded.
        ratio: `seconds` in units of ours.
        memory: Greatest growth of resident memory during a fit, in MiB; NaN where the system does not tell.
        log_likelihood: Mean log-likelihood of the data after all iterations, nats per datum.
    """

    seconds: float
    ratio: float
    memory: float
    log_likelihood: float


@dataclass(frozen=True)
class EMSpeed:
    """EM on one set of points.

    Attributes:
        size: Points, features and components.
        covariance_type: What the covariances share.
        dtype: Of the points.
        threads: Of every library.
        load: Processes that waited for a core before, on average over a minute.
        turns: Times that each was measured.
        contestants: By the name of the library.
        missing: Why a library was not measured, by its name.
    """

    size: tuple[int, int, int]
    covariance_type: CovarianceType
    dtype: str
    threads: int
    load: float
    turns: int
    contestants: dict[str, Contestant]
    missing: dict[str, str]


def em_speed(
    *,
    sizes: Sequence[tuple[int, int, int]] = SIZES,
    covariance_types: Sequence[CovarianceType] = ("full",),
    iterations: int = 5,
    repeats: int = 3,
    seconds: float = 20.0,
    dtype: str = "float64",
    threads: int | None = None,
    report: Callable[[str], None] | None = None,
) -> Iterator[EMSpeed]:
    """Measure EM without a floor on the covariances, from points as means and the data's own variances.

    An iteration costs the difference between a fit of `iterations + 1` and one of a single iteration, medians of
    both, by the number of iterations between them. The libraries take turns. Array API mode needs SCIPY_ARRAY_API=1 in
    the environment before SciPy is imported.

    Args:
        sizes: Points, features and components of each comparison.
        covariance_types: What the covariances share.
        iterations: Iterations that are timed.
        repeats: Times that each is measured at least, after one fit whose memory is measured.
        seconds: Time for which each comparison is repeated at least: medians of a few short fits are noise.
        dtype: "float64" or "float32".
        threads: Threads of every library; by default as torch has.
        report: Called with a line on each step: what is measured now, of how much.

    Yields:
        One comparison per size and covariance type.

    Raises:
        ValueError: A number below one, fewer points than components, or an unknown dtype or covariance type.
    """
    counts = [*(number for size in sizes for number in size), iterations, repeats, 1 if threads is None else threads]
    if min(counts) < 1:
        raise ValueError(f"Expected sizes, iterations, repeats and threads of at least 1; got {min(counts)}.")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"Expected seconds finite and not negative; got {seconds}.")
    if dtype not in ("float64", "float32"):
        raise ValueError(f"Expected dtype float64 or float32; got {dtype!r}.")
    for covariance_type in covariance_types:
        if covariance_type not in get_args(CovarianceType):
            raise ValueError(
                f"Expected covariance_type in {sorted(get_args(CovarianceType))}; got {covariance_type!r}."
            )
    for count, _, n_components in sizes:
        if count < n_components:
            raise ValueError(f"Expected as many points as components at least; got {count} for {n_components}.")
    number = torch.get_num_threads() if threads is None else threads
    done, total = 0, len(sizes) * len(covariance_types)
    for size in sizes:
        x = _points(*size).astype(dtype)
        for covariance_type in covariance_types:
            done += 1
            named = f"[{done}/{total}] {size[0]:,} x {size[1]}, {size[2]} components, {covariance_type}"

            def tell(step: str, named: str = named) -> None:
                if report is not None:
                    report(f"{named}: {step}")

            with _quiet(number):
                found = _compare(x, size, covariance_type, iterations, repeats, seconds, number, tell)
            yield found


def table(row: EMSpeed) -> str:
    """A comparison in lines of text."""
    count, n_features, n_components = row.size
    lines = [
        f"{count:,} x {n_features}, {n_components} components, {row.covariance_type}, {row.dtype}, "
        f"{row.threads} threads, load {row.load:.1f}, {row.turns} turns",
        f"{'':26}{'s/iteration':>12}{'ratio':>8}{'MiB':>8}  mean log-likelihood",
    ]
    lines += [
        f"  {name:24}{one.seconds:12.4f}{one.ratio:8.2f}{one.memory:8.0f}  {one.log_likelihood:.14g}"
        for name, one in row.contestants.items()
    ]
    return "\n".join([*lines, *(f"  {name}: {reason}" for name, reason in row.missing.items())])


def _compare(
    x: NDArray[Any],
    size: tuple[int, int, int],
    covariance_type: CovarianceType,
    iterations: int,
    repeats: int,
    least: float,
    threads: int,
    tell: Callable[[str], None],
) -> EMSpeed:
    load = os.getloadavg()[0]
    start = _start(x, size[2], covariance_type)
    fits, missing = _contestants(covariance_type, x.dtype)
    memory: dict[str, float] = {}
    found: dict[str, float] = {}
    for name in list(fits):
        tell(f"memory of {name}")
        try:
            fits[name](x, start, 1)  # what it imports and sets up is no part of the comparison
            fitted, memory[name] = _grown(partial(fits[name], x, start, iterations + 1))
        except Exception as error:
            if name == OURS:
                raise
            missing[name] = f"failed: {error}".splitlines()[0]
            del fits[name]
            continue
        found[name] = _log_likelihood(x, fitted)
    seconds: dict[tuple[str, int], list[float]] = {}
    turn, began = 0, time.perf_counter()
    while turn < repeats or time.perf_counter() - began < least:
        turn += 1
        tell(f"times of all, turn {turn} ({repeats} at least)")
        for name, fit in fits.items():
            for number in (1, iterations + 1):
                seconds.setdefault((name, number), []).append(_seconds(fit, x, start, number))
    medians = {}
    for name in fits:
        one, more = (statistics.median(seconds[name, number]) for number in (1, iterations + 1))
        medians[name] = (more - one) / iterations if more > one else more / (iterations + 1)
    contestants = {
        name: Contestant(median, median / medians[OURS], memory[name], found[name]) for name, median in medians.items()
    }
    return EMSpeed(size, covariance_type, str(x.dtype), threads, load, turn, contestants, missing)


def _points(count: int, n_features: int, n_components: int) -> NDArray[np.float64]:
    """Overlapping clusters of different shapes."""
    random = np.random.default_rng(0)
    means = 3 * random.standard_normal((n_components, n_features))
    factors = np.eye(n_features) + 0.3 * random.standard_normal((n_components, n_features, n_features)) / n_features
    chosen = random.integers(n_components, size=count)
    x = random.standard_normal((count, n_features))
    for k in range(n_components):
        rows = chosen == k
        x[rows] = x[rows] @ factors[k].T + means[k]
    return x


def _start(x: NDArray[Any], n_components: int, covariance_type: CovarianceType) -> MixtureParameters:
    """Points of the data as means, and the variances of the data."""
    structure = covariance_structure(covariance_type)
    rows = np.random.default_rng(1).choice(len(x), n_components, replace=False)
    means = torch.from_numpy(x[rows]).double()
    variance = torch.from_numpy(x.var(0, dtype=np.float64))
    shape = structure.covariance_shape(*means.shape)
    covariances = structure.regularize(torch.zeros(shape, dtype=torch.float64), variance)
    weights = torch.full((n_components,), 1 / n_components, dtype=torch.float64)
    return MixtureParameters(weights, means, covariances, structure)


def _contestants(covariance_type: CovarianceType, dtype: np.dtype[Any]) -> tuple[dict[str, Fit], dict[str, str]]:
    fits: dict[str, Fit] = {OURS: _ours, "scikit-learn": _scikit_learn}
    missing = {}
    try:
        with sklearn.config_context(array_api_dispatch=True):
            fits["scikit-learn, array API"] = _scikit_learn_array_api
    except (RuntimeError, ImportError):
        missing["scikit-learn, array API"] = "set SCIPY_ARRAY_API=1 before SciPy is imported"
    for name, fit in (("pomegranate", _pomegranate), ("torchgmm", _torchgmm)):
        if find_spec(name) is None:
            missing[name] = "not installed: pip install 'latentmix[bench]'"
        elif name == "pomegranate" and covariance_type == "tied":
            missing[name] = "has no tied covariances"
        else:
            fits[name] = fit
    return fits, missing


def _ours(x: NDArray[Any], start: MixtureParameters, iterations: int) -> MixtureParameters:
    return GaussianMixture(len(start.weights), **_given(x, start, iterations, np.asarray)).fit(x).parameters_


def _scikit_learn(x: NDArray[Any], start: MixtureParameters, iterations: int) -> MixtureParameters:
    from sklearn.mixture import GaussianMixture as Theirs

    mixture = Theirs(len(start.weights), **_given(x, start, iterations, np.asarray)).fit(x)
    return _parameters(mixture.weights_, mixture.means_, mixture.covariances_, start)


def _scikit_learn_array_api(x: NDArray[Any], start: MixtureParameters, iterations: int) -> MixtureParameters:
    from sklearn.mixture import GaussianMixture as Theirs

    with sklearn.config_context(array_api_dispatch=True):
        given = _given(x, start, iterations, torch.as_tensor)
        mixture = Theirs(len(start.weights), **given).fit(torch.from_numpy(x))
    return _parameters(mixture.weights_, mixture.means_, mixture.covariances_, start)


def _pomegranate(x: NDArray[Any], start: MixtureParameters, iterations: int) -> MixtureParameters:
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    like = torch.from_numpy(x[:0])
    kind = "sphere" if start.structure.isotropic else start.structure.name
    covariances = start.covariances
    if start.structure.isotropic:
        covariances = covariances[:, None].expand_as(start.means)
    components = [
        Normal(mean.clone(), covariance.clone(), covariance_type=kind, check_data=False)  # it writes into what it gets
        for mean, covariance in zip(start.means.to(like), covariances.to(like), strict=True)
    ]
    model = GeneralMixtureModel(
        components, priors=start.weights.to(like, copy=True), max_iter=iterations, tol=-math.inf, check_data=False
    )
    model.fit(torch.from_numpy(x))
    covariances = torch.stack([component.covs.detach() for component in model.distributions])
    means = torch.stack([component.means.detach() for component in model.distributions])
    covariances = covariances.mean(1) if start.structure.isotropic else covariances
    return _parameters(model.priors.detach(), means, covariances, start)


def _torchgmm(x: NDArray[Any], start: MixtureParameters, iterations: int) -> MixtureParameters:
    from torchgmm.base.data import DataLoader, collate_tensor, dataset_from_tensors
    from torchgmm.bayes import GaussianMixture as Estimator
    from torchgmm.bayes.gmm.lightning_module import GaussianMixtureLightningModule
    from torchgmm.bayes.gmm.model import GaussianMixtureModel, GaussianMixtureModelConfig

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    data = torch.from_numpy(x)
    precision = "64-true" if data.dtype == torch.float64 else "32-true"
    model = GaussianMixtureModel(GaussianMixtureModelConfig(*start.means.shape, start.structure.name)).to(data.dtype)
    model.component_probs.copy_(start.weights)
    model.means.copy_(start.means)
    model.precisions_cholesky.copy_(start.precisions_cholesky)
    module = GaussianMixtureLightningModule(model, convergence_tolerance=0.0, covariance_regularization=0.0)
    for part in (module.prior_aggregator, module.mean_aggregator, module.covar_aggregator, module.metric_nll):
        part.set_dtype(data.dtype)
    loader = DataLoader(dataset_from_tensors(data), batch_size=len(data), collate_fn=collate_tensor)
    trainer = Estimator(trainer_params={"precision": precision, "accelerator": "cpu"}).trainer(
        max_epochs=iterations, enable_progress_bar=False
    )
    trainer.fit(module, loader)
    return _parameters(model.component_probs, model.means, model.covariances, start)


def _given(x: NDArray[Any], start: MixtureParameters, iterations: int, kind: Callable[[Any], Any]) -> dict[str, Any]:
    """Options of scikit-learn's and our estimator."""
    precisions = start.structure.precisions(start.precisions_cholesky)
    values = {"weights_init": start.weights, "means_init": start.means, "precisions_init": precisions}
    return {
        "covariance_type": start.structure.name,
        "tol": 0.0,
        "reg_covar": 0.0,
        "max_iter": iterations,
        "init_params": "random",
        "random_state": 0,
        **{name: kind(value.numpy().astype(x.dtype)) for name, value in values.items()},
    }


def _parameters(weights: Any, means: Any, covariances: Any, start: MixtureParameters) -> MixtureParameters:
    weights, means, covariances = (torch.as_tensor(part).detach().double() for part in (weights, means, covariances))
    return MixtureParameters(weights, means, covariances, start.structure)


def _log_likelihood(x: NDArray[Any], parameters: MixtureParameters) -> float:
    weights = parameters.weights / parameters.weights.sum()
    parameters = MixtureParameters(weights, parameters.means, parameters.covariances, parameters.structure)
    parts: list[Tensor] = [log_joint(part, parameters).logsumexp(1).sum() for part in torch.from_numpy(x).split(10_000)]
    return float(torch.stack(parts).sum() / len(x))


def _seconds(fit: Fit, x: NDArray[Any], start: MixtureParameters, iterations: int) -> float:
    begin = time.perf_counter()
    fit(x, start, iterations)
    return time.perf_counter() - begin


def _grown[T](call: Callable[[], T]) -> tuple[T, float]:
    """What the call returns, and the greatest growth of resident memory during it in MiB, as Linux counts it."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or freed memory that the allocator kept would hide the growth
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, AttributeError):
        return call(), math.nan
    result = call()
    return result, (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """A figure of the process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """A block with that many threads everywhere, without warnings, that leaves nothing behind."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with isolated(seed=0), threadpool_limits(threads), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)
