"""Warm starts: parameters of a fit that begin at the values of an earlier one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from latentmix.models.arguments import first_mismatch

__all__ = ["start_from"]


@torch.no_grad()
def start_from(store: Any) -> None:
    """Copy fitted values into the parameters of Pyro's present store, which exist already.

    Args:
        store: A state of Pyro's parameter store, as in `SVIResult.store`; it is not changed.

    Raises:
        ValueError: If it is not such a state, or names, shapes or constraints differ from those of the present
            parameters; nothing is copied then.
    """
    if not isinstance(store, Mapping) or not {"params", "constraints"} <= store.keys():
        raise ValueError(f"Expected a state of Pyro's parameter store; got {type(store).__name__}: pass result.store.")
    present = pyro.get_param_store().get_state()
    targets: Mapping[str, Tensor] = present["params"]
    sources: Mapping[str, Tensor] = store["params"]
    mismatch = first_mismatch(targets, sources)
    if mismatch is not None:
        name, expected, given = mismatch
        if expected is None or given is None:
            where = "the model and guide" if expected is None else "store"
            raise ValueError(
                f"Expected the parameters of the model and guide in store; {name!r} is not in {where}: pass the store "
                "of a fit with the same statements."
            )
        raise ValueError(f"Expected {name!r} of shape {expected} in store; got {given}.")
    for name in targets:
        constraint, other = present["constraints"][name], store["constraints"].get(name)
        if repr(constraint) != repr(other):
            raise ValueError(f"Expected {name!r} under the constraint {constraint} in store; got {other}.")
    for name, target in targets.items():
        target.copy_(sources[name])
