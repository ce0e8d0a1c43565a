"""NumPyro's SVI, jitted, one `lax.scan` an epoch.

Convolutions are matrix products of patches: within a scan XLA's own take 20 to 40 times as long on CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, nn
from jax import numpy as jnp
from numpy.typing import NDArray
from numpyro.infer import SVI, Trace_ELBO

from latentmix.experiments.benchmarks.svi.cases import LEARNING_RATE, Architecture, Case
from latentmix.experiments.benchmarks.svi.contestants import Turn

__all__ = ["decoder_parameters", "encoder_parameters", "run"]

KERNEL = 4
PADDING = ((0, 0), (1, 1), (1, 1), (0, 0))
MOMENTUM, EPSILON = 0.1, 1e-5  # of batch normalisation, as in torch

Layer = dict[str, Any]


def run(case: Case, data: NDArray[np.float32], turn: Turn) -> Mapping[str, Any]:
    """`SVI.update` with NumPyro's Adam and its `Trace_ELBO`, scanned over the minibatches of an epoch."""
    if not turn():
        return {}
    architecture, size = case.architecture, case.batch_size
    channels, height, width = architecture.shape
    images = jnp.asarray(data.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))
    keys = jax.random.split(jax.random.key(0), 4)
    decoder, encoder = decoder_parameters(keys[0], architecture), encoder_parameters(keys[1], architecture)

    def model(x: Any) -> None:
        layers = numpyro.param("decoder", decoder)
        with numpyro.plate("data", len(x)):
            prior = dist.Normal(jnp.zeros(architecture.latent_dim), 1.0).to_event(1)
            logits = decode(layers, numpyro.sample("z", prior), architecture)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(x: Any) -> None:
        layers = numpyro.param("encoder", encoder)
        features = encode(layers, x, architecture)
        loc, log_variance = linear(layers["loc"], features), linear(layers["log_variance"], features)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(0.5 * log_variance)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), Trace_ELBO())
    state = svi.init(keys[2], images[:size])

    def train(state: Any, key: Any, images: Any) -> Any:
        order = jax.random.permutation(key, len(images))[: case.steps * size].reshape(case.steps, size)
        state, losses = lax.scan(lambda state, rows: svi.update(state, images[rows]), state, order)
        return state, losses.mean() / size

    epoch, key, more = jax.jit(train), keys[3], True
    while more:
        key, own = jax.random.split(key)
        state, loss = jax.block_until_ready(epoch(state, own, images))
        more = turn()
    return {"loss": float(loss)}


def encoder_parameters(key: Any, architecture: Architecture) -> Layer:
    """The encoder's parameters, distributed as torch initialises them: layers by name.

    Args:
        key: JAX's random key.
        architecture: The networks.
    """
    keys = iter(jax.random.split(key, 16))
    layers: Layer = {}
    for index, (few, many, norm) in enumerate(architecture.convolutions):
        layers[f"convolution{index}"] = uniform(next(keys), (KERNEL, KERNEL, few, many), KERNEL**2 * few)
        if norm:
            layers[f"norm{index}"] = {"scale": jnp.ones(many), "offset": jnp.zeros(many)}
    height, width = architecture.smallest_map
    widths = [[architecture.shape[0], *architecture.encoder_channels][-1] * height * width]
    widths += architecture.encoder_hidden
    for index, (narrow, wide) in enumerate(pairwise(widths)):
        layers[f"hidden{index}"] = uniform(next(keys), (narrow, wide), narrow)
    for name in ("loc", "log_variance"):
        layers[name] = uniform(next(keys), (widths[-1], architecture.latent_dim), widths[-1])
    return layers


def decoder_parameters(key: Any, architecture: Architecture) -> Layer:
    """The decoder's parameters, likewise.

    Args:
        key: JAX's random key.
        architecture: The networks.
    """
    keys = iter(jax.random.split(key, 16))
    layers: Layer = {}
    widths = [architecture.latent_dim, *architecture.decoder_hidden]
    for index, (narrow, wide) in enumerate(pairwise(widths)):
        layers[f"hidden{index}"] = uniform(next(keys), (narrow, wide), narrow)
    maps = architecture.decoder_channels
    wide = maps[0] * math.prod(architecture.smallest_map) if maps else architecture.pixels
    layers["out"] = uniform(next(keys), (widths[-1], wide), widths[-1])
    if maps:
        for index, (few, many) in enumerate(pairwise([*maps, architecture.shape[0]])):
            layers[f"convolution{index}"] = uniform(next(keys), (KERNEL, KERNEL, few, many), KERNEL**2 * many)
    return layers


def uniform(key: Any, shape: Sequence[int], fan_in: int) -> Layer:
    """Weights of that shape and biases of its last dimension, uniform within 1 / sqrt(fan_in)."""
    weight, bias = jax.random.split(key)
    bound = 1 / math.sqrt(fan_in)
    return {
        "weight": jax.random.uniform(weight, tuple(shape), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias, (shape[-1],), minval=-bound, maxval=bound),
    }


def linear(layer: Layer, x: Any) -> Any:
    """An affine map of the last dimension."""
    return x @ layer["weight"] + layer["bias"]


def encode(layers: Layer, x: Any, architecture: Architecture) -> Any:
    """Features of an `n x height x width x channels` array."""
    for index, (_, _, norm) in enumerate(architecture.convolutions):
        x = convolution(layers[f"convolution{index}"], x)
        if norm:
            x = normalised(layers[f"norm{index}"], x, f"running{index}")
        x = nn.relu(x)
    x = x.reshape(len(x), -1)
    for index in range(len(architecture.encoder_hidden)):
        x = nn.relu(linear(layers[f"hidden{index}"], x))
    return x


def decode(layers: Layer, z: Any, architecture: Architecture) -> Any:
    """Logits of `n x height x width x channels` pixels."""
    for index in range(len(architecture.decoder_hidden)):
        z = nn.relu(linear(layers[f"hidden{index}"], z))
    x = linear(layers["out"], z)
    channels, height, width = architecture.shape
    if not architecture.decoder_channels:
        return x.reshape(len(x), height, width, channels)
    x = x.reshape(len(x), *architecture.smallest_map, architecture.decoder_channels[0])
    for index in range(len(architecture.decoder_channels)):
        x = transposed_convolution(layers[f"convolution{index}"], nn.relu(x) if index else x)
    return x


def convolution(layer: Layer, x: Any) -> Any:
    """A convolution of kernel 4, stride 2 and padding 1.

    Args:
        layer: A `4 x 4 x channels x out` weight and a bias.
        x: An `n x height x width x channels` array.
    """
    n, height, width, channels = x.shape
    rows, columns = height // 2, width // 2
    x = jnp.pad(x, PADDING).reshape(n, rows + 1, 2, columns + 1, 2, channels)
    patches = [x[:, i : i + rows, :, j : j + columns] for i in (0, 1) for j in (0, 1)]
    patches = [patch.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, -1) for patch in patches]
    kernel = layer["weight"].reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return jnp.concatenate(patches, -1) @ kernel.reshape(KERNEL**2 * channels, -1) + layer["bias"]


def transposed_convolution(layer: Layer, x: Any) -> Any:
    """A transposed convolution of kernel 4, stride 2 and padding 1.

    Args:
        layer: A `4 x 4 x channels x out` weight and a bias.
        x: An `n x height x width x channels` array.
    """
    n, height, width, channels = x.shape
    x = jnp.pad(x, PADDING)
    patches = [x[:, 1 - i : height + 2 - i, 1 - j : width + 2 - j] for i in (0, 1) for j in (0, 1)]
    kernel = layer["weight"].reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 4, 1, 3, 5)
    y = jnp.concatenate(patches, -1) @ kernel.reshape(4 * channels, -1)
    y = y.reshape(n, height + 1, width + 1, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, 2 * height + 2, 2 * width + 2, -1)[:, 1:-1, 1:-1] + layer["bias"]


def normalised(layer: Layer, x: Any, name: str) -> Any:
    """Batch normalisation over all but the last dimension; the running moments are a mutable site of that name."""
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    count = math.prod(x.shape[:-1])
    running = numpyro.primitives.mutable(name, {"mean": jnp.zeros_like(mean), "variance": jnp.ones_like(variance)})
    for key, moment in (("mean", mean), ("variance", variance * count / (count - 1))):
        running[key] = (1 - MOMENTUM) * running[key] + MOMENTUM * lax.stop_gradient(moment)
    return (x - mean) * lax.rsqrt(variance + EPSILON) * layer["scale"] + layer["offset"]
