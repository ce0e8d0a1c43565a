"""The processes among which the points of a mixture are divided, by torch.distributed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes"]


@final
@dataclass(frozen=True)
class Processes:
    """Processes that hold a part of the points each; a lone process waits for no other.

    Every method but `alone` and `present` must be called by all of them, in the same order.

    Args:
        size: How many processes there are.
        rank: The number of this one.
    """

    size: int = 1
    rank: int = 0

    @classmethod
    def present(cls) -> Processes:
        """The processes of torch.distributed's default group.

        Raises:
            ValueError: If torch.distributed is not initialised.
        """
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "Expected torch.distributed to be initialised for distributed=True; got none: call "
                "torch.distributed.init_process_group first, under torchrun."
            )
        return cls(dist.get_world_size(), dist.get_rank())

    @property
    def alone(self) -> bool:
        """Whether there is one process."""
        return self.size == 1

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Sums over the processes, the same to the last digit on each; in one exchange, in float64."""
        if self.alone:
            return tensors
        flat = torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])
        nccl = dist.get_backend() == "nccl"
        carried = flat.to(torch.device("cuda", torch.cuda.current_device()) if nccl else "cpu", copy=True)
        dist.all_reduce(carried)
        parts = carried.split([tensor.numel() for tensor in tensors])
        return tuple(part.view_as(like).to(like) for part, like in zip(parts, tensors, strict=True))

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their numbers."""
        if self.alone:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def refuse(self, failure: Exception | None) -> None:
        """Raise what a process met, on all of them, so that none waits for another that has given up.

        Raises:
            ValueError: What this process met, or another did.
        """
        told = self.gather(None if failure is None else str(failure))
        if failure is not None and (self.alone or not isinstance(failure, ValueError)):
            raise failure
        for rank, message in enumerate(told):
            if message is not None:
                raise ValueError(f"Process {rank}: {message}") from failure

    def agree(self, value: Any) -> Any:
        """The value of process 0, on all."""
        if self.alone:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]
