"""Sites of a Pyro model: latent, observed or deterministic, and the names of their dimensions by plates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions import MaskedDistribution
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

__all__ = [
    "Site",
    "check_names",
    "is_deterministic",
    "is_discrete",
    "is_variable",
    "plate_indices",
    "plates_of",
    "sites_of",
]

Kind = Literal["latent", "observed", "deterministic"]


@dataclass(frozen=True)
class Site:
    """A site of a model, as it stood in a trace.

    Attributes:
        name: Its name.
        kind: `latent`, `observed` or `deterministic`.
        value: Its value, `batch + event`.
        batch_ndim: The number of batch dimensions.
        dims: A name per dimension of `value`; None where neither a plate nor `event_dims` gives one.
        plates: What tells its plates apart: their names, with the iteration of those that are run through in a loop.
        masked: The number of batch elements that a mask excludes.
    """

    name: str
    kind: Kind
    value: Tensor
    batch_ndim: int
    dims: tuple[str | None, ...]
    plates: frozenset[tuple[str, int | None]]
    masked: int = 0

    @property
    def batch_dims(self) -> tuple[str | None, ...]:
        """Names of the batch dimensions alone."""
        return self.dims[: self.batch_ndim]


def sites_of(trace: Any, extra_event_dims: Mapping[str, Sequence[str]] | None = None) -> dict[str, Site]:
    """The sites of a trace in their order, without subsampled indices and `pyro.factor`.

    Args:
        trace: A trace of the model without enumeration.
        extra_event_dims: Names of event dimensions by site, after those of `infer={"event_dims": ...}`.

    Raises:
        ValueError: If more event dimensions are named than the site has.
    """
    extra = extra_event_dims or {}
    return {name: _site(name, node, extra.get(name, ())) for name, node in trace.nodes.items() if is_variable(node)}


def is_variable(node: Any) -> bool:
    """Whether a node of a trace is a random variable or deterministic, rather than an index or a factor."""
    return node["type"] == "sample" and not isinstance(node["fn"], _Subsample | dist.Unit)


def is_deterministic(node: Any) -> bool:
    """Whether a node was made by `pyro.deterministic` or by a reparametrisation of a site."""
    fn = node["fn"]
    while hasattr(fn, "base_dist") and not isinstance(fn, dist.Delta):
        fn = fn.base_dist
    return bool(node["is_observed"] and (node["infer"].get("_deterministic") or isinstance(fn, dist.Delta)))


def is_discrete(fn: Any) -> bool:
    """Whether the values of a distribution are discrete, countable many included."""
    return bool(fn.has_enumerate_support or fn.support.is_discrete)


def plates_of(node: Any) -> frozenset[tuple[str, int | None]]:
    """Names of a node's plates, with the iteration of those that are run through in a loop."""
    return frozenset((frame.name, None if frame.vectorized else frame.counter) for frame in node["cond_indep_stack"])


def plate_indices(trace: Any) -> dict[str, NDArray[np.int64]]:
    """The index of each plate that holds a part of its size, by the plate's name."""
    indices = {}
    for name, node in trace.nodes.items():
        if node["type"] == "sample" and isinstance(node["fn"], _Subsample) and node["value"] is not None:
            index = np.asarray(node["value"].cpu() if isinstance(node["value"], Tensor) else node["value"])
            if not np.array_equal(index, np.arange(node["fn"].size)):
                indices[name] = index.astype(np.int64)
    return indices


def check_names(name: str, dims: Any) -> None:
    """Refuse a single word in the place of a list of dimensions.

    Raises:
        ValueError: If the dimensions of the variable are no list of names.
    """
    if isinstance(dims, str) or not all(isinstance(dim, str | None) for dim in dims):
        raise ValueError(f"Expected a list of names for the dimensions of {name!r}; got {dims!r}.")


def _site(name: str, node: Any, extra_event_dims: Sequence[str]) -> Site:
    value, frames = node["value"], [frame for frame in node["cond_indep_stack"] if frame.vectorized]
    deterministic = is_deterministic(node)
    if deterministic:  # its distribution takes all dimensions for those of an event
        batch_ndim = min(max((-frame.dim for frame in frames), default=0), value.dim())
    else:
        batch_ndim = value.dim() - node["fn"].event_dim
    dims: list[str | None] = [None] * value.dim()
    for frame in frames:
        axis = batch_ndim + frame.dim
        if axis >= 0 and value.shape[axis] == frame.size:
            dims[axis] = frame.name
    check_names(name, node["infer"].get("event_dims", ()))
    check_names(name, extra_event_dims)
    events = [*node["infer"].get("event_dims", ()), *extra_event_dims]
    if len(events) > value.dim() - batch_ndim:
        most = value.dim() - batch_ndim
        raise ValueError(
            f"Expected at most {most} event dimension{'s' * (most != 1)} for site {name!r} of shape "
            f"{tuple(value.shape)}; got {events}: name the dimensions of plates by the plates."
        )
    dims[batch_ndim : batch_ndim + len(events)] = events
    kind: Kind = "deterministic" if deterministic else "observed" if node["is_observed"] else "latent"
    return Site(name, kind, value, batch_ndim, tuple(dims), plates_of(node), _masked(node, value.shape[:batch_ndim]))


def _masked(node: Any, batch_shape: Sequence[int]) -> int:
    """The number of batch elements that a mask of the site, or one of its distribution, excludes."""
    masks = [True if node["mask"] is None else node["mask"]]
    if isinstance(node["fn"], MaskedDistribution):
        masks.append(node["fn"]._mask)
    if not all(len(batch_shape) >= torch.as_tensor(mask).dim() for mask in masks):
        return 0
    kept = torch.ones(tuple(batch_shape), dtype=torch.bool)
    for mask in masks:
        kept = kept & torch.as_tensor(mask).cpu()
    return int((~kept).sum())
