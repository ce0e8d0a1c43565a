"""The mixture's Pyro model of standardised data, under priors that are stated in the data's coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor

from latentmix.inference.mixtures.em.statistics import moments
from latentmix.inference.mixtures.parameter_object import Requirement
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.priors import converted, increasing, inside, is_improper

__all__ = ["PRIORS", "Priors", "StandardisedModel", "check_priors", "location_and_scale", "standardised_model"]

Priors = Mapping[str, dist.TorchDistribution]

_NAMES = ("weights", "means", "scales", "correlations")
PRIORS = Requirement(
    f"a mapping of {', '.join(_NAMES)} to their priors", lambda value: isinstance(value, Mapping)
).or_none()
_WORDS = {"correlation_cholesky": "correlations"}


@final
@dataclass(frozen=True, repr=False)
class StandardisedModel(Displayed):
    """A mixture model of `(x - location) / scale`.

    Attributes:
        model: The Pyro model, in standardised coordinates.
        location: `(D,)`.
        scale: `(D,)`; all values are equal where the structure is isotropic.
    """

    model: MixtureModel
    location: Tensor
    scale: Tensor

    @property
    def log_jacobian(self) -> float:
        """Log-Jacobian of a datum, in nats: its log-density in standardised coordinates less that in the data's."""
        return float(self.scale.log().sum())

    @property
    def sites_log_jacobian(self) -> float:
        """Log-Jacobian of the sites under proper priors, in nats, of the same sign as `log_jacobian`."""
        return sum(self._log_jacobians().values())

    def log_prior(self, sites: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Log-densities of values of the sites, in the data's coordinates, under their priors, by site.

        Args:
            sites: Values in the data's coordinates, with any batch shape in front; 0 under flat priors.
        """
        inside = dict(sites)
        inside["means"] = (sites["means"] - self.location) / self.scale
        inside["scales"] = sites["scales"] / self.model.structure.per_scale(self.scale)
        log_jacobians = self._log_jacobians()
        return {
            name: prior.log_prob(inside[name]) - log_jacobians.get(name, 0.0)
            for name, prior in self.model.priors(self.scale).items()
        }

    def draw_prior(self, draws: int) -> dict[str, Tensor]:
        """Draws of the sites from their priors, `draws` in front, in the data's coordinates.

        Raises:
            ValueError: If a prior is flat.
        """
        priors = self.model.priors(self.scale)
        flat = [name for name, prior in priors.items() if is_improper(prior)]
        if flat:
            raise ValueError(f"Expected a proper prior of {_WORDS.get(flat[0], flat[0])}; got a flat one.")
        drawn = {name: prior.sample(torch.Size([draws])) for name, prior in priors.items()}
        drawn["means"] = drawn["means"] * self.scale + self.location
        drawn["scales"] = drawn["scales"] * self.model.structure.per_scale(self.scale)
        return drawn

    def _log_jacobians(self) -> dict[str, float]:
        log_scale, priors, shapes = self.scale.log(), self.model.priors(self.scale), self.model.shapes
        factors = {"means": log_scale, "scales": self.model.structure.per_scale(log_scale)}
        return {
            name: float(factor.expand(shapes[name]).sum())
            for name, factor in factors.items()
            if not is_improper(priors[name])
        }

    def points(self, x: Tensor) -> Tensor:
        """`n x D` points in standardised coordinates, in float64."""
        return (x.double() - self.location) / self.scale

    def sites(self, parameters: MixtureParameters) -> dict[str, Tensor]:
        """Values of the model's sites for a mixture in the data's coordinates.

        Components are sorted where the prior is one of increasing means, and values are moved inside bounds.

        Raises:
            ValueError: If a prior has no density at the values.
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
        """The mixture at values of the sites, in the data's coordinates."""
        return self.model.parameters(sites).affine(self.scale, self.location)


def check_priors(priors: Priors, n_components: int, like: Tensor, structure: CovarianceStructure) -> None:
    """Refuse priors, stated in the data's coordinates, that no model can have.

    Args:
        priors: By the names `weights`, `means`, `scales` and `correlations`.
        n_components: Number of components.
        like: A `(D,)` tensor on the data's device.
        structure: The covariance structure.

    Raises:
        ValueError: If a name is unknown, `MixtureModel` refuses a prior, or one is no density on a known support.
    """
    _mapped_model(priors, n_components, structure, torch.ones_like(like), torch.zeros_like(like))


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

    The affine map transforms each prior with its support and its Jacobian, so that ELBO and posterior are exactly
    those of the data's coordinates.

    Args:
        x: `n x D` points.
        n_components: Number of components.
        structure: The covariance structure.
        priors: `weights`, `means`, `scales`, `correlations` of `MixtureModel`, in the data's coordinates; those left
            out take that model's default, which is one of standardised data. `None` stands for flat priors.
        reg_covar: Floor of the variances, in the data's coordinates.
        floored: Whether the model adds the floor to its covariances; otherwise only the standardisation uses it.

    Raises:
        ValueError: As in `check_priors`.

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
    location, scale = location_and_scale(x, structure, reg_covar)
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
    model = _mapped_model(
        priors, n_components, structure, 1 / scale, -location / scale, size=len(x), covariance_floor=floor
    )
    return StandardisedModel(model, location, scale)


def _mapped_model(
    priors: Priors, n_components: int, structure: CovarianceStructure, scale: Tensor, shift: Tensor, **options: Any
) -> MixtureModel:
    """The model of `x * scale + shift` under priors of the parameters of `x`; see `check_priors` for the errors."""
    unknown = sorted(set(priors) - set(_NAMES))
    if unknown:
        raise ValueError(f"Expected priors of {', '.join(_NAMES)}; got one of {unknown[0]!r}.")
    for name, prior in priors.items():
        base: object = prior
        while isinstance(base, dist.Independent):
            base = base.base_dist
        if isinstance(base, dist.Delta | dist.Empirical):
            raise ValueError(f"Expected a prior of {name} with a density; got {type(base).__name__}.")
    model = MixtureModel(n_components, len(scale), covariance_type=structure, **options, **priors)
    return model.affine(scale, shift)


def location_and_scale(x: Tensor, structure: CovarianceStructure, reg_covar: float = 0.0) -> tuple[Tensor, Tensor]:
    """Location and scale of each feature, two `(D,)` tensors in float64.

    Args:
        x: `n x D` points.
        structure: The covariance structure; if isotropic, all scales are equal.
        reg_covar: Variance added to that of each feature, so that none falls far below the floor.
    """
    location, fallback = moments(x)
    variance = (x.double() - location).square().mean(0) + reg_covar
    return location, structure.feature_scales(variance.where(variance > 0, fallback))
