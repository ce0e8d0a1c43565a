"""Weights, means and scales of several fits side by side: points, standard errors, posterior means and intervals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.inference.mixtures.analysis.comparison import align
from latentmix.inference.mixtures.analysis.information import SingularInformationError
from latentmix.inference.mixtures.analysis.standard_errors import standard_errors
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.matching import permuted_draws
from latentmix.inference.tables import aligned
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.process_state import kept_warnings

__all__ = ["ComparedEstimates", "Estimates", "Quantity", "compare_estimates", "scales_of"]

Array = NDArray[np.float64]

_MOST = 2000  # free parameters whose information matrix is made


@final
@dataclass(frozen=True)
class Quantity:
    """A weight, a mean or a scale: a standard deviation of a feature, the floor of the variances included.

    Attributes:
        kind: "weight", "mean" or "scale".
        component: Its component, from 0; `None` of scales that all components share.
        feature: Its feature, from 0; `None` of weights, and of scales that all features share.
    """

    kind: Literal["weight", "mean", "scale"]
    component: int | None = None
    feature: int | None = None


@final
@dataclass(frozen=True, repr=False)
class Estimates(Displayed):
    """Estimates of `Q` quantities by one fit.

    Attributes:
        point: `(Q,)` point estimates, or posterior means.
        sd: `(Q,)` sandwich standard errors, or posterior standard deviations; `None` where there are none.
        low: `(Q,)` 5% quantiles of the posterior; `None` of a point estimate.
        high: Likewise, 95%.
    """

    point: Array
    sd: Array | None = None
    low: Array | None = None
    high: Array | None = None

    def shown(self) -> dict[str, Any]:
        parts = {"sd": self.sd, "low": self.low, "high": self.high}
        return {"point": self.point, **{name: values for name, values in parts.items() if values is not None}}


@final
@dataclass(frozen=True, repr=False)
class ComparedEstimates(Displayed):
    """Estimates of several fits, of components that are aligned with those of the first.

    Attributes:
        quantities: The `Q` quantities: weights, then means, then scales.
        fits: The estimates of each fit.
        posteriors: Names of the fits with draws.
        note: Why there are no standard errors, or why they are of little use; else empty.
    """

    quantities: tuple[Quantity, ...]
    fits: dict[str, Estimates]
    posteriors: tuple[str, ...] = ()
    note: str = field(default="")

    def shown(self) -> dict[str, Any]:
        pairs = [(self.reference, name) for name in self.posteriors]
        farthest = {f"{first}, {second}": self.farthest(first, second) for first, second in pairs}
        return {
            "fits": ", ".join(self.fits),
            "quantities": len(self.quantities),
            **{
                f"farthest of {pair}": f"{self.quantities[k]}, {by:.2g} posterior standard deviations"
                for pair, (k, by) in farthest.items()
            },
        }

    @property
    def reference(self) -> str:
        """The first fit."""
        return next(iter(self.fits))

    def differences(self, first: str, second: str) -> Array:
        """Distances of two fits in posterior standard deviations of the second: `(Q,)`; zero where it is sure.

        Raises:
            ValueError: If the second has no draws.
        """
        sd = self.fits[second].sd
        if second not in self.posteriors or sd is None:
            raise ValueError(f"Expected a fit with draws, out of {', '.join(self.posteriors)}; got {second!r}.")
        distance = np.abs(self.fits[first].point - self.fits[second].point)
        return np.divide(distance, sd, out=np.zeros_like(distance), where=sd > 0)

    def farthest(self, first: str, second: str) -> tuple[int, float]:
        """The quantity in which two fits differ most, as an index, and by how many posterior standard deviations."""
        differences = self.differences(first, second)
        index = int(differences.argmax())
        return index, float(differences[index])

    def table(self) -> str:
        """Estimates as aligned text, a quantity a row: points, and standard errors or 90% intervals."""
        head = ["quantity", *self.fits]
        rows = []
        for index, quantity in enumerate(self.quantities):
            places = [place + 1 for place in (quantity.component, quantity.feature) if place is not None]
            cells = [_cell(estimates, index) for estimates in self.fits.values()]
            rows.append([f"{quantity.kind}[{', '.join(map(str, places))}]", *cells])
        return aligned(head, rows)


def compare_estimates(
    fits: Mapping[str, GaussianMixture], x: Tensor | NDArray[Any], *, names: Sequence[str] | None = None
) -> ComparedEstimates:
    """Weights, means and scales of fits to the same points, with their uncertainty.

    The first fit, of maximum likelihood, has sandwich standard errors, those of scales by the delta method; fits with
    draws have their posterior means and intervals. Components of the others, and of all their draws, are put in the
    order of the first's.

    Args:
        fits: Fits of as many components and the same structure, the first by EM.
        x: `n x D` points, those of the fits.
        names: Names of the components of the first, for the note; by default their numbers from 1.

    Returns:
        The estimates.

    Raises:
        ValueError: If the fits differ in their numbers of components or features.

    Example:
        >>> import numpy as np
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from latentmix.inference import SVI, GaussianMixture
        >>> from latentmix.inference.mixtures.analysis.estimates import compare_estimates
        >>> x = np.random.RandomState(0).randn(200, 1) + np.repeat([[-4.0], [4.0]], 100, 0)
        >>> em = GaussianMixture(2, tol=1e-6, random_state=0).fit(x)
        >>> posterior = GaussianMixture(2, inference=SVI(guide=AutoNormal, priors={}), random_state=0).fit(x)
        >>> compared = compare_estimates({"EM": em, "posterior": posterior}, x)
        >>> len(compared.quantities), compared.posteriors
        (6, ('posterior',))
    """
    (name, first), *others = fits.items()
    reference = first.parameters_
    structure = reference.structure
    errors, note = _errors(first, x, names)
    estimates = {name: Estimates(_joined(reference.weights, reference.means, scales_of(reference)), errors)}
    posteriors = []
    for other, mixture in others:
        order = torch.from_numpy(align(first, mixture))
        draws: MixturePosterior | None = getattr(mixture, "posterior_", None)
        if draws is None:
            parameters = mixture.parameters_.permuted(order)
            estimates[other] = Estimates(_joined(parameters.weights, parameters.means, scales_of(parameters)))
        else:
            posteriors.append(other)
            estimates[other] = _of_draws(draws, order, reference)
    return ComparedEstimates(_quantities(structure, *reference.means.shape), estimates, tuple(posteriors), note)


def scales_of(parameters: MixtureParameters) -> Tensor:
    """Standard deviations of the features: `K x D`, without the axes that the structure shares."""
    return parameters.structure.variances(parameters.covariances).sqrt()


def _of_draws(draws: MixturePosterior, order: Tensor, reference: MixtureParameters) -> Estimates:
    batch = (draws.n_chains, draws.n_draws)
    scales = draws.structure.variances(draws.covariances).sqrt()
    sites = {"weights": draws.sites["weights"], "means": draws.sites["means"], "scales": scales}
    moved = permuted_draws(sites, order.to(scales.device).expand(*batch, -1), reference)
    values = torch.cat([moved[name].reshape(*batch, -1) for name in sites], -1).flatten(0, 1).cpu().double().numpy()
    low, high = np.quantile(values, [0.05, 0.95], axis=0)
    return Estimates(values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1]), low, high)


def _errors(
    mixture: GaussianMixture, x: Tensor | NDArray[Any], names: Sequence[str] | None
) -> tuple[Array | None, str]:
    """Standard errors of the quantities, and a note on what they lack."""
    parameters = mixture.parameters_
    if parameters.n_parameters() > _MOST:
        return None, f"no standard errors for {parameters.n_parameters():,} parameters, as for more than {_MOST:,}"
    with kept_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        try:
            errors = standard_errors(mixture, x)
        except SingularInformationError as error:
            return None, f"no standard errors: {error.worded(names)}".rstrip(".")
        except (ValueError, RuntimeError) as error:
            return None, f"no standard errors: {error}".rstrip(".")
    weights, means, covariances = (
        torch.as_tensor(getattr(errors, name)).cpu() for name in ("weights", "means", "covariances")
    )
    of_scales = parameters.structure.variances(covariances) / (2 * scales_of(parameters).cpu())
    joined = _joined(weights, means, of_scales)
    if not np.isfinite(joined).all():
        return None, "no standard errors: the information is singular"
    far = [str(warning.message).rstrip(".") for warning in caught]
    return joined, "; ".join(dict.fromkeys(far))


def _joined(*parts: Tensor) -> Array:
    return torch.cat([part.detach().cpu().double().flatten() for part in parts]).numpy()


def _quantities(structure: CovarianceStructure, n_components: int, n_features: int) -> tuple[Quantity, ...]:
    components, features = range(n_components), range(n_features)
    of_scales = [None] if structure.shared else components
    spread = [None] if structure.isotropic else features
    return (
        *(Quantity("weight", k) for k in components),
        *(Quantity("mean", k, d) for k in components for d in features),
        *(Quantity("scale", k, d) for k in of_scales for d in spread),
    )


def _cell(estimates: Estimates, index: int) -> str:
    point = f"{estimates.point[index]:.4g}"
    if estimates.low is not None and estimates.high is not None:
        return f"{point} [{estimates.low[index]:.4g}, {estimates.high[index]:.4g}]"
    return point if estimates.sd is None else f"{point} +/- {estimates.sd[index]:.2g}"
