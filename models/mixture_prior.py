"""The Gaussian mixture as a prior over the latent of a VAE, learned with it or frozen."""

from __future__ import annotations

from typing import Any, Protocol, Self, final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from latentmix.models.arguments import check_positive
from latentmix.models.mixture.covariances import CovarianceType, covariance_structure, covariance_types
from latentmix.models.mixture.gaussians import FactoredNormal
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.priors import Prior
from latentmix.models.process_state import kept_random_state
from latentmix.models.words import plural

__all__ = ["MixturePrior", "cholesky_factor"]


class _Fitted(Protocol):
    """A fitted estimator, such as `latentmix.inference.GaussianMixture`."""

    @property
    def parameters_(self) -> MixtureParameters: ...


def cholesky_factor(scales: Tensor, lower: Tensor | None) -> Tensor:
    """Lower triangular factors with positive diagonals: unit triangular matrices with scaled rows.

    Args:
        scales: The diagonals, a `batch_shape x D` tensor of positive numbers.
        lower: Entries below a diagonal of ones, row by row: `batch_shape x D(D-1)/2`; `None` where `D = 1`.

    Returns:
        A `batch_shape x D x D` tensor.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture_prior import cholesky_factor
        >>> cholesky_factor(torch.tensor([2.0, 3.0]), torch.tensor([0.5]))
        tensor([[2.0000, 0.0000],
                [1.5000, 3.0000]])
    """
    return scales[..., None] * _unit_triangular(scales.shape[-1], scales, lower)


def _unit_triangular(size: int, like: Tensor, lower: Tensor | None) -> Tensor:
    """Lower triangular matrices with a diagonal of ones: `batch_shape x D x D`."""
    unit = torch.eye(size, dtype=like.dtype, device=like.device)
    if lower is None:
        return unit
    rows, columns = torch.tril_indices(size, size, -1, device=like.device)
    places = (rows * size + columns).expand(lower.shape)
    below = lower.new_zeros(*lower.shape[:-1], size * size).scatter(-1, places, lower)
    return unit + below.unflatten(-1, (size, size))


@final
class MixturePrior(Prior):
    r"""The prior :math:`p(z) = \sum_k \pi_k\, \mathcal N(z \mid \mu_k, \Sigma_k)`.

    Learned jointly with the VAE, it clusters the data (VaDE: Jiang et al., *Variational deep embedding*, 2017,
    section 3.1), and `responsibilities` classifies (equation 16). The learned weights start equal, the
    covariances at the identity and the means at draws from N(0, I), by torch's random state, so that the
    components differ; VaDE's own start is `initialize` with a mixture fitted to latents.

    The component is summed out of the site of z. With `enumerated=True` it is a site `assignment` of its own,
    enumerated in parallel, for `TraceEnum_ELBO`: the bound and its gradients are the same.

    Args:
        latent_dim: Length of z.
        n_components: Number of components `K`.
        covariance_type: "full", "diag", "tied", "spherical", "tied_diag", or a name of `register_structure`.
        enumerated: Whether the component is a site of its own.
        frozen: Whether all values are buffers, not trained but loaded or set by `initialize`.

    Attributes:
        logits: Logarithms of the weights up to a constant, `(K,)`.
        means: `K x D`.
        log_scales: Logarithms of the diagonals of the covariances' Cholesky factors, of the structure's
            `scale_shape`: full and diag `K x D`, tied and tied_diag `(D,)`, spherical `(K,)`.
        lower: Entries below these diagonals, as `cholesky_factor` takes them: full `K x D(D-1)/2`, tied
            `(D(D-1)/2,)`; `None` without correlations or where `D = 1`.

    Raises:
        ValueError: If a size is below one or the covariance type is unknown.

    Example:
        >>> import torch
        >>> from latentmix.models import MixturePrior
        >>> prior = MixturePrior(latent_dim=2, n_components=3)
        >>> prior.responsibilities(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    logits: Tensor
    means: Tensor
    log_scales: Tensor
    lower: Tensor | None

    def __init__(
        self,
        latent_dim: int,
        n_components: int = 10,
        *,
        covariance_type: CovarianceType = "diag",
        enumerated: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__(latent_dim)
        check_positive(n_components=n_components)
        self._structure = covariance_structure(covariance_type)
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.enumerated = enumerated
        self.frozen = frozen
        self._hold("logits", torch.zeros(n_components))
        self._hold("means", torch.randn(n_components, latent_dim))
        self._hold("log_scales", torch.zeros(self._structure.scale_shape(n_components, latent_dim)))
        batch = self._structure.correlation_shape(n_components, latent_dim)
        self._hold("lower", None if batch is None else torch.zeros(*batch, latent_dim * (latent_dim - 1) // 2))

    def _hold(self, name: str, value: Tensor | None) -> None:
        if self.frozen or value is None:
            self.register_buffer(name, value)
        else:
            self.register_parameter(name, nn.Parameter(value))

    @classmethod
    def from_parameters(cls, parameters: MixtureParameters, *, enumerated: bool = False) -> Self:
        """A frozen prior with the density and the covariance type of a mixture, in the default dtype on the CPU.

        Args:
            parameters: The mixture; of a covariance type that is not registered, the prior is full or diag.
            enumerated: Whether the component is a site of its own.

        Raises:
            ValueError: As in `initialize`.
        """
        n_components, latent_dim = parameters.means.shape
        structure = parameters.structure
        if structure.name not in covariance_types() or covariance_structure(structure.name) != structure:
            structure = covariance_structure("full" if structure.correlated else "diag")  # which holds its densities
        kind: Any = structure.name
        with kept_random_state(), torch.inference_mode(False):  # the constructor draws means
            prior = cls(latent_dim, n_components, covariance_type=kind, enumerated=enumerated, frozen=True)
        prior.initialize(parameters)
        return prior

    @classmethod
    def from_mixture(cls, mixture: _Fitted, samples: Tensor, *, enumerated: bool = False) -> Self:
        """The ex-post prior: a frozen mixture fitted to latents, checked against samples of them.

        A prior describes draws of q, one per training image, and not the means of q: a mixture fitted to means
        lacks the width of q and collapses in dimensions that q ignores. A mixture is therefore refused if it
        describes the samples worse than one Gaussian of its covariance type fitted to them; a shortfall of one nat
        per free parameter, over all samples, is allowed for the noise of fitting (Akaike, 1974).

        Args:
            mixture: A fitted estimator.
            samples: An `n x latent_dim` tensor, draws of q.
            enumerated: Whether the component is a site of its own.

        Raises:
            ValueError: If the mixture describes the samples badly, they have another shape or are too few for one
                Gaussian, or as in `initialize`.
        """
        parameters = mixture.parameters_
        x = samples.detach().to(parameters.means)
        if x.ndim != 2 or x.shape[1] != parameters.means.shape[1]:
            raise ValueError(f"Expected samples of shape (n, {parameters.means.shape[1]}); got {tuple(samples.shape)}.")
        gaussian = _one_gaussian(x, parameters)
        if bool(gaussian.singular.any()):
            raise ValueError(
                f"Expected samples that spread in each of {plural(x.shape[1], 'dimension')}, and more of them; got "
                f"{len(x)}."
            )
        density, baseline = (float(model.log_likelihood(x).mean()) for model in (parameters, gaussian))
        if not density >= baseline - parameters.n_parameters() / len(x):
            raise ValueError(
                f"Expected a mixture that describes the samples better than one Gaussian, {baseline:.4g} nats; got "
                f"{density:.4g} nats, as a mixture of means does: fit it to guide.draw(images), one sample of q per "
                "image, not to guide.encode(images)."
            )
        return cls.from_parameters(parameters, enumerated=enumerated)

    @torch.no_grad()
    def initialize(self, parameters: MixtureParameters) -> None:
        """Set the values in place to those of a fitted mixture, the initialisation of VaDE.

        Args:
            parameters: A mixture of `n_components` over `latent_dim` features, of this covariance type or a more
                special one.

        Raises:
            ValueError: If sizes or covariance types do not fit, or a covariance is singular.
        """
        if parameters.means.shape != self.means.shape:
            raise ValueError(
                f"Expected means of shape {tuple(self.means.shape)} for a MixturePrior; got "
                f"{tuple(parameters.means.shape)}."
            )
        own, other = self._structure, parameters.structure
        if not own.contains(other):
            expected = "of one variance for all features"
            if other.correlated and not own.correlated:
                expected = "without correlations"
            elif own.shared and not other.shared:
                expected = "of one covariance for all components"
            raise ValueError(
                f"Expected a mixture {expected} for covariance_type={own.name!r}; got {other.name!r}: take "
                "covariance_type='full'."
            )
        covariances = parameters.expanded_covariances().double()
        factors, info = torch.linalg.cholesky_ex(covariances)
        singular = (info != 0) | ~factors.isfinite().flatten(1).all(1)
        if bool(singular.any()):
            components = singular.nonzero().flatten().tolist()
            raise ValueError(f"Expected positive definite covariances; got singular ones in components {components}.")
        factors = own.compress(factors)
        scales = factors.diagonal(dim1=-2, dim2=-1) if own.correlated else factors
        weights = parameters.weights.double()
        self.logits.copy_(weights.clamp_min(torch.finfo(weights.dtype).tiny ** 0.5).log())
        self.means.copy_(parameters.means)
        self.log_scales.copy_(scales.log())
        if self.lower is not None:
            rows, columns = torch.tril_indices(self.latent_dim, self.latent_dim, -1)
            self.lower.copy_((factors / scales[..., None])[..., rows, columns])

    @property
    def weights(self) -> Tensor:
        """Probabilities of the components, `(K,)`."""
        return self.logits.softmax(-1)

    @property
    def covariances(self) -> Tensor:
        """Covariances in the structure's stored shape: `K x D x D` for full, `K x D` for diag, ..."""
        if not self._structure.correlated:
            return (2 * self.log_scales).exp()
        return self._structure.covariances(*self._factors())

    def to_parameters(self) -> MixtureParameters:
        """A detached copy of the mixture."""
        weights, means, covariances = (part.detach().clone() for part in (self.weights, self.means, self.covariances))
        return MixtureParameters(weights, means, covariances, self._structure)

    def components(self) -> dist.TorchDistribution:
        """The components p(z given k): batch shape `(K,)`, event shape `(latent_dim,)`."""
        return self._structure.components(self.means, *self._factors())

    def _factors(self) -> tuple[Tensor, Tensor | None]:
        """Diagonals of the Cholesky factors, and unit triangular matrices that these multiply the rows of."""
        scales = self.log_scales.exp()
        return scales, _unit_triangular(self.latent_dim, scales, self.lower) if self._structure.correlated else None

    def forward(self) -> dist.TorchDistribution:
        """See `Prior.forward`; the component is summed out."""
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), self.components())

    def sample(self, name: str) -> Tensor:
        """See `Prior.sample`; with `enumerated=True`, a site `assignment` precedes it."""
        if not self.enumerated:
            return super().sample(name)
        k = pyro.sample("assignment", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
        components = self.components()
        component: dist.TorchDistribution
        if isinstance(components, dist.MultivariateNormal):
            component = FactoredNormal(self.means[k], scale_tril=components.scale_tril[k])
        else:
            component = dist.Normal(self.means[k], components.base_dist.scale[k]).to_event(1)
        z: Tensor = pyro.sample(name, component)
        return z

    def responsibilities(self, z: Tensor) -> Tensor:
        """Probabilities of the components given z (Jiang et al., 2017, equation 16).

        Args:
            z: A `batch_shape x latent_dim` tensor.

        Returns:
            A `batch_shape x K` tensor.

        Raises:
            ValueError: If the last dimension of z is not `latent_dim`.
        """
        if not z.dim() or z.shape[-1] != self.latent_dim:
            raise ValueError(f"Expected z with last dimension {self.latent_dim}; got shape {tuple(z.shape)}.")
        joint: Tensor = self.logits + self.components().log_prob(z.unsqueeze(-2))
        return joint.softmax(-1)

    def extra_repr(self) -> str:
        marks = "".join(f", {name}=True" for name in ("enumerated", "frozen") if getattr(self, name))
        return f"{self.latent_dim}, n_components={self.n_components}, covariance_type={self.covariance_type!r}{marks}"


def _one_gaussian(x: Tensor, like: MixtureParameters) -> MixtureParameters:
    """The Gaussian of highest likelihood, with the covariance structure of a mixture."""
    mean = x.mean(0, keepdim=True)
    responsibilities = x.new_ones(len(x), 1)
    scatter = like.structure.scatter(responsibilities, (x - mean)[:, None])
    covariances = like.structure.estimate(responsibilities.sum(0), scatter, torch.zeros_like(mean))
    return MixtureParameters(x.new_ones(1), mean, covariances, like.structure)
