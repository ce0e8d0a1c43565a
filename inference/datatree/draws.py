"""Draws of a posterior as they leave an algorithm: with chains, the model they belong to, and statistics per draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pyro.infer import MCMC
from pyro.infer.mcmc.api import AbstractMCMC
from torch import Tensor

from latentmix.inference.datatree.recording import STATISTICS

__all__ = ["Draws"]


@dataclass(frozen=True)
class Draws:
    """Draws of the latents of a Pyro model, by whatever algorithm: what `from_pyro` converts.

    Args:
        samples: Draws by site, `chains x draws x batch + event`, as tensors.
        model: The Pyro model; without it no group but the draws and their statistics is made.
        model_args, model_kwargs: The model's arguments.
        sample_stats: Statistics by name, `chains x draws`.
        warmup_samples, warmup_sample_stats: The same of the warmup.
        attrs: Attributes of the tree, such as the algorithm's name.

    Raises:
        ValueError: If numbers of chains or draws differ among sites; if a draw is not a number.

    Example:
        >>> import torch
        >>> from latentmix.inference.datatree import Draws, from_pyro
        >>> dict(from_pyro(Draws({"x": torch.zeros(2, 5, 3)})).posterior.sizes)
        {'chain': 2, 'draw': 5, 'x_dim_0': 3}
    """

    samples: Mapping[str, Tensor] = field(repr=False)
    model: Callable[..., Any] | None = field(default=None, repr=False)
    model_args: Sequence[Any] = field(default=(), repr=False)
    model_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sample_stats: Mapping[str, ArrayLike] = field(default_factory=dict, repr=False)
    warmup_samples: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    warmup_sample_stats: Mapping[str, ArrayLike] = field(default_factory=dict, repr=False)
    attrs: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        chains, draws = self.sample_shape
        return f"Draws({chains} x {draws} of {', '.join(self.samples) or 'nothing'})"

    def __post_init__(self) -> None:
        for name, value in self.samples.items():
            if value.dim() < 2 or tuple(value.shape[:2]) != self.sample_shape:
                raise ValueError(
                    f"Expected draws of shape chains x draws x ..., alike for every site; got {tuple(value.shape)} for "
                    f"{name!r}."
                )
            number = int(value.reshape((*self.sample_shape, -1)).isnan().any(-1).sum())
            if number:
                raise ValueError(
                    f"Expected draws that are numbers; got NaN at site {name!r} in {number} of "
                    f"{value.shape[:2].numel()} draws: sample again, with a smaller step size or a tighter prior."
                )

    @property
    def sample_shape(self) -> tuple[int, int]:
        """The numbers of chains and of draws of each; one draw of a model without latents."""
        shapes = [value.shape for value in self.samples.values()]
        return (shapes[0][0], shapes[0][1]) if shapes and len(shapes[0]) > 1 else (1, 1)

    @classmethod
    def from_mcmc(cls, mcmc: AbstractMCMC) -> Draws:
        """The draws of an `MCMC` that has run, with the record of a recording kernel, or with divergences at least.

        Raises:
            ValueError: If it has not run, or keeps no draws.
        """
        if not isinstance(mcmc, MCMC):
            raise ValueError(
                f"Expected an MCMC that keeps its draws; got a {type(mcmc).__name__}: sample by pyro.infer.MCMC."
            )
        if mcmc._samples is None:
            raise ValueError("Expected an MCMC that has run; got one without draws: call its run() first.")
        samples = mcmc.get_samples(group_by_chain=True)
        diagnostics: list[Any] = list(mcmc._diagnostics)
        records = [diagnostic[STATISTICS] for diagnostic in diagnostics if STATISTICS in (diagnostic or {})]
        recorded = len(records) == mcmc.num_chains
        warmup = {}
        for name in records[0]["warmup_draws"] if recorded else ():
            draws = torch.stack([torch.from_numpy(record["warmup_draws"][name]) for record in records])
            transform = (mcmc.transforms or {}).get(name)
            warmup[name] = draws if transform is None else transform.inv(draws.to(samples[name].device))
        return cls(
            samples,
            model=getattr(mcmc.kernel, "model", None),
            model_args=mcmc._args or (),
            model_kwargs=mcmc._kwargs or {},
            sample_stats=_stacked(records, "sample_stats") if recorded else _divergences(diagnostics, mcmc.num_samples),
            warmup_samples=warmup,
            warmup_sample_stats=_stacked(records, "warmup_sample_stats") if recorded else {},
            attrs={"inference": "mcmc", "kernel": type(mcmc.kernel).__name__},
        )

    @classmethod
    def from_mapping(cls, samples: Mapping[str, Any], num_chains: int | None) -> Draws:
        """Draws by site, grouped by chain or one chain after the other, as `MCMC.get_samples` returns them.

        Args:
            samples: Draws, `num_chains x draws x ...`, or `num_chains * draws x ...`.
            num_chains: The number of chains.

        Raises:
            ValueError: Without the number of chains, or if the draws are not divided by it.
        """
        if num_chains is None or num_chains < 1:
            raise ValueError(
                f"Expected num_chains of 1 or more with draws by site; got {num_chains!r}: pass the number of chains."
            )
        tensors = {name: torch.as_tensor(value) for name, value in samples.items()}
        grouped = all(value.dim() > 1 and value.shape[0] == num_chains for value in tensors.values()) and (
            len({value.shape[1] for value in tensors.values()}) == 1
        )
        if not grouped:
            for name, value in tensors.items():
                if value.dim() == 0 or value.shape[0] % num_chains:
                    raise ValueError(
                        f"Expected draws that {num_chains} chains divide; got shape {tuple(value.shape)} for {name!r}."
                    )
            tensors = {name: value.reshape(num_chains, -1, *value.shape[1:]) for name, value in tensors.items()}
        return cls(tensors)


def _stacked(records: list[dict[str, Any]], key: str) -> dict[str, NDArray[Any]]:
    return {name: np.stack([record[key][name] for record in records]) for name in records[0][key]}


def _divergences(diagnostics: list[Any], num_samples: int) -> dict[str, NDArray[Any]]:
    """Whether each draw diverged, which is all that kernels of Pyro keep per draw."""
    if not all("divergences" in (diagnostic or {}) for diagnostic in diagnostics):
        return {}
    diverging = np.zeros((len(diagnostics), num_samples), dtype=bool)
    for chain, diagnostic in enumerate(diagnostics):
        diverging[chain, [int(index) for index in diagnostic["divergences"]]] = True
    return {"diverging": diverging}
