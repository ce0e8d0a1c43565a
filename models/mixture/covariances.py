"""Covariance structures of a Gaussian mixture: shapes, densities, closed-form estimates."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, final

import pyro.distributions as dist
import torch
from torch import Tensor

from latentmix.models.mixture.features import NoSquares, Products, QuadraticFeatures, SquaredNorm, Squares

# The standard deviation of a feature given others, relative to its own, below which a covariance counts as singular:
# that of a condition of 1.6e15 for two features of one scale.
LEAST_COLLINEARITY = 5e-8
LOG_TWO_PI = math.log(2 * math.pi)
CovarianceType = Literal["full", "diag", "tied", "spherical", "tied_diag"]


class CovarianceStructure(ABC):
    """What the components' covariances share, and how they are stored.

    A structure is stateless. `K` components over `D` features have `scales` (positive, `scale_shape`), where
    the structure is correlated also Cholesky factors of correlation matrices, and `covariances` of
    `covariance_shape` (as scikit-learn stores them).

    Attributes:
        name: The word for it, `covariance_type` of the estimators.
        isotropic: Whether all features of a component have one variance.
        correlated: Whether covariances are matrices, stored as such; else variances are stored.
        shared: Whether all components have one covariance, stored once.
    """

    name: ClassVar[str]
    isotropic: ClassVar[bool] = False
    correlated: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    @abstractmethod
    def scale_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the standard deviations."""

    @abstractmethod
    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the stored covariances."""

    def correlation_shape(self, n_components: int, n_features: int) -> tuple[int, ...] | None:
        """Batch shape of the `D x D` correlation factors, `None` where there are none."""
        return None

    @abstractmethod
    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free covariance parameters."""

    @abstractmethod
    def shares(self, weights: Tensor, n_features: int) -> Tensor:
        """How many values of a datum each scale describes on average; broadcasts to the scales."""

    def pool(self, weights: Tensor, covariances: Tensor) -> Tensor:
        """Weights times covariances, as the scatter that `estimate` takes."""
        return weights.reshape(-1, *[1] * (covariances.ndim - 1)) * covariances

    @abstractmethod
    def components(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> dist.TorchDistribution:
        """The `K` components: a distribution of batch shape `(K,)` and event shape `(D,)`."""

    @abstractmethod
    def scale_tril(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> Tensor:
        """Cholesky factors of the covariances, always `K x D x D`."""

    @abstractmethod
    def covariances(self, scales: Tensor, correlation: Tensor | None) -> Tensor:
        """The covariances in their stored shape."""

    @abstractmethod
    def precision_traces(self, scales: Tensor, correlation: Tensor | None, variance: Tensor) -> Tensor:
        """Traces of the precisions times `diag(variance)`, `(D,)`: of each component, `(K,)`, or `()` where tied."""

    @abstractmethod
    def factors(self, precisions_cholesky: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scales, and correlation factors where there are any, of covariances by `precisions_cholesky`."""

    @abstractmethod
    def expand(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        """Stored covariances (or precisions) as `K x D x D` matrices."""

    @abstractmethod
    def rescale(self, covariances: Tensor, factor: Tensor) -> Tensor:
        """Covariances of `x * factor`; `factor` is `(D,)`, constant where the structure is isotropic."""

    @abstractmethod
    def rescale_factors(self, precisions_cholesky: Tensor, factor: Tensor) -> Tensor:
        """`precisions_cholesky` of `x * factor`, as `rescale` has the covariances."""

    @abstractmethod
    def scatter(self, responsibilities: Tensor, deviations: Tensor) -> Tensor:
        """Second moments of `n x K x D` deviations under `n x K` weights: what an estimate needs, additive."""

    @abstractmethod
    def estimate(self, counts: Tensor, scatter: Tensor, shift: Tensor) -> Tensor:
        """Maximum likelihood covariances from moments about points `shift` (`K x D`) below the means."""

    @abstractmethod
    def regularize(self, covariances: Tensor, variance: Tensor) -> Tensor:
        """Covariances with `variance` (`D`, or `K x D`) added to their diagonals."""

    @abstractmethod
    def above(self, covariances: Tensor, floor: Tensor) -> Tensor:
        """Covariances less `floor` (`D`) on their diagonals, a thousandth of it where they do not exceed it."""

    @abstractmethod
    def precisions_cholesky(self, covariances: Tensor) -> Tensor:
        """Upper factors `U` with `precision = U U^T` (stored shape); not finite where not positive definite."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Tensor) -> Tensor:
        """Precisions in their stored shape."""

    @abstractmethod
    def precisions_cholesky_from_precisions(self, precisions: Tensor) -> Tensor:
        """Upper factors of given precisions (stored shape); NaN where these are not positive definite."""

    @abstractmethod
    def features(self, n_features: int, device: torch.device) -> QuadraticFeatures:
        """The features of points in which log-densities differ between components linearly."""

    @abstractmethod
    def by_component(self, stored: Tensor) -> Tensor:
        """Stored covariances, or factors, with a dimension of components in front of those of the features.

        `... x K x D x D` where correlated, else `... x K x D`; a dimension of components or features that share a
        value is 1.
        """

    @abstractmethod
    def whiten(self, deviations: Tensor, precisions_cholesky: Tensor) -> Tensor:
        """Deviations from the components' means, `... x K x n x D`, times the factors of the components' precisions."""

    @abstractmethod
    def half_log_det(self, precisions_cholesky: Tensor, n_features: int) -> Tensor:
        """Half the log-determinants of the precisions: `... x K`, or `... x 1` where shared."""

    def scatter_of(self, moments: Tensor) -> Tensor:
        """Scatter, as `estimate` takes it, from second moments, `K x D x D`, or their diagonals, `K x D`."""
        if not self.correlated and moments.ndim == 3:
            moments = moments.diagonal(dim1=-2, dim2=-1)
        return moments.sum(0) if self.shared else moments

    def log_density(self, x: Tensor, means: Tensor, precisions_cholesky: Tensor) -> Tensor:
        """Log-density of `... x n x D` points under each component, `... x n x K`."""
        return self.centred_log_density(x[..., None, :, :] - means[..., None, :], precisions_cholesky).mT

    def centred_log_density(self, deviations: Tensor, precisions_cholesky: Tensor) -> Tensor:
        """Log-density, `... x K x n`, of points by their deviations from the means, `... x K x n x D`."""
        squares = self.whiten(deviations, precisions_cholesky).square().sum(-1)
        return self.log_scale(precisions_cholesky, deviations.shape[-1])[..., None] - 0.5 * squares

    def log_scale(self, precisions_cholesky: Tensor, n_features: int) -> Tensor:
        """Log-densities of the components at their means: `... x K`, or `... x 1` where shared."""
        return self.half_log_det(precisions_cholesky, n_features) - 0.5 * n_features * LOG_TWO_PI


def _upper_inverse(matrix: Tensor) -> Tensor:
    """`U` with `matrix^-1 = U U^T` for `... x D x D` matrices; NaN where the matrix is not positive definite.

    The matrix is first scaled to unit diagonal, so that features of very different scales do no harm.
    """
    scale = matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    safe = torch.where((scale > 0) & scale.isfinite(), scale, torch.ones_like(scale))
    correlation = matrix / (safe[..., :, None] * safe[..., None, :])
    factor, info = torch.linalg.cholesky_ex(correlation.nan_to_num(0.0, 0.0, 0.0))
    bad = (info > 0) | ((scale <= 0) | ~scale.isfinite()).any(-1)
    bad = bad | (factor.diagonal(dim1=-2, dim2=-1).amin(-1) < LEAST_COLLINEARITY)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor = torch.where(bad[..., None, None], identity, factor)
    inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    upper = inverse.mT / safe[..., :, None]
    return torch.where(bad[..., None, None], torch.full_like(upper, torch.nan), upper)


def _tril(scales: Tensor, correlation: Tensor | None) -> Tensor:
    return scales[..., None] if correlation is None else scales[..., None] * correlation


class _Matrices(CovarianceStructure):
    """Covariances stored as matrices."""

    correlated = True

    def covariances(self, scales: Tensor, correlation: Tensor | None) -> Tensor:
        factor = _tril(scales, correlation)
        return factor @ factor.mT

    def precision_traces(self, scales: Tensor, correlation: Tensor | None, variance: Tensor) -> Tensor:
        root = torch.diag_embed(variance.sqrt())
        return torch.linalg.solve_triangular(_tril(scales, correlation), root, upper=False).square().sum((-2, -1))

    def factors(self, precisions_cholesky: Tensor) -> tuple[Tensor, Tensor | None]:
        identity = torch.eye(precisions_cholesky.shape[-1]).to(precisions_cholesky).expand_as(precisions_cholesky)
        factor = torch.linalg.solve_triangular(precisions_cholesky.mT, identity, upper=False)
        scales = factor.norm(dim=-1)
        return scales, factor / scales[..., None] if scales.shape[-1] > 1 else None

    def rescale(self, covariances: Tensor, factor: Tensor) -> Tensor:
        return covariances * factor[:, None] * factor

    def rescale_factors(self, precisions_cholesky: Tensor, factor: Tensor) -> Tensor:
        return precisions_cholesky / factor[:, None] * factor.sign()  # with a positive diagonal

    def above(self, covariances: Tensor, floor: Tensor) -> Tensor:
        root = floor.clamp_min(torch.finfo(floor.dtype).tiny).sqrt()
        ratio = covariances / (root[:, None] * root)
        values, axes = torch.linalg.eigh(ratio)
        excess = torch.where(values - 1 > 1e-3, values - 1, 1e-3)
        clipped = (axes * excess[..., None, :]) @ axes.mT * (root[:, None] * root)
        enough = (values - 1 > 1e-3).all(-1)
        return torch.where(enough[..., None, None], covariances - torch.diag_embed(floor), clipped)

    def precisions_cholesky(self, covariances: Tensor) -> Tensor:
        return _upper_inverse(covariances)

    def precisions(self, precisions_cholesky: Tensor) -> Tensor:
        return precisions_cholesky @ precisions_cholesky.mT

    def precisions_cholesky_from_precisions(self, precisions: Tensor) -> Tensor:
        flipped, info = torch.linalg.cholesky_ex(precisions.flip(-2, -1))
        return flipped.flip(-2, -1).where((info == 0)[..., None, None], torch.nan)

    def features(self, n_features: int, device: torch.device) -> QuadraticFeatures:
        return (NoSquares if self.shared else Products)(n_features, device)

    def whiten(self, deviations: Tensor, precisions_cholesky: Tensor) -> Tensor:
        return deviations @ self.by_component(precisions_cholesky)

    def half_log_det(self, precisions_cholesky: Tensor, n_features: int) -> Tensor:
        return self.by_component(precisions_cholesky).diagonal(dim1=-2, dim2=-1).log().sum(-1)


class _Variances(CovarianceStructure):
    """Covariances stored as variances."""

    def covariances(self, scales: Tensor, correlation: Tensor | None) -> Tensor:
        return scales.square()

    def precision_traces(self, scales: Tensor, correlation: Tensor | None, variance: Tensor) -> Tensor:
        precisions = scales.square().reciprocal()
        return precisions * variance.sum() if self.isotropic else precisions @ variance

    def factors(self, precisions_cholesky: Tensor) -> tuple[Tensor, Tensor | None]:
        return precisions_cholesky.reciprocal(), None

    def rescale_factors(self, precisions_cholesky: Tensor, factor: Tensor) -> Tensor:
        return precisions_cholesky / (factor[0] if self.isotropic else factor).abs()

    def scatter(self, responsibilities: Tensor, deviations: Tensor) -> Tensor:
        return torch.einsum("nk,nkd->kd", responsibilities, deviations.square())

    def above(self, covariances: Tensor, floor: Tensor) -> Tensor:
        level = floor.mean() if self.isotropic else floor
        return torch.maximum(covariances - level, 1e-3 * level)

    def precisions_cholesky(self, covariances: Tensor) -> Tensor:
        return torch.where(covariances > 0, covariances, torch.nan).rsqrt()

    def precisions(self, precisions_cholesky: Tensor) -> Tensor:
        return precisions_cholesky.square()

    def precisions_cholesky_from_precisions(self, precisions: Tensor) -> Tensor:
        return precisions.where(precisions > 0, torch.nan).sqrt()

    def features(self, n_features: int, device: torch.device) -> QuadraticFeatures:
        return (NoSquares if self.shared else SquaredNorm if self.isotropic else Squares)(n_features, device)

    def whiten(self, deviations: Tensor, precisions_cholesky: Tensor) -> Tensor:
        return deviations * self.by_component(precisions_cholesky)[..., None, :]

    def half_log_det(self, precisions_cholesky: Tensor, n_features: int) -> Tensor:
        log = self.by_component(precisions_cholesky).log()
        return log.sum(-1) * (n_features // log.shape[-1])


@final
class Full(_Matrices):
    """Every component has its own covariance matrix; stored `K x D x D`."""

    name = "full"

    def scale_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def correlation_shape(self, n_components: int, n_features: int) -> tuple[int, ...] | None:
        return (n_components,) if n_features > 1 else None

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def shares(self, weights: Tensor, n_features: int) -> Tensor:
        return weights[:, None]

    def components(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> dist.TorchDistribution:
        return dist.MultivariateNormal(means, scale_tril=_tril(scales, correlation))

    def scale_tril(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> Tensor:
        return _tril(scales, correlation)

    def expand(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        return covariances

    def scatter(self, responsibilities: Tensor, deviations: Tensor) -> Tensor:
        by_component = deviations.transpose(0, 1)
        return (by_component * responsibilities.T[..., None]).mT @ by_component

    def estimate(self, counts: Tensor, scatter: Tensor, shift: Tensor) -> Tensor:
        return scatter / counts[:, None, None] - shift[:, :, None] * shift[:, None, :]

    def regularize(self, covariances: Tensor, variance: Tensor) -> Tensor:
        return covariances + torch.diag_embed(variance)

    def by_component(self, stored: Tensor) -> Tensor:
        return stored


@final
class Tied(_Matrices):
    """All components share one covariance matrix; stored `D x D`."""

    name = "tied"
    shared = True

    def scale_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features,)

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def correlation_shape(self, n_components: int, n_features: int) -> tuple[int, ...] | None:
        return () if n_features > 1 else None

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def shares(self, weights: Tensor, n_features: int) -> Tensor:
        return weights.new_ones(1)

    def pool(self, weights: Tensor, covariances: Tensor) -> Tensor:
        return covariances * weights.sum()

    def components(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> dist.TorchDistribution:
        return dist.MultivariateNormal(means, scale_tril=_tril(scales, correlation)[..., None, :, :])

    def scale_tril(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> Tensor:
        return _tril(scales, correlation).expand(*means.shape, means.shape[-1])

    def expand(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        return covariances.expand(n_components, n_features, n_features)

    def scatter(self, responsibilities: Tensor, deviations: Tensor) -> Tensor:
        flat = deviations.flatten(0, 1)
        return (flat * responsibilities.reshape(-1, 1)).T @ flat

    def estimate(self, counts: Tensor, scatter: Tensor, shift: Tensor) -> Tensor:
        return (scatter - (shift * counts[:, None]).T @ shift) / counts.sum()

    def regularize(self, covariances: Tensor, variance: Tensor) -> Tensor:
        return covariances + torch.diag_embed(variance if variance.ndim == 1 else variance.amax(0))

    def by_component(self, stored: Tensor) -> Tensor:
        return stored[..., None, :, :]


@final
class Diagonal(_Variances):
    """Every component has its own variances; stored `K x D`."""

    name = "diag"

    def scale_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def shares(self, weights: Tensor, n_features: int) -> Tensor:
        return weights[:, None]

    def components(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> dist.TorchDistribution:
        return dist.Normal(means, scales).to_event(1)

    def scale_tril(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> Tensor:
        return torch.diag_embed(scales)

    def expand(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        return torch.diag_embed(covariances)

    def rescale(self, covariances: Tensor, factor: Tensor) -> Tensor:
        return covariances * factor.square()

    def estimate(self, counts: Tensor, scatter: Tensor, shift: Tensor) -> Tensor:
        return scatter / counts[:, None] - shift.square()

    def regularize(self, covariances: Tensor, variance: Tensor) -> Tensor:
        return covariances + variance

    def by_component(self, stored: Tensor) -> Tensor:
        return stored


@final
class TiedDiagonal(_Variances):
    """All components share one variance of each feature; stored `(D,)`."""

    name = "tied_diag"
    shared = True

    def scale_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features,)

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features,)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features

    def shares(self, weights: Tensor, n_features: int) -> Tensor:
        return weights.new_ones(1)

    def pool(self, weights: Tensor, covariances: Tensor) -> Tensor:
        return covariances * weights.sum()

    def components(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> dist.TorchDistribution:
        return dist.Normal(means, scales[..., None, :].expand_as(means)).to_event(1)

    def scale_tril(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> Tensor:
        return torch.diag_embed(scales[..., None, :].expand_as(means))

    def expand(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        return torch.diag_embed(covariances).expand(n_components, n_features, n_features)

    def rescale(self, covariances: Tensor, factor: Tensor) -> Tensor:
        return covariances * factor.square()

    def scatter(self, responsibilities: Tensor, deviations: Tensor) -> Tensor:
        return torch.einsum("nk,nkd->d", responsibilities, deviations.square())

    def estimate(self, counts: Tensor, scatter: Tensor, shift: Tensor) -> Tensor:
        return (scatter - counts @ shift.square()) / counts.sum()

    def regularize(self, covariances: Tensor, variance: Tensor) -> Tensor:
        return covariances + (variance if variance.ndim == 1 else variance.amax(0))

    def by_component(self, stored: Tensor) -> Tensor:
        return stored[..., None, :]


@final
class Spherical(_Variances):
    """Every component has one variance; stored `(K,)`."""

    name = "spherical"
    isotropic = True

    def scale_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components

    def shares(self, weights: Tensor, n_features: int) -> Tensor:
        return weights * n_features

    def pool(self, weights: Tensor, covariances: Tensor) -> Tensor:
        return (weights * covariances)[:, None]

    def components(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> dist.TorchDistribution:
        return dist.Normal(means, scales[..., None]).to_event(1)

    def scale_tril(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> Tensor:
        return torch.diag_embed(scales[..., None].expand_as(means))

    def expand(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        return torch.diag_embed(covariances[:, None].expand(n_components, n_features))

    def rescale(self, covariances: Tensor, factor: Tensor) -> Tensor:
        return covariances * factor[0].square()

    def estimate(self, counts: Tensor, scatter: Tensor, shift: Tensor) -> Tensor:
        return (scatter / counts[:, None] - shift.square()).mean(-1)

    def regularize(self, covariances: Tensor, variance: Tensor) -> Tensor:
        return covariances + variance.mean(-1)

    def by_component(self, stored: Tensor) -> Tensor:
        return stored[..., None]


_STRUCTURES: dict[str, CovarianceStructure] = {
    structure.name: structure for structure in (Full(), Diagonal(), Tied(), Spherical(), TiedDiagonal())
}


def covariance_structure(covariance_type: CovarianceType | CovarianceStructure) -> CovarianceStructure:
    """The structure of that name.

    Raises `ValueError` for an unknown name.
    """
    if isinstance(covariance_type, CovarianceStructure):
        return covariance_type
    if covariance_type not in _STRUCTURES:
        raise ValueError(f"Expected covariance_type in {sorted(_STRUCTURES)}; got {covariance_type!r}.")
    return _STRUCTURES[covariance_type]
