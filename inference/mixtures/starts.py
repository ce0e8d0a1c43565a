"""Mixtures that the fit of an estimator starts from."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from torch import Tensor

from latentmix.inference.mixtures.em.e_step import EStep
from latentmix.inference.mixtures.em.initialization import from_labels, initialize, start
from latentmix.inference.mixtures.points.arrays import as_tensor, check_unmasked, plain_array
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.points.validation import given_start
from latentmix.models.mixture.covariances import CovarianceStructure, covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["EstimatorStarts", "as_labels", "check_resumable"]


@final
class EstimatorStarts:
    """`n_init` starts by `init_params`, or one from labels, or the last fit where it is resumed.

    Values of `weights_init`, `means_init` and `precisions_init` take precedence.

    Args:
        estimator: A `GaussianMixture`; it is read only.
        points: The points.
        labels: `(n,)` integers, `-1` where unknown: component `k` starts at the points labelled `k`.
        random_state: Where starts and seeds come from.
        last: The last fit, where it is resumed.
        e_step: The E step of an algorithm that starts from seeds alone; see `initialize`.
    """

    def __init__(
        self,
        estimator: Any,
        points: Points,
        random_state: np.random.RandomState,
        *,
        labels: Tensor | None = None,
        last: MixtureParameters | None = None,
        e_step: EStep | None = None,
    ) -> None:
        self.estimator, self.points, self.random_state = estimator, points, random_state
        self.labels, self.last, self.e_step = labels, last, e_step
        self.resumed = last is not None

    def __len__(self) -> int:
        return 1 if self.resumed or self.labels is not None else int(self.estimator.n_init)

    def seed(self) -> int:
        """A seed for an attempt."""
        return int(self.random_state.randint(2**31))

    def draw(self) -> MixtureParameters:
        """A start, in float64."""
        if self.last is not None:
            return self.last
        structure = covariance_structure(self.estimator.covariance_type)
        given = given_start(self.estimator, self.points)
        drawn = self._initialized(structure) if any(part is None for part in given) else None
        weights, means, factors = (
            getattr(drawn, name) if part is None else part
            for name, part in zip(("weights", "means", "precisions_cholesky"), given, strict=True)
        )
        if given[2] is None:
            assert drawn is not None
            return MixtureParameters(weights, means, drawn.covariances, structure)
        return MixtureParameters.from_precisions_cholesky(weights, means, factors, structure)

    def _initialized(self, structure: CovarianceStructure) -> MixtureParameters:
        estimator, e_step = self.estimator, self.e_step
        size, floor = estimator.n_components, estimator.reg_covar
        if self.labels is not None:
            points = self.points if e_step is None else e_step.filled()
            return from_labels(points, self.labels, size, structure, reg_covar=floor)
        method, state = estimator.init_params, self.random_state
        if e_step is None:
            return start(self.points, size, structure, method=method, random_state=state, reg_covar=floor)
        return initialize(e_step, size, structure, method=method, random_state=state, reg_covar=floor)


def as_labels(labels: Any, points: Points) -> Tensor | None:
    """Labels of points as a tensor, integers of any width as `int64`; all processes have some, or none has.

    Raises:
        ValueError: If they are no integers, the points come shuffled, or only some processes have labels.
    """
    tensor: Tensor | None = None

    def convert() -> bool:
        nonlocal tensor
        if labels is not None and not points.ordered:
            raise ValueError("Expected points in the order of their labels; got a DataLoader that shuffles them.")
        tensor = None if labels is None else _tensor_of(labels).to(points.device)
        return tensor is not None

    held = points.gather(convert)
    if len(set(held)) > 1:
        raise ValueError(f"Expected labels on every process, or on none; got them on {sum(held)} of {len(held)}.")
    return tensor


def check_resumable(last: MixtureParameters, structure: CovarianceStructure, n_components: int) -> None:
    """Refuse to resume the fit of a mixture of another kind.

    Raises:
        ValueError: If the last fit has other components or another structure.
    """
    held, now = (len(last.weights), last.structure.name), (n_components, structure.name)
    if held != now:
        raise ValueError(
            f"Expected n_components and covariance_type of the last fit, {held}, with warm_start=True; got {now}: "
            "take warm_start=False."
        )


def _tensor_of(labels: Any) -> Tensor:
    check_unmasked(labels, "labels", "pass labels.filled(-1)")
    if not isinstance(labels, Tensor):
        array = plain_array(labels)
        array = np.asarray(array.tolist()) if array.dtype.kind == "O" else array
        if array.dtype.kind not in "biuf":
            raise ValueError(f"Expected integer labels, -1 where unknown; got values of dtype {array.dtype}.")
        labels = array
    labels = as_tensor(labels)
    return labels if labels.is_floating_point() or labels.is_complex() else labels.long()
