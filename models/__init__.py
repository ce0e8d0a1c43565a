"""Densities: network bodies, likelihoods p(x given z), priors p(z), and the Pyro models made of them."""

from latentmix.models.covariances import CovarianceStructure
from latentmix.models.likelihoods import Bernoulli, Likelihood
from latentmix.models.mixture import MixtureModel
from latentmix.models.networks import ConvDecoder, Decoder, MLPDecoder
from latentmix.models.parameters import MixtureParameters
from latentmix.models.priors import Prior, StandardNormal
from latentmix.models.vae import VAE

__all__ = [
    "VAE",
    "Bernoulli",
    "ConvDecoder",
    "CovarianceStructure",
    "Decoder",
    "Likelihood",
    "MLPDecoder",
    "MixtureModel",
    "MixtureParameters",
    "Prior",
    "StandardNormal",
]
