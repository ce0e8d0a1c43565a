"""Networks beyond a bound on memory are refused before they are allocated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
from latentmix.models.allocation import AllocationError, BoundedAllocation


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.Linear(784, 10**9),
        lambda: torch.empty((10**6, 10**6)),
        lambda: torch.zeros(10**9, 3),
        lambda: torch.eye(10**6),
        lambda: torch.arange(10**11),
        lambda: torch.randint(0, 3, (10**10,)),
        lambda: torch.zeros(3).new_zeros(10**10),
        lambda: torch.ones(1000).repeat(10**8),
        lambda: torch.nn.Sequential(*(torch.nn.Linear(10_000, 10_000) for _ in range(10))),
    ],
)
def test_more_than_the_bound_is_refused(make) -> None:
    bound = BoundedAllocation(2**30, "networks", "take smaller ones")
    with pytest.raises(AllocationError, match=r"Expected networks of at most 1 GiB; got one of .* GiB or more"), bound:
        make()


def test_the_count_is_that_of_the_parameters() -> None:
    with BoundedAllocation(2**30, "networks", "take smaller ones") as bound:
        decoder = MLPDecoder(latent_dim=3, hidden=(5,), shape=(4,))
    assert bound.bytes == 4 * sum(leaf.numel() for leaf in decoder.parameters())


def test_a_description_that_asks_for_more_than_its_weights_is_refused(tmp_path: Path) -> None:
    vae = VAE(MLPDecoder(latent_dim=2, hidden=(3,), shape=(4,)), StandardNormal(2), Bernoulli())
    vae.save_pretrained(tmp_path)
    file = tmp_path / "vae.json"
    description = json.loads(file.read_text())
    description["init_args"]["decoder"]["init_args"]["hidden"] = [10**9]
    file.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"a module of the size of vae\.safetensors in .*vae\.json.*; got one of"):
        VAE.from_pretrained(tmp_path)
