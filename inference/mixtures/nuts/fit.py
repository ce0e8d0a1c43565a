"""Gaussian mixtures by NUTS on the density with the assignments summed out."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.algorithm import EM, Algorithm, FitOptions, MixtureResult, Starts, plain_points
from latentmix.inference.mixtures.draws import MixturePosterior, in_data_coordinates
from latentmix.inference.mixtures.em.e_step import EStep
from latentmix.inference.mixtures.matching import permuted_draws
from latentmix.inference.mixtures.nuts.chain_modes import ChainModes, modes_of_chains
from latentmix.inference.mixtures.nuts.chains import Settings, leapfrog_seconds, one_thread, run_chains
from latentmix.inference.mixtures.nuts.mode import em_starts, improved_mode
from latentmix.inference.mixtures.parameter_object import Requirement, real, whole
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.potential.mode import curvature_basis, posterior_mode
from latentmix.inference.mixtures.potential.potential import MixturePotential, WhitenedPotential
from latentmix.inference.mixtures.progress import Progress, warn
from latentmix.inference.mixtures.standardised import (
    PRIORS,
    Priors,
    StandardisedModel,
    check_priors,
    standardised_model,
)
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceStructure, CovarianceType, covariance_structure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.priors import is_improper

__all__ = ["NUTS", "MixtureNUTSResult"]

_R_HAT = 1.01
_ESS = 100
_CUT = 0.1
_LONG = 20.0
_USUAL_STEPS = 15


@dataclass(frozen=True, repr=False)
class MixtureNUTSResult(Displayed):
    """Outcome of NUTS.

    Attributes:
        parameters: Posterior means of weights, means and covariances, in the data's coordinates, in float64.
        posterior: The draws, in the data's coordinates; aligned where the priors treat all components alike.
        lower_bounds: Mean log-likelihood of the data under each draw, nats per datum, chain after chain.
        converged: Whether every R-hat is at most 1.01 and every effective sample size, bulk and tail, at least 100
            for each chain.
        r_hat: Greatest R-hat of the quantities of `posterior.summary()`.
        ess: Least effective sample size of these.
        divergences: Draws after the warmup, of each chain, in which the integrator diverged.
        step_sizes: Of each chain, after the warmup, in units of the posterior's curvature at its mode.
        n_gradients: Evaluations of the gradient, of each chain.
        n_max_tree_depth: Draws after the warmup, of each chain, whose trajectory was cut at `max_tree_depth`.
        modes: Modes of the posterior that the chains lie at.
        aligned: Whether the draws are aligned.
        reference: The mixture at the mode that the chains started around: what the draws are aligned with. It
            depends on data and priors alone.
        model: The Pyro model, of standardised data `(x - location) / scale`.
        location: `(D,)`.
        scale: `(D,)`.
        warmup: Draws of each chain that adapted the sampler.
        seconds: Time of the whole fit.
    """

    parameters: MixtureParameters
    posterior: MixturePosterior
    lower_bounds: list[float]
    converged: bool
    r_hat: float
    ess: float
    divergences: list[int]
    step_sizes: list[float]
    n_gradients: list[int]
    n_max_tree_depth: list[int]
    modes: ChainModes
    aligned: bool
    reference: MixtureParameters
    model: MixtureModel
    location: Tensor
    scale: Tensor
    warmup: int
    seconds: float

    def shown(self) -> dict[str, Any]:
        draws = self.posterior.n_chains * self.posterior.n_draws
        return {
            "mixture": self.parameters,
            "draws": f"{self.posterior.n_chains} chains of {self.posterior.n_draws}, after {self.warmup} of warmup",
            "converged": self.converged,
            "R-hat": f"{self.r_hat:.4f} at most",
            "effective size": f"{self.ess:.0f} at least, of {draws} draws",
            "divergences": f"{sum(self.divergences)} of {draws} draws",
            "cut": f"{sum(self.n_max_tree_depth)} of {draws} trajectories, at max_tree_depth",
            "modes": str(self.modes),
            "mean log p(x)": f"{self.lower_bound:.6g} nats per point, over the draws",
            "seconds": f"{self.seconds:.1f}",
        }

    @property
    def standardised(self) -> StandardisedModel:
        """The model with the map of its coordinates to the data's."""
        return StandardisedModel(self.model, self.location, self.scale)

    @property
    def lower_bound(self) -> float:
        """Mean over the draws of the mean log-likelihood, nats per datum."""
        return sum(self.lower_bounds) / len(self.lower_bounds)

    @property
    def n_iter(self) -> int:
        """Draws of each chain, the warmup included."""
        return self.warmup + self.posterior.n_draws


@final
class NUTS(Algorithm):
    """The No-U-Turn sampler (Hoffman and Gelman, 2014) on the posterior, with the assignments summed out.

    Pyro's sampler runs on `MixturePotential`: the density of `MixtureModel.collapsed`, in coordinates in which the
    posterior's curvature at its mode is one. That mode is found by quasi-Newton steps from the start, improved by
    splits of pairs of components where there is one start or none, and the chains begin around it. In a
    `GaussianMixture` the start is the best fit of EM.

    Where components have next to no points, their parameters range over the whole prior while those of others are
    held a hundred times more tightly: trajectories do not turn, and `max_tree_depth` bounds what they cost. The draws
    stay right, but more of them are needed, or a greater depth; the result and a warning say how many were cut.
    Chains around one mode agree though others may hold mass too: start them apart, by one start each, to find out.

    Args:
        chains: Number of chains.
        draws: Draws of each, after the warmup.
        warmup: Draws that adapt step size and mass matrix, and are left out.
        processes: Processes that run the chains; the draws are the same.
        priors: `weights`, `means`, `scales`, `correlations` of `MixtureModel`, in the data's coordinates; what is
            left out takes that model's default, which is weakly informative for standardised data.
        max_tree_depth: Most doublings of a trajectory: of `2 ** max_tree_depth - 1` leapfrog steps at most.
        target_accept: Acceptance probability that the step size is adapted to.
        jitter: Standard deviations of the posterior, by its curvature, by which the chains start away from the mode.

    Example:
        >>> import torch
        >>> from latentmix.inference import NUTS
        >>> x = torch.cat([torch.randn(40, 1) - 4, torch.randn(40, 1) + 4])
        >>> result = NUTS(chains=2, draws=200, warmup=150).fit(x, n_components=2)
        >>> result.posterior.sites["means"].shape
        torch.Size([2, 200, 2, 1])
    """

    name = "nuts"
    seeded = True
    requirements: ClassVar[Mapping[str, Requirement]] = {
        "chains": whole(1),
        "draws": whole(1),
        "warmup": whole(0),
        "processes": whole(1),
        "priors": PRIORS,
        "max_tree_depth": whole(1),
        "target_accept": real(0, above=True, below=1),
        "jitter": real(0),
    }

    def __init__(
        self,
        *,
        chains: int = 4,
        draws: int = 1000,
        warmup: int = 500,
        processes: int = 1,
        priors: Priors | None = None,
        max_tree_depth: int = 5,
        target_accept: float = 0.8,
        jitter: float = 1.0,
    ) -> None:
        self.chains = chains
        self.draws = draws
        self.warmup = warmup
        self.processes = processes
        self.priors = priors
        self.max_tree_depth = max_tree_depth
        self.target_accept = target_accept
        self.jitter = jitter

    def check(self, points: Points, structure: CovarianceStructure, n_components: int, options: FitOptions) -> None:
        super().check(points, structure, n_components, options)
        if self.priors is not None:
            check_priors(self.priors, n_components, points.location, structure)

    @torch.inference_mode(False)
    def fit(
        self,
        points: Tensor | Points | EStep,
        start: MixtureParameters | Sequence[MixtureParameters] | None = None,
        options: FitOptions = FitOptions(),
        *,
        n_components: int | None = None,
        covariance_type: CovarianceType | CovarianceStructure = "full",
        model: MixtureModel | None = None,
    ) -> MixtureNUTSResult:
        """Draw from the posterior of a mixture.

        Args:
            points: `n x D` points.
            start: The mixture to start from, in the data's coordinates, or one for each chain; by default the best
                mode that is found from five runs of EM.
            options: `reg_covar`, the floor of the variances in the data's coordinates where no model is given,
                `seed` and `progress` are read: a bar where `verbose` is set, and first an estimate.
            n_components: Number of components, where there is neither a start nor a model.
            covariance_type: What the components' covariances share, likewise.
            model: A model in the data's coordinates that takes the place of the priors and the counts, whatever its
                priors; by default one is made.

        Returns:
            The draws, and their diagnostics.

        Raises:
            ValueError: If a prior is flat (the posterior of a mixture under flat priors is improper), an option is
                out of range, or the start fits neither data nor model.

        Warns:
            ConvergenceWarning: Where R-hat, effective sample sizes or divergences say that the draws are not to be
                relied upon; it names rival modes and how many trajectories were cut.
            UserWarning: Before the chains begin, how long they may take, where that is more than 20 seconds and
                no bar is shown.
        """
        began = time.perf_counter()
        self.check_params()
        x = plain_points(points, self.name)
        chains, processes, seed, progress = self.chains, self.processes, options.seed, bool(options.progress.verbose)
        begins = [start] if isinstance(start, MixtureParameters) else list(start or ())
        if len(begins) not in (0, 1, chains):
            raise ValueError(f"Expected one start, or one for each of {chains} chains; got {len(begins)}.")
        made = _model(x, begins, n_components, covariance_type, self.priors, model, options.reg_covar)
        with isolated(seed=seed, validation=False), one_thread():
            seeds = [int(child.generate_state(1)[0]) for child in np.random.SeedSequence(seed).spawn(chains)]
            potential = MixturePotential(made.model, made.points(x))
            modes = [posterior_mode(potential, made, begin) for begin in begins or em_starts(made, x, seed)]
            energies = [potential.value_and_gradient(mode)[0] for mode in modes]
            best = modes[int(np.argmin(energies))]
            settings = Settings(self.draws, self.warmup, self.target_accept, self.max_tree_depth, self.jitter)
            centred = [(mode, curvature_basis(potential, mode)) for mode in (modes if len(begins) > 1 else [best])]
            _forecast(WhitenedPotential(potential, *centred[0]), settings, chains, processes, progress)
            if len(begins) <= 1:
                best, basis = improved_mode(potential, made, x, *centred[0], seed=seed, progress=progress)
                centred = [(best, basis)] * chains
            whitened = [WhitenedPotential(potential, *each) for each in centred]
            runs = run_chains(whitened, seeds, settings, processes=processes, progress=progress)
            mode = potential.sites(torch.from_numpy(best))  # on the processor, where the data need not be
            reference = made.parameters({name: value.to(x.device) for name, value in mode.items()})
            sites = potential.sites(torch.from_numpy(np.stack([chain.positions for chain in runs])))
            aligned = _exchangeable(potential, sites, reference)
            rivals = modes_of_chains(potential, made, x, sites, torch.from_numpy(best) if aligned else None)
        sites = {name: values.to(x.device) for name, values in sites.items()}
        posterior = in_data_coordinates(
            sites, made.model, made.location, made.scale, "nuts", reference if aligned else None
        )
        with torch.no_grad():
            bounds = posterior.log_likelihood(x) / len(x)
        divergences, cut = [chain.divergences for chain in runs], [chain.cut for chain in runs]
        statistics = {
            name: torch.from_numpy(np.stack([chain.statistics[name] for chain in runs])) for name in runs[0].statistics
        }
        posterior = replace(posterior, log_likelihoods=bounds, sample_stats=statistics)
        r_hat, ess = posterior.worst()
        return MixtureNUTSResult(
            parameters=posterior.mean(),
            posterior=posterior,
            lower_bounds=bounds.flatten().tolist(),
            converged=_warned(r_hat, ess, chains, self.draws, divergences, cut, rivals),
            r_hat=r_hat,
            ess=ess,
            divergences=divergences,
            step_sizes=[chain.step_size for chain in runs],
            n_gradients=[chain.n_gradients for chain in runs],
            n_max_tree_depth=cut,
            modes=rivals,
            aligned=aligned,
            reference=reference,
            model=made.model,
            location=made.location,
            scale=made.scale,
            warmup=self.warmup,
            seconds=time.perf_counter() - began,
        )

    def fit_best(self, points: Points | EStep, starts: Starts, options: FitOptions) -> MixtureResult:
        """Draws around the best of EM's fits over all starts, or around the fit that is resumed."""
        if starts.resumed:
            start = starts.draw()
        else:  # of NUTS the chains show their progress, and the EM before it is brief
            start = EM().best_of(points, starts, replace(options, progress=Progress())).parameters
        return self.fit(points, start, replace(options, seed=starts.seed()))


def _model(
    x: Tensor,
    begins: Sequence[MixtureParameters],
    n_components: int | None,
    covariance_type: CovarianceType | CovarianceStructure,
    priors: Priors | None,
    model: MixtureModel | None,
    reg_covar: float,
) -> StandardisedModel:
    if model is not None:
        if priors is not None or n_components not in (None, model.n_components):
            raise ValueError("Expected a model, or priors and a number of components; got both.")
        if x.ndim != 2 or x.shape[1] != model.n_features:
            raise ValueError(f"Expected x of shape (n, {model.n_features}), as the model has; got {tuple(x.shape)}.")
        nothing = x.new_zeros(model.n_features, dtype=torch.float64)
        made = StandardisedModel(model, nothing, nothing + 1)
    else:
        flat = [name for name, prior in (priors or {}).items() if is_improper(prior)]
        if flat:
            raise ValueError(
                f"Expected a proper prior of {flat[0]}; got a flat one, under which the posterior of a mixture is "
                "improper: take a wide prior, or inference='em'."
            )
        if begins:
            n_components, structure = len(begins[0].weights), begins[0].structure
        elif n_components is None:
            raise ValueError("Expected n_components, a start or a model; got none of them.")
        else:
            structure = covariance_structure(covariance_type)
        made = standardised_model(x, n_components, structure, priors=priors or {}, reg_covar=reg_covar)
    for begin in begins:
        if tuple(begin.means.shape) != made.model.shapes["means"] or begin.structure != made.model.structure:
            raise ValueError(
                f"Expected a start with means of shape {made.model.shapes['means']} and {made.model.structure.name} "
                f"covariances; got {tuple(begin.means.shape)} and {begin.structure.name}."
            )
    return made


def _exchangeable(potential: MixturePotential, sites: dict[str, Tensor], reference: MixtureParameters) -> bool:
    """Whether the prior of some draws stays the same when their components change places."""
    n_components = len(reference.weights)
    flat = {name: values.flatten(0, 1) for name, values in sites.items()}
    count = len(flat["weights"])
    some = {name: values[:: max(1, count // 8)] for name, values in flat.items()}
    before = potential.log_prior(some)
    cycle = torch.arange(n_components).roll(1)
    swap = torch.arange(n_components)
    swap[:2] = swap[:2].flip(0)
    orders = [order.expand(len(before), n_components) for order in (cycle, swap)]
    after = [potential.log_prior(permuted_draws(some, order, reference)) for order in orders]
    return all(torch.allclose(before, each, rtol=1e-9, atol=1e-9) for each in after)


def _forecast(potential: WhitenedPotential, settings: Settings, chains: int, processes: int, progress: bool) -> None:
    """Say how long the chains may take, by timed leapfrog steps, where that is long."""
    draws = (settings.draws + settings.warmup) * math.ceil(chains / min(processes, chains))
    longest = 2**settings.max_tree_depth - 1
    usual = min(_USUAL_STEPS, longest)
    each = leapfrog_seconds(potential)
    if draws * longest * each <= _LONG:
        return
    shortest, longest_time = (_duration(draws * steps * each) for steps in (usual, longest))
    notes = (
        f"NUTS: about {shortest} where draws take {usual} leapfrog steps, and up to {longest_time} where they "
        f"reach max_tree_depth={settings.max_tree_depth} ({longest} steps), as with nearly empty components"
    )
    if progress:
        tqdm.write(f"{notes}.", file=sys.stderr)
    else:
        warn(f"{notes}. verbose=1 shows the progress, and processes of NUTS run chains side by side.", UserWarning)


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} min"


def _warned(
    r_hat: float,
    ess: float,
    chains: int,
    draws: int,
    divergences: Sequence[int],
    cut: Sequence[int],
    modes: ChainModes,
) -> bool:
    mixed, enough = r_hat <= _R_HAT, ess >= _ESS * chains
    notes = []
    if math.isnan(r_hat):
        notes.append(f"{draws} draws a chain are too few to tell R-hat and the effective sample size")
    elif not mixed:
        notes.append(f"R-hat is {r_hat:.3f}, not below {_R_HAT}: the chains are too short, or do not agree")
        if len(modes.gaps) > 1:
            notes.append(f"they lie at {len(modes.gaps)} rival modes of the posterior ({modes})")
    if not enough and not math.isnan(ess):
        notes.append(f"the effective sample size is {ess:.0f}, below {_ESS} for each chain")
    if any(divergences):
        notes.append(f"{sum(divergences)} of {chains * draws} draws diverged")
    if sum(cut) > _CUT * chains * draws:
        notes.append(
            f"{sum(cut)} of {chains * draws} trajectories were cut at max_tree_depth: a greater one takes longer, "
            "and mixes better"
        )
    if notes:
        warn(f"NUTS: {'; '.join(notes)}. Take more draws, a longer warmup or narrower priors, or fewer components.")
    return mixed and enough
