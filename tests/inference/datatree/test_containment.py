"""Conversion leaves random states, parameters, flags and modules as they were, also after an error and in threads."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import nn

from latentmix.inference import from_pyro, from_pyro_svi
from latentmix.inference.datatree import Draws, containment
from latentmix.inference.datatree.containment import contained, full_plates
from latentmix.inference.isolation import isolated
from latentmix.models.process_state import exclusive

X = torch.linspace(-1, 1, 6)
network = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))


def model(x, fails=False):
    torch.randn(3), np.random.rand(), random.random()
    pyro.module("network", network)
    mu = pyro.sample("mu", dist.Normal(pyro.param("centre", torch.tensor(0.0)), 1.0))
    if fails:
        raise RuntimeError("fails")
    with pyro.plate("datum", len(x), subsample_size=2) as index:
        pyro.sample("x", dist.Normal(mu + network(x[index, None])[:, 0], 1.0), obs=x[index])


def state():
    store = pyro.get_param_store()
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "parameters": {name: store[name].tolist() for name in store},
        "settings": pyro.settings.get(),
        "gradients": torch.is_grad_enabled(),
        "validation": dist.Normal(0.0, 1.0)._validate_args,
        "modes": [module.training for module in network.modules()],
        "buffers": [buffer.tolist() for buffer in network.buffers()],
        "plates": SubsampleMessenger.__dict__["_subsample"].__func__,
    }


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_it_was(fails):
    network.train()
    pyro.param("own", torch.tensor(2.0))
    before = state()
    draws = Draws({"mu": torch.zeros(1, 3)}, model=model, model_args=(X, fails))
    with pytest.raises(RuntimeError, match=r"^fails") if fails else nullcontext():
        from_pyro(draws)
    assert state() == before


def test_draws_of_a_guide_leave_everything_as_it_was():
    guide = AutoNormal(model)
    guide(X)
    before = state()
    trees = [from_pyro_svi(model, guide, model_args=(X,), num_samples=3, seed=seed) for seed in (1, 1, 2)]
    assert state() == before
    one, same, other = (tree.posterior["mu"].values for tree in trees)
    assert (one == same).all()
    assert (one != other).all()
    np.testing.assert_array_equal(trees[0].log_likelihood["x"], trees[1].log_likelihood["x"])


def test_threads_convert_side_by_side():
    draws = [Draws({"mu": torch.full((1, 3), float(i))}, model=model, model_args=(X,)) for i in range(3)]
    expected = [from_pyro(each).log_likelihood["x"].values for each in draws]
    before, results = state(), {}

    def convert(i):
        results[i] = from_pyro(draws[i]).log_likelihood["x"].values

    threads = [threading.Thread(target=convert, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state() == before
    for i in range(3):
        np.testing.assert_array_equal(results[i], expected[i])


def test_plates_are_restored_when_two_threads_enlarge_them():
    original, inside = SubsampleMessenger._subsample, threading.Event()

    def first():
        with full_plates():
            inside.set()
            time.sleep(0.05)

    def second():
        inside.wait()
        with full_plates():
            pass

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert SubsampleMessenger._subsample is original


def test_one_lock_serves_conversion_and_isolation():
    """An isolated block and a conversion in two threads restore the same random state, whoever ends first."""
    state, running, entered = torch.get_rng_state(), threading.Event(), threading.Event()

    def slow():
        entered.set()
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    def isolate():
        with isolated(seed=1):
            running.set()
            entered.wait(0.2)

    def convert():
        running.wait()
        from_pyro(Draws({"mu": torch.zeros(1, 1)}, model=slow))

    threads = [threading.Thread(target=each) for each in (isolate, convert)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entered.is_set()
    assert torch.equal(torch.get_rng_state(), state)
    assert containment.exclusive is exclusive


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("shared", [True, False], ids=["shared lock", "own lock"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_that_is_forked_meanwhile_can_convert(shared, monkeypatch):
    if not shared:
        monkeypatch.setattr(containment, "exclusive", containment._exclusive)
    inside, done = threading.Event(), threading.Event()

    def hold():
        with contained(None):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        with contained(None), full_plates():
            os._exit(7)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 7


def test_unused_devices_are_not_seeded(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with contained(None, seed=3):
        drawn = torch.randn(3)
    assert seeded == []
    with isolated(seed=0):
        pyro.set_rng_seed(3)
        assert torch.equal(torch.randn(3), drawn)


def test_a_model_that_has_its_plates_in_full_is_not_scaled():
    tree = from_pyro_svi(model, lambda x: pyro.sample("mu", dist.Normal(0.0, 1.0)), model_args=(X,), num_samples=3)
    log_joint = tree.log_likelihood["x"].sum("datum") + tree.log_prior["mu"]
    np.testing.assert_allclose(tree.sample_stats["log_p"], log_joint, rtol=1e-5)
