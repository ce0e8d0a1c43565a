"""The modes of the posterior that chains visit, for a warning that names rival modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentmix.inference.mixtures.matching import align_draws
from latentmix.inference.mixtures.potential.mode import local_mode
from latentmix.inference.mixtures.potential.potential import MixturePotential
from latentmix.inference.mixtures.standardised import StandardisedModel
from latentmix.models.process_state import kept_filters

__all__ = ["ChainModes", "modes_of_chains"]

_SAME = 0.95
_DRAWS = 50


@dataclass(frozen=True)
class ChainModes:
    """Modes of the posterior near the halves of chains.

    Attributes:
        places: Modes of the first and the second half of each chain, as indices of `gaps`.
        gaps: Log-posterior of the unconstrained parameters at the highest mode less that at each mode, ascending,
            in nats.
    """

    places: tuple[tuple[int, int], ...]
    gaps: tuple[float, ...]

    def __str__(self) -> str:
        """The modes chain by chain, as in "chain 0 at mode 0; chain 1 at mode 1 (8.8 nats lower), then mode 0"."""
        named = [f"mode {place}{f' ({gap:.1f} nats lower)' if place else ''}" for place, gap in enumerate(self.gaps)]
        return "; ".join(
            f"chain {chain} at {named[first]}" + (f", then {named[second]}" if first != second else "")
            for chain, (first, second) in enumerate(self.places)
        )


def modes_of_chains(
    potential: MixturePotential, made: StandardisedModel, x: Tensor, sites: Mapping[str, Tensor], centre: Tensor | None
) -> ChainModes:
    """Find the mode that quasi-Newton steps reach from the mean of each half of each chain.

    Two modes count as the same if their partitions of the points have an adjusted Rand index (Hubert and Arabie,
    1985) of at least 0.95, so that a few points may differ.

    Args:
        potential: The potential of the posterior.
        made: Its model.
        x: `n x D` points, in the data's coordinates.
        sites: Draws, `chain x draw` in front, in standardised coordinates.
        centre: Unconstrained values of a mixture to align the draws with; by default they are not aligned.
    """
    from sklearn.metrics import adjusted_rand_score

    if centre is not None:
        reference = made.model.parameters(potential.sites(centre))
        sites = align_draws(sites, reference)
    points = made.points(x).cpu()
    chains, draws = sites["weights"].shape[:2]
    ends: list[tuple[float, NDArray[np.int64]]] = []
    for chain in range(chains):
        for half in np.array_split(np.arange(draws), 2) if draws > 1 else [np.arange(1)] * 2:
            chosen = half[:: max(1, len(half) // _DRAWS)]
            drawn = torch.stack([potential.position({k: v[chain, i] for k, v in sites.items()}) for i in chosen])
            drawn = drawn[drawn.isfinite().all(1)]
            mean = drawn.mean(0).numpy() if len(drawn) else np.zeros(potential.size)
            mode, energy = local_mode(potential, mean)
            mixture = made.model.parameters(potential.sites(torch.from_numpy(mode)))
            ends.append((energy, mixture.responsibilities(points).argmax(1).numpy()))
    leaders: list[int] = []
    belongs = np.zeros(len(ends), dtype=int)
    for end in sorted(range(len(ends)), key=lambda end: ends[end][0]):
        same = (
            place for place, leader in enumerate(leaders) if adjusted_rand_score(ends[leader][1], ends[end][1]) >= _SAME
        )
        with kept_filters():
            belongs[end] = next(same, len(leaders))
        if belongs[end] == len(leaders):
            leaders.append(end)
    return ChainModes(
        tuple((int(first), int(second)) for first, second in belongs.reshape(chains, 2)),
        tuple(ends[leader][0] - ends[leaders[0]][0] for leader in leaders),
    )
