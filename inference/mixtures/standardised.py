"""The mixture as a Pyro model of standardised data, whichever coordinates its priors are stated in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor

from latentmix.inference.mixtures.em.statistics import moments
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.priors import converted, increasing, inside

__all__ = ["Priors", "StandardisedModel", "check_priors", "standardised_model"]

Priors = Mapping[str, dist.TorchDistribution]

_NAMES = ("weights", "means", "scales", "correlations")
_WORDS = {"correlation_cholesky": "correlations"}


@final
@dataclass(frozen=True)
class StandardisedModel:
    """A mixture model of `(x - location) / scale`.

    Attributes:
        model: The Pyro model, in standardised coordinates.
        location: `(D,)`.
        scale: `(D,)`; one number throughout where the structure is isotropic.
    """

    model: MixtureModel
    location: Tensor
    scale: Tensor

    @property
    def log_jacobian(self) -> float:
        """What the log-density of a standardised datum exceeds that of the datum by, in nats."""
        return float(self.scale.log().sum())

    @property
    def sites_log_jacobian(self) -> float:
        """What the log-density of the sites under proper priors exceeds that of the data's coordinates by, in nats."""
        priors = self.model.priors(self.scale)
        moved = [
            self.scale.log().expand(self.model.shapes["means"]).sum() if name == "means" else self._log_scales()
            for name in ("means", "scales")
            if not isinstance(priors[name], dist.ImproperUniform)
        ]
        return float(sum(moved))

    def points(self, x: Tensor) -> Tensor:
        """`n x D` points in standardised coordinates, in float64."""
        return (x.double() - self.location) / self.scale

    def _log_scales(self) -> Tensor:
        log = self.scale.log()
        return (log[:1] if self.model.structure.isotropic else log).expand(self.model.shapes["scales"]).sum()

    def sites(self, parameters: MixtureParameters) -> dict[str, Tensor]:
        """Values of the model's sites for a mixture in the data's coordinates, in order and bounds if need be.

        Raises:
            ValueError: If they lie where a prior has no density.
        """
        prior = self.model.declared_priors["means"]
        if prior is not None and prior.support is increasing:
            parameters = parameters.permuted(parameters.means[:, 0].argsort())
        standardised = parameters.affine(1 / self.scale, -self.location / self.scale)
        values = standardised.sites(self.model.covariance_floor)
        values = {name: inside(self.model.declared_priors[name], value) for name, value in values.items()}
        for name, value in values.items():
            prior = self.model.declared_priors[name]
            support: Any = None if prior is None else converted(prior, value).support
            if support is not None and not bool(support.check(value).all()):
                raise ValueError(
                    f"Expected a prior of {_WORDS.get(name, name)} with density at the start; got one on other values: "
                    "take a prior on all values that they can have, or a start within."
                )
        return values

    def parameters(self, sites: Mapping[str, Tensor]) -> MixtureParameters:
        """The mixture, in the data's coordinates, that values of the sites stand for."""
        return self.model.parameters(sites).affine(self.scale, self.location)


def check_priors(priors: Priors, n_components: int, like: Tensor, structure: CovarianceStructure) -> None:
    """Look at priors that are stated in the data's coordinates; `like` is a `(D,)` tensor on the data's device.

    Raises:
        ValueError: An unknown name, a prior that `MixtureModel` refuses, or one that is no density on a known support.
    """
    unknown = sorted(set(priors) - set(_NAMES))
    if unknown:
        raise ValueError(f"Expected priors of {', '.join(_NAMES)}; got one of {unknown[0]!r}.")
    for name, prior in priors.items():
        base: object = prior
        while isinstance(base, dist.Independent):
            base = base.base_dist
        if isinstance(base, dist.Delta | dist.Empirical):
            raise ValueError(f"Expected a prior of {name} with a density; got {type(base).__name__}.")
    model = MixtureModel(n_components, len(like), covariance_type=structure, **priors)
    model.affine(torch.ones_like(like), torch.zeros_like(like))  # refuses supports that it cannot move


def standardised_model(
    x: Tensor,
    n_components: int,
    structure: CovarianceStructure,
    *,
    priors: Priors | None = None,
    reg_covar: float = 1e-6,
    floored: bool = True,
) -> StandardisedModel:
    """The model of the standardised data under priors that are stated in the data's own coordinates.

    Each prior goes through the affine map with its support and its Jacobian, so that ELBO and posterior are
    exactly those of the data's coordinates.

    Args:
        x: `n x D` points.
        n_components: Number of components.
        structure: What the covariances share.
        priors: `weights`, `means`, `scales`, `correlations` of `MixtureModel`, in the data's coordinates; what is
            left out takes that model's default, which is one of standardised data. `None` stands for flat priors.
        reg_covar: Floor of the variances, in the data's coordinates.
        floored: Whether the model adds the floor to its covariances; otherwise it serves the scales alone.

    Raises:
        ValueError: An unknown name, or a prior that `MixtureModel` refuses.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from latentmix.inference.mixtures.standardised import standardised_model
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> x = 100 * torch.randn(50, 2, dtype=torch.float64)
        >>> made = standardised_model(x, 3, covariance_structure("full"), priors={"scales": dist.HalfNormal(80.0)})
        >>> made.model.priors(x)["scales"].shape()
        torch.Size([3, 2])
    """
    location, scale = _standards(x, structure, reg_covar)
    floor = torch.full_like(scale, reg_covar if floored else 0.0)
    if priors is None:
        flat = MixtureModel.maximum_likelihood(
            n_components,
            x.shape[1],
            covariance_type=structure,
            size=len(x),
            covariance_floor=floor / scale.square(),
        )
        return StandardisedModel(flat, location, scale)
    check_priors(priors, n_components, location, structure)
    model = MixtureModel(
        n_components,
        x.shape[1],
        covariance_type=structure,
        size=len(x),
        covariance_floor=floor,
        **priors,
    )
    return StandardisedModel(model.affine(1 / scale, -location / scale), location, scale)


def _standards(x: Tensor, structure: CovarianceStructure, reg_covar: float) -> tuple[Tensor, Tensor]:
    """Location and scale of each feature, `(D,)`: the floor counts, so that none is far above a variance of one."""
    location, fallback = moments(x)
    variance = (x.double() - location).square().mean(0) + reg_covar
    variance = variance.where(variance > 0, fallback)
    return location, (variance.mean().expand_as(variance) if structure.isotropic else variance).sqrt()
