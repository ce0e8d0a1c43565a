"""Ex-post priors: mixtures fitted to the latents of a trained VAE, which replace its prior without further training."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, final

import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.guides.amortized import AmortizedGuide
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.algorithm import EM
from latentmix.inference.mixtures.em.deconvolution import NoisyEStep
from latentmix.inference.mixtures.em.e_step import EStep
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.points.points import Points, as_points
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture_prior import MixturePrior
from latentmix.models.priors import StandardNormal
from latentmix.models.vae import VAE
from latentmix.models.words import plural

__all__ = [
    "ExPostFit",
    "Form",
    "UncertainPoints",
    "ex_post_prior",
    "ex_post_priors",
    "likelihood_moments",
]

Form = Literal["samples", "expected", "noise_aware"]

_FORMS: tuple[Form, ...] = ("samples", "expected", "noise_aware")
_LEAST_PRECISION = 1e-6
_FARTHEST = 5.0
_CHUNK = 4_000_000  # doubles of one chunk


def ex_post_prior(
    mixture: GaussianMixture,
    vae: VAE,
    guide: AmortizedGuide,
    x: Tensor,
    *,
    expected: bool = False,
    noise_aware: bool = False,
    transform: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 1024,
    limit: int | None = None,
    seed: int = 0,
) -> MixturePrior:
    r"""Fit a mixture to the aggregate posterior of training data, as a frozen prior for the same VAE.

    By default, the mixture is fitted to one sample of q per datum (Ghosh et al., *From variational to deterministic
    autoencoders*, 2020, section 4, on ex-post density estimation), never to the means of q, which lack its width.

    With `expected`, EM continues with q itself instead of its sample and maximises
    :math:`\sum_i \mathrm E_{q_i} \log p(z)`, all of the ELBO that depends on the prior, see
    `UncertainPoints`.

    With `noise_aware`, it maximises an estimate of the gain in :math:`\log p(x)` over the VAE's prior
    :math:`p_0 = \mathcal N(0, I)`, with :math:`q_i` for the posterior under :math:`p_0`:

    .. math:: \sum_i \log \int p(z) \frac{q_i(z)}{p_0(z)} \, dz.

    Up to a constant the ratio is a Gaussian likelihood of z, see `likelihood_moments`, and the sum is the objective of
    extreme deconvolution of its moments. EM starts there at the mixture of samples, or at the expected one. The ratio
    is the true likelihood only where q is the exact posterior. With an amortised q of independent values a gain of this
    objective need not be a gain of `log_likelihood`: compare the forms there, on data held out from training.

    Args:
        mixture: The options of the fit, by EM where `expected` or `noise_aware`; not changed.
        vae: The VAE of the prior; not changed.
        guide: Its guide.
        x: Training data, an `n x shape` tensor.
        expected: Whether the mixture is fitted to the distributions q rather than to a sample of each.
        noise_aware: Whether the mixture is fitted to likelihoods, by extreme deconvolution.
        transform: Applied to each chunk of data first, such as a binarisation.
        batch_size: Data that are encoded together.
        limit: Largest number of data in the noise-aware fit, drawn at random; the fit before takes all. With
            `noise_candidates` of the mixture it determines the time, for full covariances about that of one `D x D`
            matrix inverse per datum, candidate and iteration.
        seed: Seed of all draws, and of the mixture where its `random_state` is `None`.

    Returns:
        The frozen prior, on the device and in the dtype of the VAE.

    Raises:
        ValueError: If sizes disagree or are not positive, the VAE's prior is not N(0, I) where `noise_aware`, or the
            mixture is not fitted by EM where it has to be.

    Example:
        >>> import torch
        >>> from latentmix.guides import AmortizedGuide, MLPEncoder
        >>> from latentmix.inference import GaussianMixture, ex_post_prior
        >>> from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
        >>> decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4))
        >>> vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())
        >>> guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4)))
        >>> images = torch.rand(100, 1, 4, 4).round()
        >>> vae.with_prior(ex_post_prior(GaussianMixture(2), vae, guide, images)).prior.n_components
        2
    """
    _check(mixture, vae, guide, batch_size, limit, expected, noise_aware)
    latents = _Latents(mixture, vae, guide, x, transform, batch_size, seed)
    if not (expected or noise_aware):
        return latents.prior_of_samples()
    parameters = latents.mixture.parameters_
    if expected:
        parameters = latents.fit_expected(parameters)
    if noise_aware:
        parameters = latents.fit_noise_aware(parameters, limit)
    return latents.prior(parameters)


@dataclass(frozen=True)
class ExPostFit:
    """A form of the ex-post prior.

    Attributes:
        prior: The frozen prior.
        seconds: Time of its fit, the fits that it started from included.
    """

    prior: MixturePrior
    seconds: float


def ex_post_priors(
    mixture: GaussianMixture,
    vae: VAE,
    guide: AmortizedGuide,
    x: Tensor,
    forms: Sequence[Form] = _FORMS,
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 1024,
    limit: int | None = None,
    seed: int = 0,
) -> dict[Form, ExPostFit]:
    """Fit several forms of the ex-post prior, each started from the form before it.

    Equal to `ex_post_prior` for each form, where the noise-aware one starts at the expected one; every mixture is
    fitted once.

    Args:
        mixture: The options of the fit; not changed.
        vae: The VAE of the prior; not changed.
        guide: Its guide.
        x: Training data, an `n x shape` tensor.
        forms: "samples", "expected", "noise_aware".
        transform: Applied to each chunk of data first.
        batch_size: Data that are encoded together.
        limit: Largest number of data in the noise-aware fit.
        seed: Seed of all draws, and of the mixture where its `random_state` is `None`.

    Returns:
        The fits by form.

    Raises:
        ValueError: As `ex_post_prior`.

    Example:
        >>> import torch
        >>> from latentmix.guides import AmortizedGuide, MLPEncoder
        >>> from latentmix.inference import GaussianMixture, ex_post_priors
        >>> from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
        >>> decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4))
        >>> vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())
        >>> guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4)))
        >>> images = torch.rand(100, 1, 4, 4).round()
        >>> list(ex_post_priors(GaussianMixture(2, tol=0.1), vae, guide, images, ("samples", "expected")))
        ['samples', 'expected']
    """
    noise_aware, expected = "noise_aware" in forms, bool({"expected", "noise_aware"}.intersection(forms))
    _check(mixture, vae, guide, batch_size, limit, expected, noise_aware)
    began = time.perf_counter()
    latents = _Latents(mixture, vae, guide, x, transform, batch_size, seed)
    fits: dict[Form, ExPostFit] = {}
    if "samples" in forms:
        fits["samples"] = ExPostFit(latents.prior_of_samples(), time.perf_counter() - began)
    if expected:
        parameters = latents.fit_expected(latents.mixture.parameters_)
        if "expected" in forms:
            fits["expected"] = ExPostFit(latents.prior(parameters), time.perf_counter() - began)
        if noise_aware:
            parameters = latents.fit_noise_aware(parameters, limit)
            fits["noise_aware"] = ExPostFit(latents.prior(parameters), time.perf_counter() - began)
    return fits


def _check(
    mixture: GaussianMixture,
    vae: VAE,
    guide: AmortizedGuide,
    batch_size: int,
    limit: int | None,
    expected: bool,
    noise_aware: bool,
) -> None:
    if guide.latent_dim != vae.latent_dim:
        raise ValueError(f"Expected a guide of latent_dim {vae.latent_dim}; got {guide.latent_dim}.")
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"Expected batch_size and limit of at least 1; got {batch_size} and {limit}.")
    if noise_aware and not isinstance(vae.prior, StandardNormal):
        raise ValueError(
            f"Expected a VAE with a StandardNormal prior for noise_aware=True; got {type(vae.prior).__name__}: the "
            "likelihood of z is q over that prior. Take noise_aware=False."
        )
    if (noise_aware or expected) and not isinstance(mixture.algorithm, EM):
        raise ValueError(f"Expected inference='em' for an expected or noise-aware fit; got {mixture.algorithm.name!r}.")


class _Latents:
    """Posteriors q of training data, a mixture fitted to one sample of each, and EM that continues from a mixture."""

    def __init__(
        self,
        mixture: GaussianMixture,
        vae: VAE,
        guide: AmortizedGuide,
        x: Tensor,
        transform: Callable[[Tensor], Tensor] | None,
        batch_size: int,
        seed: int,
    ) -> None:
        self.vae, self.seed = vae, seed
        self._encode = partial(guide.moments, x, batch_size=batch_size, transform=transform)
        with isolated(seed=seed):
            self.samples = guide.draw(x, batch_size=batch_size, transform=transform, seed=seed).double()
        self.mixture = clone(mixture)
        if self.mixture.random_state is None:
            self.mixture.random_state = seed
        self.mixture.fit(self.samples)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Means and covariances of q, and a random order of the data."""
        with isolated(seed=self.seed):
            means, covariances = self._encode()
            return means, covariances, torch.randperm(len(means)).to(means.device)

    def fit_expected(self, start: MixtureParameters) -> MixtureParameters:
        means, covariances, _ = self._moments
        return self._continue(UncertainPoints(as_points(means), covariances), start)

    def fit_noise_aware(self, start: MixtureParameters, limit: int | None) -> MixtureParameters:
        means, covariances, order = self._moments
        points, noise = likelihood_moments(means[order[:limit]], covariances[order[:limit]])
        return self._continue(NoisyEStep(as_points(points), noise, candidates=self.mixture.noise_candidates), start)

    def _continue(self, e_step: EStep, start: MixtureParameters) -> MixtureParameters:
        own = {name: getattr(self.mixture, name) for name in ("reg_covar", "tol", "max_iter")}
        with isolated(seed=self.seed):
            result = fit_em(e_step, start, **own)
        if not result.converged:
            warnings.warn(
                f"EM did not converge in {plural(result.n_iter, 'iteration')}: raise max_iter or tol of the mixture.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return result.parameters

    def prior_of_samples(self) -> MixturePrior:
        with isolated(seed=self.seed):
            return self._as_of_vae(MixturePrior.from_mixture(self.mixture, self.samples), self.mixture.parameters_)

    def prior(self, parameters: MixtureParameters) -> MixturePrior:
        with isolated(seed=self.seed):
            return self._as_of_vae(MixturePrior.from_parameters(parameters), parameters)

    def _as_of_vae(self, prior: MixturePrior, parameters: MixtureParameters) -> MixturePrior:
        """The prior on the device and in the dtype of the VAE, its values rounded once."""
        prior = prior.to(next(self.vae.parameters()))
        prior.initialize(parameters)
        return prior


@final
class UncertainPoints(EStep):
    r"""The E step of data that are distributions :math:`q_i = \mathcal N(m_i, S_i)`, as if of infinitely many samples.

    It bounds :math:`\sum_i \mathrm E_{q_i} \log p(z)` from below, with the same responsibilities for a whole
    distribution:

    .. math:: r_{ik} \propto \pi_k \exp \mathrm E_{q_i} \log \mathcal N(z \mid \mu_k, \Sigma_k)
        = \pi_k\, \mathcal N(m_i \mid \mu_k, \Sigma_k) \exp\bigl(-\tfrac12 \operatorname{tr} \Sigma_k^{-1} S_i\bigr)

    and the second moments gain :math:`\sum_i r_{ik} S_i` (Jiang et al., *Variational deep embedding*, 2017, appendix
    B, has these expectations). The log-likelihood is the bound.

    Args:
        points: `n x D` means.
        covariances: Variances, `n x D`, or covariances, `n x D x D`.

    Example:
        >>> import torch
        >>> from latentmix.inference.ex_post import UncertainPoints
        >>> from latentmix.inference.mixtures.points.points import as_points
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
        >>> mixture = MixtureParameters(torch.ones(1).double(), zeros, ones, covariance_structure("diag"))
        >>> UncertainPoints(as_points(torch.ones(5, 2)), torch.ones(5, 2))(mixture).scatter
        tensor([[10., 10.]], dtype=torch.float64)
    """

    def __init__(self, points: Points, covariances: Tensor) -> None:
        super().__init__(points)
        self.covariances = covariances

    def __call__(self, parameters: MixtureParameters) -> SufficientStatistics:
        structure, (n_components, size) = parameters.structure, parameters.means.shape
        precisions = structure.expand(structure.precisions(parameters.precisions_cholesky), n_components, size)
        factored = self.covariances.ndim == 2
        flat = precisions.diagonal(dim1=-2, dim2=-1) if factored else precisions.flatten(1)
        total, first = None, 0
        for x, weight in self.points.chunks(max(1, _CHUNK // (size * max(n_components, size)))):
            part, spread = x.double(), self.covariances[first : first + len(x)].double().flatten(1)
            first += len(x)
            joint = parameters.log_joint(part) - 0.5 * spread @ flat.T
            density = joint.logsumexp(1)
            responsibilities = (joint - density[:, None]).exp()
            statistics = SufficientStatistics.of(
                part, responsibilities, parameters.means, structure, sample_weight=weight, log_likelihood=density
            )
            weighted = responsibilities if weight is None else responsibilities * weight[:, None]
            moments = weighted.T @ spread
            moments = moments if factored else moments.view(n_components, size, size)
            moments = moments.diag_embed() if factored and structure.correlated else moments
            statistics = replace(statistics, scatter=statistics.scatter + structure.scatter_of(moments))
            total = statistics if total is None else total + statistics
        assert total is not None
        return total


def likelihood_moments(means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor]:
    r"""Moments of the Gaussian likelihoods of z, from posteriors under the prior N(0, I).

    By Bayes' rule :math:`p(x \mid z) \propto q(z) / p_0(z)`. The ratio of :math:`q = \mathcal N(m, S)` and
    :math:`p_0 = \mathcal N(0, I)` is Gaussian in z: precisions subtract and precisions times means stay, so that

    .. math:: S'^{-1} = S^{-1} - I, \qquad m' = S' S^{-1} m.

    Deconvolution of (m, S) itself would be wrong twice: the means already lack the posterior's width, so that
    subtracting S from their covariance removes it again, and m is shrunk towards the prior, entirely so where a latent
    carries no information.

    An inexact q may be wider than the prior, or farther from the origin than any likelihood allows. Eigenvalues of
    precisions are kept above 1e-6, and m' within five standard deviations of :math:`\mathcal N(0, I + S')`, its
    distribution where q is exact: a few outliers would otherwise attract components.

    Args:
        means: `n x D` means of q.
        covariances: Variances, `n x D`, or covariances, `n x D x D`, of q.

    Returns:
        The moments m' and S', of the same shapes, in float64.

    Raises:
        ValueError: If shapes disagree or a covariance is not positive definite.

    Example:
        >>> import torch
        >>> from latentmix.inference import likelihood_moments
        >>> means, variances = likelihood_moments(torch.tensor([[0.5]]), torch.tensor([[0.5]]))
        >>> means.item(), variances.item()
        (1.0, 1.0)
    """
    n, size = means.shape
    if covariances.shape not in ((n, size), (n, size, size)):
        raise ValueError(
            f"Expected covariances of shape {(n, size)} or {(n, size, size)}; got {tuple(covariances.shape)}."
        )
    means, covariances = means.double(), covariances.double()
    values, axes = (covariances, None) if covariances.ndim == 2 else torch.linalg.eigh(covariances)
    if not bool((values > 0).all()):
        raise ValueError(f"Expected positive definite covariances of q; got an eigenvalue of {float(values.min())}.")
    variances = 1 / (1 / values - 1).clamp_min(_LEAST_PRECISION)
    turned = means if axes is None else (axes.mT @ means[..., None]).squeeze(-1)
    farthest = _FARTHEST * (1 + variances).sqrt()
    moved = (variances / values * turned).clamp(-farthest, farthest)
    if axes is None:
        return moved, variances
    return (axes @ moved[..., None]).squeeze(-1), (axes * variances[:, None, :]) @ axes.mT
