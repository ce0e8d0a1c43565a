"""Gaussians of enumerated components: the densities of many data under all of them at once."""

from __future__ import annotations

from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from latentmix.models.mixture.covariances import CovarianceStructure, covariance_structure
from latentmix.models.mixture.matrices import inverse_lower
from latentmix.models.mixture.quadratic import ExpandedPoints

__all__ = ["FactoredNormal", "SelectedNormal", "assigned", "expanded_points"]

# Bytes of features that are kept.
_MOST = 1 << 29


def expanded_points(x: Tensor, structure: CovarianceStructure) -> ExpandedPoints | None:
    """Quadratic features of `n x D` data for components of that structure; `None` where they need over 512 MiB."""
    own = covariance_structure("full" if structure.correlated else "diag")
    return ExpandedPoints(x, own) if ExpandedPoints.bytes(x, own) <= _MOST else None


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
        return covariance_structure("full").centred_log_density(value - self.loc, inverse_lower(factor.squeeze(-3)).mT)


@final
class SelectedNormal(dist.TorchDistribution):
    """The Gaussians, of `K`, that assignments name.

    The log-densities of `n x D` data are computed under all Gaussians at once, so that neither assignments that
    are enumerated, `K x 1`, nor sampled ones, `(n,)`, need parameters for each datum.

    Args:
        loc: `K x D` means.
        scale: Standard deviations, `K x D`, or lower Cholesky factors of covariances, `K x D x D`, or
            `1 x D x D` for all.
        assignment: Integers below `K`.
        points: The data as quadratic features, from which their densities are taken where that is accurate.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture.gaussians import SelectedNormal
        >>> loc, scale = torch.zeros(3, 2), torch.ones(3, 2)
        >>> SelectedNormal(loc, scale, torch.arange(3)[:, None]).expand([3, 5]).log_prob(torch.zeros(5, 2)).shape
        torch.Size([3, 5])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        assignment: Tensor,
        points: ExpandedPoints | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.assignment, self.points = loc, scale, assignment, points
        self._structure = covariance_structure("full" if scale.ndim > loc.ndim else "diag")
        super().__init__(assignment.shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SelectedNormal:
        """The distribution for another batch shape."""
        return SelectedNormal(
            self.loc, self.scale, self.assignment.expand(batch_shape), self.points, validate_args=self._validate_args
        )

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, differentiable in the Gaussians."""
        noise = torch.randn(
            *sample_shape, *self.batch_shape, *self.event_shape, dtype=self.loc.dtype, device=self.loc.device
        )
        scale = self._own_scale(self.assignment)
        moved = (scale @ noise[..., None]).squeeze(-1) if self._structure.correlated else scale * noise
        return self.loc[self.assignment] + moved

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`."""
        if self._validate_args:
            self._validate_sample(value)
        assignment = self.assignment
        if value.ndim != 2 or assignment.ndim == 0:
            return self._of_each(value)
        if assignment.shape[-1] == 1 or assignment.stride(-1) == 0:
            chosen = assignment[..., 0]
            # Of a scale that all share, one factor is inverted.
            one = (1,) * chosen.ndim
            scale = self.scale.view(*one, *self.scale.shape[1:]) if self._shared else _rows(self.scale, chosen)
            return self._table(value, _rows(self.loc, chosen), scale)
        if assignment.ndim == 1:
            return self._table(value, self.loc, self.scale).gather(0, assignment[None]).squeeze(0)
        return self._of_each(value)

    @property
    def _shared(self) -> bool:
        """Whether one scale is that of several Gaussians."""
        return len(self.scale) < len(self.loc)

    def _own_scale(self, assignment: Tensor) -> Tensor:
        """Scales of the assigned Gaussians, of the shape of `assignment` in front."""
        if self._shared:
            return self.scale[0].expand(*assignment.shape, *self.scale.shape[1:])
        return self.scale[assignment]

    def _table(self, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Log-densities of `n x D` data under each of `... x D` Gaussians."""
        factors = inverse_lower(scale).mT if self._structure.correlated else scale.reciprocal()
        if self.points is not None and self.points.stand_for(value):
            density = self.points.log_density(loc, factors)
            if density is not None:
                return density
        return self._structure.centred_log_density(value - loc[..., None, :], factors)

    def _of_each(self, value: Tensor) -> Tensor:
        """Log-densities of data that have a Gaussian each."""
        loc, scale = self.loc[self.assignment], self._own_scale(self.assignment)
        normal = _factored(loc, scale) if self._structure.correlated else dist.Normal(loc, scale).to_event(1)
        density: Tensor = normal.log_prob(value)
        return density


def assigned(
    components: dist.TorchDistribution, assignment: Tensor, points: ExpandedPoints | None = None
) -> dist.TorchDistribution:
    """The components that assignments name.

    Args:
        components: `K` of them: a `MultivariateNormal`, or independent normals.
        assignment: Integers below `K`, such as all of them as a `K x 1` tensor where they are enumerated.
        points: The data as quadratic features, as `SelectedNormal` takes them.

    Returns:
        A distribution of the batch shape of `assignment`, broadcast against what batch shape the components have
        before their last dimension.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from latentmix.models.mixture.gaussians import assigned
        >>> components = dist.MultivariateNormal(torch.zeros(3, 2), torch.eye(2))
        >>> assigned(components, torch.arange(3)[:, None]).log_prob(torch.zeros(5, 2)).shape
        torch.Size([3, 5])
    """
    if isinstance(components, dist.MultivariateNormal):
        loc, scale = components.loc, components._unbroadcasted_scale_tril
        if loc.ndim == 2:
            shared = scale.ndim == 2 or len(scale) == 1
            scale = scale.view(1, *scale.shape[-2:]) if shared else scale
            return SelectedNormal(loc, scale, assignment, points)
        scale = scale.expand(*loc.shape, loc.shape[-1])
        return _factored(Vindex(loc)[..., assignment, :], Vindex(scale)[..., assignment, :, :])
    loc, scale = components.base_dist.loc, components.base_dist.scale.expand_as(components.base_dist.loc)
    if loc.ndim == 2:
        return SelectedNormal(loc, scale, assignment, points)
    return dist.Normal(Vindex(loc)[..., assignment, :], Vindex(scale)[..., assignment, :]).to_event(1)


def _rows(values: Tensor, chosen: Tensor) -> Tensor:
    """Rows of a tensor by number; of one list of them the gradient is cheaper by `index_select`."""
    return values.index_select(0, chosen) if chosen.ndim == 1 else values[chosen]


def _factored(loc: Tensor, scale_tril: Tensor) -> FactoredNormal:
    return FactoredNormal(loc, scale_tril=scale_tril)
