"""Gaussian mixtures by SVI with the component enumerated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, final

import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuide,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.optim import PyroOptim
from torch import Tensor

from latentmix.guides.mixture import global_guide
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.algorithm import Algorithm, FitOptions, MixtureResult, plain_points
from latentmix.inference.mixtures.draws import MixturePosterior, in_data_coordinates
from latentmix.inference.mixtures.em.e_step import EStep
from latentmix.inference.mixtures.em.m_step import repair
from latentmix.inference.mixtures.em.statistics import moments
from latentmix.inference.mixtures.parameter_object import Requirement, real, whole
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.progress import warn
from latentmix.inference.mixtures.standardised import (
    PRIORS,
    Priors,
    StandardisedModel,
    check_priors,
    standardised_model,
)
from latentmix.inference.mixtures.svi.guides import TriedGuide, class_of, fit_guides, is_normal
from latentmix.inference.mixtures.svi.natural_gradient import MixtureMetric
from latentmix.inference.mixtures.svi.objective import PointMass, RegularizedEnum
from latentmix.inference.mixtures.svi.quasi_newton import QuasiNewton
from latentmix.inference.svi.fit import SVIResult, fit
from latentmix.inference.svi.optimizers import MakeOptimizer, MakeScheduler, as_optimizer, as_scheduler
from latentmix.inference.svi.state import Callback, DivergenceError, TrainingState
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.gaussians import expanded_points
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.priors import is_improper
from latentmix.models.words import plural

__all__ = ["SVI", "MixtureSVIResult"]

_GUIDES = (AutoDelta, AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal)
# Changes of the bound in succession, each below the tolerance, that end a noiseless fit.
_QUIET = 2
# Natural-gradient steps at most, and the gain, in nats per datum, below which they give way to curvature.
_WARMUP, _SETTLED = 30, 1e-3
_LEVEL = 1e-2  # nats per datum


@dataclass(frozen=True, repr=False)
class MixtureSVIResult(Displayed):
    """Outcome of enumerated SVI.

    Attributes:
        parameters: The mixture at the guide's median, in the data's coordinates, in float64.
        lower_bounds: ELBO per epoch, nats per datum in the data's coordinates: under flat priors and `AutoDelta`
            the mean log-likelihood.
        lower_bound: The bound of the fit: at the point that was taken where there is no noise, else of the last epoch.
        converged: Whether the loss levelled off: of noisy objectives, whether the last quarter of all epochs gained
            less than 0.01 nats per datum over the quarter before it, or less than three standard errors, and never of
            fewer than 8 epochs; of guides that start from the posterior's curvature, see `TriedGuide`.
        model: The Pyro model, of standardised data `(x - location) / scale`.
        guide: The fitted guide.
        location: `(D,)`.
        scale: `(D,)`.
        svi: What `fit` returned, `None` where the loss diverged and the best point before it was taken.
        noisy: Whether the objective was: a guide that samples, or minibatches.
        seed: Seed of the fit, and of the draws of `posterior`.
        guides: The guides that were fitted from the posterior's curvature, of which `guide` has the highest bound.
    """

    parameters: MixtureParameters
    lower_bounds: list[float]
    lower_bound: float
    converged: bool
    model: MixtureModel
    guide: AutoGuide
    location: Tensor
    scale: Tensor
    svi: SVIResult | None
    noisy: bool
    seed: int = 0
    guides: tuple[TriedGuide, ...] = ()

    def shown(self) -> dict[str, Any]:
        kind = "noisy" if self.noisy else "without noise"
        return {
            "mixture": self.parameters,
            "bound": f"{self.lower_bound:.6g} nats per datum",
            "epochs": f"{self.n_iter}, {kind}",
            "converged": self.converged,
            "guide": type(self.guide).__name__,
            "seed": self.seed,
        }

    @cached_property
    def posterior(self) -> MixturePosterior | None:
        """1,000 draws of the guide, made once, and left out of pickles; None of a point mass."""
        return None if isinstance(self.guide, AutoDelta) else self.draw(seed=self.seed)

    @torch.inference_mode(False)
    def draw(self, draws: int = 1000, *, seed: int = 0, reference: MixtureParameters | None = None) -> MixturePosterior:
        """Draws of the guide as a posterior of one chain, in the data's coordinates.

        Args:
            draws: Number of draws.
            seed: Seed of the draws.
            reference: Mixture to align the draws with, in the data's coordinates; a guide has one mode, so that by
                default they stay as they are.

        Raises:
            ValueError: If there is no draw, or the guide is a point.
        """
        if draws < 1:
            raise ValueError(f"Expected draws >= 1; got {draws}.")
        if isinstance(self.guide, AutoDelta):
            raise ValueError("Expected a guide with a density, such as AutoMultivariateNormal; got AutoDelta.")
        like = self.location.new_zeros(1, len(self.location), dtype=torch.float64)
        with isolated(seed=seed, validation=False), torch.no_grad(), pyro.plate("draws", draws, dim=-2):
            trace: Any = poutine.trace(self.guide).get_trace(like)
            trace.compute_log_prob()
        nodes = {name: node for name, node in trace.nodes.items() if node["type"] == "sample"}
        sites = {name: nodes[name]["value"].reshape(1, draws, *shape) for name, shape in self.model.shapes.items()}
        densities = torch.stack([node["log_prob"].reshape(draws, -1).sum(-1) for node in nodes.values()])
        log_q = densities.sum(0) - self.standardised.sites_log_jacobian
        posterior = in_data_coordinates(sites, self.model, self.location, self.scale, "svi", reference)
        return replace(posterior, sample_stats={"log_q": log_q[None]})

    def log_joint(self, posterior: MixturePosterior, x: Tensor | NDArray[Any]) -> Tensor:
        """Joint log-densities of the data and of draws of the guide, `chain x draw`, in nats.

        Minus `sample_stats["log_q"]` of the draws they are logarithms of importance weights, whose mean is the ELBO.

        Args:
            posterior: The draws, in the data's coordinates.
            x: The `n x D` points that the mixture was fitted to.

        Raises:
            ValueError: If the points are not finite `n x D` numbers.
        """
        priors = self.standardised.log_prior(posterior.sites).values()
        return posterior.log_likelihood(x) + torch.stack(list(priors)).sum(0)

    @property
    def standardised(self) -> StandardisedModel:
        """The model with the map of its coordinates to the data's."""
        return StandardisedModel(self.model, self.location, self.scale)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "posterior"}

    @property
    def n_iter(self) -> int:
        """Number of epochs."""
        return len(self.lower_bounds)


class _Watch(Callback):
    """Keeps the best point of a noiseless fit, and ends the fit when its objective has levelled off.

    Of a fit that levels off smoothly the last point is the best: the objective's gradient vanishes there, though its
    value need not be the least of the path, as its regularization moves with the weights.

    Args:
        guide: The point mass.
        objective: What the fit minimises, `None` where that is noisy.
        tol: As `SVI` takes it.
        patience: Likewise.
        smooth: Whether steps are so regular that two small changes in succession are the end.
    """

    def __init__(self, guide: AutoGuide, objective: PointMass | None, tol: float, patience: int, smooth: bool) -> None:
        self.guide, self.objective, self.tol, self.patience, self.smooth = guide, objective, tol, patience, smooth
        self.losses: list[float] = []
        self.values: list[float] = []
        self.taken = 0
        self.best: list[Tensor] | None = None
        self.at = self._leaves()
        self.converged = False

    def on_epoch_end(self, state: TrainingState) -> bool | None:
        """Compare the objective, which belongs to the point before the step, with its values before."""
        self.losses.append(state.history[-1].loss)
        if self.objective is None:
            self.taken = len(self.losses) - 1
            return None
        self.values.append(self.objective.value)
        if self.smooth and len(self.values) > _QUIET:
            recent = self.values[-_QUIET - 1 :]
            self.converged = max(recent) - min(recent) < self.tol
        if self.converged or self.values[-1] == min(self.values):
            self.taken, self.best = len(self.values) - 1, self.at
        self.at = self._leaves()
        if len(self.values) > self.patience:
            gain = min(self.values[: -self.patience]) - min(self.values)
            self.converged = self.converged or gain < self.tol
        return self.converged

    def restore(self) -> None:
        """Bring the best point back."""
        if self.best is not None:
            with torch.no_grad():
                for leaf, value in zip(self.guide.parameters(), self.best, strict=True):
                    leaf.copy_(value)

    def _leaves(self) -> list[Tensor]:
        return [leaf.detach().clone() for leaf in self.guide.parameters()]


Guides = Callable[..., AutoGuide] | Sequence[Callable[..., AutoGuide]]


def _families(guide: Any) -> tuple[Callable[..., AutoGuide], ...]:
    """The classes of an option `guide`; none if it is something else."""
    several = tuple(guide) if isinstance(guide, list | tuple) else (guide,)
    return several if all(callable(family) for family in several) else ()


def check_guide(family: Callable[..., AutoGuide]) -> None:
    """Refuse a class of guides that has no median, no gradient, or no start at given values.

    Raises:
        ValueError: If it is one of Pyro's that cannot serve a mixture, or a class of something else; the message names
            those that can.
    """
    kind = getattr(family, "func", family)  # of a functools.partial
    if family is not AutoDelta and isinstance(kind, type) and issubclass(kind, AutoDelta):
        raise ValueError("Expected AutoDelta itself, which takes no options here; got a class or call made of it.")
    if not isinstance(kind, type) or kind in _GUIDES:
        return
    if kind.__module__.startswith("pyro.") or not issubclass(kind, AutoGuide):
        names = ", ".join(known.__name__ for known in _GUIDES)
        raise ValueError(f"Expected a guide out of {names}, or a class of your own; got {kind.__name__}.")


@final
class SVI(Algorithm):
    """Stochastic variational inference of a `MixtureModel` on `TraceEnum_ELBO`, the assignments summed out exactly.

    By default a noiseless fit takes natural-gradient steps, thirty at most, fewer where they gain less than 1e-3
    nats per datum; they stay close to EM's path, so that it mostly ends at the same optimum. Then curvature is
    learned. Where a conditioning test allows, the densities of all data under all components are one matrix
    product, as their gradients are. The data are standardised per feature (isotropically for spherical
    covariances), in which the likelihood is equivariant; model, priors and guide live in those coordinates, in
    float64.

    A normal guide under proper priors, with the default optimizer and all the data, starts from the posterior's mode
    and its curvature there, and `reg_covar` is then a floor of the variances, as it is of NUTS; see `fit_guides`.
    Correlations stay those of the curvature, means and scales maximise the ELBO.

    Args:
        guide: Class of the guide: `AutoDelta`, `AutoNormal`, `AutoDiagonalNormal`, `AutoMultivariateNormal`,
            `AutoLowRankMultivariateNormal`, or an `AutoGuide` of one's own. The estimates are its medians. Of several
            normal ones, such as `NORMAL_GUIDES`, poorer ones first, that with the highest bound is kept.
        optimizer: Makes the optimizer; by default, for a noiseless objective (`AutoDelta`, all the data),
            natural-gradient steps in `MixtureMetric`, accelerated by `QuasiNewton`; else Adam with learning rate
            0.02 and a cosine schedule.
        scheduler: Makes the learning-rate schedule.
        epochs: Most passes over the data.
        tol: A noiseless fit ends when `patience` epochs together gained less, in nats per datum; with the default
            optimizer also where the bound changed by less over two epochs, about where EM of that tolerance ends.
        patience: See `tol`.
        batch_size: Data a step; by default all.
        priors: Keyword arguments `weights`, `means`, `scales`, `correlations` of `MixtureModel`, in the data's
            coordinates; what is left out takes that model's default, which is one of standardised data. By default
            no prior is informative: every global is `ImproperUniform`, and the fit is maximum likelihood.
        compile: Whether steps run as compiled graphs, see `fit` of `latentmix.inference`; compilation takes some
            seconds. Steps on minibatches or on few points are several times as fast; those on many points at once are
            slower, as densities are computed from the points, and not by one matrix product with precomputed features.
            Guides that are fitted from the posterior's curvature take no such steps, and warn.

    Example:
        >>> import torch
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from latentmix.inference import SVI, GaussianMixture
        >>> svi = SVI(guide=AutoNormal, epochs=20, priors={})
        >>> fitted = GaussianMixture(2, inference=svi, random_state=0).fit(torch.randn(50, 2))
        >>> fitted.posterior_.sites["means"].shape
        torch.Size([1, 1000, 2, 2])

        The best of three guides:

        >>> from latentmix.inference import NORMAL_GUIDES
        >>> x = torch.cat([torch.randn(40, 1) - 4, torch.randn(40, 1) + 4])
        >>> best = GaussianMixture(2, inference=SVI(guide=NORMAL_GUIDES, priors={}), random_state=0).fit(x)
        >>> [tried.guide for tried in best.result_.guides]
        ['AutoNormal', 'AutoLowRankMultivariateNormal', 'AutoMultivariateNormal']
    """

    name = "svi"
    seeded = True
    requirements: ClassVar[Mapping[str, Requirement]] = {
        "guide": Requirement("a class of guides, or several", lambda value: bool(_families(value))),
        "epochs": whole(1),
        "tol": real(0),
        "patience": whole(1),
        "batch_size": whole(1).or_none(),
        "priors": PRIORS,
        "compile": Requirement("True or False", lambda value: isinstance(value, bool)),
    }

    def __init__(
        self,
        *,
        guide: Guides = AutoDelta,
        optimizer: MakeOptimizer | PyroOptim | None = None,
        scheduler: MakeScheduler | None = None,
        epochs: int = 1000,
        tol: float = 1e-6,
        patience: int = 10,
        batch_size: int | None = None,
        priors: Priors | None = None,
        compile: bool = False,
    ) -> None:
        self.guide = guide
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.epochs = epochs
        self.tol = tol
        self.patience = patience
        self.batch_size = batch_size
        self.priors = priors
        self.compile = compile

    def check_params(self) -> None:
        super().check_params()
        if self.optimizer is not None:
            as_optimizer(self.optimizer)
        if self.scheduler is not None:
            as_scheduler(self.scheduler)
        families = _families(self.guide)
        for family in families:
            check_guide(family)
        if len(families) > 1 and not self._from_curvature():
            names = ", ".join(str(getattr(class_of(family), "__name__", family)) for family in families)
            raise ValueError(
                "Expected one guide, or several of Pyro's normal ones with proper priors, the default optimizer and "
                f"batch_size=None; got {names}: take one, or set priors={{}}."
            )

    def _from_curvature(self) -> bool:
        """Whether guides are fitted from the posterior's curvature."""
        proper = self.priors is not None and not any(is_improper(prior) for prior in self.priors.values())
        plain = self.optimizer is None and self.scheduler is None and self.batch_size is None
        return proper and plain and all(is_normal(family) for family in _families(self.guide))

    def check(self, points: Points, structure: CovarianceStructure, n_components: int, options: FitOptions) -> None:
        super().check(points, structure, n_components, options)
        if self.priors is not None:
            check_priors(self.priors, n_components, points.location, structure)

    @torch.inference_mode(False)
    def fit(
        self,
        points: Tensor | Points | EStep,
        start: MixtureParameters,
        options: FitOptions = FitOptions(),
        *,
        callbacks: Sequence[Callback] = (),
    ) -> MixtureSVIResult:
        """Fit a mixture to points.

        `options.reg_covar` is the variance, in the data's coordinates, that each component takes on top of its estimate
        in every direction, as in EM: with it a point mass under flat priors ends where EM does, over features of any
        scales.

        Args:
            points: `n x D` points.
            start: The mixture to start from, in the data's coordinates.
            options: `reg_covar` and `seed` are read.
            callbacks: Passed to `fit` of `latentmix.inference`; guides that are fitted from the curvature take none.

        Returns:
            The fitted mixture, its model and its guide.

        Raises:
            ValueError: If the guide is none that `SVI` takes, or a prior is no density of its site, or has none at the
                start.
        """
        self.check_params()
        x, reg_covar = plain_points(points, self.name), options.reg_covar
        if self._from_curvature():
            if callbacks:
                raise ValueError(
                    "Expected no callbacks for a normal guide under proper priors; got some: pass an optimizer, too."
                )
            if self.compile:
                warn("A normal guide under proper priors is fitted from the curvature: compile=True has no effect.")
            return self._fit_from_curvature(x, start, options)
        (family,) = _families(self.guide)
        optimizer, scheduler, batch_size = self.optimizer, self.scheduler, self.batch_size
        batched = batch_size is not None and batch_size < len(x)
        noisy = family is not AutoDelta or batched
        made = standardised_model(
            x, len(start.weights), start.structure, priors=self.priors, reg_covar=reg_covar, floored=False
        )
        model, location, scale = made.model, made.location, made.scale
        standardised = made.points(x)
        given = getattr(family, "keywords", {})  # of a functools.partial
        width = {"init_scale": 0.02} if family is not AutoDelta and "init_scale" not in given else {}
        guide = global_guide(model, family=family, start=made.sites(start), **width)
        if optimizer is None and noisy:
            optimizer = partial(torch.optim.Adam, lr=0.02, fused=True)
            scheduler = scheduler or partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=self.epochs)
        with isolated(seed=None if family is AutoDelta else options.seed):
            guide(standardised[:1])  # makes its parameters
        floor = reg_covar / scale.square()
        kept = not (batched or self.compile)
        point = PointMass(model, floor, keeps=kept) if family is AutoDelta else None
        metric = None
        if optimizer is None and isinstance(guide, AutoDelta) and not noisy:
            if MixtureMetric.applies(model):
                metric = MixtureMetric(model, guide, standardised, point.sites if point and kept else None)
            optimizer = partial(QuasiNewton, metric=metric, warmup=_WARMUP if metric else 0, settled=_SETTLED)
        watch = _Watch(guide, None if noisy else point, self.tol, self.patience, smooth=metric is not None)
        observed: Callable[..., Any] = model
        if kept:
            observed = partial(model, points=expanded_points(standardised, model.structure))
        result = None
        try:
            result = fit(
                observed,
                guide,
                standardised,
                epochs=self.epochs,
                batch_size=batch_size,
                objective=point or RegularizedEnum(TraceEnum_ELBO(max_plate_nesting=1), model, floor),
                optimizer=optimizer,
                scheduler=scheduler,
                seed=options.seed,
                callbacks=[watch, *callbacks],
                compile=self.compile,
            )
        except DivergenceError:
            if noisy or watch.best is None:
                raise
        watch.restore()
        with torch.no_grad(), isolated():
            sites = guide.median()
        fitted = model.parameters({name: value.detach() for name, value in sites.items()})
        # Covariances are judged singular as rounded to float64, even where their factors hold more digits.
        rounded = MixtureParameters(fitted.weights, fitted.means, fitted.covariances, fitted.structure)
        rounded, repaired = repair(rounded, moments(standardised)[1])
        if repaired:
            fitted = rounded
            warn(
                "SVI ended at a singular covariance, which got a jitter: its likelihood has no maximum there; raise "
                "reg_covar, or fit fewer components."
            )
        jacobian = made.log_jacobian + (made.sites_log_jacobian / len(x) if family is AutoDelta else 0.0)
        bounds = [-loss - jacobian for loss in watch.losses]
        parameters = fitted.affine(scale, location)
        lost = (noisy or _is_rounded(rounded)) and _lost(parameters, start, x, noisy)
        return MixtureSVIResult(
            parameters=parameters,
            lower_bounds=bounds,
            lower_bound=bounds[watch.taken],
            converged=(watch.converged or (noisy and _levelled(bounds))) and not repaired and not lost,
            model=model,
            guide=guide,
            location=location,
            scale=scale,
            svi=result,
            noisy=noisy,
            seed=options.seed,
        )

    def _fit_from_curvature(self, x: Tensor, start: MixtureParameters, options: FitOptions) -> MixtureSVIResult:
        made = standardised_model(
            x, len(start.weights), start.structure, priors=self.priors, reg_covar=options.reg_covar
        )
        guide, bounds, guides = fit_guides(made, x, start, _families(self.guide), epochs=self.epochs, seed=options.seed)
        used = next(each for each in guides if each.used)
        with torch.no_grad(), isolated():
            sites = guide.median()
        return MixtureSVIResult(
            parameters=made.parameters({name: value.detach() for name, value in sites.items()}),
            lower_bounds=bounds,
            lower_bound=used.bound,
            converged=used.converged,
            model=made.model,
            guide=guide,
            location=made.location,
            scale=made.scale,
            svi=None,
            noisy=True,
            seed=options.seed,
            guides=guides,
        )

    def _warn_of(self, result: MixtureResult, options: FitOptions) -> None:
        warn(
            f"The best of the svi fits did not converge in {plural(result.n_iter, 'iteration')}: raise epochs or tol "
            "of SVI, try another start, or check for degenerate data."
        )


def _levelled(bounds: Sequence[float]) -> bool:
    """Whether the noisy bounds of the last two quarters of a fit, of two epochs or more each, are alike.

    In shorter spans a bound is level wherever a schedule has let the learning rate decay.
    """
    count = len(bounds) // 4
    if count < 2:
        return False
    earlier, later = (
        torch.tensor(part, dtype=torch.float64) for part in (bounds[-2 * count : -count], bounds[-count:])
    )
    error = ((earlier.var() + later.var()) / count).sqrt()
    return bool(later.mean() - earlier.mean() < torch.maximum(3 * error, torch.tensor(_LEVEL)))


def _is_rounded(fitted: MixtureParameters) -> bool:
    """Whether a component is narrower than the rounding of its mean."""
    scales = fitted.expanded_covariances().diagonal(dim1=-2, dim2=-1).sqrt()
    return bool((scales < 4 * torch.finfo(scales.dtype).eps * fitted.means.abs()).any())


def _lost(fitted: MixtureParameters, start: MixtureParameters, x: Tensor, noisy: bool) -> bool:
    """Whether a fit ended far below the likelihood that it started from; warns if so."""
    likelihood, before = (float(mixture.log_likelihood(x.double()).mean()) for mixture in (fitted, start))
    lost = not before - likelihood < 1 + 10 * start.n_parameters() / len(x)  # NaN is lost, too
    if lost:
        noise = (
            "unless priors pull it there, the optimizer's steps or the guide's width are too large, as where features "
            "are close to collinear; leave one of these out, or take guide=AutoDelta and all the data."
        )
        rounding = (
            "points lie so far out that the spread of others is lost once features are standardised; leave such points "
            "out, or take inference='em'."
        )
        warn(
            f"SVI ended at a log-likelihood of {likelihood:.4g} nats per point, far below the {before:.4g} of its "
            f"start: {noise if noisy else rounding}"
        )
    return lost
