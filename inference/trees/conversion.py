"""Trees of any fit of LatentMix's, by its type."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import xarray as xr
from pyro.infer.mcmc.api import AbstractMCMC

from latentmix.inference.datatree.draws import Draws
from latentmix.inference.datatree.mcmc import from_pyro
from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.trees.mixtures import mixture_tree, posterior_tree
from latentmix.inference.trees.vae import vae_tree
from latentmix.models import VAE

__all__ = ["to_datatree"]


def to_datatree(fit: object, **options: Any) -> xr.DataTree:
    """Convert a fit into a DataTree that ArviZ takes.

    | fit | options | function |
    |---|---|---|
    | `GaussianMixture` by NUTS, by SVI with a density as guide, by EM | `X`, `draws`, ... | `mixture_tree` |
    | `MixturePosterior` | `X`, `draws`, ... | `posterior_tree` |
    | `VAE` | `guide`, `data`, `draws`, ... | `vae_tree` |
    | a run, or another object with a method `to_datatree` | those of the method | the method |
    | an MCMC of Pyro, `Draws` | those of `from_pyro` | `from_pyro` |

    Args:
        fit: The fit.
        options: Options of the function for its type.

    Returns:
        The tree; its attribute `inference` names the algorithm: "mcmc", "svi" for independent draws of a guide, or
        "em_sandwich" for those of an estimate's asymptotic normal distribution, which is no posterior.

    Raises:
        ValueError: If there is no conversion of the type, or it has no such option; and as its function.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference import NUTS, GaussianMixture, to_datatree
        >>> x = np.random.RandomState(0).randn(60, 1) + np.repeat([[-3.0], [3.0]], 30, 0)
        >>> sampler = NUTS(chains=2, draws=100, warmup=100)
        >>> tree = to_datatree(GaussianMixture(2, random_state=0, inference=sampler).fit(x), X=x)
        >>> dict(tree.posterior["means"].sizes)
        {'chain': 2, 'draw': 100, 'component': 2, 'feature': 1}
        >>> dict(tree.log_likelihood["x"].sizes)
        {'chain': 2, 'draw': 100, 'point': 60}
    """
    convert = _converter.dispatch(type(fit))
    own = getattr(fit, "to_datatree", None)
    arguments: tuple[object, ...] = (fit,)
    if convert is _unknown and callable(own) and not isinstance(fit, type):
        convert, arguments = own, ()
    parameters = inspect.signature(convert).parameters.values()
    names = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    unknown = [name for name in options if name not in names]
    if unknown and not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
        known = f"options of to_datatree for a {type(fit).__name__}, {', '.join(names)}"
        raise ValueError(
            f"Expected {known if names else f'no options of to_datatree for a {type(fit).__name__}'}; got "
            f"{unknown[0]!r}."
        )
    tree: xr.DataTree = convert(*arguments, **options)
    return tree


def _unknown(fit: object, **_: Any) -> xr.DataTree:
    kind = fit.__name__ if isinstance(fit, type) else type(fit).__name__
    raise ValueError(
        "Expected a fitted GaussianMixture, a MixturePosterior, a VAE, a run, or an MCMC of Pyro's; got "
        f"{'the class ' if isinstance(fit, type) else 'a '}{kind}: for a guide of Pyro's call from_pyro_svi."
    )


def _bayesian(mixture: BayesianGaussianMixture, **_: Any) -> xr.DataTree:
    raise ValueError(
        "Expected a mixture with draws of its posterior; got a BayesianGaussianMixture, whose factors scikit-learn's "
        "updates define without a joint density for every covariance_type: fit a GaussianMixture by "
        "inference=SVI(guide=NORMAL_GUIDES, priors={}) or NUTS()."
    )


_converter: Any = singledispatch(_unknown)
_register: Callable[[type], Callable[[Any], Any]] = _converter.register
_register(GaussianMixture)(mixture_tree)
_register(MixturePosterior)(posterior_tree)
_register(VAE)(vae_tree)
_register(BayesianGaussianMixture)(_bayesian)
_register(AbstractMCMC)(from_pyro)
_register(Draws)(from_pyro)
