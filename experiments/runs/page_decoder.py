"""Decoders as data of a page, whose script `decoder.js` runs them without a library."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from latentmix.models import (
    Bernoulli,
    ContinuousBernoulli,
    ConvDecoder,
    Decoder,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    MLPDecoder,
)
from latentmix.models.convolutions import ConvTranspose2d
from latentmix.models.products import Linear
from latentmix.models.words import plural

__all__ = ["MOST_BYTES", "decoder_bytes", "describe_decoder"]

MOST_BYTES = 3_000_000
LARGEST = 15  # exponent of two below which float16 holds every number

Described = dict[str, Any]


def describe_decoder(decoder: Decoder, likelihood: Likelihood, *, most_bytes: int = MOST_BYTES) -> Described:
    """The map from a latent to the mean of p(x given z), in evaluation mode, as plain values for `decoder.js`.

    Modules are recognised by their exact class: one with a `forward` or hooks of its own may compute anything. Weights
    are base64 of little-endian float16, times a power of two that brings the largest close to the end of their range;
    biases are float32. Batch normalisation becomes part of the layer before it, in float64, if that is linear.

    Args:
        decoder: The decoder.
        likelihood: The likelihood, whose mean it gives.
        most_bytes: Greatest length of the weights in the page.

    Returns:
        A mapping with `latent_dim`, `shape`, `outputs`, `mean` (the map of the likelihood), `layers` in their order,
        and `bytes`, the length of the weights in the page.

    Raises:
        ValueError: If a part is of a class that the script does not know, a weight is not finite, or the weights are
            longer than `most_bytes`.

    Example:
        >>> from latentmix.experiments.runs.page_decoder import describe_decoder
        >>> from latentmix.models import Bernoulli, MLPDecoder
        >>> described = describe_decoder(MLPDecoder(2, (16,), (1, 4, 4)), Bernoulli())
        >>> [layer["kind"] for layer in described["layers"]], described["mean"], described["bytes"]
        (['linear', 'relu', 'linear'], {'kind': 'sigmoid'}, 948)
    """
    parts, mean = _parts(decoder), _mean(likelihood)
    if decoder.outputs != likelihood.outputs:
        raise ValueError(
            f"Expected a decoder of {plural(likelihood.outputs, 'output')} per value, those of "
            f"{type(likelihood).__name__}; got one of {decoder.outputs}."
        )
    network = _Network((decoder.latent_dim,))
    for part in parts:
        network.add(part)
    if math.prod(network.shape) != math.prod((decoder.outputs, *decoder.shape)):
        raise _unknown(decoder, "layers that give as many numbers as its data have")
    size = network.bytes
    if size > most_bytes:
        raise ValueError(
            f"Expected a decoder of at most {most_bytes / 1e6:g} MB for the page; got one of {size / 1e6:.1f} MB: "
            "`load_run` gives it back in Python."
        )
    return {
        "latent_dim": decoder.latent_dim,
        "shape": list(decoder.shape),
        "outputs": decoder.outputs,
        "mean": mean,
        "layers": [layer.packed() for layer in network.layers],
        "bytes": size,
    }


def decoder_bytes(halves: int, singles: int) -> int:
    """Characters of base64 of numbers in half and in single precision."""
    return 4 * math.ceil(2 * halves / 3) + 4 * math.ceil(4 * singles / 3)


def _parts(decoder: Decoder) -> list[nn.Module]:
    """The modules of a decoder in the order in which they are applied."""
    _check_plain(decoder, "decode", "forward")
    if type(decoder) is MLPDecoder:
        return [decoder.body, decoder.out]
    if type(decoder) is ConvDecoder:
        return [decoder.body, decoder.unflatten, decoder.upsample]
    raise _unknown(decoder, "MLPDecoder or ConvDecoder")


def _mean(likelihood: Likelihood) -> Described:
    """The mean of a likelihood as a function of the decoder's outputs."""
    _check_plain(likelihood, "mean")
    kind = type(likelihood)
    if kind is Bernoulli:
        return {"kind": "sigmoid"}
    if kind is ContinuousBernoulli:
        return {"kind": "continuous_bernoulli"}
    if isinstance(likelihood, Gaussian | Laplace) and kind in (Gaussian, Laplace):
        return {"kind": "identity"}
    if isinstance(likelihood, DiscretizedLogistic) and kind is DiscretizedLogistic:
        return {"kind": "discretized_logistic", "n_mixtures": likelihood.n_mixtures}
    raise _unknown(likelihood, "a likelihood of LatentMix")


def _unknown(part: nn.Module, expected: str) -> ValueError:
    kind = type(part)
    name = kind.__name__ if kind.__module__.startswith("torch.") else f"{kind.__module__}.{kind.__name__}"
    return ValueError(f"Expected {expected} for the page's script; got {name:.80}, for which it has no JavaScript.")


def _check_plain(module: nn.Module, *methods: str) -> None:
    """Refuse a module whose computation was changed without a class of its own."""
    if module._forward_hooks or module._forward_pre_hooks or any(method in vars(module) for method in methods):
        raise ValueError(
            f"Expected {type(module).__name__} as its class defines it for the page's script; got one with hooks or "
            "methods of its own, for which it has no JavaScript."
        )


@final
@dataclass
class _Layer:
    """A layer: its kind and sizes, and its weights, whose first or second dimension is that of its outputs.

    `over` is the dimension of the weights that runs over the outputs.
    """

    kind: str
    sizes: Described = field(default_factory=dict)
    weight: Tensor | None = None
    bias: Tensor | None = None
    over: int = 0

    def rescale(self, factor: Tensor, shift: Tensor) -> None:
        """Follow the layer by `factor * x + shift` in each of its outputs."""
        assert self.weight is not None
        assert self.bias is not None
        shape = [1] * self.weight.dim()
        shape[self.over] = -1
        self.weight = self.weight * factor.reshape(shape)
        self.bias = self.bias * factor + shift

    def packed(self) -> Described:
        if self.weight is None or self.bias is None:
            return {"kind": self.kind, **self.sizes}
        bias = base64.b64encode(_finite(self.bias).astype("<f4").tobytes()).decode()
        return {"kind": self.kind, **self.sizes, "weight": _halves(self.weight), "bias": bias}


class _Network:
    """Layers for the script, from modules; `shape` is that of the values after them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.layers: list[_Layer] = []

    @property
    def bytes(self) -> int:
        return sum(
            decoder_bytes(layer.weight.numel(), layer.bias.numel())
            for layer in self.layers
            if layer.weight is not None and layer.bias is not None
        )

    def add(self, module: nn.Module) -> None:
        """Append a module, or those of a sequence."""
        _check_plain(module, "forward")
        if type(module) is nn.Sequential:
            for inner in module:
                self.add(inner)
        elif type(module) in _LAYERS:
            _LAYERS[type(module)](self, module)
        else:
            raise _unknown(module, "layers that are linear, convolutions, normalisations, reshapes or activations")

    def append(self, kind: str, **sizes: Any) -> None:
        self.layers.append(_Layer(kind, sizes))

    def linear(self, layer: Any) -> None:
        self._check(layer, self.shape == (layer.in_features,))
        sizes = {"inputs": layer.in_features, "outputs": layer.out_features}
        self.layers.append(_Layer("linear", sizes, *_weights(layer, layer.out_features)))
        self.shape = (layer.out_features,)

    def convolution(self, layer: Any) -> None:
        """A convolution, or a transposed one."""
        transposed = isinstance(layer, nn.ConvTranspose2d)
        known = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        self._check(layer, known and len(self.shape) == 3 and self.shape[0] == layer.in_channels)
        zipped = zip(
            self.shape[1:],
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.output_padding,
            strict=True,
        )
        into = [
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
            if transposed
            else (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation, extra in zipped
        ]
        sizes = {
            "inputs": layer.in_channels,
            "outputs": layer.out_channels,
            "size": list(self.shape[1:]),
            "into": into,
            **{name: list(getattr(layer, name)) for name in ("stride", "padding", "dilation")},
            "kernel": list(layer.kernel_size),
        }
        kind = "transposed" if transposed else "convolution"
        weights = _weights(layer, layer.out_channels)
        self.layers.append(_Layer(kind, sizes, *weights, over=1 if transposed else 0))
        self.shape = (layer.out_channels, *into)

    def normalisation(self, layer: Any) -> None:
        """Batch normalisation by running statistics."""
        self._check(layer, layer.running_mean is not None and self.shape[0] == layer.num_features)
        mean, variance = layer.running_mean.detach().cpu().double(), layer.running_var.detach().cpu().double()
        factor = (variance + layer.eps).rsqrt()
        if layer.affine:
            factor = factor * layer.weight.detach().cpu().double()
        shift = -mean * factor
        if layer.affine:
            shift = shift + layer.bias.detach().cpu().double()
        before = self.layers[-1] if self.layers else None
        if before is not None and before.weight is not None and before.sizes["outputs"] == layer.num_features:
            before.rescale(factor, shift)
        else:
            sizes = {"outputs": layer.num_features, "each": math.prod(self.shape[1:])}
            self.layers.append(_Layer("scale", sizes, factor, shift))

    def reshape(self, layer: Any) -> None:
        """A flattening or its opposite, which leave the values in their order."""
        self.shape = tuple(layer(torch.empty((1, *self.shape), device="meta")).shape[1:])

    def activation(self, layer: nn.Module) -> None:
        self.append(ACTIVATIONS[type(layer)])

    def leaky(self, layer: Any) -> None:
        self.append("leaky_relu", slope=float(layer.negative_slope))

    def nothing(self, layer: nn.Module) -> None:
        """The identity, as which dropout acts in evaluation mode, too."""

    @staticmethod
    def _check(layer: nn.Module, known: bool) -> None:
        if not known:
            raise ValueError(
                f"Expected layers of one group, padded by zeros, that follow each other for the page's script; got "
                f"{layer!r:.100}, for which it has no JavaScript."
            )


ACTIVATIONS: Mapping[type[nn.Module], str] = {nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
_LAYERS: Mapping[type[nn.Module], Callable[[_Network, Any], None]] = {
    Linear: _Network.linear,
    nn.Linear: _Network.linear,
    nn.Conv2d: _Network.convolution,
    ConvTranspose2d: _Network.convolution,
    nn.ConvTranspose2d: _Network.convolution,
    nn.BatchNorm1d: _Network.normalisation,
    nn.BatchNorm2d: _Network.normalisation,
    nn.Flatten: _Network.reshape,
    nn.Unflatten: _Network.reshape,
    nn.LeakyReLU: _Network.leaky,
    nn.Identity: _Network.nothing,
    nn.Dropout: _Network.nothing,
    **dict.fromkeys(ACTIVATIONS, _Network.activation),
}


def _weights(layer: Any, outputs: int) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach().cpu().double()
    bias = weight.new_zeros(outputs) if layer.bias is None else layer.bias.detach().cpu().double()
    return weight, bias


def _halves(weight: Tensor) -> Described:
    values = _finite(weight)
    largest = float(np.abs(values).max(initial=0.0))
    exponent = LARGEST - math.frexp(largest)[1] if largest else 0
    halves = np.ldexp(values, exponent).astype("<f2")
    return {"data": base64.b64encode(halves.tobytes()).decode(), "exponent": exponent}


def _finite(values: ArrayLike) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.asarray(values, dtype=np.float64)
    if not (np.abs(array) < np.finfo(np.float32).max).all():
        raise ValueError("Expected finite weights of the decoder for the page's script; got NaN or infinity.")
    return array
