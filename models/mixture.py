"""The Gaussian mixture as a Pyro model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from latentmix.models.covariances import CovarianceStructure, CovarianceType, covariance_structure
from latentmix.models.networks import check_positive
from latentmix.models.parameters import MixtureParameters

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
        L_k = \mathrm{diag}\bigl(\sqrt{\sigma_k^2 + \epsilon}\bigr)\, C_k,

    with :math:`\epsilon` the `covariance_floor`. The default priors are meant for standardised data. Sites:
    `weights` `(K,)`; `means` `(K, D)`; `scales` `(K, D)`, tied `(D,)`, spherical `(K,)`;
    `correlation_cholesky` `(K, D, D)`, tied `(D, D)`, absent for diag, spherical and `D = 1`; the deterministic
    `scale_tril` `(K, D, D)`; `assignment` in the plate `data`, enumerated in parallel; `x`, the data.

    Args:
        n_components: Number of components `K`.
        n_features: Number of features `D`.
        covariance_type: What the components' covariances share.
        size: Number of data in the whole set, where the model is called on minibatches of it; by default the
            data that it is called on are all.
        weights: Prior of the weights, of shape `(K,)` over batch and event.
        means: Prior of the means, `(K, D)`.
        scales: Prior of the standard deviations, of the shape of the site.
        correlations: Prior of the Cholesky factors of the correlation matrices, of the shape of the site.
        covariance_floor: Added to the variance of each feature: a number or a `(D,)` tensor.

    Raises:
        ValueError: A count below one, an unknown covariance type, a negative floor, a prior of another shape, or
            a prior of correlations where there are none.

    Example:
        >>> import pyro, torch
        >>> from latentmix.models.mixture import MixtureModel
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
        covariance_type: CovarianceType = "full",
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
        self.declared_priors: dict[str, dist.TorchDistribution | None] = {
            "weights": weights,
            "means": means,
            "scales": scales,
            "correlation_cholesky": correlations,
        }
        self.shapes = self._shapes()
        for name, prior in self.declared_priors.items():
            if prior is None:
                continue
            if name not in self.shapes:
                raise ValueError(
                    f"Expected no prior of correlations for covariance_type={self.structure.name!r} and "
                    f"{n_features} features; got {type(prior).__name__}."
                )
            if tuple(prior.shape()) != self.shapes[name]:
                raise ValueError(
                    f"Expected a prior of shape {self.shapes[name]} for {name}; got {tuple(prior.shape())}."
                )
        self._cache: dict[tuple[torch.dtype, torch.device], dict[str, dist.TorchDistribution]] = {}

    @classmethod
    def maximum_likelihood(
        cls,
        n_components: int,
        n_features: int,
        *,
        covariance_type: CovarianceType = "full",
        size: int | None = None,
        covariance_floor: float | Tensor = 0.0,
    ) -> MixtureModel:
        """The mixture under `ImproperUniform` priors, so that its posterior mode is the likelihood's maximum.

        Flat means flat in the sites themselves: LKJCholesky(1) is not, beyond two features.
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
            else dist.ImproperUniform(constraints.corr_cholesky, correlation, (n_features, n_features)),
            covariance_floor=covariance_floor,
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Sample the globals and the assignments, and observe the data.

        Args:
            x: An `n x D` tensor, all the data or a minibatch of `size`.

        Returns:
            The assignments, `(n,)`, or `(K, 1)` where they are enumerated.
        """
        weights, means, scales, correlation = self._sample_globals(x)
        components = self.structure.components(means, scales, correlation)
        with self._plate(x):
            assignment: Tensor = pyro.sample("assignment", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", _select(components, assignment), obs=x)
        return assignment

    def collapsed(self, x: Tensor) -> None:
        """The same density with the assignments summed out, by `MixtureSameFamily`.

        Args:
            x: An `n x D` tensor, all the data or a minibatch of `size`.
        """
        weights, means, scales, correlation = self._sample_globals(x)
        components = self.structure.components(means, scales, correlation)
        with self._plate(x):
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=x)

    def priors(self, x: Tensor) -> dict[str, dist.TorchDistribution]:
        """Priors of the globals by the name of their sites, in the dtype and on the device of `x`."""
        key = (x.dtype, x.device)
        if key not in self._cache:
            self._cache[key] = {
                name: self._default(name, x) if (prior := self.declared_priors[name]) is None else _as_event(prior)
                for name in self.shapes
            }
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
        """The mixture that values of the sites stand for, its floor included."""
        scales = sites["scales"]
        covariances = self.structure.covariances(scales, sites.get("correlation_cholesky"))
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
        pyro.deterministic("scale_tril", self.structure.scale_tril(values["means"], scales, correlation))
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


class FactoredNormal(dist.MultivariateNormal):
    """A multivariate normal whose density is one matrix product per factor, where many data share a factor.

    Equal to `MultivariateNormal`; several times as fast for enumerated components, whose factors have batch
    shape `(K, 1)` and whose data have `(n,)`.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`."""
        factor = self._unbroadcasted_scale_tril
        if factor.ndim < 3 or factor.shape[-3] != 1:
            density: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
            return density
        if self._validate_args:
            self._validate_sample(value)
        factor = factor.squeeze(-3)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
        squares = ((value - self.loc) @ inverse.mT).square().sum(-1)
        log_det = inverse.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_det[..., None] - 0.5 * (squares + factor.shape[-1] * math.log(2 * math.pi))


def _as_event(prior: dist.TorchDistribution) -> dist.TorchDistribution:
    return prior.to_event(len(prior.batch_shape)) if prior.batch_shape else prior


def _select(components: dist.TorchDistribution, assignment: Tensor) -> dist.TorchDistribution:
    if isinstance(components, dist.MultivariateNormal):
        means, scale_tril = components.loc, components._unbroadcasted_scale_tril
        return FactoredNormal(
            Vindex(means)[..., assignment, :],
            scale_tril=Vindex(scale_tril.expand(*means.shape, means.shape[-1]))[..., assignment, :, :],
        )
    base = components.base_dist
    loc, scale = Vindex(base.loc), Vindex(base.scale.expand_as(base.loc))
    return dist.Normal(loc[..., assignment, :], scale[..., assignment, :]).to_event(1)
