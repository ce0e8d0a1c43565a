"""The Gaussian mixture as a Pyro model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import probs_to_logits

from latentmix.models.arguments import check_positive
from latentmix.models.mixture.corr_cholesky import corr_cholesky, on_corr_cholesky
from latentmix.models.mixture.covariances import CovarianceStructure, CovarianceType, covariance_structure
from latentmix.models.mixture.gaussians import assigned
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.priors import affine_transformed, as_site, converted
from latentmix.models.mixture.quadratic import ExpandedPoints

__all__ = ["MixtureModel"]


@final
class MixtureModel:
    r"""A mixture of `K` Gaussians over `D` features with priors on its parameters.

    The generative process, for a datum :math:`n` (Bishop, 2006, section 9.2):

    .. math::
        \pi \sim \mathrm{Dirichlet}(1), \quad
        \mu_{kd} \sim \mathcal N(0, 3^2), \quad
        \sigma_{kd} \sim \mathrm{HalfNormal}(1), \quad
        C_k \sim \mathrm{LKJCholesky}(1), \\
        z_n \sim \mathrm{Categorical}(\pi), \quad
        x_n \mid z_n = k \sim \mathcal N(\mu_k, L_k L_k^\top), \quad
        L_k L_k^\top = \mathrm{diag}(\sigma_k)\, C_k C_k^\top \mathrm{diag}(\sigma_k) + \mathrm{diag}(\epsilon),

    with :math:`\epsilon` the `covariance_floor`. The default priors are meant for standardised data. Sites:
    `weights` `(K,)`; `means` `(K, D)`; `scales` `(K, D)`, tied and tied_diag `(D,)`, spherical `(K,)`;
    `correlation_cholesky` `(K, D, D)`, tied `(D, D)`, absent without correlations and for `D = 1`; the deterministic
    `scale_tril` `(K, D, D)`; `assignment` in the plate `data`, enumerated in parallel; `x`, the data.

    Args:
        n_components: Number of components `K`.
        n_features: Number of features `D`.
        covariance_type: A name of `covariance_types()`, or a structure.
        size: Number of data in the whole set, if the model is called on minibatches; by default it is called on all.
        weights: Prior of the weights, of shape `(K,)` over batch and event; for two components also a `Beta(a, b)`
            prior of the first weight.
        means: Prior of the means, `(K, D)`, or of each of them: `Normal(0, 10)`; with one feature also
            `OrderedMeans`.
        scales: Prior of the standard deviations, of the shape of the site, or of each of them: `HalfNormal(2)`.
        correlations: Prior of the Cholesky factors of the correlation matrices, of the shape of the site, or of
            each of them: `LKJCholesky(D, 1)`.
        covariance_floor: Added to the variance of each feature: a number or a `(D,)` tensor.

    Raises:
        ValueError: If a count is below one, the covariance type is unknown, the floor is negative, a prior has
            another shape, or there is a prior of correlations without correlations.

    Example:
        >>> import pyro, torch
        >>> from latentmix.models.mixture.model import MixtureModel
        >>> model = MixtureModel(2, 3, covariance_type="diag")
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(5, 3))
        >>> trace.nodes["scale_tril"]["value"].shape
        torch.Size([2, 3, 3])
    """

    def __init__(
        self,
        n_components: int,
        n_features: int,
        *,
        covariance_type: CovarianceType | CovarianceStructure = "full",
        size: int | None = None,
        weights: dist.TorchDistribution | None = None,
        means: dist.TorchDistribution | None = None,
        scales: dist.TorchDistribution | None = None,
        correlations: dist.TorchDistribution | None = None,
        covariance_floor: float | Tensor = 0.0,
    ) -> None:
        check_positive(n_components=n_components, n_features=n_features)
        if size is not None:
            check_positive(size=size)
        floor = torch.as_tensor(covariance_floor, dtype=torch.get_default_dtype())
        if isinstance(covariance_floor, Tensor):
            floor = covariance_floor
        if not bool((floor >= 0).all()) or floor.shape not in ((), (n_features,)):
            raise ValueError(
                f"Expected a covariance_floor >= 0, a number or of shape {(n_features,)}; got {covariance_floor}."
            )
        self.n_components = n_components
        self.n_features = n_features
        self.structure: CovarianceStructure = covariance_structure(covariance_type)
        self.size = size
        self.covariance_floor = covariance_floor
        self._floored = bool((floor > 0).any())
        self.shapes = self._shapes()
        declared = {"weights": weights, "means": means, "scales": scales, "correlation_cholesky": correlations}
        if correlations is not None and "correlation_cholesky" not in self.shapes:
            raise ValueError(
                f"Expected no prior of correlations for covariance_type={self.structure.name!r} and "
                f"{n_features} features; got {type(correlations).__name__}."
            )
        self.declared_priors: dict[str, dist.TorchDistribution | None] = {
            name: None if (prior := declared[name]) is None else as_site(name, prior, shape)
            for name, shape in self.shapes.items()
        }
        self._cache: dict[tuple[torch.dtype, torch.device], dict[str, dist.TorchDistribution]] = {}

    @classmethod
    def maximum_likelihood(
        cls,
        n_components: int,
        n_features: int,
        *,
        covariance_type: CovarianceType | CovarianceStructure = "full",
        size: int | None = None,
        covariance_floor: float | Tensor = 0.0,
    ) -> MixtureModel:
        """The mixture under `ImproperUniform` priors, whose posterior mode is the maximum of the likelihood.

        The priors are flat in the sites themselves, as LKJCholesky(1) is not beyond two features.
        """
        structure = covariance_structure(covariance_type)
        correlation = structure.correlation_shape(n_components, n_features)
        scales = structure.scale_shape(n_components, n_features)
        return cls(
            n_components,
            n_features,
            covariance_type=covariance_type,
            size=size,
            weights=dist.ImproperUniform(constraints.simplex, (), (n_components,)),
            means=dist.ImproperUniform(constraints.real, (), (n_components, n_features)),
            scales=dist.ImproperUniform(constraints.positive, (), scales),
            correlations=None
            if correlation is None
            else dist.ImproperUniform(corr_cholesky, correlation, (n_features, n_features)),
            covariance_floor=covariance_floor,
        )

    def affine(self, scale: Tensor, shift: Tensor) -> MixtureModel:
        """The model of `x * scale + shift`, in float64; both are `(D,)`, `scale` is positive.

        Given priors are transformed by the map, so that the densities of both models differ by the Jacobians of the
        data and of the sites alone. Priors that were not given keep their default, in the new coordinates. Where the
        structure is isotropic, all values of `scale` must be equal.
        """
        scale, shift = scale.double(), shift.double()
        spread = self.structure.per_scale(scale)
        maps = {"means": (scale, shift), "scales": (spread, torch.zeros_like(spread))}
        floor = torch.as_tensor(self.covariance_floor, dtype=scale.dtype, device=scale.device)
        priors = {
            name.replace("correlation_cholesky", "correlations"): prior
            if prior is None or name not in maps
            else affine_transformed(prior, *maps[name])
            for name, prior in self.declared_priors.items()
        }
        return MixtureModel(
            self.n_components,
            self.n_features,
            covariance_type=self.structure,
            size=self.size,
            covariance_floor=floor * scale.square(),
            **priors,
        )

    def __call__(self, x: Tensor, points: ExpandedPoints | None = None) -> Tensor:
        """Sample the globals and the assignments, and observe the data.

        Args:
            x: An `n x D` tensor, all the data or a minibatch of `size`.
            points: The data's `expanded_points`, computed once by a fit that calls the model on the same data again and
                again: densities are then one matrix product, where that is accurate.

        Returns:
            The assignments, `(n,)`, or `(K, 1)` where they are enumerated.
        """
        weights, means, scales, correlation = self._sample_globals(x)
        components = self.structure.components(means, scales, correlation)
        with self._plate(x):
            assignment: Tensor = pyro.sample("assignment", _categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", assigned(components, assignment, points), obs=x)
        return assignment

    def collapsed(self, x: Tensor) -> None:
        """The model with the assignments summed out, by `MixtureSameFamily`: the same density.

        Args:
            x: An `n x D` tensor, all the data or a minibatch of `size`.
        """
        weights, means, scales, correlation = self._sample_globals(x)
        components = self.structure.components(means, scales, correlation)
        with self._plate(x):
            pyro.sample("x", dist.MixtureSameFamily(_categorical(weights), components), obs=x)

    def priors(self, x: Tensor) -> dict[str, dist.TorchDistribution]:
        """Priors of the globals by the name of their sites, in the dtype and on the device of `x`."""
        key = (x.dtype, x.device)
        if key not in self._cache:
            self._cache[key] = {
                name: self._default(name, x) if prior is None else converted(prior, x)
                for name, prior in self.declared_priors.items()
            }
            if (correlations := self._cache[key].get("correlation_cholesky")) is not None:
                self._cache[key]["correlation_cholesky"] = on_corr_cholesky(correlations)
        return self._cache[key]

    def effective(self, scales: Tensor, correlation: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Standard deviations and correlation factors with the floor added to the covariances' diagonals.

        Args:
            scales: Values of the site `scales`.
            correlation: Values of the site `correlation_cholesky`, where there is one.
        """
        if not self._floored:
            return scales, correlation
        floor = torch.as_tensor(self.covariance_floor, dtype=scales.dtype, device=scales.device)
        if correlation is None:
            return (scales.square() + (floor.mean() if self.structure.isotropic else floor)).sqrt(), None
        factor = scales[..., None] * correlation
        covariances = factor @ factor.mT + torch.diag_embed(floor.expand(self.n_features))
        factor, _ = torch.linalg.cholesky_ex(covariances)
        scales = factor.norm(dim=-1)
        return scales, factor / scales[..., None]

    def parameters(self, sites: Mapping[str, Tensor]) -> MixtureParameters:
        """The mixture at values of the sites, with the floor added."""
        scales, correlation = sites["scales"], sites.get("correlation_cholesky")
        if correlation is not None and not self._floored:
            factors = scales[..., None] * correlation
            return MixtureParameters.from_scale_tril(sites["weights"], sites["means"], factors, self.structure)
        covariances = self.structure.covariances(scales, correlation)
        if self._floored:
            floor = torch.as_tensor(self.covariance_floor, dtype=scales.dtype, device=scales.device)
            covariances = self.structure.regularize(covariances, floor.expand(self.n_features))
        return MixtureParameters(sites["weights"], sites["means"], covariances, self.structure)

    def _sample_globals(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        if x.ndim != 2 or x.shape[1] != self.n_features:
            raise ValueError(f"Expected x of shape (n, {self.n_features}); got {tuple(x.shape)}.")
        if self.size is not None and len(x) > self.size:
            raise ValueError(f"Expected at most size={self.size} data; got {len(x)}.")
        values = {name: pyro.sample(name, prior) for name, prior in self.priors(x).items()}
        scales, correlation = self.effective(values["scales"], values.get("correlation_cholesky"))
        factors = self.structure.root(scales, correlation)
        pyro.deterministic("scale_tril", self.structure.expand(factors, self.n_components, self.n_features))
        return values["weights"], values["means"], scales, correlation

    def _plate(self, x: Tensor) -> pyro.plate:
        if self.size is None or self.size == len(x):
            return pyro.plate("data", len(x))
        return pyro.plate("data", self.size, subsample=torch.arange(len(x), device=x.device))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        size = (self.n_components, self.n_features)
        shapes = {"weights": size[:1], "means": size, "scales": self.structure.scale_shape(*size)}
        correlation = self.structure.correlation_shape(*size)
        if correlation is not None:
            shapes["correlation_cholesky"] = (*correlation, self.n_features, self.n_features)
        return shapes

    def _default(self, name: str, x: Tensor) -> dist.TorchDistribution:
        shape = self.shapes[name]
        match name:
            case "weights":
                return dist.Dirichlet(x.new_ones(shape))
            case "means":
                return dist.Normal(x.new_zeros(shape), 3.0).to_event(2)
            case "scales":
                return dist.HalfNormal(x.new_ones(shape)).to_event(len(shape))
            case _:
                concentration = x.new_ones(shape[:-2])
                return dist.LKJCholesky(self.n_features, concentration).to_event(len(shape) - 2)


def _categorical(weights: Tensor) -> dist.Categorical:
    """The distribution of an assignment, by logits: probabilities would be converted for every datum of a plate."""
    return dist.Categorical(logits=probs_to_logits(weights))
