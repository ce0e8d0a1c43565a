"""The groups of a tree: draws, statistics, pointwise densities, data and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr
from numpy.typing import ArrayLike, NDArray

from latentmix.inference.datatree.containment import contained
from latentmix.inference.datatree.draws import Draws
from latentmix.inference.datatree.evaluation import ModelAtDraws
from latentmix.inference.datatree.labels import SAMPLE_DIMS, Labels, as_array
from latentmix.inference.datatree.pointwise import Term

__all__ = ["CONDITIONAL", "Options", "tree"]


@dataclass(frozen=True)
class Options:
    """The groups of a tree besides the posterior's draws, and their labels; see `from_pyro`."""

    prior: Mapping[str, Any] | None = None
    posterior_predictive: Mapping[str, Any] | None = None
    predictions: Mapping[str, Any] | None = None
    constant_data: Mapping[str, Any] | None = None
    predictions_constant_data: Mapping[str, Any] | None = None
    log_likelihood: bool = True
    index_origin: int | None = None
    coords: Mapping[str, ArrayLike] | None = None
    dims: Mapping[str, Sequence[str]] | None = None
    pred_dims: Mapping[str, Sequence[str]] | None = None
    extra_event_dims: Mapping[str, Sequence[str]] | None = None
    sample_dims: Sequence[str] = SAMPLE_DIMS
    num_chains: int | None = None


@dataclass
class _Parts:
    """Data sets by group, and attributes of the tree."""

    groups: dict[str, xr.Dataset] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)


def tree(draws: Draws | None, options: Options) -> xr.DataTree:
    """A tree of the draws and of all that the options add.

    Raises:
        ValueError: If a name, a shape or the model does not fit.
    """
    parts = _Parts()
    if options.num_chains is not None and (isinstance(options.num_chains, bool) or options.num_chains < 1):
        raise ValueError(f"Expected num_chains of 1 or more; got {options.num_chains!r}.")
    evaluated, labels = None, Labels({}, dims=options.dims, coords=options.coords, index_origin=options.index_origin)
    if draws is not None:
        parts.attrs.update(draws.attrs)
        if draws.model is not None:
            with contained(draws.model):
                evaluated, labels = _model(draws, options)
                _add_posterior(parts, draws, evaluated, labels, options)
        else:
            _add_draws(parts, draws, {}, labels)
    _add_predictions(parts, draws, evaluated, labels, options)
    if not parts.groups:
        raise ValueError("Expected at least one of posterior, prior, posterior_predictive and predictions; got none.")
    order = [group for group in _ORDER if group in parts.groups]
    result = xr.DataTree.from_dict({group: parts.groups[group] for group in order})
    result.attrs.update(parts.attrs)
    return result


_ORDER = (
    "posterior",
    "unconstrained_posterior",
    "sample_stats",
    "log_likelihood",
    "conditional_log_likelihood",
    "log_prior",
    "posterior_predictive",
    "predictions",
    "prior",
    "prior_predictive",
    "observed_data",
    "constant_data",
    "predictions_constant_data",
    "warmup_posterior",
    "warmup_sample_stats",
)


def _model(draws: Draws, options: Options) -> tuple[ModelAtDraws, Labels]:
    assert draws.model is not None
    first = {name: value[0, 0] for name, value in draws.samples.items()}
    model = ModelAtDraws(draws.model, draws.model_args, draws.model_kwargs, first, options.extra_event_dims)
    labels = Labels(
        model.sites,
        dims=options.dims,
        coords=options.coords,
        indices=model.indices,
        index_origin=options.index_origin,
    )
    return model, labels


def _add_draws(parts: _Parts, draws: Draws, deterministic: Mapping[str, Any], labels: Labels) -> None:
    groups = {
        "posterior": {**draws.samples, **deterministic},
        "sample_stats": draws.sample_stats,
        "warmup_posterior": draws.warmup_samples,
        "warmup_sample_stats": draws.warmup_sample_stats,
    }
    for group, data in groups.items():
        if data:
            parts.groups[group] = labels.dataset(data, attrs=draws.attrs)


def _add_posterior(parts: _Parts, draws: Draws, model: ModelAtDraws, labels: Labels, options: Options) -> None:
    observed = {name: model.sites[name] for name in model.names("observed")}
    if model.missing and options.log_likelihood and observed:
        raise ValueError(
            f"Expected draws of every latent of the model; got none of {model.missing[0]!r}, which cannot be summed "
            "out: keep all latents, pass the data if it is observed, or pass log_likelihood=False."
        )
    wanted = [] if model.missing else ["deterministic", "unconstrained", "log_prior"]
    if options.log_likelihood and observed and not model.missing:
        wanted.append("log_likelihood")
    chains, count = draws.sample_shape
    flat = {name: value.reshape(chains * count, *value.shape[2:]) for name, value in draws.samples.items()}
    values = model.at(flat, *wanted) if wanted else {}
    arrays = {
        group: {name: _grouped(value, draws.sample_shape) for name, value in named.items()}
        for group, named in values.items()
    }
    _add_draws(parts, draws, arrays.get("deterministic", {}), labels)
    if arrays.get("unconstrained"):
        parts.groups["unconstrained_posterior"] = _unconstrained(arrays["unconstrained"], labels, draws)
    if arrays.get("log_prior"):
        parts.groups["log_prior"] = labels.dataset(arrays["log_prior"], batch=True, attrs=draws.attrs)
    if arrays.get("log_likelihood"):
        _add_log_likelihood(parts, arrays["log_likelihood"], model, labels, draws)
    if options.log_likelihood and not observed:
        parts.attrs["log_likelihood_omitted"] = _UNOBSERVED_FACTOR if model.has_factors else _UNOBSERVED
    if observed:
        data = {name: site.value for name, site in observed.items()}
        parts.groups["observed_data"] = labels.dataset(data, sample_dims=(), attrs=draws.attrs)
        for name, site in observed.items():
            if site.masked:
                parts.groups["observed_data"][name].attrs["masked"] = site.masked


CONDITIONAL = (
    "Every latent that the data depend on belongs to one datum, and the log likelihood conditions on it: it stands in "
    "conditional_log_likelihood, and cross-validation by it has no meaning."
)
_UNOBSERVED = "The model observes nothing: pass the data by model_args."
_UNOBSERVED_FACTOR = (
    "The model observes nothing, and pyro.factor has no pointwise density: pass the data by model_args, or observe "
    "them by pyro.sample(..., obs=...)."
)


def _grouped(value: Any, sample_shape: tuple[int, int]) -> NDArray[Any]:
    array = as_array(value)
    return array.reshape(*sample_shape, *array.shape[1:])


def _unconstrained(values: Mapping[str, NDArray[Any]], labels: Labels, draws: Draws) -> xr.Dataset:
    """Values that have the shape of the constrained ones have their dimensions; others those of plates alone."""
    same = {name: value for name, value in values.items() if value.shape == tuple(draws.samples[name].shape)}
    other = {name: value for name, value in values.items() if name not in same}
    dataset = labels.dataset(same, attrs=draws.attrs)
    return dataset.merge(labels.dataset(other, batch=True)) if other else dataset


def _add_log_likelihood(
    parts: _Parts,
    values: Mapping[str, NDArray[Any]],
    model: ModelAtDraws,
    labels: Labels,
    draws: Draws,
) -> None:
    """Densities of data; apart from `log_likelihood` where nothing but latents of single data enters, so that LOO has
    no meaning.
    """
    by_group: dict[str, dict[str, NDArray[Any]]] = {}
    for term in model.terms:
        apart = bool(term.conditional_on) and not model.shared_latents(term)
        group = "conditional_log_likelihood" if apart else "log_likelihood"
        labels.alias(term.name, term.observed[0])
        by_group.setdefault(group, {})[term.name] = values[term.name]
    for group, named in by_group.items():
        dataset = labels.dataset(named, batch=True, attrs=draws.attrs)
        for term in model.terms:
            if term.name in dataset:
                _describe(dataset[term.name], term, model)
        parts.groups[group] = dataset
    if "conditional_log_likelihood" in by_group:
        parts.attrs["log_likelihood_omitted"] = CONDITIONAL


def _describe(variable: xr.DataArray, term: Term, model: ModelAtDraws) -> None:
    if term.conditional_on:
        variable.attrs["conditional_on"] = ", ".join(term.conditional_on)
    if term.enumerated:
        variable.attrs["summed_out"] = ", ".join(term.enumerated)
    masked = sum(model.sites[name].masked for name in term.observed)
    if masked:
        variable.attrs["masked"] = masked


def _add_predictions(
    parts: _Parts, draws: Draws | None, model: ModelAtDraws | None, labels: Labels, options: Options
) -> None:
    shape = None if draws is None else draws.sample_shape
    if options.posterior_predictive:
        data = {
            name: _with_chains(name, value, shape, options, labels)
            for name, value in options.posterior_predictive.items()
        }
        parts.groups["posterior_predictive"] = labels.dataset(data, sample_dims=options.sample_dims)
    if options.predictions:
        data = {name: _with_chains(name, value, shape, options, labels) for name, value in options.predictions.items()}
        parts.groups["predictions"] = _out_of_sample(labels, options).dataset(
            data, sample_dims=options.sample_dims, strict=False
        )
    if options.prior:
        data = {name: _with_chains(name, value, None, options, labels) for name, value in options.prior.items()}
        latent = set(data) if draws is None else set(draws.samples)
        predictive = set(data) - latent if model is None else set(model.names("observed"))
        for group, names in (("prior", set(data) - predictive), ("prior_predictive", set(data) & predictive)):
            if names:
                subset = {name: value for name, value in data.items() if name in names}
                parts.groups[group] = labels.dataset(subset, sample_dims=options.sample_dims)
    if options.constant_data:
        parts.groups["constant_data"] = labels.dataset(options.constant_data, sample_dims=())
    if options.predictions_constant_data:
        parts.groups["predictions_constant_data"] = _out_of_sample(labels, options).dataset(
            options.predictions_constant_data, sample_dims=(), strict=False
        )


def _out_of_sample(labels: Labels, options: Options) -> Labels:
    """The labels of predictions, whose dimensions may have other names."""
    return labels if options.pred_dims is None else labels.renamed(options.pred_dims)


def _with_chains(
    name: str, value: Any, shape: tuple[int, int] | None, options: Options, labels: Labels
) -> NDArray[Any]:
    """An array of draws with the dimensions `chain` and `draw`, which may come as one: chain after chain.

    Args:
        name: The site.
        value: Its draws, `draws x ...` or `chains x draws x ...`.
        shape: The numbers of chains and draws of the posterior; None where the draws are not the posterior's.
        options: The number of chains.
        labels: The model's sites, which tell how many dimensions belong to draws.
    """
    array = as_array(value)
    if array.ndim == 0:
        raise ValueError(f"Expected draws of {name!r} along the first dimension; got a single number.")
    site = labels.sites.get(name)
    extra = None if site is None else array.ndim - site.value.dim() - 1  # dimensions between the draws and the site's
    if extra and extra > 0 and set(array.shape[1 : 1 + extra]) == {1}:  # Predictive keeps one per plate
        array, extra = array.reshape(array.shape[0], *array.shape[1 + extra :]), 0
    if len(options.sample_dims) == 1:
        return array
    if shape is not None and extra != 0 and array.shape[:2] == shape:
        return array
    if shape is not None and array.shape[0] == shape[0] * shape[1]:
        return array.reshape(*shape, *array.shape[1:])
    chains = (options.num_chains or 1) if shape is None else 1
    if extra == 1 or (extra is None and chains > 1 and array.ndim > 1 and array.shape[0] == chains):
        return array
    if array.shape[0] % chains:
        raise ValueError(f"Expected draws of {name!r} that {chains} chains divide; got shape {array.shape}.")
    return array.reshape(chains, -1, *array.shape[1:])
