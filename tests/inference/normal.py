"""A Normal mean with a Normal prior, whose posterior is known."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


def normal_model(size: int | None, prior: float = 10.0) -> Callable[[Tensor], None]:
    """x_n ~ N(loc, 1), loc ~ N(0, prior^2), in a plate of `size` data, or of the minibatch alone."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=x.dtype), prior))
        plate = pyro.plate("data", len(x)) if size is None else pyro.plate("data", size, subsample=x)
        with plate:
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    return model


def normal_data(size: int) -> Tensor:
    return 3.0 + torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
