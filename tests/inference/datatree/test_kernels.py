"""Kernels that record each draw: the same draws as Pyro's, with statistics that agree with Pyro's own."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC, MCMC, NUTS
from pyro.ops.integrator import velocity_verlet
from torch.distributions import Normal

from latentmix.inference import RecordingHMC, RecordingNUTS, from_pyro

from tests.inference.datatree.examples import EFFECTS, ERRORS, centred, run

KERNELS = {
    "nuts": (NUTS, RecordingNUTS, {}),
    "slice": (NUTS, RecordingNUTS, {"use_multinomial_sampling": False}),
    "hmc": (HMC, RecordingHMC, {"trajectory_length": 0.6}),
}
NAMES = {"lp", "energy", "step_size", "acceptance_rate", "diverging", "n_steps"}


def model():
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("scale", dist.HalfNormal(1.0))
    pyro.sample("y", dist.Normal(x, 0.1), obs=torch.tensor(1.0))


@pytest.mark.parametrize("kernel", KERNELS)
def test_draws_are_those_of_pyros_kernel(kernel):
    plain, recording, options = KERNELS[kernel]
    theirs = run(model, kernel=plain, **options)
    ours = run(model, kernel=recording, **options)
    for name, value in theirs.get_samples().items():
        assert torch.equal(value, ours.get_samples()[name])
    theirs, ours = theirs.diagnostics(), ours.diagnostics()
    assert theirs["divergences"] == ours["divergences"]
    assert theirs["acceptance rate"] == ours["acceptance rate"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_statistics_of_every_draw(kernel):
    _, recording, options = KERNELS[kernel]
    running = []

    def remember(kernel, params, stage, i):
        running.append((stage, kernel._mean_accept_prob, kernel.step_size, float(kernel._potential_energy_last)))

    pyro.set_rng_seed(1)
    mcmc = MCMC(recording(model, **options), num_samples=8, warmup_steps=6, hook_fn=remember, disable_progbar=True)
    mcmc.run()
    tree = from_pyro(mcmc)
    tree_names = {"tree_depth", "reached_max_tree_depth"} if recording is RecordingNUTS else set()
    assert set(tree.sample_stats.data_vars) == set(tree.warmup_sample_stats.data_vars) == NAMES | tree_names
    stats = {name: tree.sample_stats[name].values[0] for name in tree.sample_stats.data_vars}
    warmup, draws = running[:6], running[6:]
    np.testing.assert_allclose(stats["lp"], [-potential for *_, potential in draws])
    means = [mean for _, mean, *_ in draws]
    np.testing.assert_allclose(np.cumsum(stats["acceptance_rate"]) / np.arange(1, 9), means, rtol=1e-5)
    np.testing.assert_allclose(stats["step_size"], [step for _, _, step, _ in draws])
    np.testing.assert_allclose(
        np.cumsum(tree.warmup_sample_stats["acceptance_rate"].values[0]) / np.arange(1, 7),
        [mean for _, mean, *_ in warmup],
        rtol=1e-5,
    )
    np.testing.assert_allclose(tree.warmup_sample_stats["step_size"].values[0, 1:], [s for _, _, s, _ in warmup[:-1]])
    assert (stats["energy"] >= -stats["lp"] - 1e-5).all()
    assert list(np.flatnonzero(stats["diverging"])) == mcmc.diagnostics()["divergences"]["chain 0"]
    if tree_names:
        depth, steps = stats["tree_depth"], stats["n_steps"]
        assert ((2**depth - 1 <= steps) & (steps < 2 ** (depth + 1))).all()
        assert (stats["reached_max_tree_depth"] == (depth == 10)).all()
    assert dict(tree.warmup_posterior.sizes) == {"chain": 1, "draw": 6}
    assert (tree.warmup_posterior["scale"] > 0).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_energy_is_that_of_the_selected_point(kernel, monkeypatch):
    """Potential and kinetic energy by hand, with the momentum at the point of the trajectory that became the draw."""
    _, recording, options = KERNELS[kernel]
    points = []

    def energy(z, r):
        potential = -Normal(0.0, 1.0).log_prob(z["x"]) - Normal(z["x"], 0.1).log_prob(torch.tensor(1.0))
        half_normal = dist.HalfNormal(1.0).log_prob(z["scale"].exp()) + z["scale"]
        return float(potential - half_normal + 0.5 * sum(momentum.square().sum() for momentum in r.values()))

    class Spying(recording):
        def _sample_r(self, name):
            r, r_unscaled = super()._sample_r(name)
            points[:] = [(self._z_last, r)]
            return r, r_unscaled

    def spying(z, r, *args, **rest):
        result = velocity_verlet(z, r, *args, **rest)
        points.append((result[0], result[1]))
        return result

    expected = []

    def remember(kernel, params, stage, i):
        at = [energy(z, r) for z, r in points if all(torch.equal(z[name], params[name]) for name in params)]
        assert len(at) == 1
        expected.append((at[0], energy(*points[0])))

    monkeypatch.setattr("pyro.infer.mcmc.hmc.velocity_verlet", spying)
    monkeypatch.setattr("pyro.infer.mcmc.nuts.velocity_verlet", spying)
    pyro.set_rng_seed(1)
    spy = Spying(model, adapt_mass_matrix=False, adapt_step_size=False, step_size=0.1, **options)
    mcmc = MCMC(spy, num_samples=30, warmup_steps=0, hook_fn=remember, disable_progbar=True)
    mcmc.run()
    stats = from_pyro(mcmc).sample_stats
    np.testing.assert_allclose(stats["energy"].values[0], [selected for selected, _ in expected], rtol=1e-4)
    assert max(abs(selected - start) for selected, start in expected) > 0.01  # the start's would not do


@pytest.mark.parametrize("kernel", KERNELS)
def test_calls_of_the_kernel_that_the_record_relies_on(kernel):
    """The momentum of a transition is drawn once by name; HMC asks twice for the kinetic energy; nothing of the model
    is evaluated for the record.
    """
    plain, recording, options = KERNELS[kernel]
    evaluations = {}
    for base in (plain, recording):
        calls = []

        class Counting(base):
            def _sample_r(self, name, calls=calls):
                calls.append(name)
                return super()._sample_r(name)

            def _kinetic_energy(self, r, calls=calls):
                calls.append("kinetic")
                return super()._kinetic_energy(r)

        counted = Counted()
        mcmc = run(counted, kernel=Counting, warmup=0, draws=3, adapt_step_size=False, step_size=0.2, **options)
        assert [name for name in calls if name != "kinetic"] == ["r_t=0", "r_t=1", "r_t=2"]
        if base is HMC:
            assert calls.count("kinetic") == 2 * 3
        evaluations[base] = counted.runs
        assert len(mcmc.get_samples()["x"]) == 3
    assert evaluations[plain] == evaluations[recording]


class Counted:
    runs = 0

    def __call__(self):
        self.runs += 1
        model()


def test_energy_is_conserved_by_small_steps():
    mcmc = run(
        model, kernel=RecordingHMC, warmup=0, draws=6, step_size=1e-4, trajectory_length=5e-4, adapt_step_size=False
    )
    stats = from_pyro(mcmc).sample_stats
    assert (stats["n_steps"] == 5).all()
    np.testing.assert_allclose(stats["acceptance_rate"], 1.0, rtol=1e-3)


@pytest.mark.parametrize("recording", [RecordingNUTS, RecordingHMC])
def test_divergences_of_warmup_and_draws(recording):
    def cliff():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("cliff", -1e6 * x.abs())

    mcmc = run(cliff, kernel=recording, warmup=2, draws=6, step_size=1.0, adapt_step_size=False)
    tree = from_pyro(mcmc)
    diverging = tree.sample_stats["diverging"].values[0]
    assert list(np.flatnonzero(diverging)) == sorted(set(mcmc.diagnostics()["divergences"]["chain 0"]))
    assert diverging.any()
    assert tree.warmup_sample_stats["diverging"].any()


def test_chains_in_sequence_and_in_processes(monkeypatch):
    in_sequence = from_pyro(run(centred, ERRORS, EFFECTS, chains=2, draws=4, warmup=2))
    monkeypatch.setattr("pyro.infer.mcmc.api.mp.cpu_count", lambda: 4)
    mcmc = run(centred, ERRORS, EFFECTS, chains=2, draws=4, warmup=2)
    in_processes = from_pyro(mcmc)
    for tree in (in_sequence, in_processes):
        assert dict(tree.sample_stats.sizes) == {"chain": 2, "draw": 4}
        assert dict(tree.warmup_posterior.sizes) == {"chain": 2, "draw": 2, "school": 8}
        assert set(tree.sample_stats.data_vars) == NAMES | {"tree_depth", "reached_max_tree_depth"}
        assert (tree.sample_stats["lp"][0] != tree.sample_stats["lp"][1]).all()
    log_joint = in_processes.log_likelihood["y"].sum("school") + sum(
        value.sum(set(value.dims) - {"chain", "draw"}) for value in in_processes.log_prior.data_vars.values()
    )
    jacobian = in_processes.unconstrained_posterior["tau"]
    np.testing.assert_allclose(in_processes.sample_stats["lp"], log_joint + jacobian, rtol=1e-4)


def test_grouped_and_flat_draws_are_the_same_tree():
    mcmc = run(model, chains=2)
    tree = from_pyro(mcmc)
    for grouped in (True, False):
        again = from_pyro(mcmc.get_samples(group_by_chain=grouped), num_chains=2)
        np.testing.assert_array_equal(again.posterior["x"], tree.posterior["x"])


def test_plain_kernel_keeps_divergences_alone():
    tree = from_pyro(run(model, kernel=NUTS))
    assert list(tree.sample_stats.data_vars) == ["diverging"]
    assert "warmup_posterior" not in tree


def test_potential_function_without_a_model():
    kernel = RecordingNUTS(potential_fn=lambda z: (z["x"] ** 2).sum() / 2)
    mcmc = MCMC(kernel, num_samples=4, warmup_steps=2, initial_params={"x": torch.zeros(3)}, disable_progbar=True)
    mcmc.run()
    tree = from_pyro(mcmc)
    assert set(tree.children) == {"posterior", "sample_stats", "warmup_posterior", "warmup_sample_stats"}
    assert dict(tree.posterior.sizes) == {"chain": 1, "draw": 4, "x_dim_0": 3}
