"""Fits in threads: the results of sequential fits, without effects on the process's state."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import arviz
import joblib
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from latentmix.experiments.data.splits import held_out_fifth
from latentmix.experiments.figures.arviz_figures import arviz_style
from latentmix.experiments.runs.metrics import classification
from latentmix.experiments.runs.projections import project
from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import (
    BayesianGaussianMixture,
    GaussianMixture,
    evaluate,
    ex_post_prior,
    fit,
    latent_statistics,
    log_likelihood,
    to_datatree,
)
from latentmix.inference.datatree import obstacle
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.analysis.modes import modes
from latentmix.inference.mixtures.analysis.psis import leave_one_out
from latentmix.inference.mixtures.analysis.standard_errors import standard_errors
from latentmix.inference.mixtures.nuts.fit import NUTS
from latentmix.inference.mixtures.svi.fit import SVI
from latentmix.models import VAE, Bernoulli, MixturePrior, MLPDecoder, StandardNormal, process_state
from latentmix.models.process_state import kept_warnings

from tests.inference.process import differences, plane, snapshot

SHAPE = (1, 4, 4)
FRAME, LABELS = pd.DataFrame(plane().numpy()), pd.Series([0, 1] * 20, dtype="Int64")
WEIGHTS = [pd.Series([1.0] * 20, dtype="Float64")] * 2
POINTS = (FRAME, FRAME.astype(object), plane().tolist(), list(zip(np.split(plane().numpy(), 2), WEIGHTS, strict=True)))


def model(x: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("data", 40, subsample=x):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def guide(x: Tensor) -> None:
    pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))


def vae(seed: int) -> tuple[VAE, AmortizedGuide, Tensor]:
    with isolated(seed=seed):
        decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=SHAPE)
        encoder = MLPEncoder(latent_dim=2, hidden=(8,), shape=SHAPE)
        return VAE(decoder, StandardNormal(2), Bernoulli()), AmortizedGuide(encoder), torch.rand(24, *SHAPE).round()


def mixture(seed: int, **options: Any) -> Any:
    return GaussianMixture(2, random_state=seed, **options).fit(plane()).means_.tolist()


def trained(seed: int) -> Any:
    parts, q, images = vae(seed)
    result = fit(parts.model, q, images, epochs=3, batch_size=8, validation=images, seed=seed)
    return result.losses, result.validation_losses, [leaf.tolist() for leaf in parts.parameters()]


def predicted(seed: int) -> Any:
    result = fit(model, guide, torch.linspace(0, 1, 40) + seed, epochs=3, batch_size=8, seed=seed)
    return result.predict(model, guide, torch.zeros(40), num_samples=5, seed=seed)["loc"].tolist()


def measured(seed: int) -> Any:
    parts, q, images = vae(seed)
    bound = evaluate(parts.model, q, images, batch_size=8, seed=seed)
    density = log_likelihood(parts, q, images, 20, seed=seed).tolist()
    return bound, density, latent_statistics(parts, q, images, seed=seed).rate


def drawn(seed: int) -> Any:
    parts, q, images = vae(seed)
    prior = ex_post_prior(GaussianMixture(2, reg_covar=1e-3), parts, q, images, seed=seed)
    frozen = MixturePrior.from_parameters(GaussianMixture(2, random_state=seed).fit(plane()).parameters_)
    values = [parts.generate(3, seed=seed), q.draw(images, seed=seed), prior().mean, frozen().mean]
    return [value.tolist() for value in values]


def inspected(seed: int) -> Any:
    """Draws by NUTS as a table, a tree and a picture, and what checks say of them."""
    mixture = GaussianMixture(2, inference=NUTS(draws=6, warmup=6, chains=2), random_state=seed)
    tree = to_datatree(mixture.fit(plane()), X=plane())
    values = np.random.RandomState(seed).randn(2, 50, 5)
    with arviz_style():
        panels = len(arviz.plot_rank(tree, var_names=["weights"]).viz["figure"].item().axes)
    return mixture.posterior_.table(), panels, obstacle(tree, "loo"), leave_one_out(values).pareto_k.tolist()


# What isolates, or draws, by name: from a seed to plain numbers.
WORK: dict[str, Callable[[int], Any]] = {
    "SVI of a mixture": lambda seed: mixture(seed, inference="svi"),
    "SVI of a mixture with a density": lambda seed: (
        GaussianMixture(2, inference=SVI(guide=AutoNormal, epochs=10), random_state=seed)
        .fit(plane())
        .posterior_.sites["means"]
        .tolist()
    ),
    "NUTS": lambda seed: mixture(seed, inference=NUTS(draws=6, warmup=6, chains=2)),
    "EM": mixture,
    "Bayesian": lambda seed: BayesianGaussianMixture(n_components=2, random_state=seed).fit(plane()).means_.tolist(),
    "fit": trained,
    "predict": predicted,
    "evaluate and log-likelihood": measured,
    "draws and priors": drawn,
    "standard errors": lambda seed: standard_errors(
        GaussianMixture(2, random_state=seed).fit(plane()), plane(), method="bootstrap", n_bootstrap=3
    ).means.tolist(),
    "modes": lambda seed: modes(plane(), 2, n_starts=3, random_state=seed).n_best,
    "data frames and lists": lambda seed: [
        GaussianMixture(2, random_state=seed).fit(points, **given).means_.tolist()
        for points, given in (*((points, {}) for points in POINTS), (FRAME, {"labels": LABELS}))
    ],
    "draws for ArviZ": inspected,
    "classification": lambda seed: classification(*np.random.RandomState(seed).randint(3, size=(3, 20)), range(3)),
    "splits": lambda seed: [rows.tolist() for rows in held_out_fifth(torch.arange(40) % 2, 40, seed)],
    "projections": lambda seed: project(np.random.RandomState(seed).randn(20, 3), seed=seed).points["t-SNE"].tolist(),
}


def in_threads(work: Callable[[int], Any], seeds: list[int]) -> list[Any]:
    """Results of threads that start together."""
    barrier = threading.Barrier(len(seeds))

    def run(seed: int) -> Any:
        barrier.wait()
        return work(seed)

    with ThreadPoolExecutor(len(seeds)) as threads:
        return list(threads.map(run, seeds))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WORK)
def test_threads_give_the_results_of_sequential_fits(name: str) -> None:
    pyro.param("mine", torch.tensor(3.0))
    before, seeds = snapshot(), [0, 1, 2]
    in_turn = [WORK[name](seed) for seed in seeds]
    assert in_threads(WORK[name], seeds) == in_turn
    assert differences(before, snapshot()) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WORK)
def test_filters_of_warnings_are_changed_by_one_thread_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the libraries that are called: what a race would leave behind shows rarely, the lack of a lock always."""
    WORK[name](0)  # imports what is imported on use
    enter, lock = warnings.catch_warnings.__enter__, process_state._filters._lock
    unguarded = []

    def entered(block: Any) -> Any:
        if not lock._is_owned():
            unguarded.append("".join(traceback.format_stack(limit=9)[:-1]))
        return enter(block)

    monkeypatch.setattr(warnings.catch_warnings, "__enter__", entered)
    WORK[name](1)
    assert unguarded == []


@pytest.mark.filterwarnings("ignore")
def test_chains_of_a_fit_in_a_thread_wait_for_no_other_thread() -> None:
    nuts = {"draws": 4, "warmup": 4, "chains": 2}
    jobs = (joblib.delayed(mixture)(seed, inference=NUTS(**nuts, processes=2)) for seed in (0, 1))
    assert joblib.Parallel(2, prefer="threads")(jobs) == [mixture(seed, inference=NUTS(**nuts)) for seed in (0, 1)]


@pytest.mark.filterwarnings("ignore")
def test_different_work_in_threads() -> None:
    names = ["fit", "SVI of a mixture", "draws and priors", "predict", "evaluate and log-likelihood"]
    in_turn = [WORK[name](0) for name in names]
    before = snapshot()
    assert in_threads(lambda index: WORK[names[index]](0), list(range(len(names)))) == in_turn
    assert differences(before, snapshot()) == []


def test_a_failed_fit_releases_the_lock() -> None:
    def work(seed: int) -> Any:
        if seed == 0:
            with pytest.raises(ValueError, match="Expected"):
                fit(model, guide, torch.full((40,), torch.nan), epochs=2, seed=0)
            return None
        return predicted(seed)

    before = snapshot()
    assert in_threads(work, [0, 1, 0, 2]) == [None, predicted(1), None, predicted(2)]
    assert differences(before, snapshot()) == []


def test_a_thread_keeps_its_own_gradient_modes() -> None:
    seen = {}

    def work(seed: int) -> None:
        with torch.inference_mode() if seed else torch.no_grad():
            predicted(seed)
            seen[seed] = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    in_threads(work, [0, 1])
    assert seen == {0: (False, False), 1: (False, True)}
    assert torch.is_grad_enabled()


def test_handlers_of_the_caller_are_kept() -> None:
    with poutine.block() as handler:
        expected = [predicted(seed) for seed in (0, 1)]
        assert in_threads(predicted, [0, 1]) == expected
        assert [handler] == _PYRO_STACK


def test_one_thread_at_a_time_in_an_isolated_block() -> None:
    inside: list[int] = []

    def work(seed: int) -> bool:
        with isolated(seed=seed), isolated():
            inside.append(seed)
            alone = len(inside) == 1
            threading.Event().wait(0.01)
            inside.remove(seed)
            return alone

    assert in_threads(work, list(range(4))) == [True] * 4


def test_filters_of_warnings_survive_threads() -> None:
    def work(seed: int) -> list[str]:
        with kept_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.warn(str(seed), stacklevel=1)
            threading.Event().wait(0.01)
        return [str(warning.message) for warning in caught]

    before = list(warnings.filters)
    assert in_threads(work, list(range(4))) == [["0"], ["1"], ["2"], ["3"]]
    assert warnings.filters == before


def _forked(expected: Any, before: dict[str, Any]) -> None:
    """Exit with 0 if a fit works and Pyro's state is the one outside the other thread's block."""
    after = snapshot()
    same = all(before[name] == after[name] for name in ("pyro settings", "parameters", "handlers", "validation"))
    os._exit(0 if same and predicted(0) == expected else 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("holder", ["another thread", "this thread", "nobody"])
def test_fits_work_in_a_process_forked_during_a_fit(holder: str) -> None:
    expected = predicted(0)
    pyro.param("mine", torch.tensor(3.0))
    before, entered, done = snapshot(), threading.Event(), threading.Event()

    def hold() -> None:
        with isolated(seed=1, validation=False), poutine.block():
            pyro.param("inner", torch.tensor(1.0))
            entered.set()
            done.wait(60)

    def child() -> int | None:
        process = multiprocessing.get_context("fork").Process(target=_forked, args=(expected, before))
        process.start()
        process.join(30)
        if process.is_alive():
            process.kill()
        return process.exitcode

    thread = threading.Thread(target=hold, daemon=True)
    if holder == "another thread":
        thread.start()
        entered.wait(60)
    try:
        if holder == "this thread":
            with isolated(params=pyro.get_param_store().get_state()):
                assert child() == 0
        else:
            assert child() == 0
    finally:
        done.set()
    if holder == "another thread":
        thread.join(60)
    assert predicted(0) == expected
    assert differences(before, snapshot()) == []


def test_numpy_seed_is_drawn_outside_of_another_threads_block() -> None:
    """A fit with random_state=None neither changes an isolated block nor is seeded by it."""
    entered, drawn_at = threading.Event(), []

    def hold() -> float:
        with isolated(seed=1):
            entered.set()
            threading.Event().wait(0.1)
            drawn_at.append("inside")
            return float(np.random.rand())

    def draw() -> None:
        entered.wait(10)
        GaussianMixture(2).fit(plane())
        drawn_at.append("outside")

    with isolated(seed=1):
        expected = float(np.random.rand())
    with ThreadPoolExecutor(2) as threads:
        held, other = threads.submit(hold), threads.submit(draw)
        other.result()
        assert held.result() == expected
    assert drawn_at == ["inside", "outside"]
