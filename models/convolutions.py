"""Convolutions in the layout, and by the operators, that are fast on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import wrap_torch_function

from latentmix.models.products import is_plain

__all__ = ["ConvTranspose2d", "Flatten", "channels_first", "channels_last", "conv_transpose2d"]

_FAST = (torch.float32, torch.bfloat16)  # for which oneDNN has kernels


def channels_last(x: Tensor) -> Tensor:
    """The same values with the channels of a pixel next to each other, on a CPU and where no transformation sees `x`.

    oneDNN then changes no layout in a convolution of them, or of what is computed from them. An image of one channel
    has both layouts; torch takes it for one with the channels first unless its strides say otherwise.

    Args:
        x: An `n x channels x height x width` tensor.

    Example:
        >>> import torch
        >>> from latentmix.models.convolutions import channels_last
        >>> channels_last(torch.zeros(5, 1, 28, 28)).stride()
        (784, 1, 28, 1)
    """
    if not _is_plain_map(x):
        return x
    if x.shape[1] == 1:
        return x.contiguous().reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def channels_first(x: Tensor) -> Tensor:
    """The same values in torch's usual layout, with a gradient whose channels are last, where `channels_last` acts.

    Operators on values of one layout and gradients of another are slow.

    Args:
        x: An `n x channels x height x width` tensor.
    """
    if not _is_plain_map(x):
        return x
    values: Tensor = torch.ops.aten.alias(x.contiguous())  # not `x`, which would keep the hook
    if values.requires_grad:
        values.register_hook(channels_last)
    return values


def _is_plain_map(x: Tensor) -> bool:
    # Gradients of `torch.autograd.grad(..., is_grads_batched=True)` have no memory format.
    return is_plain(x) and x.dim() == 4 and x.dtype in _FAST and not torch._C._functorch.is_legacy_batchedtensor(x)


class Flatten(nn.Flatten):
    """`nn.Flatten`, of values whose channels are last.

    Example:
        >>> import torch
        >>> from latentmix.models.convolutions import Flatten
        >>> Flatten()(torch.zeros(5, 3, 2, 2)).shape
        torch.Size([5, 12])
    """

    def forward(self, input: Tensor) -> Tensor:
        """An `n x (channels * height * width)` tensor."""
        return super().forward(channels_first(input))


@wrap_torch_function(lambda x, *_: (x,))
def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The transposed convolution of `torch.conv_transpose2d`; a `TorchFunctionMode` sees it as one call.

    Args:
        x: An `n x in_channels x height x width` tensor.
        weight: An `in_channels x out_channels x height x width` tensor.
        bias: A tensor of length `out_channels`, or None.
        stride: Distance of the patches.
        padding: Border of the values that is left out.
    """
    values: Tensor = _Transposed.apply(channels_last(x), weight, bias, stride, padding)
    return values


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution; on the CPU by a product, or as the gradient of a convolution.

    It is a product and a sum of patches where the outputs of one input place, `out_channels` times the kernel's area,
    are no more than `in_channels`. Torch's own forward pass takes several times as long there, and up to twice as long
    elsewhere. The results are the same up to rounding.

    It takes the arguments of `torch.nn.ConvTranspose2d`.

    Example:
        >>> import torch
        >>> from latentmix.models.convolutions import ConvTranspose2d
        >>> ConvTranspose2d(64, 1, kernel_size=4, stride=2, padding=1)(torch.zeros(2, 64, 14, 14)).shape
        torch.Size([2, 1, 28, 28])
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve `n x in_channels x height x width` values."""
        if output_size is not None or not self._is_fast(input):
            return super().forward(input, output_size)
        values: Tensor = conv_transpose2d(input, self.weight, self.bias, self.stride, self.padding)
        return values

    def _is_fast(self, input: Tensor) -> bool:
        return (
            is_plain(input, self.weight, self.bias)
            and input.dim() == 4
            and input.numel() > 0
            and (self.groups, self.dilation, self.output_padding) == (1, (1, 1), (0, 0))
            and (input.dtype in _FAST or _has_few_outputs(self.weight))
        )


def _has_few_outputs(weight: Tensor) -> bool:
    return weight[0].numel() <= len(weight)


class _Transposed(torch.autograd.Function):
    """The forward pass; the gradients, those of torch, can be differentiated in turn."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        kernel = (weight.shape[2], weight.shape[3])
        height, width = (
            (size - 1) * step - 2 * border + length
            for size, step, border, length in zip(x.shape[2:], stride, padding, kernel, strict=True)
        )
        if _has_few_outputs(weight):
            patches = torch.bmm(weight.flatten(1).t().expand(len(x), -1, -1), x.flatten(2))
            values = functional.fold(patches, (height, width), kernel, stride=stride, padding=padding)
        else:
            size = (len(x), weight.shape[1], height, width)
            like = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
            values, *_ = torch.ops.aten.convolution_backward(
                x, like, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (True, False, False)
            )
        return values if bias is None else values.add_(bias[:, None, None])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[:3])
        sizes = [weight.shape[1]] if needed[2] else None
        parts: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            channels_last(gradients[0]), x, weight, sizes, ctx.stride, ctx.padding, (1, 1), True, (0, 0), 1, needed
        )
        return (*parts, None, None)
