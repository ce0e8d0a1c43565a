"""Fixtures that every room's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Every test starts from an empty parameter store and the same seed, and leaves nothing behind."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


@pytest.fixture
def binary_images() -> Tensor:
    """Forty binary images of shape (1, 8, 8) with structure: the upper or the lower half is brighter."""
    generator = torch.Generator().manual_seed(7)
    rates = torch.full((40, 1, 8, 8), 0.2)
    rates[:20, :, :4] = 0.8
    rates[20:, :, 4:] = 0.8
    return torch.bernoulli(rates[torch.randperm(40, generator=generator)], generator=generator)
