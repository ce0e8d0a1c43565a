"""Decoders of the presets as if trained, and the agreement that a page owes them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.options.parts import build_parts
from latentmix.models import VAE

SHAPES = {
    "celeba": (3, 64, 64),
    "gmm3d": (3,),
    "natural_patches": (3, 32, 32),
    "points": (4,),
}


def preset_vae(name: str) -> VAE:
    torch.manual_seed(0)
    vae, _ = build_parts(Experiment.from_config(parse_experiment(name, [])).parts(SHAPES.get(name, (1, 28, 28))))
    spread(vae.decoder)
    return vae.eval()


def spread(module: nn.Module, gain: float = 1.5) -> None:
    """Weights as large as after training, and statistics of batches that are not those of the start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(gain) if parameter.dim() > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_()
                layer.running_var.uniform_(1e-3, 4.0)


def assert_close(values: np.ndarray, vae: VAE, latents: Tensor) -> None:
    """Pixels within 2e-2, and within a twentieth of their spread over the latents."""
    expected = vae.decode(latents.to(next(vae.parameters()).dtype)).flatten(1).double().numpy()
    assert expected.std(0).max() > 1e-3  # pictures, and not one grey
    np.testing.assert_allclose(values, expected, rtol=0, atol=min(2e-2, 0.05 * expected.std(0).max()))
