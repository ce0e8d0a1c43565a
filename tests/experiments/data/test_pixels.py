"""Grey pixels as a likelihood wants them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from latentmix.experiments.data.pixels import (
    DynamicBinarization,
    ToFloat,
    batch_transform,
    binarize_static,
    resolve_binarize,
)
from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import fit
from latentmix.models import VAE, Bernoulli, Gaussian, Likelihood, MLPDecoder, StandardNormal


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

    @pytest.mark.parametrize("change", [ToFloat(), DynamicBinarization()])
    def test_true_is_one(self, change: ToFloat | DynamicBinarization) -> None:
        image = torch.tensor([[True, False, True]])
        got = change(image)
        assert got.dtype == torch.float32
        assert torch.equal(got, torch.tensor([[1.0, 0.0, 1.0]]))
        assert torch.equal(binarize_static(image, seed=0), torch.tensor([[255, 0, 255]], dtype=torch.uint8))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_floats_stay_as_they_are(self, dtype: torch.dtype) -> None:
        image = torch.tensor([[0.25, 1.0]], dtype=dtype)
        assert ToFloat()(image) is image
        assert DynamicBinarization()(image) is image

    @pytest.mark.parametrize(
        "dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.complex64]
    )
    def test_integers_of_unknown_range_are_refused(self, dtype: torch.dtype) -> None:
        image = torch.tensor([[0, 100]]).to(dtype)
        for change in (ToFloat(), DynamicBinarization(), lambda batch: binarize_static(batch, seed=0)):
            with pytest.raises(
                ValueError, match=rf"Expected .*uint8.*; got {dtype}: convert them to .* uint8 in 0\.\.255"
            ):
                change(image)

    def test_arrays_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Expected a tensor of .*; got bool: convert them to a torch tensor"):
            ToFloat()(cast(Any, np.array([True])))

    def test_fit_on_booleans_is_fit_on_their_floats(self) -> None:
        images = torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

        def losses(x: Tensor, transform: Any) -> list[float]:
            torch.manual_seed(0)
            decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4))
            vae = VAE(decoder, StandardNormal(2), Bernoulli())
            guide = AmortizedGuide(MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4)))
            return [record.loss for record in fit(vae.model, guide, x, epochs=2, seed=0, transform=transform).history]

        expected = losses((images > 127).float(), None)
        assert losses(images > 127, ToFloat()) == expected
        assert losses(images > 127, DynamicBinarization()) == expected

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.uint16])
    def test_a_vae_refuses_what_is_no_float(self, dtype: torch.dtype) -> None:
        vae = VAE(MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4)), StandardNormal(2), Gaussian(var_x=0.1))
        guide = AmortizedGuide(MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4)))
        images = torch.ones(3, 1, 4, 4).to(dtype)
        for call in (vae.model, guide, guide.encode):
            with pytest.raises(ValueError, match=rf"Expected floating-point data; got {dtype}: .*ToFloat"):
                call(images)
