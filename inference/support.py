"""Data held against the support of the distributions that a model observes them under."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, constraints
from torch.distributions.constraints import Constraint

from latentmix.inference.batches import Batch, Transform, transformed
from latentmix.inference.isolation import RandomState

__all__ = ["SupportCheck", "check_support"]

_CHUNK = 1024
_WORDS = {"Boolean": "data of zeros and ones", "Real": "finite data", "NonNegativeInteger": "counts from 0 on"}


class SupportCheck(Messenger):
    """Refuses observed values that are NaN, infinite or outside the support of their site; a mask exempts them.

    Attributes:
        first_row: Row of the data set that the present minibatch starts with, for the message.

    Args:
        moving: Sites whose support depends on what is trained: their values need only be finite.
    """

    def __init__(self, moving: Collection[str] = ()) -> None:
        super().__init__()
        self.moving = moving
        self.first_row = 0

    def _pyro_post_sample(self, msg: Any) -> None:
        if _observes_data(msg):
            support = None if msg["name"] in self.moving else _support(msg["fn"])
            _refuse_outside(msg, support, msg["value"], self.first_row)


def check_support(
    trace: poutine.Trace,
    batch: Batch,
    run: Callable[[Batch], Any],
    data: Batch,
    transform: Transform | None,
    size: int,
) -> None:
    """Refuse data that the model gives no density, all of them, before the first step.

    A value that is a tensor of the minibatch, or a view of one, under a support that nothing moves, is looked at
    without running the model. Else the model is run on every minibatch, without gradients. A support that depends on
    parameters, as that of Uniform(0, theta), is not held against the data: it moves. Random states and Pyro's
    parameter store are left as they are.

    Args:
        trace: Trace of the model on a minibatch, with gradients.
        batch: That minibatch, after `transform`.
        run: Runs guide and model on a minibatch.
        data: All data.
        transform: Applied to every chunk.
        size: Data that the model can take together.

    Raises:
        ValueError: If a value is NaN, infinite or outside the support; the message names site, value and row.
    """
    sites = {name: site for name, site in trace.nodes.items() if _observes_data(site)}
    supports = {name: _support(site["fn"]) for name, site in sites.items()}
    moving = [name for name, support in supports.items() if any(leaf.requires_grad for leaf in _tensors(support))]
    places = {name: _place(site, supports[name], batch) for name, site in sites.items()}
    randomness = RandomState.capture()
    store = pyro.get_param_store()
    try:
        with torch.no_grad():
            if all(place is not None for place in places.values()):
                for start, chunk in _chunks(data, transform, max(size, _CHUNK)):
                    for name, place in places.items():
                        assert place is not None
                        _refuse_outside(sites[name], supports[name], chunk[place], start)
                return
            with store.scope(store.get_state()), SupportCheck(moving) as check:
                for check.first_row, chunk in _chunks(data, transform, size):
                    run(chunk)
    finally:
        randomness.restore()


def _chunks(data: Batch, transform: Transform | None, size: int) -> Iterator[tuple[int, Batch]]:
    for start in range(0, len(data[0]), size):
        yield start, transformed(tuple(tensor[start : start + size] for tensor in data), transform)


def _observes_data(site: Any) -> bool:
    return (
        site["type"] == "sample"
        and site["is_observed"]
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic")
        and isinstance(site["value"], Tensor)
        and site["value"].numel() > 0
    )


def _support(fn: Any) -> Constraint | None:
    """The support; None where the distribution states none."""
    try:
        support = fn.support
    except (NotImplementedError, AttributeError, ValueError):
        return None
    return support if isinstance(support, Constraint) else None


def _tensors(support: Any) -> Iterator[Tensor]:
    """The tensors that a support is made of."""
    if isinstance(support, Tensor):
        yield support
    elif isinstance(support, list | tuple):
        for part in support:
            yield from _tensors(part)
    elif isinstance(support, Constraint):
        yield from _tensors(list(vars(support).values()))


def _place(site: Any, support: Constraint | None, batch: Batch) -> int | None:
    """Which tensor of the minibatch the site observes; None where the model has to be run to find out."""
    value = site["value"]
    masked = any(isinstance(part, MaskedDistribution) for part in _chain(site["fn"]))
    if masked or isinstance(site["mask"], Tensor) or any(True for _ in _tensors(support)):
        return None
    elementwise = support is None or _element(support).event_dim == 0
    for index, tensor in enumerate(batch):
        same = tensor.data_ptr() == value.data_ptr() and tensor.dtype == value.dtype
        if same and (tensor.shape == value.shape or (elementwise and tensor.numel() == value.numel())):
            return index
    return None


def _chain(fn: Any) -> Iterator[Any]:
    """A distribution, what it wraps, and so on."""
    yield fn
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
        yield fn


def _element(support: Constraint) -> Constraint:
    return _element(support.base_constraint) if isinstance(support, constraints.independent) else support


def _refuse_outside(site: Any, support: Constraint | None, value: Tensor, first_row: int) -> None:
    """Refuse a value that no parameters make possible."""
    inside = value.isfinite()
    if support is not None:
        allowed = _element(support).check(value)
        inside = inside.flatten(allowed.dim()).all(-1) & allowed if allowed.dim() < value.dim() else inside & allowed
    mask = site["mask"]
    if mask is False or bool(inside.all()):
        return
    wrong = ~inside
    for part in _chain(site["fn"]):
        if isinstance(part, MaskedDistribution):
            own = torch.as_tensor(part._mask, device=wrong.device).expand(part.batch_shape)
            wrong = wrong & own.reshape(*own.shape, *[1] * (wrong.dim() - own.dim()))
    if not bool(wrong.any()):
        return
    if isinstance(mask, Tensor):
        batch_dims = value.dim() - site["fn"].event_dim
        wrong = wrong.reshape(*wrong.shape[:batch_dims], -1).any(-1) & mask
        if not bool(wrong.any()):
            return
    place = tuple(wrong.nonzero()[0].tolist())
    found = value[place]
    shown = f"{found.item():.6g}" if found.dim() == 0 else str(found.tolist())[:60]
    *_, fn = _chain(site["fn"])
    plain = None if support is None else _element(support)
    kind = "Real" if plain is None else type(plain).__name__.lstrip("_")
    words = _WORDS.get(kind, f"data in {plain}")
    row = f" in row {first_row + place[0]}" if place else ""
    raise ValueError(
        f"Expected {words} for {type(fn).__name__} at site {site['name']!r}; got {shown}{row}: "
        "transform the data, leave the row out, or observe it under another distribution."
    )
