"""The Fisher information of a Gaussian mixture in the coordinates of its guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.func import jacfwd, jvp, vmap

from latentmix.models.mixture import MixtureModel
from latentmix.models.parameters import MixtureParameters

__all__ = ["MixtureMetric"]

_correlation = transform_to(constraints.corr_cholesky)


@final
class MixtureMetric:
    r"""Inverse Fisher information of data with known assignments, per datum.

    With :math:`z` known, the information falls into blocks: the weights'; for each mean
    :math:`\pi_k \Sigma_k^{-1}`; for the unconstrained parameters :math:`\theta` of each covariance
    :math:`\tfrac12 \pi_k \operatorname{tr}(\Sigma^{-1} \partial_i \Sigma \, \Sigma^{-1} \partial_j \Sigma)`. The
    retraction is straight in the expectations :math:`\pi_k, \pi_k \mu_k, \pi_k (\Sigma_k + \mu_k \mu_k^\top)`. Under
    flat priors and no floor, a gradient step of length one along it is a step of EM (Sato, 2001, section 3; Xu and
    Jordan, 1996): only the gradient of the ELBO goes in.

    Args:
        model: The mixture.
        guide: A point-mass guide over its globals that was called before, so that its parameters exist.
        x: `n x D` data, for the dtype.

    Raises:
        ValueError: If the prior of the means has bounded support.
    """

    def __init__(self, model: MixtureModel, guide: AutoDelta, x: Tensor) -> None:
        priors = model.priors(x)
        if not self.applies(model):
            raise ValueError("Expected a prior of the means on the whole space; got one with bounds.")
        self._model = model
        self._names = {id(leaf): name.removesuffix("_unconstrained") for name, leaf in guide.named_parameters()}
        self._transforms = {name: transform_to(prior.support) for name, prior in priors.items()}
        self._weights, self._scales = self._transforms["weights"], self._transforms["scales"]

    @staticmethod
    def applies(model: MixtureModel) -> bool:
        """Whether the means are unconstrained."""
        prior = model.declared_priors["means"]
        support = None if prior is None else prior.support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        return support is None or support is constraints.real

    def __call__(self, leaves: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """Give the product of the inverse information at the leaves with a flat vector."""
        values = {self._names[id(leaf)]: leaf.detach() for leaf in leaves}
        structure, (n_components, n_features) = self._model.structure, values["means"].shape
        weights = self._weights(values["weights"])
        slope = jacfwd(self._weights)(values["weights"])
        information = (slope / weights.clamp_min(1e-8)[:, None]).T @ slope
        solve_weights = torch.linalg.inv(information + _null(information))
        free_correlation = values.get("correlation_cholesky")
        raw_correlation = None if free_correlation is None else _correlation(free_correlation)
        with torch.enable_grad():
            free = values["scales"].clone().requires_grad_()
            raw_scales = self._scales(free)
            floored = raw_scales if raw_correlation is not None else self._model.effective(raw_scales, None)[0]
            (slopes,) = torch.autograd.grad(floored.sum(), free)
        raw_scales = raw_scales.detach()
        scales, correlation = self._model.effective(raw_scales, raw_correlation)
        shares = structure.shares(weights, n_features).clamp_min(1e-6)
        tril = structure.scale_tril(values["means"], scales, correlation)
        factor: Tensor | None = None
        if free_correlation is not None and correlation is not None:
            square = (scales[..., None] * correlation).reshape(-1, n_features, n_features)
            factor = _covariance_information(
                free_correlation.reshape(len(square), -1),
                raw_scales.reshape(len(square), -1),
                slopes.reshape(len(square), -1),
                square,
                shares.reshape(-1),
            )

        def inverse(vector: Tensor) -> Tensor:
            sizes = [leaf.numel() for leaf in leaves]
            parts = {self._names[id(leaf)]: part for leaf, part in zip(leaves, vector.split(sizes), strict=True)}
            parts["weights"] = solve_weights @ parts["weights"]
            means = parts["means"].view(n_components, n_features, 1)
            spread = (tril @ (tril.mT @ means)).squeeze(-1) / weights.clamp_min(1e-6)[:, None]
            parts["means"] = spread.reshape(-1)
            if factor is None:
                curvature = 2 * shares * (slopes / scales).square()
                parts["scales"] = (parts["scales"].view_as(scales) / curvature).reshape(-1)
            else:
                blocks = len(factor)
                joint = torch.cat([parts["scales"].view(blocks, -1), parts["correlation_cholesky"].view(blocks, -1)], 1)
                solved = torch.cholesky_solve(joint[..., None], factor).squeeze(-1)
                parts["scales"] = solved[:, :n_features].reshape(-1)
                parts["correlation_cholesky"] = solved[:, n_features:].reshape(-1)
            return torch.cat([parts[self._names[id(leaf)]] for leaf in leaves])

        return inverse

    def retract(self, leaves: Sequence[Tensor], move: Tensor) -> Tensor | None:
        """See `Metric.retract`; `None` where the move leaves the mixtures."""
        order = [self._names[id(leaf)] for leaf in leaves]
        values = {name: leaf.detach() for name, leaf in zip(order, leaves, strict=True)}
        parts = move.split([leaf.numel() for leaf in leaves])
        moves = {name: part.view_as(values[name]) for name, part in zip(order, parts, strict=True)}
        primal, tangent = jvp(self._decode, (values,), (moves,))[:2]
        (weights, means, covariances), (d_weights, d_means, d_covariances) = primal, tangent
        structure = self._model.structure
        new_weights = weights + d_weights
        if bool((new_weights <= 0).any()):
            return None
        shift = (weights / new_weights)[:, None] * d_means
        scatter = structure.pool(new_weights, covariances) + structure.pool(weights, d_covariances)
        fitted = MixtureParameters(
            new_weights, means + shift, structure.estimate(new_weights, scatter, shift), structure
        )
        if bool(fitted.singular.any()):
            return None
        sites = fitted.sites(self._model.covariance_floor)
        free = {name: self._transforms[name].inv(sites[name]) for name in order}
        free["weights"] = free["weights"] - (free["weights"] - values["weights"]).mean()
        bent = torch.cat([(free[name] - values[name]).reshape(-1) for name in order])
        return bent if bool(bent.isfinite().all()) else None

    def _decode(self, values: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        sites = {name: self._transforms[name](value) for name, value in values.items()}
        parameters = self._model.parameters(sites)
        return parameters.weights, parameters.means, parameters.covariances


def _covariance_information(
    free_correlation: Tensor, scales: Tensor, slopes: Tensor, tril: Tensor, shares: Tensor
) -> Tensor:
    """Cholesky factors of the information of scales and correlations, one block per covariance `tril tril^T`."""
    correlation = _correlation(free_correlation)
    by_scale = torch.diag_embed(slopes).transpose(1, 2)[:, :, None, :] * correlation[..., None]
    by_correlation = scales[..., None, None] * vmap(jacfwd(_correlation))(free_correlation)
    jacobian = torch.cat([by_scale, by_correlation], -1)
    moved = torch.linalg.solve_triangular(tril, jacobian.flatten(2), upper=False).view_as(jacobian)
    unfloored = torch.linalg.solve_triangular(tril, scales[..., None] * correlation, upper=False)
    moved = torch.einsum("bijp,blj->bilp", moved, unfloored)
    symmetric = (moved + moved.transpose(1, 2)).flatten(1, 2)
    information = 0.5 * shares[:, None, None] * (symmetric.mT @ symmetric)
    damping = 1e-10 * information.diagonal(dim1=1, dim2=2).mean(-1)
    identity = torch.eye(information.shape[-1], dtype=information.dtype, device=information.device)
    return torch.linalg.cholesky_ex(information + damping[:, None, None] * identity)[0]


def _null(information: Tensor) -> Tensor:
    """Fills the direction in which a softmax does not move, and keeps the sum invertible."""
    identity = torch.eye(len(information), dtype=information.dtype, device=information.device)
    return torch.full_like(information, 1.0 / len(information)) + 1e-12 * identity
