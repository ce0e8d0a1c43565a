"""Trees of the tutorial models by MCMC and by SVI, with every group, and the functions of ArviZ that each takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import arviz
import pyro
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.poutine.messenger import Messenger
from torch import Tensor

from latentmix.inference import from_pyro, from_pyro_svi, renamed

from tests.inference.datatree.examples import Example, run

__all__ = ["MCMC_FUNCTIONS", "SVI_FUNCTIONS", "by_mcmc", "by_svi"]

ASSIGNMENT = "assignment"  # summed out


class Unobserved(Messenger):
    """Draws a site that a model observes; deterministic sites stay as they are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.name:
            msg["is_observed"], msg["value"] = False, None


def predictive(example: Example, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Data drawn under each draw of the latents."""
    drawn = Predictive(Unobserved(example.observed)(example.model), dict(draws))(*example.args)
    return {example.observed: drawn[example.observed]}


def by_mcmc(example: Example, *, draws: int = 60, warmup: int = 40) -> xr.DataTree:
    """The tree of a short run of NUTS."""
    mcmc = run(example.model, *example.args, draws=draws, warmup=warmup, chains=2)
    latents = poutine.block(example.model, hide=[ASSIGNMENT, example.observed])
    return from_pyro(
        mcmc,
        prior=Predictive(latents, num_samples=60)(*example.args),
        posterior_predictive=predictive(example, mcmc.get_samples()),
    )


def by_svi(example: Example, *, steps: int = 150) -> xr.DataTree:
    """The tree of a full-rank normal guide."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    guide = AutoMultivariateNormal(poutine.block(example.model, hide=[ASSIGNMENT]), init_scale=0.3)
    enumerated = example.observed == "x"
    elbo = TraceEnum_ELBO(max_plate_nesting=1) if enumerated else Trace_ELBO()
    svi = SVI(example.model, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    for _ in range(steps):
        svi.step(*example.args)
    tree = from_pyro_svi(example.model, guide, model_args=example.args, num_samples=100)
    latents = {
        str(name): torch.as_tensor(values.values[0])
        for name, values in tree["posterior"].to_dataset().items()
        if name not in example.deterministic
    }
    data = predictive(example, latents)
    return from_pyro_svi(example.model, guide, model_args=example.args, num_samples=100, posterior_predictive=data)


def small(tree: xr.DataTree) -> list[str]:
    """Two variables of few values, for a plot of all pairs."""
    sizes = {
        name: values.size / values.sizes["chain"] / values.sizes["draw"]
        for name, values in tree["posterior"].to_dataset().items()
    }
    return [str(name) for name, size in sizes.items() if size < 5][:2]


def loo_approximate(tree: xr.DataTree, **options: Any) -> Any:
    stats = tree["sample_stats"]
    return arviz.loo_approximate_posterior(tree, log_p=stats["log_p"], log_q=stats["log_q"], **options)


def psense_summary(tree: xr.DataTree) -> Any:
    """ArviZ has a dimension `component` of its own."""
    return arviz.psense_summary(renamed(tree, component="part") if "component" in tree["posterior"].dims else tree)


MCMC_FUNCTIONS: dict[str, Callable[[xr.DataTree], Any]] = {
    "summary": arviz.summary,
    "plot_trace": arviz.plot_trace,
    "plot_rank": arviz.plot_rank,
    "plot_forest": arviz.plot_forest,
    "plot_pair": lambda tree: arviz.plot_pair(tree, var_names=small(tree)),
    "plot_energy": arviz.plot_energy,
    "loo": arviz.loo,
    "compare": lambda tree: arviz.compare({"one": tree, "other": tree}),
    "psense_summary": psense_summary,
    "plot_ppc_dist": lambda tree: arviz.plot_ppc_dist(tree, num_samples=5),
    "plot_loo_pit": arviz.plot_loo_pit,
    "plot_prior_posterior": arviz.plot_prior_posterior,
}

SVI_FUNCTIONS: dict[str, Callable[[xr.DataTree], Any]] = {
    "summary": lambda tree: arviz.summary(tree, kind="stats"),
    "plot_forest": arviz.plot_forest,
    "loo_approximate_posterior": loo_approximate,
    "psense_summary": psense_summary,
    "plot_ppc_dist": lambda tree: arviz.plot_ppc_dist(tree, num_samples=5),
    "plot_khat": lambda tree: arviz.plot_khat(loo_approximate(tree, pointwise=True)),
}
