"""Grey pixels as a likelihood wants them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from latentmix.experiments.data import (
    DynamicBinarization,
    ToFloat,
    batch_transform,
    binarize_static,
    resolve_binarize,
)
from latentmix.models import Bernoulli, Likelihood


class TestBinarization:
    def test_auto(self) -> None:
        assert resolve_binarize("auto", Bernoulli()) == "dynamic"
        assert resolve_binarize("auto", cast(Likelihood, SimpleNamespace(support="real"))) == "none"

    @pytest.mark.parametrize("mode", ["none", "static", "dynamic"])
    def test_an_explicit_choice_stands(self, mode: Any) -> None:
        assert resolve_binarize(mode, Bernoulli()) == mode

    def test_transforms(self) -> None:
        assert batch_transform("none") == batch_transform("static") == ToFloat()
        assert batch_transform("dynamic") == DynamicBinarization()

    def test_to_float(self) -> None:
        got = ToFloat()(torch.tensor([[0, 51, 255]], dtype=torch.uint8))
        assert got.dtype == torch.float32
        assert torch.equal(got, torch.tensor([[0.0, 0.2, 1.0]]))

    def test_dynamic(self) -> None:
        batch = torch.arange(256, dtype=torch.uint8).expand(4000, 256)
        first, second = DynamicBinarization()(batch), DynamicBinarization()(batch)
        assert first.dtype == torch.float32
        assert first.unique().tolist() == [0.0, 1.0]
        assert not torch.equal(first, second)
        assert torch.allclose(first.mean(0), torch.arange(256) / 255, atol=0.04)
        assert bool((first[:, 0] == 0).all())
        assert bool((first[:, 255] == 1).all())

    def test_static(self) -> None:
        grey = torch.arange(256, dtype=torch.uint8).expand(4000, 256)
        drawn = binarize_static(grey, seed=0)
        assert drawn.dtype == torch.uint8
        assert drawn.unique().tolist() == [0, 255]
        assert torch.equal(drawn, binarize_static(grey, seed=0))
        assert not torch.equal(drawn, binarize_static(grey, seed=1))
        assert torch.allclose((drawn / 255).mean(0), torch.arange(256) / 255, atol=0.04)
        assert bool((drawn[:, 0] == 0).all())
        assert bool((drawn[:, 255] == 255).all())
