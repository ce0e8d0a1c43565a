"""The Gaussian mixture as a prior over the latent of a VAE, learned with it or frozen."""

from __future__ import annotations

from typing import Literal, Protocol, Self, final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from latentmix.models.arguments import check_positive
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.gaussians import FactoredNormal
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.priors import Prior
from latentmix.models.process_state import kept_random_state

__all__ = ["MixturePrior", "cholesky_factor"]


class _Fitted(Protocol):
    """A fitted estimator, such as `latentmix.inference.GaussianMixture`."""

    @property
    def parameters_(self) -> MixtureParameters: ...


def cholesky_factor(scales: Tensor, lower: Tensor | None) -> Tensor:
    """Lower triangular factors with positive diagonals: unit triangular matrices with scaled rows.

    Args:
        scales: The diagonals, a `batch_shape x D` tensor of positive numbers.
        lower: Elements below a unit diagonal, row by row, a `batch_shape x D(D-1)/2` tensor; `None` if `D = 1`.

    Returns:
        A `batch_shape x D x D` tensor.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture_prior import cholesky_factor
        >>> cholesky_factor(torch.tensor([2.0, 3.0]), torch.tensor([0.5]))
        tensor([[2.0000, 0.0000],
                [1.5000, 3.0000]])
    """
    size = scales.shape[-1]
    unit = torch.eye(size, dtype=scales.dtype, device=scales.device)
    if lower is not None:
        rows, columns = torch.tril_indices(size, size, -1, device=scales.device)
        places = (rows * size + columns).expand(lower.shape)
        below = lower.new_zeros(*lower.shape[:-1], size * size).scatter(-1, places, lower)
        unit = unit + below.unflatten(-1, (size, size))
    return scales[..., None] * unit


@final
class MixturePrior(Prior):
    r"""The prior :math:`p(z) = \sum_k \pi_k\, \mathcal N(z \mid \mu_k, \Sigma_k)`.

    Learned jointly with the VAE it clusters the data (VaDE: Jiang et al., *Variational deep embedding*, 2017,
    section 3.1), and `responsibilities` classifies (equation 16). Initially the weights are equal, the covariances
    the identity and the means draws from N(0, I), from torch's random state, so that the components differ; VaDE's own
    initialisation is `initialize` with a mixture fitted to latents.

    The component is summed out at the site of z. With `enumerated=True` a site `assignment` precedes it, enumerated in
    parallel, for `TraceEnum_ELBO`: bound and gradients are the same.

    Args:
        latent_dim: Length of z.
        n_components: Number of components `K`.
        covariance_type: "diag" or "full".
        enumerated: Whether the component is a site of its own.
        frozen: Whether the values are buffers, to be loaded or set by `initialize`, rather than trained parameters.

    Attributes:
        logits: Logarithms of the weights up to a constant, `(K,)`.
        means: `K x D`.
        log_scales: Logarithms of the diagonals of the covariances' Cholesky factors, `K x D`.
        lower: Elements below them, see `cholesky_factor`; None but for full covariances over `D > 1`.

    Raises:
        ValueError: If a size is below 1, or the covariance type is another one.

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
        covariance_type: Literal["diag", "full"] = "diag",
        enumerated: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__(latent_dim)
        check_positive(n_components=n_components)
        if covariance_type not in ("diag", "full"):
            raise ValueError(f"Expected covariance_type 'diag' or 'full' in a MixturePrior; got {covariance_type!r}.")
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.enumerated = enumerated
        self.frozen = frozen
        self._hold("logits", torch.zeros(n_components))
        self._hold("means", torch.randn(n_components, latent_dim))
        self._hold("log_scales", torch.zeros(n_components, latent_dim))
        correlated = covariance_type == "full" and latent_dim > 1
        self._hold("lower", torch.zeros(n_components, latent_dim * (latent_dim - 1) // 2) if correlated else None)

    def _hold(self, name: str, value: Tensor | None) -> None:
        if self.frozen or value is None:
            self.register_buffer(name, value)
        else:
            self.register_parameter(name, nn.Parameter(value))

    @classmethod
    def from_parameters(cls, parameters: MixtureParameters, *, enumerated: bool = False) -> Self:
        """A frozen prior with the density of a mixture of any covariance type.

        Tied covariances become full ones, spherical ones diagonal ones, in torch's default dtype and on the CPU.

        Args:
            parameters: The mixture.
            enumerated: Whether the component is a site of its own.

        Raises:
            ValueError: As `initialize`.
        """
        n_components, latent_dim = parameters.means.shape
        covariance_type: Literal["diag", "full"] = "full" if _correlated(parameters) else "diag"
        with kept_random_state(), torch.inference_mode(False):  # the constructor draws means
            prior = cls(latent_dim, n_components, covariance_type=covariance_type, enumerated=enumerated, frozen=True)
        prior.initialize(parameters)
        return prior

    @classmethod
    def from_mixture(cls, mixture: _Fitted, samples: Tensor, *, enumerated: bool = False) -> Self:
        """The ex-post prior: a frozen mixture that was fitted to latents, after a check that it describes them.

        A prior describes draws of q, one per training image, rather than means of q: a mixture fitted to means lacks
        the width of q, and is degenerate in dimensions that q ignores. Therefore a mixture is refused if its
        likelihood of the samples is lower than that of a single Gaussian of its covariance type fitted to them; a
        shortfall of one nat per free parameter, over all samples, is attributed to estimation (Akaike, 1974).

        Args:
            mixture: A fitted estimator.
            samples: An `n x latent_dim` tensor, draws of q.
            enumerated: Whether the component is a site of its own.

        Raises:
            ValueError: If the mixture describes the samples worse than a Gaussian, they have another shape or are too
                few for a Gaussian, or as `initialize`.
        """
        parameters = mixture.parameters_
        x = samples.detach().to(parameters.means)
        if x.ndim != 2 or x.shape[1] != parameters.means.shape[1]:
            raise ValueError(f"Expected samples of shape (n, {parameters.means.shape[1]}); got {tuple(samples.shape)}.")
        gaussian = _one_gaussian(x, parameters)
        if bool(gaussian.singular.any()):
            raise ValueError(
                f"Expected samples that spread in each of {x.shape[1]} dimensions, and more of them; got {len(x)}."
            )
        ours, theirs = (float(density.log_likelihood(x).mean()) for density in (parameters, gaussian))
        if not ours >= theirs - parameters.n_parameters() / len(x):
            raise ValueError(
                f"Expected a mixture that describes the samples better than one Gaussian, {theirs:.4g} nats; got "
                f"{ours:.4g} nats, as a mixture of means does: fit it to guide.draw(images), one sample of q per "
                "image, not to guide.encode(images)."
            )
        return cls.from_parameters(parameters, enumerated=enumerated)

    @torch.no_grad()
    def initialize(self, parameters: MixtureParameters) -> None:
        """Set the values in place to those of a fitted mixture, the initialisation of VaDE.

        Args:
            parameters: A mixture of `n_components` over `latent_dim` features; for "diag", one without correlations.

        Raises:
            ValueError: If sizes or covariance types do not fit, or a covariance is singular.
        """
        if parameters.means.shape != self.means.shape:
            raise ValueError(
                f"Expected means of shape {tuple(self.means.shape)} for a MixturePrior; got "
                f"{tuple(parameters.means.shape)}."
            )
        if self.covariance_type == "diag" and _correlated(parameters):
            raise ValueError(
                f"Expected a mixture without correlations for covariance_type='diag'; got "
                f"{parameters.structure.name!r}: take covariance_type='full'."
            )
        covariances = parameters.expanded_covariances().double()
        factors, info = torch.linalg.cholesky_ex(covariances)
        singular = (info != 0) | ~factors.isfinite().flatten(1).all(1)
        if bool(singular.any()):
            which = singular.nonzero().flatten().tolist()
            raise ValueError(f"Expected positive definite covariances; got singular ones in components {which}.")
        scales = factors.diagonal(dim1=-2, dim2=-1)
        weights = parameters.weights.double()
        self.logits.copy_(weights.clamp_min(torch.finfo(weights.dtype).tiny ** 0.5).log())
        self.means.copy_(parameters.means)
        self.log_scales.copy_(scales.log())
        if self.lower is not None:
            rows, columns = torch.tril_indices(self.latent_dim, self.latent_dim, -1)
            self.lower.copy_((factors / scales[..., None])[:, rows, columns])

    @property
    def weights(self) -> Tensor:
        """Probabilities of the components, `(K,)`."""
        return self.logits.softmax(-1)

    @property
    def covariances(self) -> Tensor:
        """Variances `K x D`, or covariance matrices `K x D x D`."""
        if self.covariance_type == "diag":
            return (2 * self.log_scales).exp()
        factor = cholesky_factor(self.log_scales.exp(), self.lower)
        return factor @ factor.mT

    def to_parameters(self) -> MixtureParameters:
        """The present mixture, a detached copy."""
        values = (self.weights, self.means, self.covariances)
        weights, means, covariances = (value.detach().clone() for value in values)
        return MixtureParameters(weights, means, covariances, covariance_structure(self.covariance_type))

    def components(self) -> dist.TorchDistribution:
        """The components p(z given k): batch shape `(K,)`, event shape `(latent_dim,)`."""
        scales = self.log_scales.exp()
        if self.covariance_type == "diag":
            return dist.Normal(self.means, scales).to_event(1)
        return dist.MultivariateNormal(self.means, scale_tril=cholesky_factor(scales, self.lower))

    def forward(self) -> dist.TorchDistribution:
        """See `Prior.forward`; the component is summed out."""
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), self.components())

    def sample(self, name: str) -> Tensor:
        """See `Prior.sample`; with `enumerated=True`, a site `assignment` precedes it."""
        if not self.enumerated:
            return super().sample(name)
        k = pyro.sample("assignment", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
        scales = self.log_scales.exp()
        if self.covariance_type == "diag":
            component = dist.Normal(self.means[k], scales[k]).to_event(1)
        else:
            component = FactoredNormal(self.means[k], scale_tril=cholesky_factor(scales, self.lower)[k])
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


def _correlated(parameters: MixtureParameters) -> bool:
    return parameters.structure.name in ("full", "tied")


def _one_gaussian(x: Tensor, like: MixtureParameters) -> MixtureParameters:
    """The Gaussian of highest likelihood, with the covariance structure of a mixture."""
    mean = x.mean(0, keepdim=True)
    responsibilities = x.new_ones(len(x), 1)
    scatter = like.structure.scatter(responsibilities, (x - mean)[:, None])
    covariances = like.structure.estimate(responsibilities.sum(0), scatter, torch.zeros_like(mean))
    return MixtureParameters(x.new_ones(1), mean, covariances, like.structure)
