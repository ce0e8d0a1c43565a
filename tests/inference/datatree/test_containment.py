"""Conversion leaves random states, parameters, flags and modules as they were, also after an error and in threads."""

from __future__ import annotations

import random
import threading
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
from latentmix.inference.datatree import Draws

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


def test_a_model_that_has_its_plates_in_full_is_not_scaled():
    tree = from_pyro_svi(model, lambda x: pyro.sample("mu", dist.Normal(0.0, 1.0)), model_args=(X,), num_samples=3)
    log_joint = tree.log_likelihood["x"].sum("datum") + tree.log_prior["mu"]
    np.testing.assert_allclose(tree.sample_stats["log_p"], log_joint, rtol=1e-5)
