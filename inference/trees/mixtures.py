"""Posteriors of mixtures as trees for ArviZ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from pyro.distributions import TorchDistribution
from torch import Tensor

from latentmix.inference.datatree.labels import Labels
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.algorithm import EM
from latentmix.inference.mixtures.analysis.asymptotic import asymptotic_draws
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.em.stepwise import StepwiseEM
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.nuts.fit import NUTS, MixtureNUTSResult
from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.inference.mixtures.points.validation import check_points
from latentmix.inference.mixtures.standardised import StandardisedModel, standardised_model
from latentmix.inference.mixtures.svi.fit import SVI, MixtureSVIResult

__all__ = ["mixture_labels", "mixture_tree", "posterior_tree", "quantities"]

_PRIOR_DRAWS = 500
_PRIOR_NUMBERS = 1 << 23  # of the covariances of these: 64 MiB
_MOST_GIB = 2
_INFERENCE = {"nuts": "mcmc", "svi": "svi", "em_sandwich": "em_sandwich"}
_NO_POSTERIOR = (
    "Draws of the asymptotic normal distribution of the maximum-likelihood estimate, with its sandwich covariance: "
    "they tell how the estimate varies over data sets, and are no posterior."
)


def mixture_tree(
    mixture: GaussianMixture,
    *,
    X: Any = None,
    draws: int | None = None,
    posterior_predictive: bool = False,
    sample_weight: Any = None,
    seed: int = 0,
) -> xr.DataTree:
    """The posterior of a fitted mixture as a tree for ArviZ.

    | group | content |
    |---|---|
    | `posterior` | `weights` (component), `means` (component, feature), `scales` (standard deviations), `covariances` |
    | `sample_stats` | of NUTS those of `RecordingNUTS`; of a guide `log_q` and, with X, `log_p` |
    | `log_likelihood`, `observed_data` | with X: `x` (point) and `x` (point, feature) |
    | `log_prior`, `prior` | log-densities of the draws by site, and up to 500 draws of the prior, if it is known |
    | `posterior_predictive` | if asked for: as many points as X has, under each draw |

    All are in the data's coordinates. Draws of NUTS are aligned across label switching as the fit aligned them
    (attribute `aligned`); a guide has one mode, and they need not be. Draws of a guide are those of `from_pyro_svi`:
    one chain, marked by the attribute `inference` "svi".

    A mixture that was fitted by EM is a point. With X its tree has draws of its asymptotic normal distribution, with
    the sandwich covariance of `standard_errors`, in the group `posterior` for ArviZ's functions to find; they are no
    posterior (attribute `inference` "em_sandwich"), and there are no densities for LOO.

    ArviZ's `psense_summary` (1.3) gives its own dimension the name `component`: rename it for that function, by
    `renamed(tree, component="cluster")`.

    Args:
        mixture: A mixture that was fitted by NUTS, by SVI with a density as guide, or by EM.
        X: The `n x D` points that it was fitted to.
        draws: Most draws of each chain, evenly spaced; by default all that there are. Of EM their number, by default
            1,000.
        posterior_predictive: Whether to draw as many points as X has under each draw.
        sample_weight: `(n,)` weights of the points that EM was given, for the covariance of its estimate.
        seed: Seed of the draws of the prior and of the points.

    Raises:
        ValueError: If the mixture is not fitted or has no draws; if X is no `n x D` points or has another number of
            points than the fit; if values at all points and draws would take more than 2 GiB; or, of EM, if X is
            missing, and as `standard_errors`.
    """
    posterior = _posterior(mixture, X, draws, sample_weight, seed)
    result = getattr(mixture, "result_", None)
    attrs: dict[str, Any] = {"covariance_type": posterior.structure.name, "converged": int(mixture.converged_)}
    made = None
    if isinstance(result, MixtureNUTSResult):
        made = result.standardised
        attrs |= {"kernel": "NUTS", "tuning_steps": result.warmup, "aligned": int(result.aligned)}
    elif isinstance(result, MixtureSVIResult):
        made = result.standardised
        attrs |= {"guide": type(result.guide).__name__}
    elif result is None and X is not None:
        made = _remade(mixture, X)
    return _tree(
        posterior,
        made,
        attrs,
        X=X,
        draws=draws,
        posterior_predictive=posterior_predictive,
        seed=seed,
        feature_names=getattr(mixture, "feature_names_in_", None),
    )


def posterior_tree(
    posterior: MixturePosterior,
    *,
    X: Any = None,
    draws: int | None = None,
    posterior_predictive: bool = False,
    seed: int = 0,
    feature_names: Sequence[str] | None = None,
) -> xr.DataTree:
    """Draws of a mixture's posterior as a tree for ArviZ: as `mixture_tree`, without what its priors tell.

    Args:
        posterior: The draws.
        X: The `n x D` points that the mixture was fitted to.
        draws: Most draws of each chain, evenly spaced; by default all.
        posterior_predictive: Whether to draw as many points as X has under each draw.
        seed: Seed of these points.
        feature_names: Names of the features; by default their numbers.

    Raises:
        ValueError: If X is no `n x D` points, names are not as many as features, or values at all points and draws
            would take more than 2 GiB.
    """
    return _tree(
        posterior,
        None,
        {"covariance_type": posterior.structure.name},
        X=X,
        draws=draws,
        posterior_predictive=posterior_predictive,
        seed=seed,
        feature_names=feature_names,
    )


def mixture_labels(posterior: MixturePosterior, feature_names: Sequence[str] | None = None) -> Labels:
    """Names of the dimensions of a mixture's quantities, and their coordinates.

    Raises:
        ValueError: If names are not as many as features.
    """
    n_components, n_features = posterior.sites["means"].shape[-2:]
    structure = posterior.structure
    names = np.arange(n_features) if feature_names is None else np.asarray(list(map(str, feature_names)))
    if len(names) != n_features or len(set(names.tolist())) != n_features:
        raise ValueError(f"Expected {n_features} feature_names, each another; got {list(names)}.")
    scales = ([] if structure.shared else ["component"]) + ([] if structure.isotropic else ["feature"])
    dims = {
        "weights": ["component"],
        "means": ["component", "feature"],
        "scales": scales,
        "covariances": [*scales, "other_feature"],
        "x": ["point", "feature"],
    }
    coords = {"component": np.arange(n_components), "feature": names, "other_feature": names}
    return Labels({}, dims=dims, coords=coords)


def quantities(posterior: MixturePosterior) -> dict[str, NDArray[np.float64]]:
    """Weights, means, standard deviations and, where features correlate, covariances: `chain x draw` in front."""
    known = posterior.quantities()
    names = ["weights", "means", "scales"]
    if posterior.structure.correlated and posterior.sites["means"].shape[-1] > 1:
        names.append("covariances")
    return {name: known[name] for name in names}


def _posterior(mixture: GaussianMixture, X: Any, draws: int | None, sample_weight: Any, seed: int) -> MixturePosterior:
    if not hasattr(mixture, "means_"):
        raise ValueError("Expected a fitted mixture; got one that is not fitted: call its fit first.")
    posterior: MixturePosterior | None = getattr(mixture, "posterior_", None)
    if posterior is not None:
        if sample_weight is not None:
            raise ValueError(
                "Expected sample_weight with a mixture that was fitted by EM alone; got it with one that has draws of "
                "its posterior, which take no weights: leave it out."
            )
        return posterior
    if not isinstance(mixture.algorithm, EM) or isinstance(getattr(mixture, "result_", None), StepwiseEM):
        raise ValueError(
            "Expected a mixture with draws of its posterior; got one without: fit it by inference=NUTS(), or "
            "inference=SVI(guide=AutoNormal, priors={})."
        )
    if X is None:
        raise ValueError(
            "Expected the points X that the mixture was fitted to by EM, for the covariance of the estimate; got none: "
            "pass X=, or fit it by inference=NUTS()."
        )
    return asymptotic_draws(mixture, X, 1000 if draws is None else draws, sample_weight=sample_weight, seed=seed)


def _remade(mixture: GaussianMixture, X: Any) -> StandardisedModel | None:
    """The model of a mixture that comes from a file, of the points that it was fitted to; `None` if a prior is lost."""
    algorithm = mixture.algorithm
    if not isinstance(algorithm, NUTS | SVI):
        return None
    priors = algorithm.priors if isinstance(algorithm, SVI) else algorithm.priors or {}
    if not all(isinstance(prior, TorchDistribution) for prior in (priors or {}).values()):
        return None
    x = check_points(as_tensor(X), mixture.n_features_in_)
    return standardised_model(
        x, mixture.n_components, mixture.parameters_.structure, priors=priors, reg_covar=mixture.reg_covar
    )


def _tree(
    posterior: MixturePosterior,
    made: StandardisedModel | None,
    attrs: Mapping[str, Any],
    *,
    X: Any,
    draws: int | None,
    posterior_predictive: bool,
    seed: int,
    feature_names: Sequence[str] | None,
) -> xr.DataTree:
    labels = mixture_labels(posterior, feature_names)
    whole = posterior.n_draws
    if draws is not None:
        posterior = posterior.thinned(draws)
    shared = {"inference": _INFERENCE[posterior.inference], **attrs}
    own = dict(shared)
    if posterior.n_draws < whole:
        own["thinned_from"] = whole
    x = None if X is None else check_points(as_tensor(X), posterior.sites["means"].shape[-1])
    if x is not None and made is not None and made.model.size not in (None, len(x)):
        raise ValueError(f"Expected the {made.model.size} points that the mixture was fitted to; got {len(x)}.")
    if posterior_predictive and x is None:
        raise ValueError("Expected the points X of posterior_predictive; got none.")
    if x is not None and posterior.inference != "em_sandwich":
        _check_size(posterior, len(x) * (1 + posterior_predictive * x.shape[1]))
    groups: dict[str, Mapping[str, Any]] = {"posterior": quantities(posterior)}
    groups["sample_stats"] = statistics = {name: _array(values) for name, values in posterior.sample_stats.items()}
    density, of_posterior = None, posterior.inference != "em_sandwich"
    if not of_posterior:
        own |= {"log_likelihood_omitted": _NO_POSTERIOR, "log_prior_omitted": _NO_POSTERIOR}
    with torch.no_grad(), isolated(seed=seed, validation=False):
        if x is not None:
            groups["observed_data"] = {"x": _array(x)}
        if x is not None and of_posterior:
            density = _array(posterior.log_likelihood(x, pointwise=True))
            groups["log_likelihood"] = {"x": density}
        if made is None and of_posterior:
            own["log_prior_omitted"] = (
                "these draws were read without the priors of their fit: pass the fitted mixture, and by X the points "
                "that it was fitted to."
            )
        elif made is not None:
            log_prior = made.log_prior({name: site.to(made.scale) for name, site in posterior.sites.items()})
            groups["log_prior"] = {name: _array(values) for name, values in log_prior.items()}
            try:
                groups["prior"] = quantities(_prior(made, posterior))
            except ValueError as error:
                own["prior_omitted"] = str(error)
        if posterior.inference == "svi" and "log_q" in statistics:
            if density is not None and "log_prior" in groups:
                log_p = density.sum(-1) + sum(groups["log_prior"].values())
                groups["sample_stats"] = {"log_p": log_p, **statistics}
            else:
                own["log_p_omitted"] = (
                    "pass the points that the mixture was fitted to by X." if x is None else own["log_prior_omitted"]
                )
        if posterior_predictive and x is not None:
            groups["posterior_predictive"] = {"x": _replicates(posterior, len(x), seed)}
    if x is None and of_posterior:
        own["log_likelihood_omitted"] = "pass the points that the mixture was fitted to by X."
    sample_dims = {"observed_data": ()}
    batch = {"log_likelihood", "log_prior", "sample_stats"}
    datasets = {}
    for group in _ORDER:
        if groups.get(group):
            named = labels.renamed({"x": ["point"]}) if group in batch else labels
            datasets[group] = named.dataset(
                groups[group], sample_dims=sample_dims.get(group, ("chain", "draw")), attrs=shared
            )
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs.update(own)
    return tree


_ORDER = (
    "posterior",
    "sample_stats",
    "log_likelihood",
    "log_prior",
    "posterior_predictive",
    "prior",
    "observed_data",
)


def _check_size(posterior: MixturePosterior, numbers: int) -> None:
    """Refuse a tree of so many numbers a draw that it would fill the memory."""
    size = 8 * posterior.n_chains * posterior.n_draws * numbers
    if size > _MOST_GIB * 2**30:
        raise ValueError(
            f"Expected values of at most {_MOST_GIB} GiB at all points and draws; got {size / 2**30:.3g} GiB: take "
            f"fewer draws by draws={max(1, _MOST_GIB * 2**30 // (8 * posterior.n_chains * numbers))}, or leave out X "
            "or posterior_predictive."
        )


def _prior(made: StandardisedModel, posterior: MixturePosterior) -> MixturePosterior:
    model = made.model
    numbers = math.prod(model.structure.covariance_shape(model.n_components, model.n_features))
    draws = max(1, min(_PRIOR_DRAWS, _PRIOR_NUMBERS // numbers))
    sites = {name: site[None] for name, site in made.draw_prior(draws).items()}
    return MixturePosterior(sites, posterior.structure, posterior.covariance_floor.to(made.scale), "svi")


def _replicates(posterior: MixturePosterior, count: int, seed: int) -> NDArray[np.float64]:
    """Points under each draw: `chain x draw x count x D`."""
    generator = np.random.default_rng(seed)
    chains, draws, _, n_features = posterior.sites["means"].shape
    points = np.empty((chains, draws, count, n_features))
    for chain in range(chains):
        for draw in range(draws):
            mixture = posterior.draw(chain, draw)
            weights = _array(mixture.weights)
            components = generator.choice(len(weights), count, p=weights / weights.sum())
            noise = generator.standard_normal((count, n_features))
            factors = _array(mixture.scale_tril)
            points[chain, draw] = _array(mixture.means)[components] + np.einsum(
                "nij,nj->ni", factors[components], noise
            )
    return points


def _array(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array
