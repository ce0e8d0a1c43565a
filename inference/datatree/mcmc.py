"""Draws of MCMC, and of any algorithm, as a tree for ArviZ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr
from numpy.typing import ArrayLike
from pyro.infer.mcmc.api import AbstractMCMC

from latentmix.inference.datatree.draws import Draws
from latentmix.inference.datatree.groups import Options, tree
from latentmix.inference.datatree.labels import SAMPLE_DIMS

__all__ = ["from_pyro"]


def from_pyro(
    posterior: AbstractMCMC | Draws | Mapping[str, Any] | None = None,
    *,
    prior: Mapping[str, Any] | None = None,
    posterior_predictive: Mapping[str, Any] | None = None,
    predictions: Mapping[str, Any] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    predictions_constant_data: Mapping[str, Any] | None = None,
    log_likelihood: bool = True,
    index_origin: int | None = None,
    coords: Mapping[str, ArrayLike] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    pred_dims: Mapping[str, Sequence[str]] | None = None,
    extra_event_dims: Mapping[str, Sequence[str]] | None = None,
    sample_dims: Sequence[str] | None = None,
    num_chains: int | None = None,
) -> xr.DataTree:
    """Convert draws of a Pyro model into a DataTree that ArviZ takes.

    Dimensions bear the names of plates, and those of `infer={"event_dims": [...]}` for events. The groups:

    | group | content |
    |---|---|
    | `posterior` | draws of latents and deterministic sites |
    | `unconstrained_posterior` | draws of continuous latents in the coordinates of `biject_to(support).inv` |
    | `sample_stats` | what the kernel keeps: everything of `RecordingNUTS`, divergences alone of Pyro's `NUTS` |
    | `log_likelihood` | log density of each datum given the draw; if left out, `log_likelihood_omitted` says why |
    | `log_prior` | log density of each latent given those before it |
    | `observed_data`, `constant_data` | the data that the model observes; what is passed |
    | `posterior_predictive`, `predictions`, `prior`, `prior_predictive` | what is passed |
    | `warmup_posterior`, `warmup_sample_stats` | the warmup's draws and statistics, by a recording kernel |

    The log likelihood is on by default, unlike `arviz_base.from_numpyro`'s. It is evaluated on full plates and not
    scaled; it is 0 where a mask excludes a datum, whose number the attribute `masked` tells. Enumerated sites in the
    plates of the observed site are summed out with their prior (attribute `summed_out`); several observed sites that
    share one are one variable, named "x+y". Latents with a value per datum that it conditions on are listed in the
    attribute `conditional_on`. Where these and the datum depend on no other latent, as in a VAE, leaving a datum out
    leaves its latents to their prior, and the group is `conditional_log_likelihood`, which `arviz.loo` does not read.
    Where data share latents, as the eight schools do, LOO is meant as usual, and its `k` tells whether it can be
    trusted. Plates that hold a part of their size have its index for coordinate.

    Args:
        posterior: An MCMC that has run; or `Draws`; or draws by site, with `num_chains`.
        prior: Draws by site from the prior; observed sites go to `prior_predictive`.
        posterior_predictive: Draws by site from the posterior predictive, `draws x ...` or `chains x draws x ...`.
        predictions: The same for other data.
        constant_data: Data that the model conditions on, by name.
        predictions_constant_data: The same for `predictions`.
        log_likelihood: Whether to evaluate the pointwise log likelihood.
        index_origin: The first of coordinates that nothing else gives; by default ArviZ's `data.index_origin`.
        coords: Coordinates by dimension.
        dims: Names of all dimensions by variable, which come before those of plates.
        pred_dims: The same for `predictions`; by default those of the model.
        extra_event_dims: Names of event dimensions by site, after those of `infer`; for deterministic sites, which
            have none.
        sample_dims: Names of the dimensions of draws where there is no posterior; by default chain and draw.
        num_chains: The number of chains of draws by site.

    Returns:
        The tree; its attributes name the algorithm.

    Raises:
        ValueError: If the MCMC has not run; if a draw is not a number; if a dimension has a name that ArviZ uses
            itself, such as `group`; if names or coordinates do not fit the shapes; if sites change with the draw; if
            the log likelihood is not pointwise, because an enumerated site is global or in a Markov chain.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro.infer import MCMC
        >>> from latentmix.inference import RecordingNUTS, from_pyro
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("time", len(y)):
        ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> mcmc = MCMC(RecordingNUTS(model), num_samples=20, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run(torch.tensor([0.5, 1.0, 1.5]))
        >>> tree = from_pyro(mcmc, coords={"time": [2001, 2002, 2003]})
        >>> dict(tree.log_likelihood["y"].sizes)
        {'chain': 1, 'draw': 20, 'time': 3}
    """
    if isinstance(posterior, AbstractMCMC):
        posterior = Draws.from_mcmc(posterior)
    elif isinstance(posterior, Mapping):
        posterior = Draws.from_mapping(posterior, num_chains)
    elif posterior is not None and not isinstance(posterior, Draws):
        raise ValueError(
            f"Expected a pyro.infer.MCMC, Draws or draws by site; got a {type(posterior).__name__}: pass the MCMC "
            "after its run(), or for SVI call from_pyro_svi."
        )
    options = Options(
        prior=prior,
        posterior_predictive=posterior_predictive,
        predictions=predictions,
        constant_data=constant_data,
        predictions_constant_data=predictions_constant_data,
        log_likelihood=log_likelihood,
        index_origin=index_origin,
        coords=coords,
        dims=dims,
        pred_dims=pred_dims,
        extra_event_dims=extra_event_dims,
        sample_dims=SAMPLE_DIMS if posterior is not None or sample_dims is None else tuple(sample_dims),
        num_chains=num_chains,
    )
    return tree(posterior, options)
