"""The ex-post prior: a mixture that takes the place of a trained VAE's prior, without training it again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.base import clone
from torch import Tensor

from latentmix.guides.amortized import AmortizedGuide
from latentmix.inference.effects import isolated
from latentmix.inference.estimators import GaussianMixture
from latentmix.models.mixture_prior import MixturePrior
from latentmix.models.priors import StandardNormal
from latentmix.models.vae import VAE

__all__ = ["ex_post_prior", "likelihood_moments"]

_LEAST_PRECISION = 1e-6


def ex_post_prior(
    mixture: GaussianMixture,
    vae: VAE,
    guide: AmortizedGuide,
    x: Tensor,
    *,
    noise_aware: bool = False,
    transform: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 1024,
    limit: int | None = None,
    seed: int = 0,
) -> MixturePrior:
    r"""Fit a mixture to the aggregate posterior of training data, as a frozen prior for the same VAE.

    Plain, the mixture is fitted to one sample of q per datum (Ghosh et al., *From variational to deterministic
    autoencoders*, 2020, section 4, on ex-post density estimation), never to the means of q, which lack its width.

    Noise-aware, it maximises what it is a prior for, an estimate of the gain in :math:`\log p(x)` over the VAE's
    prior :math:`p_0 = \mathcal N(0, I)`, with :math:`q_i` for the posterior under :math:`p_0`:

    .. math:: \sum_i \log \int p(z) \frac{q_i(z)}{p_0(z)} \, dz.

    Up to a constant the ratio is a Gaussian likelihood of z, see `likelihood_moments`, and the sum is what extreme
    deconvolution of its moments maximises. EM starts there at the plain mixture.

    Args:
        mixture: How the mixture is fitted, by EM where `noise_aware`; not changed.
        vae: The VAE, whose prior is replaced; not changed.
        guide: Its guide.
        x: Training data, an `n x shape` tensor.
        noise_aware: Whether the mixture is fitted to likelihoods and not to samples.
        transform: Applied to each chunk of data first, such as a binarisation.
        batch_size: Data that are encoded together.
        limit: Most data that the noise-aware fit takes, drawn at random; the plain fit before takes all. It and
            `noise_candidates` of the mixture set the time, which for full covariances is that of about one
            `D x D` matrix inverse per datum, candidate and iteration.
        seed: Seed of all draws, and of the mixture where its `random_state` is `None`.

    Returns:
        The frozen prior.

    Raises:
        ValueError: If sizes disagree or are not positive, or where `noise_aware` and the VAE's prior is not
            N(0, I) or the mixture is not fitted by EM.

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
    if guide.latent_dim != vae.latent_dim:
        raise ValueError(f"Expected a guide of latent_dim {vae.latent_dim}; got {guide.latent_dim}.")
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"Expected batch_size and limit of at least 1; got {batch_size} and {limit}.")
    if noise_aware and not isinstance(vae.prior, StandardNormal):
        raise ValueError(
            f"Expected a VAE with a StandardNormal prior for noise_aware=True; got {type(vae.prior).__name__}: the "
            "likelihood of z is q over that prior. Take noise_aware=False."
        )
    if noise_aware and mixture.inference != "em":
        raise ValueError(f"Expected inference='em' for noise_aware=True; got {mixture.inference!r}.")
    samples = guide.draw(x, batch_size=batch_size, transform=transform, seed=seed).double()
    plain = clone(mixture)
    if plain.random_state is None:
        plain.random_state = seed
    plain.fit(samples)
    with isolated(seed=seed):
        if not noise_aware:
            return MixturePrior.from_mixture(plain, samples)
        rows = torch.randperm(len(x))[:limit].to(x.device)
        means, covariances = likelihood_moments(*guide.moments(x[rows], batch_size=batch_size, transform=transform))
        aware = clone(plain).set_params(
            weights_init=plain.weights_, means_init=plain.means_, precisions_init=plain.precisions_, n_init=1
        )
        aware.fit(means, noise_covariance=covariances)
        return MixturePrior.from_parameters(aware.parameters_)


def likelihood_moments(means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor]:
    r"""Moments of the Gaussian likelihoods of z that posteriors under the prior N(0, I) stand for.

    By Bayes' rule :math:`p(x \mid z) \propto q(z) / p_0(z)`. The ratio of :math:`q = \mathcal N(m, S)` and
    :math:`p_0 = \mathcal N(0, I)` is Gaussian in z: precisions subtract and precisions times means stay, so that

    .. math:: S'^{-1} = S^{-1} - I, \qquad m' = S' S^{-1} m.

    To deconvolve (m, S) itself would be wrong twice: the means already lack the posterior's width, so that taking S
    off their covariance removes it once more, and m is shrunk towards the prior, wholly where a latent says nothing.

    An inexact q may be wider than the prior. Precisions (eigenvalues of them) are kept above 1e-6; m' is then far
    out and :math:`S'^{-1} m'` right, so that nothing but the slope of :math:`\log q/p_0` is used there.

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
    if axes is None:
        return variances / values * means, variances
    turned = (axes.mT @ means[..., None]) * (variances / values)[..., None]
    return (axes @ turned).squeeze(-1), (axes * variances[:, None, :]) @ axes.mT
