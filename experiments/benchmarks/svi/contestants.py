"""The contestants, each a function that a process of its own runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentmix.experiments.benchmarks.svi.cases import Case

__all__ = ["CONTESTANTS", "FLOORS", "NUMPYRO", "PYTORCH", "Contestant", "Run", "Turn", "UnavailableError"]

HERE = "latentmix.experiments.benchmarks.svi"
PYTORCH, NUMPYRO = "pytorch", "numpyro"

Precision = Literal["float32", "bf16-mixed"]
Turn = Callable[[], bool]
Run = Callable[[Case, NDArray[np.float32], Turn], Mapping[str, Any]]


class UnavailableError(RuntimeError):
    """A contestant cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Contestant:
    """A function `(case, data, turn)` that calls `turn` before every epoch, and ends when that returns False.

    What it does before the first epoch, such as making networks, comes after the first call, so that it is timed. It
    returns `{"loss": ...}`, the mean negative ELBO of its last epoch in nats per datum.

    Attributes:
        function: The function, as `module:name`.
        compiled: Whether inductor compiles it, whose cache serves another process.
        precision: Of its products.
        library: The module that has to be installed with the extra `bench`; None if it always is.
    """

    function: str
    compiled: bool = False
    precision: Precision = "float32"
    library: str | None = None

    @property
    def obstacle(self) -> str | None:
        """The reason why it cannot be measured; None if nothing is known to prevent it."""
        if self.library is not None and find_spec(self.library) is None:
            return "not installed: pip install 'latentmix[bench]'"
        return None


CONTESTANTS = {
    "latentmix": Contestant(f"{HERE}.ours:uncompiled"),
    "latentmix-compiled": Contestant(f"{HERE}.ours:compiled", compiled=True),
    "latentmix-bf16": Contestant(f"{HERE}.ours:uncompiled_bf16", precision="bf16-mixed"),
    "latentmix-compiled-bf16": Contestant(f"{HERE}.ours:compiled_bf16", compiled=True, precision="bf16-mixed"),
    "pyro": Contestant(f"{HERE}.pyro_step:run"),
    PYTORCH: Contestant(f"{HERE}.handwritten:eager"),
    "pytorch-compiled": Contestant(f"{HERE}.handwritten:compiled", compiled=True),
    NUMPYRO: Contestant(f"{HERE}.numpyro_scan:run", library="numpyro"),
}

FLOORS: dict[Precision, Contestant] = {
    "float32": Contestant(f"{HERE}.floor:float32"),
    "bf16-mixed": Contestant(f"{HERE}.floor:bfloat16", precision="bf16-mixed"),
}
