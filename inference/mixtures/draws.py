"""Draws of a mixture's posterior: their means, predictive densities, R-hat and effective sample sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentmix.inference.diagnostics.convergence import effective_size, split_r_hat
from latentmix.inference.mixtures.matching import align_draws
from latentmix.inference.mixtures.points.validation import check_points
from latentmix.inference.tables import aligned
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.process_state import kept_filters
from latentmix.models.words import plural

__all__ = ["MixturePosterior", "in_data_coordinates"]

_HEADINGS = {"q5": "5%", "q95": "95%", "r_hat": "R-hat", "ess_bulk": "ESS bulk", "ess_tail": "ESS tail"}
_DIGITS = {"r_hat": ".4f", "ess_bulk": ".0f", "ess_tail": ".0f"}
_CHUNK = 1 << 17  # doubles of a chunk of draws and points, which stay in the processor's cache
_CHUNK_OF_DEVICE = 1 << 22


@final
@dataclass(frozen=True, repr=False)
class MixturePosterior(Displayed):
    """Draws of the sites of a `MixtureModel`, in the data's coordinates, in float64.

    Args:
        sites: `weights`, `means`, `scales` and, where there are any, `correlation_cholesky`; each `chain x draw` in
            front of the shape of the site.
        structure: The covariance structure.
        covariance_floor: `(D,)` variances added to the squared scales.
        inference: The algorithm of the draws. Those of a guide are independent: R-hat and effective sample sizes would
            tell nothing of how close the guide is to the posterior, and are not given; nor are they for those of
            `asymptotic_draws` ("em_sandwich"), which are no posterior.
        log_likelihoods: `chain x draw` mean log-likelihoods of the data under the draws, nats per point, where they are
            known: a further `summary` quantity.
        sample_stats: `chain x draw` statistics of the draws by name: of NUTS those of `RecordingNUTS`, of a guide
            `log_q`, its log-density in the sites' coordinates.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.draws import MixturePosterior
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> means, ones = torch.randn(2, 50, 1, 3), torch.ones(2, 50, 1)
        >>> sites = {"weights": ones, "means": means, "scales": ones[..., None].expand(2, 50, 1, 3)}
        >>> draws = MixturePosterior(sites, covariance_structure("diag"), torch.zeros(3))
        >>> draws.log_likelihood(torch.zeros(7, 3), pointwise=True).shape
        torch.Size([2, 50, 7])
    """

    sites: dict[str, Tensor]
    structure: CovarianceStructure
    covariance_floor: Tensor
    inference: Literal["nuts", "svi", "em_sandwich"] = "nuts"
    log_likelihoods: Tensor | None = None
    sample_stats: Mapping[str, Tensor] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        chains, draws, components, features = self.sites["means"].shape
        return {
            "draws": f"{chains} x {draws} by {self.inference}",
            "mixture": f"{plural(components, 'component')}, {plural(features, 'feature')}, {self.structure.name}",
            "sites": self.sites,
        }

    @property
    def n_chains(self) -> int:
        """Number of chains."""
        return self.sites["weights"].shape[0]

    @property
    def n_draws(self) -> int:
        """Number of draws of each chain."""
        return self.sites["weights"].shape[1]

    @cached_property
    def covariances(self) -> Tensor:
        """Covariances with their floor: `chain x draw` in front of the structure's stored shape."""
        plain = self.structure.covariances(self.sites["scales"], self.sites.get("correlation_cholesky"))
        return self.structure.regularize(plain, self.covariance_floor.to(plain))

    def draw(self, chain: int, draw: int) -> MixtureParameters:
        """The mixture of one draw."""
        weights, means = (self.sites[name][chain, draw] for name in ("weights", "means"))
        return MixtureParameters(weights, means, self.covariances[chain, draw], self.structure)

    def thinned(self, draws: int) -> MixturePosterior:
        """At most that many draws of each chain, evenly spaced.

        Raises:
            ValueError: If there would be none, or draws is no whole number.
        """
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise ValueError(f"Expected draws >= 1; got {draws!r}.")
        kept = min(draws, self.n_draws)
        chosen = torch.arange(kept) * self.n_draws // kept
        known = self.log_likelihoods
        return replace(
            self,
            sites={name: site[:, chosen] for name, site in self.sites.items()},
            log_likelihoods=None if known is None else known[:, chosen],
            sample_stats={name: values[:, chosen] for name, values in self.sample_stats.items()},
        )

    def mean(self) -> MixtureParameters:
        """Posterior means of weights, means and covariances; of use only if the draws are aligned."""
        weights, means = (self.sites[name].mean((0, 1)) for name in ("weights", "means"))
        return MixtureParameters(weights, means, self.covariances.mean((0, 1)), self.structure)

    def log_likelihood(self, x: Tensor | NDArray[Any], *, pointwise: bool = False) -> Tensor:
        """Log-density of `n x D` points, a tensor or an array, under each draw.

        Args:
            x: The points.
            pointwise: Gives that of each point, `chain x draw x n`, as PSIS-LOO takes it; else their sum,
                `chain x draw`.

        Raises:
            ValueError: If the points are not finite `n x D` numbers: one point is passed as `x[None]`.
        """
        density = torch.cat([part if pointwise else part.sum(-1) for part in self._densities(x)])
        return density.reshape(self.n_chains, self.n_draws, *density.shape[1:])

    def predictive_log_density(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Log of the mean density of `n x D` points, a tensor or an array, over the draws: `(n,)`.

        Raises:
            ValueError: If the points are not finite `n x D` numbers: one point is passed as `x[None]`.
        """
        parts = torch.stack([part.logsumexp(0) for part in self._densities(x)])
        return parts.logsumexp(0) - math.log(self.n_chains * self.n_draws)

    def r_hat(self) -> dict[str, NDArray[np.float64]]:
        """Rank-normalised split R-hat (Vehtari et al., 2021) of each `summary` quantity; NaN of constants.

        Raises:
            ValueError: If the draws are a guide's.
        """
        return self._diagnosed(split_r_hat)

    def ess(self, kind: Literal["bulk", "tail"] = "bulk") -> dict[str, NDArray[np.float64]]:
        """Effective sample sizes (Vehtari et al., 2021) of each `summary` quantity; NaN of constants.

        Raises:
            ValueError: If the draws are a guide's.
        """
        return self._diagnosed(lambda values: effective_size(values, kind))

    def quantities(self) -> dict[str, NDArray[np.float64]]:
        """The `summary` quantities as arrays, `chain x draw` in front of their shapes; see `summary`."""
        variances = self.structure.variances(self.covariances)
        result = {name: self.sites[name] for name in ("weights", "means")}
        result |= {"scales": variances.sqrt(), "covariances": self.covariances}
        if self.log_likelihoods is not None:
            result["log_likelihood"] = self.log_likelihoods
        return {name: values.cpu().double().numpy() for name, values in result.items()}

    def summary(self) -> Any:
        """A pandas table, a quantity a row: mean, sd, quantiles (5%, 50%, 95%); of NUTS also R-hat and sizes.

        Quantities are the weights, the means, the scales (standard deviations of the features, or of the components
        where these are spherical, the floor included), the covariances, and of NUTS the mean log-likelihood of the
        data. A terminal may elide columns of a pandas table; `table` shows them all.
        """
        import pandas  # type: ignore[import-untyped]

        columns: dict[str, dict[str, NDArray[np.float64]]] = {}
        quantities = self.quantities()
        for name, values in quantities.items():
            flat = values.reshape(-1, *values.shape[2:])
            quantiles = np.quantile(flat, [0.05, 0.5, 0.95], axis=0)
            columns[name] = {"mean": flat.mean(0), "sd": flat.std(0, ddof=1)}
            columns[name] |= dict(zip(("q5", "median", "q95"), quantiles, strict=True))
        if self.inference == "nuts":
            for label, given in (("r_hat", self.r_hat()), ("ess_bulk", self.ess()), ("ess_tail", self.ess("tail"))):
                for name in quantities:
                    columns[name][label] = given[name]
        rows = {
            f"{name}[{', '.join(map(str, index))}]" if index else name: {
                label: float(values[index]) for label, values in part.items()
            }
            for name, part in columns.items()
            for index in np.ndindex(part["mean"].shape)
        }
        with kept_filters():
            return pandas.DataFrame.from_dict(rows, orient="index")

    def table(self) -> str:
        """The `summary` as aligned text, and the `worst` figures of convergence."""
        summary = self.summary()
        head = [_HEADINGS.get(name, name) for name in summary.columns]
        rows = [
            [name, *(f"{value:{_DIGITS.get(column, '.4g')}}" for column, value in row.items())]
            for name, row in summary.iterrows()
        ]
        lines = [aligned(["quantity", *head], rows)]
        if self.inference == "nuts":
            r_hat, ess = self.worst()
            draws = self.n_chains * self.n_draws
            lines += ["", f"R-hat {r_hat:.4g} at most, effective sample size {ess:.0f} at least, of {draws} draws"]
        return "\n".join(lines)

    def worst(self) -> tuple[float, float]:
        """The greatest R-hat and the least effective size, bulk or tail, of all `summary` quantities.

        They are NaN where there are too few draws to tell.

        Raises:
            ValueError: If the draws are a guide's.
        """
        figures = ([self.r_hat()], [self.ess(), self.ess("tail")])
        joined = [np.concatenate([np.ravel(values) for part in parts for values in part.values()]) for parts in figures]
        r_hat, ess = (part[~np.isnan(part)] for part in joined)
        return (float(r_hat.max()) if r_hat.size else math.nan), (float(ess.min()) if ess.size else math.nan)

    def _diagnosed(
        self, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        if self.inference != "nuts":
            raise ValueError(
                f"Expected draws of NUTS; got draws of a guide ({self.inference}): they are independent, so that R-hat "
                "and effective sample sizes say nothing of the guide's fit."
            )
        return {name: statistic(values) for name, values in self.quantities().items()}

    def _densities(self, x: Tensor | NDArray[Any]) -> Iterator[Tensor]:
        """Log-densities of the points under consecutive draws, of all chains: `S x n` each, one at a time."""
        means = self.sites["means"]
        x = check_points(x, means.shape[-1]).to(means)
        weights, means, factors = (
            part.flatten(0, 1) for part in (self.sites["weights"], self.sites["means"], self._precisions_cholesky)
        )
        chunk = _CHUNK if means.device.type == "cpu" else _CHUNK_OF_DEVICE
        blocks = x.split(max(1, chunk // means[0].numel()))
        draws = max(1, chunk // (means[0].numel() * max(len(blocks[0]), 1)))
        for part in zip(*(part.split(draws) for part in (weights, means, factors)), strict=True):
            yield torch.cat([self._log_density(block, *part) for block in blocks], 1)

    @property
    def _precisions_cholesky(self) -> Tensor:
        """Upper factors of the precisions, from the factors of the covariances where no floor is added to these.

        They have more digits: where a floor is added, too, they take the place of covariances that are singular as
        rounded, as the floor is then below rounding.
        """
        structure, correlation = self.structure, self.sites.get("correlation_cholesky")
        factors = torch.full_like(self.covariances, torch.nan)
        if bool((self.covariance_floor > 0).any()):
            factors = structure.precisions_cholesky(self.covariances)
        if not bool(factors.isfinite().all()):
            exact = structure.precisions_cholesky_from_root(structure.root(self.sites["scales"], correlation))
            factors = torch.where(factors.isfinite(), factors, exact)
        if not bool(factors.isfinite().all()):
            raise ValueError(
                "Expected draws with positive definite covariances; got a singular one: raise reg_covar, or leave out "
                "a feature that follows from others."
            )
        return factors

    def _log_density(self, x: Tensor, weights: Tensor, means: Tensor, factors: Tensor) -> Tensor:
        """Log-densities of `n x D` points under `S` mixtures: `S x n`."""
        density = self.structure.log_density(x, means, factors)
        return (weights.log()[:, None] + density).logsumexp(-1)


def in_data_coordinates(
    sites: dict[str, Tensor],
    model: MixtureModel,
    location: Tensor,
    scale: Tensor,
    inference: Literal["nuts", "svi"],
    reference: MixtureParameters | None = None,
) -> MixturePosterior:
    """Draws of the sites of a model of standardised data as a posterior in the data's coordinates.

    Args:
        sites: `chain x draw` in front of the shapes of the sites.
        model: The model, of `(x - location) / scale`.
        location: `(D,)`.
        scale: `(D,)`.
        inference: The algorithm of the draws.
        reference: Mixture to align the draws with, in the data's coordinates; by default they stay as they are.
    """
    moved = dict(sites)
    moved["means"] = sites["means"] * scale + location
    moved["scales"] = sites["scales"] * model.structure.per_scale(scale)
    if reference is not None:
        moved = align_draws(moved, reference)
    floor = torch.as_tensor(model.covariance_floor, dtype=scale.dtype, device=scale.device)
    return MixturePosterior(moved, model.structure, floor * scale.square(), inference)
