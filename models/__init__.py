"""Densities: network bodies, likelihoods p(x given z), priors p(z), and Pyro models."""

from latentmix.models.flows import FlowPrior
from latentmix.models.likelihoods import Bernoulli, ContinuousBernoulli, DiscretizedLogistic, Likelihood
from latentmix.models.location_scale import Gaussian, Laplace
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.priors import OrderedMeans
from latentmix.models.mixture_prior import MixturePrior
from latentmix.models.networks import ConvDecoder, Decoder, MLPDecoder
from latentmix.models.priors import Prior, StandardNormal, StudentT
from latentmix.models.vae import VAE
from latentmix.models.vamp import VampPrior

__all__ = [
    "VAE",
    "Bernoulli",
    "ContinuousBernoulli",
    "ConvDecoder",
    "CovarianceStructure",
    "Decoder",
    "DiscretizedLogistic",
    "FlowPrior",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "MLPDecoder",
    "MixtureModel",
    "MixtureParameters",
    "MixturePrior",
    "OrderedMeans",
    "Prior",
    "StandardNormal",
    "StudentT",
    "VampPrior",
]
