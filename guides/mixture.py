"""Guides over the globals of a Gaussian mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoGuide, init_to_sample, init_to_value
from torch import Tensor

from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.priors import is_improper

__all__ = ["global_guide"]


def global_guide(
    model: MixtureModel,
    *,
    family: Callable[..., AutoGuide] = AutoDelta,
    start: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> AutoGuide:
    """A guide over weights, means, scales and correlations; the assignments are enumerated.

    Args:
        model: The mixture.
        family: Class of an autoguide: `AutoDelta` for the posterior mode, `AutoNormal` for a mean-field posterior, ...
        start: Initial values of every global site, such as `MixtureParameters.sites()`; by default draws from the
            priors, which must then be proper.
        options: Passed to the family, such as `init_scale` for `AutoNormal`.

    Returns:
        The guide, called with `n x D` data as the model is.

    Raises:
        ValueError: If a site is missing in `start` or has another shape, or there is no start and a prior is
            improper.

    Example:
        >>> import torch
        >>> from latentmix.guides.mixture import global_guide
        >>> from latentmix.models.mixture.model import MixtureModel
        >>> guide = global_guide(MixtureModel(3, 2, covariance_type="diag"))
        >>> sorted(guide(torch.zeros(4, 2)))
        ['means', 'scales', 'weights']
    """
    if start is None:
        improper = [name for name, prior in model.declared_priors.items() if is_improper(prior)]
        if improper:
            raise ValueError(f"Expected a start, because the prior of {improper[0]} is improper; got None.")
        init: Callable[..., Any] = init_to_sample
    else:
        for name, shape in model.shapes.items():
            given = None if name not in start else tuple(start[name].shape)
            if given != shape:
                raise ValueError(f"Expected a start of shape {shape} for {name}; got {given}.")
        init = init_to_value(values={name: start[name].detach().clone() for name in model.shapes})
    return family(poutine.block(model, hide=["assignment"]), init_loc_fn=init, **options)
