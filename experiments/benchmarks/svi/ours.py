"""`latentmix.inference.fit`, compiled and not, in float32 and in bf16-mixed precision."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, final

import numpy as np
import torch
import torch._dynamo  # torch.optim imports it at the first step, which is measured
from numpy.typing import NDArray
from torch.optim import Adam

from latentmix.experiments.benchmarks.svi.cases import LEARNING_RATE, Architecture, Case
from latentmix.experiments.benchmarks.svi.contestants import Turn, UnavailableError
from latentmix.guides import AmortizedGuide, ConvEncoder, Encoder, MLPEncoder
from latentmix.inference import fit
from latentmix.inference.isolation import isolated
from latentmix.inference.svi.state import Callback, TrainingState
from latentmix.models import VAE, Bernoulli, ConvDecoder, Decoder, MLPDecoder, StandardNormal
from latentmix.models.process_state import kept_warnings

__all__ = ["compiled", "compiled_bf16", "networks", "uncompiled", "uncompiled_bf16"]

ENDLESS = 10**9  # epochs: the callback ends the fit


def networks(architecture: Architecture) -> tuple[VAE, AmortizedGuide]:
    """The VAE and its guide.

    Args:
        architecture: The networks.
    """
    shape, latent_dim = architecture.shape, architecture.latent_dim
    encoder: Encoder
    decoder: Decoder
    if architecture.encoder_channels:
        channels = architecture.encoder_channels
        encoder = ConvEncoder(latent_dim, channels, shape, architecture.encoder_hidden, architecture.batch_norm)
        decoder = ConvDecoder(latent_dim, architecture.decoder_channels, shape, architecture.decoder_hidden)
    else:
        encoder = MLPEncoder(latent_dim, architecture.encoder_hidden, shape)
        decoder = MLPDecoder(latent_dim, architecture.decoder_hidden, shape)
    return VAE(decoder, StandardNormal(latent_dim), Bernoulli()), AmortizedGuide(encoder)


def uncompiled(case: Case, data: NDArray[np.float32], turn: Turn) -> Mapping[str, Any]:
    """`fit` without compiled steps, which it would have by default in so long a training."""
    return _fit(case, data, turn, compile=False)


def compiled(case: Case, data: NDArray[np.float32], turn: Turn) -> Mapping[str, Any]:
    """`fit` with compiled steps."""
    return _fit(case, data, turn, compile=True)


def uncompiled_bf16(case: Case, data: NDArray[np.float32], turn: Turn) -> Mapping[str, Any]:
    """`fit` without compiled steps, with products in bfloat16."""
    return _fit(case, data, turn, compile=False, precision="bf16-mixed")


def compiled_bf16(case: Case, data: NDArray[np.float32], turn: Turn) -> Mapping[str, Any]:
    """`fit` with compiled steps and products in bfloat16."""
    return _fit(case, data, turn, compile=True, precision="bf16-mixed")


@final
class _Turns(Callback):
    def __init__(self, turn: Turn) -> None:
        self.turn = turn

    def on_epoch_end(self, state: TrainingState) -> bool:
        return not self.turn()


def _fit(case: Case, data: NDArray[np.float32], turn: Turn, **options: Any) -> Mapping[str, Any]:
    missing = [name for name in options if name not in inspect.signature(fit).parameters]
    if missing:
        raise UnavailableError(f"`fit` has no option `{missing[0]}` in this version")
    if not turn():
        return {}
    with kept_warnings():
        warnings.filterwarnings("error", message=".*uncompiled")  # else it would be measured under another's name
        with isolated(seed=0):
            vae, guide = networks(case.architecture)
        result = fit(
            vae.model,
            guide,
            torch.from_numpy(data),
            epochs=ENDLESS,
            batch_size=case.batch_size,
            drop_last=True,
            optimizer=partial(Adam, lr=LEARNING_RATE, fused=True),
            callbacks=[_Turns(turn)],
            seed=0,
            **options,
        )
    return {"loss": result.losses[-1]}
