"""Network bodies: encoders, from a datum to the features of an amortized guide."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from latentmix.models.arguments import check_floating, check_positive
from latentmix.models.convolutions import Flatten, channels_last
from latentmix.models.networks import halved, mlp
from latentmix.models.pretrained import Part
from latentmix.models.words import plural

__all__ = ["ConvEncoder", "Encoder", "MLPEncoder"]


class Encoder(nn.Module, Part):
    """Network from a datum x to features; the guide's family maps these to q(z given x).

    A subclass fills `encode`. Leading dimensions are flattened here.

    Args:
        latent_dim: Length of z.
        shape: Shape of one datum.
        features: Number of features.

    Raises:
        ValueError: If a size is below 1.
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], features: int) -> None:
        super().__init__()
        check_positive(latent_dim=latent_dim, shape=tuple(shape), features=features)
        self.latent_dim = latent_dim
        self.shape = tuple(shape)
        self.features = features

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Encode an `n x shape` tensor into an `n x features` tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Encode data.

        Args:
            x: A `batch_shape x shape` tensor.

        Returns:
            A `batch_shape x features` tensor.

        Raises:
            ValueError: If the shape of a datum is not the encoder's, or the data are integers.
        """
        check_floating(x)
        batch = x.shape[: x.dim() - len(self.shape)]
        if x.shape[len(batch) :] != self.shape:
            raise ValueError(f"Expected x with data of shape {self.shape}; got {tuple(x.shape)}.")
        return self.encode(x.reshape(-1, *self.shape)).reshape(*batch, self.features)


@final
class MLPEncoder(Encoder):
    """A multilayer perceptron: fully connected layers, each with a ReLU, on the flattened datum.

    Args:
        latent_dim: Length of z.
        hidden: Widths of the layers, at least one.
        shape: Shape of one datum.

    Example:
        >>> import torch
        >>> from latentmix.guides import MLPEncoder
        >>> encoder = MLPEncoder(latent_dim=2, hidden=(64,), shape=(1, 28, 28))
        >>> encoder(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 64])
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int], shape: Sequence[int]) -> None:
        if not hidden:
            raise ValueError("Expected at least one hidden layer in an MLPEncoder; got none.")
        check_positive(hidden=tuple(hidden))
        super().__init__(latent_dim, shape, hidden[-1])
        self.hidden = tuple(hidden)
        self.body = nn.Sequential(nn.Flatten(), mlp([math.prod(self.shape), *hidden]))

    def encode(self, x: Tensor) -> Tensor:
        """See `Encoder.encode`."""
        features: Tensor = self.body(x)
        return features


@final
class ConvEncoder(Encoder):
    """Convolutions that halve the size (kernel 4, stride 2, padding 1) with ReLU, then fully connected layers.

    Args:
        latent_dim: Length of z.
        channels: Channels of each convolution.
        shape: `(channels, height, width)` of one image; both sides divisible by `2 ** len(channels)`.
        hidden: Widths of fully connected layers after the convolutions, each with a ReLU.
        batch_norm: For each convolution, whether batch normalisation follows it; empty for none.

    Example:
        >>> import torch
        >>> from latentmix.guides import ConvEncoder
        >>> encoder = ConvEncoder(latent_dim=20, channels=(64, 128), shape=(1, 28, 28), batch_norm=(False, True))
        >>> encoder(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 6272])
    """

    def __init__(
        self,
        latent_dim: int,
        channels: Sequence[int],
        shape: Sequence[int],
        hidden: Sequence[int] = (),
        batch_norm: Sequence[bool] = (),
    ) -> None:
        check_positive(shape=tuple(shape), channels=tuple(channels), hidden=tuple(hidden))
        height, width = halved(shape, len(channels))
        flat = channels[-1] * height * width
        super().__init__(latent_dim, shape, [flat, *hidden][-1])
        self.channels = tuple(channels)
        self.hidden = tuple(hidden)
        self.batch_norm = tuple(batch_norm)
        normalise = list(batch_norm) or [False] * len(channels)
        if len(normalise) != len(channels):
            raise ValueError(
                f"Expected batch_norm for each of {plural(len(channels), 'convolution')}; got "
                f"{plural(len(normalise), 'value')}."
            )
        layers: list[nn.Module] = []
        sizes = [self.shape[0], *channels]
        for few, many, norm in zip(sizes[:-1], sizes[1:], normalise, strict=True):
            layers.append(nn.Conv2d(few, many, kernel_size=4, stride=2, padding=1))
            layers += [nn.BatchNorm2d(many), nn.ReLU()] if norm else [nn.ReLU()]
        self.body = nn.Sequential(*layers, Flatten(), mlp([flat, *hidden]))

    def encode(self, x: Tensor) -> Tensor:
        """See `Encoder.encode`."""
        features: Tensor = self.body(channels_last(x))
        return features
