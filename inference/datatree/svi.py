"""Draws of a guide as a tree for ArviZ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import xarray as xr
from numpy.typing import ArrayLike
from pyro import poutine
from pyro.infer.autoguide import AutoCallable, AutoGuide
from torch import Tensor
from torch.distributions import biject_to

from latentmix.inference.datatree.containment import contained, full_plates, owner
from latentmix.inference.datatree.draws import Draws
from latentmix.inference.datatree.evaluation import ModelAtDraws
from latentmix.inference.datatree.mcmc import from_pyro
from latentmix.inference.datatree.sites import is_discrete, is_variable

__all__ = ["from_pyro_svi"]


def from_pyro_svi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    num_samples: int = 1000,
    seed: int = 0,
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
) -> xr.DataTree:
    """Draw from a fitted guide, and convert the draws into a DataTree that ArviZ takes.

    The draws are one chain, `chain = 1` and `draw = num_samples`, since ArviZ's functions take no tree with a single
    dimension `sample`, and the attribute `inference` is "svi": they are independent, so that R-hat and effective sample
    sizes say nothing about convergence. In `sample_stats` stand `log_p`, the model's log joint density of the draw
    and the data with its scales and masks on full plates, as in `TraceEnum_ELBO`, and `log_q`, the guide's log density,
    both in constrained coordinates:

        arviz.loo_approximate_posterior(tree, log_p=tree.sample_stats["log_p"], log_q=tree.sample_stats["log_q"])

    `log_q` is left out where the guide has no density over the model's latents: where it is a point (AutoDelta), or has
    auxiliary variables; the attribute `log_q_omitted` says so. So is `log_p` where a variable that is summed out links
    the data, or has another scale than they (`log_p_omitted`). The other groups are those of `from_pyro`.

    Args:
        model: The model.
        guide: The guide, with its parameters in Pyro's parameter store or in its modules, which are in evaluation
            mode here.
        model_args, model_kwargs: Arguments of both, with all data.
        num_samples: The number of draws.
        seed: Of the draws, which are those of `num_samples` calls of the guide after `pyro.set_rng_seed(seed)`.
        prior, posterior_predictive, predictions, constant_data, predictions_constant_data, log_likelihood,
        index_origin,
            coords, dims, pred_dims, extra_event_dims: As for `from_pyro`.

    Returns:
        The tree; its attributes name the algorithm.

    Raises:
        ValueError: If the guide has never run, has a discrete site or lacks one of the model's; if shapes change with
            the draw; and as for `from_pyro`.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from latentmix.inference import from_pyro_svi
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("time", len(y)):
        ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> y = torch.tensor([0.5, 1.0, 1.5])
        >>> guide = AutoNormal(model)
        >>> fit = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
        >>> losses = [fit.step(y) for _ in range(50)]
        >>> tree = from_pyro_svi(model, guide, model_args=(y,), num_samples=50)
        >>> dict(tree.log_likelihood["y"].sizes)
        {'chain': 1, 'draw': 50, 'time': 3}
        >>> sorted(tree.sample_stats)
        ['log_p', 'log_q']
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"Expected num_samples of 1 or more; got {num_samples!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"Expected a seed between 0 and {2**32 - 1}; got {seed!r}.")
    if not isinstance(model_args, list | tuple):
        raise ValueError(
            f"Expected model_args as a tuple of the model's arguments; got a {type(model_args).__name__}: pass (data,)."
        )
    automatic = owner(guide)
    prepared = not isinstance(automatic, AutoGuide) or isinstance(automatic, AutoCallable)
    if not prepared and getattr(automatic, "prototype_trace", None) is None:
        raise ValueError(
            f"Expected a fitted guide; got an {type(automatic).__name__} that has never run: fit it by SVI."
        )
    kwargs = dict(model_kwargs or {})
    with contained(model, guide, seed=seed):
        draws = _draws(model, guide, tuple(model_args), kwargs, num_samples)
    return from_pyro(
        draws,
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
    )


def _draws(
    model: Callable[..., Any], guide: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], count: int
) -> Draws:
    samples: dict[str, list[Tensor]] = {}
    log_q = []
    with full_plates():
        for _ in range(count):
            trace = poutine.trace(guide).get_trace(*args, **kwargs)
            for name, value in _latents(trace).items():
                samples.setdefault(name, []).append(value)
            log_q.append(torch.as_tensor(trace.log_prob_sum()))
        again = poutine.trace(guide).get_trace(*args, **kwargs)
    for name, values in samples.items():
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1 or len(values) < count:
            raise ValueError(
                f"Expected site {name!r} of the guide to have the same shape at every draw; got {min(shapes)} and "
                "others."
            )
    stacked = {name: torch.stack(values) for name, values in samples.items()}
    evaluated = ModelAtDraws(model, args, kwargs, {name: value[0] for name, value in stacked.items()})
    if evaluated.missing:
        raise ValueError(
            f"Expected a guide with every latent of the model; got none of {evaluated.missing[0]!r}, which cannot be "
            "summed out: add it to the guide, or, if it is observed, pass its data by model_args."
        )
    latents = evaluated.names("latent")
    draws = Draws({name: value[None] for name, value in stacked.items() if name in latents})  # refuses NaN
    attrs = {"inference": "svi", "guide": getattr(guide, "__name__", type(guide).__name__)}
    stats = {}
    obstacle = evaluated.joint_obstacle()
    if obstacle is None:
        stats["log_p"] = evaluated.at(stacked, "log_joint")["log_joint"]["log_joint"]
    else:
        attrs["log_p_omitted"] = obstacle
    obstacle = _no_density(trace, again, evaluated)
    if obstacle is None:
        stats["log_q"] = torch.stack(log_q)
    else:
        attrs["log_q_omitted"] = obstacle
    return Draws(
        draws.samples,
        model=model,
        model_args=args,
        model_kwargs=kwargs,
        sample_stats={name: value.cpu().numpy()[None] for name, value in stats.items()},
        attrs=attrs,
    )


def _latents(trace: Any) -> dict[str, Tensor]:
    """Values of the guide's sites, without auxiliary ones."""
    values = {}
    for name, node in trace.nodes.items():
        if not is_variable(node) or node["is_observed"] or node["infer"].get("is_auxiliary"):
            continue
        if is_discrete(node["fn"]):
            remedy = "leave it out of the guide, and the model's site is summed out"
            if not node["fn"].has_enumerate_support:
                remedy = "its support cannot be summed out either, so that the model has to do without it"
            raise ValueError(f"Expected a guide without discrete sites; got {name!r}: {remedy}.")
        values[name] = node["value"]
    return values


def _no_density(trace: Any, again: Any, model: ModelAtDraws) -> str | None:
    """The reason that the guide has no density over the model's latents, by the number of unconstrained dimensions;
    None if it has one.

    A latent that is the same in every run is a point. The others that are transforms of further variables, as in
    Pyro's automatic guides, have a density if these have as many dimensions; with more, some are auxiliary.

    Args:
        trace, again: Two runs of the guide.
        model: The model.
    """
    values = model.trace({name: node["value"] for name, node in trace.nodes.items() if node["type"] == "sample"})
    size = {
        name: _unconstrained_size(values.nodes[name]) for name in model.names("latent") if name not in model.enumerated
    }
    random = {
        name: _unconstrained_size(node)
        for name, node in trace.nodes.items()
        if is_variable(node) and not node["is_observed"] and not isinstance(_base(node["fn"]), dist.Delta)
    }
    transformed = {name for name in size if name not in random}
    points = {name for name in transformed if torch.equal(trace.nodes[name]["value"], again.nodes[name]["value"])}
    free = sum(size[name] for name in transformed - points)
    further = sum(count for name, count in random.items() if name not in size)
    point = sum(size[name] for name in points) + max(free - further, 0)
    if point:
        total = sum(size.values())
        return f"The guide is a point in {point} of {total} dimension{'s' * (total > 1)}, and has no density there."
    if further > free:
        more = further - free
        return f"The guide has {more} auxiliary dimension{'s' * (more > 1)}, and no density of the latents alone."
    return None


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist") and not isinstance(fn, dist.Delta | dist.TransformedDistribution):
        fn = fn.base_dist
    return fn


def _unconstrained_size(node: Any) -> int:
    return int(torch.Size(biject_to(node["fn"].support).inverse_shape(node["value"].shape)).numel())
