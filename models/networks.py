"""Network bodies: decoders, from a latent to the parameters of a likelihood."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import final

from torch import Tensor, nn

from latentmix.models.arguments import check_positive
from latentmix.models.convolutions import ConvTranspose2d, channels_first
from latentmix.models.pretrained import Part
from latentmix.models.products import Linear
from latentmix.models.words import plural

__all__ = ["ConvDecoder", "Decoder", "MLPDecoder", "mlp"]


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers, each followed by a ReLU.

    Args:
        sizes: Widths, from the input to the last layer.

    Example:
        >>> from latentmix.models.networks import mlp
        >>> len(mlp([2, 64, 32]))
        4
    """
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(sizes):
        layers += [Linear(narrow, wide), nn.ReLU()]
    return nn.Sequential(*layers)


class Decoder(nn.Module, Part):
    """Network from a latent z to `outputs` real numbers per value of a datum x.

    A subclass fills `decode`. Leading dimensions (plates, particles) are flattened here, so that a convolution always
    has one batch dimension.

    Args:
        latent_dim: Length of z.
        shape: Shape of one datum x, such as `(channels, height, width)`.
        outputs: Numbers per value of x, `Likelihood.outputs`.

    Raises:
        ValueError: If a size is below 1.
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], outputs: int = 1) -> None:
        super().__init__()
        check_positive(latent_dim=latent_dim, shape=tuple(shape), outputs=outputs)
        self.latent_dim = latent_dim
        self.shape = tuple(shape)
        self.outputs = outputs

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Decode an `n x latent_dim` tensor into an `n x outputs x shape` tensor."""

    def forward(self, z: Tensor) -> Tensor:
        """Decode a latent.

        Args:
            z: A `batch_shape x latent_dim` tensor.

        Returns:
            A `batch_shape x shape x outputs` tensor.

        Raises:
            ValueError: If the last dimension of z is not `latent_dim`, or `decode` gives another shape.
        """
        if not z.dim() or z.shape[-1] != self.latent_dim:
            raise ValueError(f"Expected z with last dimension {self.latent_dim}; got shape {tuple(z.shape)}.")
        values = self.decode(z.reshape(-1, self.latent_dim))
        if values.shape[1:] != (self.outputs, *self.shape):
            raise ValueError(
                f"Expected decode to give {(self.outputs, *self.shape)} for each latent; got {tuple(values.shape[1:])}."
            )
        return values.movedim(1, -1).reshape(*z.shape[:-1], *self.shape, self.outputs)


@final
class MLPDecoder(Decoder):
    """A multilayer perceptron: hidden layers with ReLU, then one linear layer.

    Args:
        latent_dim: Length of z.
        hidden: Widths of the hidden layers, from the latent on.
        shape: Shape of one datum.
        outputs: Numbers per value of x.

    Example:
        >>> import torch
        >>> from latentmix.models import MLPDecoder
        >>> decoder = MLPDecoder(latent_dim=2, hidden=(64,), shape=(1, 28, 28))
        >>> decoder(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 28, 28, 1])
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int], shape: Sequence[int], outputs: int = 1) -> None:
        super().__init__(latent_dim, shape, outputs)
        check_positive(hidden=tuple(hidden))
        self.hidden = tuple(hidden)
        self.body = mlp([latent_dim, *hidden])
        self.out = Linear([latent_dim, *hidden][-1], outputs * math.prod(self.shape))

    def decode(self, z: Tensor) -> Tensor:
        """See `Decoder.decode`."""
        values: Tensor = self.out(self.body(z))
        return values.unflatten(1, (self.outputs, *self.shape))


@final
class ConvDecoder(Decoder):
    """Fully connected layers, a reshape, then transposed convolutions that double the size.

    A ReLU follows each hidden layer, and stands between transposed convolutions (kernel 4, stride 2, padding 1); none
    follows the linear layer onto the first feature map.

    Args:
        latent_dim: Length of z.
        channels: Channels of the feature maps, from the latent on; each is the input of a transposed convolution.
        shape: `(channels, height, width)` of one image; both sides divisible by `2 ** len(channels)`.
        hidden: Widths of fully connected layers before the reshape.
        outputs: Numbers per pixel.

    Example:
        >>> import torch
        >>> from latentmix.models import ConvDecoder
        >>> decoder = ConvDecoder(latent_dim=20, channels=(128, 64), shape=(1, 28, 28))
        >>> decoder(torch.zeros(5, 20)).shape
        torch.Size([5, 1, 28, 28, 1])
    """

    def __init__(
        self,
        latent_dim: int,
        channels: Sequence[int],
        shape: Sequence[int],
        hidden: Sequence[int] = (),
        outputs: int = 1,
    ) -> None:
        super().__init__(latent_dim, shape, outputs)
        height, width = halved(self.shape, len(channels))
        check_positive(channels=tuple(channels), hidden=tuple(hidden))
        self.channels = tuple(channels)
        self.hidden = tuple(hidden)
        self.body = mlp([latent_dim, *hidden])
        self.unflatten = nn.Sequential(
            Linear([latent_dim, *hidden][-1], channels[0] * height * width),
            nn.Unflatten(1, (channels[0], height, width)),
        )
        layers: list[nn.Module] = []
        sizes = [*channels, self.shape[0] * outputs]
        for few, many in pairwise(sizes):
            layers += [ConvTranspose2d(few, many, kernel_size=4, stride=2, padding=1), nn.ReLU()]
        self.upsample = nn.Sequential(*layers[:-1])

    def decode(self, z: Tensor) -> Tensor:
        """See `Decoder.decode`."""
        pixels = channels_first(self.upsample(self.unflatten(self.body(z))))
        return pixels.unflatten(1, (self.outputs, self.shape[0]))


def halved(shape: Sequence[int], times: int) -> tuple[int, int]:
    """Height and width of an image after convolutions of stride 2.

    Args:
        shape: `(channels, height, width)`.
        times: Number of convolutions.

    Raises:
        ValueError: If the shape is not `(channels, height, width)`, `times` is 0, or a side cannot be halved so often.
    """
    if len(shape) != 3:
        raise ValueError(f"Expected an image shape (channels, height, width); got {tuple(shape)}.")
    if times < 1:
        raise ValueError("Expected at least one convolution; got none in channels.")
    step = 2**times
    if shape[1] % step or shape[2] % step:
        raise ValueError(
            f"Expected height and width divisible by {step} for {plural(times, 'convolution')} of stride 2; got "
            f"{tuple(shape)}."
        )
    return shape[1] // step, shape[2] // step
