"""Natural gradients of a Gaussian mixture in the coordinates of its guide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.transforms import IndependentTransform

from latentmix.inference.mixtures.svi.row_norms import RowNorms
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.priors import inner_support

__all__ = ["MixtureMetric", "NaturalPoint"]


@final
class MixtureMetric:
    r"""Inverse Fisher information of data with known assignments, per datum.

    With :math:`z` known, the information is block-diagonal: one block for the weights, :math:`\pi_k \Sigma_k^{-1}` for
    each mean, and :math:`\tfrac12 \pi_k \operatorname{tr}(\Sigma^{-1} d\Sigma \, \Sigma^{-1} d\Sigma)` for each
    covariance. Its inverse has a closed form in weights, means and covariances, and is transformed to the guide's
    coordinates by the derivatives of the maps between them, at the cost of a few products of `D x D` matrices for each
    component. The retraction is straight in the expectations
    :math:`\pi_k, \pi_k \mu_k, \pi_k (\Sigma_k + \mu_k \mu_k^\top)`. Under flat priors a gradient step of length one
    along it is a step of EM (Sato, 2001, section 3; Xu and Jordan, 1996), though only the gradient of the ELBO is used.

    Args:
        model: The mixture, without a floor.
        guide: A point-mass guide over its globals, called before so that its parameters exist.
        x: `n x D` data, for the dtype.
        sites: Values of the guide's sites, up to date at every call; by default they are computed.

    Raises:
        ValueError: If the model has a floor, or the prior of means or weights does not have full support.

    Example:
        >>> import torch
        >>> from latentmix.guides.mixture import global_guide
        >>> from latentmix.inference.mixtures.svi.natural_gradient import MixtureMetric
        >>> from latentmix.models.mixture.model import MixtureModel
        >>> model, x = MixtureModel(2, 3), torch.zeros(5, 3)
        >>> guide = global_guide(model)
        >>> _ = guide(x)
        >>> leaves = list(guide.parameters())
        >>> MixtureMetric(model, guide, x)(leaves)(torch.cat([leaf.detach().flatten() for leaf in leaves])).shape
        torch.Size([20])
    """

    def __init__(
        self,
        model: MixtureModel,
        guide: AutoDelta,
        x: Tensor,
        sites: Mapping[str, Tensor] | None = None,
    ) -> None:
        if not self.applies(model):
            raise ValueError(
                "Expected a model without a floor, priors of the means on the whole space and of the weights on the "
                "simplex; got another: take another optimizer."
            )
        self._model = model
        self._names = {id(leaf): name.removesuffix("_unconstrained") for name, leaf in guide.named_parameters()}
        self._scales = _elementwise(transform_to(model.priors(x)["scales"].support))
        self._guide, self._sites = guide, sites
        self._rows = RowNorms(model.n_features, x)

    @staticmethod
    def applies(model: MixtureModel) -> bool:
        """Whether the prior of means and weights has full support, and the model no floor."""
        if bool((torch.as_tensor(model.covariance_floor) > 0).any()):
            return False
        expected = {"means": constraints.real, "weights": constraints.simplex}
        for name, support in expected.items():
            prior = model.declared_priors[name]
            if prior is not None and inner_support(prior.support) is not support:
                return False
        return True

    def __call__(self, leaves: Sequence[Tensor]) -> NaturalPoint:
        """The metric at the leaves."""
        order = [self._names[id(leaf)] for leaf in leaves]
        values = {name: leaf.detach() for name, leaf in zip(order, leaves, strict=True)}
        sites = self._sites
        if sites is None:
            sites = {name: getattr(self._guide, name).detach() for name in self._model.shapes}
        scales, correlation = sites["scales"], sites.get("correlation_cholesky")
        slopes = self._scales.log_abs_det_jacobian(values["scales"], scales).exp() * self._scales.sign
        factor = self._model.structure.root(scales, correlation) if self._model.structure.correlated else None
        return NaturalPoint(self._model, self._scales, self._rows, values, sites["weights"], scales, slopes, factor)


@final
@dataclass(frozen=True, eq=False)
class NaturalPoint:
    """`MixtureMetric` at one point.

    A call multiplies a flat vector by the inverse information; `step` takes a gradient step along the retraction.
    """

    model: MixtureModel
    transform: Any
    rows: RowNorms
    values: Mapping[str, Tensor]
    weights: Tensor
    scales: Tensor
    slopes: Tensor
    factor: Tensor | None

    def __call__(self, vector: Tensor) -> Tensor:
        """The inverse information times a flat vector."""
        parts = self._parts(vector)
        weights = parts["weights"] / self.weights.clamp_min(1e-8)
        moves = {"weights": weights - weights.mean(), "means": self._means(parts["means"])}
        if self.factor is None:
            moves["scales"] = self._variances(parts["scales"]) / (2 * self.scales * self.slopes)
        else:
            inward = self._whitened(parts) * self.rows.half
            scales, moves["correlation_cholesky"] = self.rows.push(self.factor, self.factor @ inward)
            moves["scales"] = scales / self.slopes
        return torch.cat([moves[name].reshape(-1) for name in self.values])

    def step(self, gradient: Tensor, rate: float) -> Tensor | None:
        """The flat move of a step of that rate against the gradient; `None` if it ends at no mixture."""
        parts, structure = self._parts(gradient), self.model.structure
        weights = self.weights - rate * (parts["weights"] - self.weights * parts["weights"].sum())
        if not bool((weights > 0).all()):
            return None
        shift = -rate * (self.weights / weights)[:, None] * self._means(parts["means"])
        if self.factor is None:
            now, moved = self.scales.square(), -rate * self._variances(parts["scales"])
        else:
            now, moved = self.factor @ self.factor.mT, -rate * self.factor @ self._whitened(parts) @ self.factor.mT
        scatter = structure.pool(weights, now) + structure.pool(self.weights, moved)
        covariances = structure.estimate(weights, scatter, shift)
        sites = self._sites(MixtureParameters(weights, self.values["means"] + shift, covariances, structure))
        if sites is None:
            return None
        logits = weights.log() - self.values["weights"]
        moves = {"weights": logits - logits.mean(), "means": shift}
        moves |= {name: sites[name] - self.values[name] for name in self.values if name in sites}
        flat = torch.cat([moves[name].reshape(-1) for name in self.values])
        return flat if bool(flat.isfinite().all()) else None

    def _parts(self, vector: Tensor) -> dict[str, Tensor]:
        sizes = [value.numel() for value in self.values.values()]
        parts = zip(self.values.items(), vector.split(sizes), strict=True)
        return {name: part.view_as(value) for (name, value), part in parts}

    def _means(self, gradient: Tensor) -> Tensor:
        """The natural gradient of the means."""
        weights = self.weights.clamp_min(1e-6)[:, None]
        if self.factor is None:
            return self.model.structure.by_component(self.scales.square()) * gradient / weights
        return (self.factor @ (self.factor.mT @ gradient[..., None])).squeeze(-1) / weights

    def _variances(self, gradient: Tensor) -> Tensor:
        """The natural gradient of the variances, from the gradient of the leaf of the scales."""
        return self.scales.pow(3) * gradient / (self.slopes * self._counts())

    def _whitened(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The natural gradient of the covariances, whitened on both sides by the inverse of `factor`."""
        assert self.factor is not None
        scales = gradients["scales"] / self.slopes
        free = gradients.get("correlation_cholesky", scales.new_zeros(*scales.shape[:-1], 0))
        pulled = self.rows.pull(self.factor, scales, free)
        lower = (self.factor.mT @ pulled).tril()
        inner = lower + lower.tril(-1).mT
        return inner / self._counts()[..., None]

    def _counts(self) -> Tensor:
        """Number of values of a datum that each scale describes on average."""
        return self.model.structure.scale_counts(self.weights, self.model.n_features).clamp_min(1e-6)

    def _sites(self, fitted: MixtureParameters) -> dict[str, Tensor] | None:
        """Values of the leaves of scales and correlations; `None` for a singular mixture."""
        if bool(fitted.singular.any()):
            return None
        if self.factor is None:
            return {"scales": self.transform.inv(self.model.structure.factors(fitted.precisions_cholesky)[0])}
        scales, free = self.rows.coordinates(self.model.structure.scale_tril(fitted.precisions_cholesky))
        return {"scales": self.transform.inv(scales), "correlation_cholesky": free}


def _elementwise(transform: Any) -> Any:
    return transform.base_transform if isinstance(transform, IndependentTransform) else transform
