"""Mixed precision: products of networks in bfloat16, everything else in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from latentmix.inference.objectives.base import Stochastic, Terms, WrappedObjective
from latentmix.models.convolutions import conv_transpose2d

__all__ = ["PRECISIONS", "MixedPrecision", "Precision", "check_precision", "slow_products"]

Precision = Literal["full", "bf16-mixed"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
_PRODUCTS: dict[Any, Any] = {
    **{product: product for product in (F.linear, torch.conv1d, torch.conv2d, torch.conv3d)},
    **{product: product for product in (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)},
    conv_transpose2d: torch.conv_transpose2d,
}
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def check_precision(precision: str) -> None:
    """Refuse an unknown precision.

    Raises:
        ValueError: If it is none of `PRECISIONS`.

    Example:
        >>> from latentmix.inference.objectives.precision import check_precision
        >>> check_precision("16-mixed")
        Traceback (most recent call last):
            ...
        ValueError: Expected precision 'full' or 'bf16-mixed'; got '16-mixed'.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision {' or '.join(map(repr, PRECISIONS))}; got {precision!r:.60}.")


def slow_products(device: torch.device) -> str | None:
    """The reason why products in bfloat16 are no faster than in float32 on a device; None if they are, or may be.

    Args:
        device: The device of the tensors.
    """
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if supported else "this GPU has no products in bfloat16"
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    if not known or any(known.get(name) for name in _INSTRUCTIONS):
        return None
    return "this processor has no products in bfloat16, such as AVX512_BF16 or AMX"


class _Products(TorchFunctionMode):
    """Runs linear layers and convolutions on bfloat16 copies of input and weight; the bias is added in float32.

    Attributes:
        count: Number of products so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        self.count += 1
        return _product(_PRODUCTS[func], *args, **(kwargs or {}))


def _product(
    function: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *options: Any, **named: Any
) -> Tensor:
    if input.dtype != torch.float32 or weight.dtype != torch.float32:
        raise ValueError(
            f"Expected networks and their inputs in float32 for precision='bf16-mixed'; got a product of {input.dtype} "
            f"by {weight.dtype}: convert model, guide and data by .float(), or use precision='full'."
        )
    product: Tensor = function(input.bfloat16(), weight.bfloat16(), None, *options, **named).float()
    return product if bias is None else product + bias.reshape(bias.shape + (1,) * (weight.dim() - 2))


@final
class MixedPrecision(WrappedObjective):
    r"""An objective whose networks multiply in bfloat16, with 8 bits of mantissa and the range of float32.

    Linear layers, convolutions and transposed convolutions run on bfloat16 copies of their input and weight, forwards
    and backwards; a product is summed in float32 by the processor, rounded once to bfloat16, and returned as float32.
    Biases, activations, normalisations, densities, divergences and all sums are in float32, and so are parameters and
    their gradients, so that an optimizer's small steps are not lost. A loss needs no scaling, as it would in float16
    (Kalamkar et al., *A Study of BFLOAT16 for Deep Learning Training*, 2019; Micikevicius et al., *Mixed Precision
    Training*, 2018, section 3).

    Only the functions of layers are taken over, `torch.nn.functional.linear` and the convolutions. Products by
    `matmul`, `@` or `einsum` stay in float32, because densities are made of them: the Mahalanobis distance of a
    `MultivariateNormal`, the triangular factor of `FullNormal`, the quadratic features of a mixture; so do layers that
    torch runs as a whole, recurrent ones and `nn.MultiheadAttention`. `torch.autocast` draws no such line, and its
    logits are in bfloat16.

    On one core of an AMD EPYC with AVX512_BF16, compiled steps of the perceptrons 784-400-50 take 0.76, 0.65 and 0.60
    of their time in float32, in minibatches of 64, 128 and 256. After 8 epochs of MNIST their ELBO on test images is
    lower by 0.08 nats (of 104); that of the networks of the preset `digits` after 100 epochs, over three seeds, by 0.15
    on average and 0.28 at most (of 252): `latentmix sweep digits --grid precision=full,bf16-mixed --compile true
    --seeds 3` compares them. Small networks that are not compiled gain nothing, since copies cost as much as products.

    Args:
        objective: The objective.
    """

    def rehearse(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> None:
        """See `Objective.rehearse`.

        Raises:
            ValueError: If no layer would run in bfloat16, or one is of another dtype than float32.
        """
        with _Products() as products:
            self.objective.rehearse(model, guide, *batch)
        if not products.count:
            raise ValueError(
                "Expected linear layers or convolutions in model or guide for precision='bf16-mixed'; got neither: use "
                "precision='full'."
            )

    def terms(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.terms`."""
        with _Products():
            return self.objective.terms(model, guide, *batch)

    def backward(self, model: Stochastic, guide: Stochastic, *batch: Tensor) -> Terms:
        """See `Objective.backward`."""
        with _Products():
            return self.objective.backward(model, guide, *batch)
