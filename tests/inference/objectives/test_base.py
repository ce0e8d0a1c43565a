from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from latentmix.inference.objectives.base import data_plate

from tests.inference.pairs import (
    TOTAL,
    subsampled_pair,
)


def sites(model: Callable[..., Any], *batch: Tensor) -> Any:
    return poutine.trace(model).get_trace(*batch).nodes.values()


def test_data_plate() -> None:
    model, _, (x,), _ = subsampled_pair()
    plate = data_plate(sites(model, x), len(x))
    assert plate is not None
    assert (plate.name, plate.size, plate.full_size) == ("data", 12, TOTAL)
    assert data_plate(sites(model, x), 13) is None
    assert data_plate(sites(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))), 1) is None


def test_data_plate_is_not_mistaken_for_another_of_its_length() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("rows", TOTAL, subsample=x, dim=-2), pyro.plate("pixels", 12, dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand((12, 12)), obs=x)

    plate = data_plate(sites(model, torch.zeros(12, 12)), 12)
    assert plate is not None
    assert plate.name == "rows"
