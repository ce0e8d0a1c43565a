"""Networks and data of the comparison, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ARCHITECTURES", "LEARNING_RATE", "Architecture", "Case"]

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Architecture:
    """A VAE with a standard normal prior, a diagonal normal q(z|x) and Bernoulli pixels.

    An encoder with `encoder_channels` consists of convolutions (kernel 4, stride 2, padding 1), each with a ReLU; any
    other of fully connected layers with ReLU. Two linear layers give mean and log-variance of z. The decoder mirrors
    it: fully connected layers with ReLU, a linear layer onto the first feature map or onto the pixels, transposed
    convolutions with ReLU between them.

    Attributes:
        shape: `(channels, height, width)` of an image.
        latent_dim: Length of z.
        encoder_hidden: Widths of the encoder's layers.
        encoder_channels: Channels of its convolutions.
        batch_norm: For each convolution, whether batch normalisation follows it.
        decoder_hidden: Widths of the decoder's layers.
        decoder_channels: Channels of its feature maps, from the latent on.
        preset: The preset that has these networks; None if none does.
    """

    shape: tuple[int, int, int]
    latent_dim: int
    encoder_hidden: tuple[int, ...] = ()
    encoder_channels: tuple[int, ...] = ()
    batch_norm: tuple[bool, ...] = ()
    decoder_hidden: tuple[int, ...] = ()
    decoder_channels: tuple[int, ...] = ()
    preset: str | None = None

    @property
    def pixels(self) -> int:
        """Values of an image."""
        return math.prod(self.shape)

    @property
    def convolutions(self) -> list[tuple[int, int, bool]]:
        """Channels into and out of each of the encoder's convolutions, and whether batch normalisation follows."""
        sizes = [self.shape[0], *self.encoder_channels]
        norms = self.batch_norm or (False,) * len(self.encoder_channels)
        return list(zip(sizes[:-1], sizes[1:], norms, strict=True))

    @property
    def smallest_map(self) -> tuple[int, int]:
        """Height and width of the feature map between convolutions and linear layers."""
        step = 2 ** len(self.encoder_channels)
        return self.shape[1] // step, self.shape[2] // step


ARCHITECTURES = {
    "mlp": Architecture((1, 28, 28), 50, encoder_hidden=(400,), decoder_hidden=(400,)),
    "digits": Architecture((1, 8, 8), 10, encoder_hidden=(512,), decoder_hidden=(512,), preset="digits"),
    "conv16": Architecture(
        (1, 28, 28),
        10,
        encoder_channels=(16, 32),
        decoder_hidden=(128,),
        decoder_channels=(32, 16),
        preset="mnist_conv16",
    ),
    "conv64": Architecture(
        (1, 28, 28),
        20,
        encoder_channels=(64, 128),
        batch_norm=(False, True),
        decoder_channels=(128, 64),
        preset="mnist_conv64",
    ),
}


@dataclass(frozen=True)
class Case:
    """One comparison: the same networks, data and minibatches for all.

    Attributes:
        network: A name out of `ARCHITECTURES`.
        batch_size: Images a step; an incomplete last minibatch is left out.
        images: Images an epoch.
    """

    network: str
    batch_size: int
    images: int

    @property
    def architecture(self) -> Architecture:
        """The networks."""
        return ARCHITECTURES[self.network]

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.images // self.batch_size

    def data(self) -> NDArray[np.float32]:
        """Random binary images, three pixels in ten white: an `images x shape` array."""
        draws = np.random.default_rng(0).random((self.images, *self.architecture.shape), dtype=np.float32)
        return (draws > 0.7).astype(np.float32)
