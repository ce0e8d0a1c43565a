"""Transposed convolutions onto few channels, such as an image's, as matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import wrap_torch_function

from latentmix.models.products import is_plain

__all__ = ["ConvTranspose2d", "conv_transpose2d"]


@wrap_torch_function(lambda x, *_: (x,))
def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The transposed convolution of `torch.conv_transpose2d`, by products; a `TorchFunctionMode` sees it as one call.

    Args:
        x: An `n x in_channels x height x width` tensor.
        weight: An `in_channels x out_channels x height x width` tensor.
        bias: A tensor of length `out_channels`, or None.
        stride: Distance of the patches.
        padding: Border of the values that is left out.
    """
    values: Tensor = _ByProducts.apply(x, weight, bias, stride, padding)
    return values


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution; on the CPU a product and a sum of patches where that is the faster way.

    It is where the outputs of one input place, `out_channels` times the kernel's area, are no more than `in_channels`:
    torch's own forward pass takes several times as long there, mostly for changes of the layout. The results are the
    same up to rounding.

    It takes the arguments of `torch.nn.ConvTranspose2d`.

    Example:
        >>> import torch
        >>> from latentmix.models.convolutions import ConvTranspose2d
        >>> ConvTranspose2d(64, 1, kernel_size=4, stride=2, padding=1)(torch.zeros(2, 64, 14, 14)).shape
        torch.Size([2, 1, 28, 28])
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve `n x in_channels x height x width` values."""
        plain = is_plain(input, self.weight, self.bias) and input.dim() == 4 and input.numel() > 0
        if output_size is not None or not plain or not self._has_few_outputs():
            return super().forward(input, output_size)
        values: Tensor = conv_transpose2d(input, self.weight, self.bias, self.stride, self.padding)
        return values

    def _has_few_outputs(self) -> bool:
        height, width = self.kernel_size
        return (
            self.out_channels * height * width <= self.in_channels
            and self.groups == 1
            and self.dilation == (1, 1)
            and self.output_padding == (0, 0)
        )


class _ByProducts(torch.autograd.Function):
    """The forward pass by products; the gradients, those of torch, can be differentiated in turn."""

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
        patches = torch.bmm(weight.flatten(1).t().expand(len(x), -1, -1), x.flatten(2))
        values = functional.fold(patches, (height, width), kernel, stride=stride, padding=padding)
        return values if bias is None else values.add_(bias[:, None, None])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[:3])
        sizes = [weight.shape[1]] if needed[2] else None
        parts: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            gradients[0], x, weight, sizes, ctx.stride, ctx.padding, (1, 1), True, (0, 0), 1, needed
        )
        return (*parts, None, None)
