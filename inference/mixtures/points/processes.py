"""Processes of torch.distributed that each hold a part of the points of a mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes"]

_HEAD = 4096  # doubles of the first message of a sum; most sums fit


@final
@dataclass(frozen=True)
class Processes:
    """Processes that each hold a part of the points; a lone process communicates with no other.

    All processes must call the same methods, apart from `alone` and `present`, in the same order. An error that one
    of them meets within `sum` or `gather` is raised on all, which avoids deadlock: as it is where it was met if it is
    no `ValueError`, and as a `ValueError` that names the process everywhere else.

    Args:
        size: Number of processes.
        rank: Number of this one.
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
        """Whether there is only one process."""
        return self.size == 1

    def sum(self, compute: Callable[[], Iterable[Tensor]]) -> tuple[Tensor, ...]:
        """Sums of the tensors that each process computes, in float64 and equal to the last digit on all processes.

        Up to 4095 numbers, and whether a process failed, travel in one all-reduce; more of them in a second one.

        Raises:
            ValueError: If a process fails.
        """
        if self.alone:
            return tuple(compute())
        computed, failure = _attempt(lambda: tuple(compute()))
        tensors = computed or ()
        head = torch.zeros(_HEAD, dtype=torch.float64, device=_carrier())
        flat = torch.cat([head[:0], *(tensor.detach().reshape(-1).to(head) for tensor in tensors)])
        first, rest = flat[: _HEAD - 1], flat[_HEAD - 1 :]
        head[0], head[1 : 1 + len(first)] = float(failure is not None), first
        dist.all_reduce(head)
        if bool(head[0]):
            self._raise(failure, self._exchange(_message(failure)))
        total = head[1 : 1 + len(first)]
        if len(rest):
            dist.all_reduce(rest)
            total = torch.cat([total, rest])
        parts = total.split([tensor.numel() for tensor in tensors])
        return tuple(part.view_as(like).to(like) for part, like in zip(parts, tensors, strict=True))

    def gather[T](self, compute: Callable[[], T]) -> list[T]:
        """The value that each process computes, in the order of their ranks.

        Raises:
            ValueError: If a process fails.
        """
        if self.alone:
            return [compute()]
        value, failure = _attempt(compute)
        outcomes = self._exchange((_message(failure), value))
        self._raise(failure, [message for message, _ in outcomes])
        return [value for _, value in outcomes]

    def agree(self, value: Any) -> Any:
        """The value of process 0, on all."""
        if self.alone:
            return value
        if isinstance(value, bool):
            decision = torch.tensor([value], dtype=torch.uint8, device=_carrier())
            dist.broadcast(decision, src=0)
            return bool(decision)
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def _exchange(self, value: Any) -> list[Any]:
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def _raise(self, failure: Exception | None, messages: Sequence[str | None]) -> None:
        """Raise this process's failure, or name the process that failed."""
        if failure is not None and not isinstance(failure, ValueError):
            raise failure
        for rank, message in enumerate(messages):
            if message is not None:
                raise ValueError(f"Process {rank}: {message}") from failure


def _attempt[T](compute: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return compute(), None
    except Exception as error:
        return None, error


def _message(failure: Exception | None) -> str | None:
    return None if failure is None else str(failure)


def _carrier() -> torch.device:
    """The device that the back end communicates from."""
    nccl = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
