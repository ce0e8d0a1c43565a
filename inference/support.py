"""Checks that data lie in the support of the distributions that a model observes them under."""

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

from latentmix.inference.batches import Batch, Transform, chunks
from latentmix.inference.isolation import RandomState

__all__ = ["SupportCheck", "check_support"]

_CHUNK = 1024  # rows of one chunk
_WORDS = {"Boolean": "data of zeros and ones", "Real": "finite data", "NonNegativeInteger": "counts from 0 on"}


class SupportCheck(Messenger):
    """Refuses observed values that are NaN, infinite or outside the support of their site, unless masked.

    Args:
        trained: Sites whose support depends on parameters; their values need only be finite.

    Attributes:
        first_row: Row of the data set that the present minibatch starts with, for the message.
    """

    def __init__(self, trained: Collection[str] = ()) -> None:
        super().__init__()
        self.trained = trained
        self.first_row = 0

    def _pyro_post_sample(self, msg: Any) -> None:
        if _observes_data(msg):
            support = None if msg["name"] in self.trained else _support(msg["fn"])
            _refuse_outside(msg, support, msg["value"], self.first_row)


def check_support(
    trace: poutine.Trace,
    batch: Batch,
    run: Callable[[Batch], Any],
    data: Batch,
    transform: Transform | None,
    size: int,
) -> None:
    """Refuse data outside the support of the model, before the first step.

    Where every observed value is a tensor of the minibatch, or a view of one, under a fixed support, the data are
    checked without running the model; else the model is run on every minibatch, without gradients. A support that
    depends on parameters, such as that of Uniform(0, theta), is not checked. Random states and Pyro's parameter store
    are unchanged.

    Args:
        trace: Trace of the model on a minibatch, with gradients.
        batch: That minibatch, after `transform`.
        run: Runs guide and model on a minibatch.
        data: All data.
        transform: Applied to every chunk.
        size: Largest minibatch of the model.

    Raises:
        ValueError: If a value is NaN, infinite or outside the support; the message names site, value and row.
    """
    sites = {name: site for name, site in trace.nodes.items() if _observes_data(site)}
    supports = {name: _support(site["fn"]) for name, site in sites.items()}
    trained = [name for name, support in supports.items() if any(leaf.requires_grad for leaf in _tensors(support))]
    places = {name: _place(site, supports[name], batch) for name, site in sites.items()}
    randomness = RandomState.capture()
    store = pyro.get_param_store()
    try:
        with torch.no_grad():
            if all(place is not None for place in places.values()):
                for start, chunk in chunks(data, max(size, _CHUNK), transform):
                    for name, place in places.items():
                        assert place is not None
                        _refuse_outside(sites[name], supports[name], chunk[place], start)
                return
            with store.scope(store.get_state()), SupportCheck(trained) as check:
                for check.first_row, chunk in chunks(data, size, transform):
                    run(chunk)
    finally:
        randomness.restore()


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
    """The tensors that a support depends on."""
    if isinstance(support, Tensor):
        yield support
    elif isinstance(support, list | tuple):
        for part in support:
            yield from _tensors(part)
    elif isinstance(support, Constraint):
        yield from _tensors(list(vars(support).values()))


def _place(site: Any, support: Constraint | None, batch: Batch) -> int | None:
    """Index of the tensor of the minibatch that the site observes; None where the model has to be run."""
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
    """A distribution, its base distribution, and so on."""
    yield fn
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
        yield fn


def _element(support: Constraint) -> Constraint:
    return _element(support.base_constraint) if isinstance(support, constraints.independent) else support


def _refuse_outside(site: Any, support: Constraint | None, value: Tensor, first_row: int) -> None:
    """Refuse values without a density; a mask exempts them."""
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
    refused = value[place]
    shown = f"{refused.item():.6g}" if refused.dim() == 0 else str(refused.tolist())[:60]
    *_, fn = _chain(site["fn"])
    plain = None if support is None else _element(support)
    kind = "Real" if plain is None else type(plain).__name__.lstrip("_")
    words = _WORDS.get(kind, f"data in {plain}")
    row = f" in row {first_row + place[0]}" if place else ""
    raise ValueError(
        f"Expected {words} for {type(fn).__name__} at site {site['name']!r}; got {shown}{row}: "
        "transform the data, leave the row out, or observe it under another distribution."
    )
