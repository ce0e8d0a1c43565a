"""The fit of a `GaussianMixture`: several starts, an algorithm from each, and the best of the outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import numpy as np
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from latentmix.inference.mixtures.em.covariance_priors import CovariancePrior
from latentmix.inference.mixtures.em.deconvolution import NoisyPoints
from latentmix.inference.mixtures.em.e_step import EStep, ExactPoints
from latentmix.inference.mixtures.em.em import EMResult, fit_em
from latentmix.inference.mixtures.em.initialization import from_labels, initialize, start
from latentmix.inference.mixtures.em.missing import marginalizing
from latentmix.inference.mixtures.nuts.fit import MixtureNUTSResult, fit_mixture_nuts
from latentmix.inference.mixtures.points.arrays import as_tensor, check_unmasked
from latentmix.inference.mixtures.points.inputs import in_memory, is_ordered
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.points.validation import check_distinct, check_noise, given_start
from latentmix.inference.mixtures.progress import Progress, warn
from latentmix.inference.mixtures.standardised import check_priors
from latentmix.inference.mixtures.svi.fit import MixtureSVIResult, check_guide, fit_mixture_svi
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from latentmix.inference.mixtures.gaussian import GaussianMixture

__all__ = ["Fitting", "Result", "bound_of"]

Result = EMResult | MixtureSVIResult | MixtureNUTSResult

# Options that may differ between processes.
_OWN = ("device", "random_state", "verbose", "verbose_interval")


@final
class Fitting:
    """The fit of an estimator, whose options were checked, to points.

    Args:
        estimator: It is read only.
        points: The points.
        labels: `(n,)` integers, `-1` where unknown.
        noise_covariance: As `GaussianMixture.fit` takes it.

    Raises:
        ValueError: If the algorithm does not take what is given.
    """

    def __init__(self, estimator: GaussianMixture, points: Points, labels: Any, noise_covariance: Any) -> None:
        self.options, self.points = estimator, points
        self.again = estimator.warm_start and hasattr(estimator, "converged_")
        self._agree({"noise_covariance": noise_covariance is not None, "last fit to go on from": self.again})
        self.e_step: EStep = marginalizing(points) if estimator._missing else ExactPoints(points)
        self.labels = self._given(labels)
        self.structure = covariance_structure(estimator.covariance_type)
        self.random_state = estimator._random_state()
        if self.again:
            self._check_last()
        if estimator.inference == "em" and estimator.priors is not None:
            raise ValueError("Expected no priors for inference='em'; got some: take inference='svi' or 'nuts'.")
        check_guide(estimator.guide)
        if estimator.inference != "svi" and estimator.guide is not AutoDelta:
            raise ValueError(f"Expected no guide for inference={estimator.inference!r}; got one: take inference='svi'.")
        if estimator.priors is not None:
            check_priors(estimator.priors, estimator.n_components, points.location, self.structure)
        CovariancePrior.of(
            estimator.covariance_prior, estimator.degrees_of_freedom_prior, self.structure, points.location
        )
        if estimator.inference != "em":
            unwanted = {
                "sample_weight": points.weighted,
                "noise_covariance": noise_covariance is not None,
                "missing='marginalize'": estimator._missing,
                "distributed=True": estimator.distributed,
                "covariance_prior": estimator.covariance_prior is not None,
            }
            for name, given in unwanted.items():
                if given:
                    raise ValueError(
                        f"Expected no {name} for inference={estimator.inference!r}; got one: take inference='em'."
                    )
            self._in_memory(f"inference={estimator.inference!r}")
        if noise_covariance is not None:
            if estimator._missing or estimator.distributed:
                raise ValueError("Expected no missing values and one process with a noise_covariance; got the option.")
            noise = check_noise(noise_covariance, self._in_memory("a noise_covariance")[0])
            assert noise is not None
            self.e_step = NoisyPoints(points, noise, candidates=estimator.noise_candidates)
        elif estimator.reg_covar == 0 and estimator.covariance_prior is None:
            check_distinct(points, estimator.n_components)

    def _agree(self, given: dict[str, bool]) -> None:
        """Refuse options that differ between processes, and what is given on one of them alone."""
        own = {name: repr(value) for name, value in self.options.get_params().items() if name not in _OWN}
        own |= {name: "one" if there else "none" for name, there in given.items()}
        every = self.points.processes.gather(own)
        for name in own:
            values = [options.get(name) for options in every]
            if len(set(values)) > 1:
                raise ValueError(f"Expected the same {name} on every process; got {', '.join(map(str, values))}.")

    def _given(self, labels: Any) -> Tensor | None:
        """The labels as a tensor; all processes have some, or none has."""
        processes, found, failure = self.points.processes, None, None
        try:
            if labels is not None and not is_ordered(self.points.source):
                raise ValueError("Expected points in the order of their labels; got a DataLoader that shuffles them.")
            found = None if labels is None else _as_labels(labels).to(self.points.device)
        except Exception as error:
            failure = error
        processes.refuse(failure)
        held = processes.gather(found is not None)
        if len(set(held)) > 1:
            raise ValueError(f"Expected labels on every process, or on none; got them on {sum(held)} of {len(held)}.")
        return found

    def _check_last(self) -> None:
        """Refuse to go on from a mixture of another kind."""
        last = self.options.parameters_
        held = (len(last.weights), last.structure.name)
        now = (self.options.n_components, self.structure.name)
        if held != now:
            raise ValueError(
                f"Expected n_components and covariance_type of the last fit, {held}, with warm_start=True; got {now}: "
                "take warm_start=False."
            )

    def _in_memory(self, what: str) -> tuple[Tensor, Tensor | None]:
        """All points, as one tensor, and their weights."""
        found = in_memory(self.points.source)
        if found is None:
            raise ValueError(f"Expected an array or a tensor with {what}; got batches: pass all points at once.")
        return found

    def best(self) -> Result:
        """The outcome with the highest bound; warns where it did not converge."""
        options = self.options
        if options.inference == "nuts":
            mode = None if self.again else self._best_of(self._em)
            return self._nuts(options.parameters_ if mode is None else mode.parameters)
        best: EMResult | MixtureSVIResult
        best = self._best_of(self._em) if options.inference == "em" else self._best_of(self._svi)
        if not best.converged and (options.inference == "svi" or options.max_iter > 0):
            warn(_unconverged(options, best))
        return best

    def _best_of[R: (EMResult, MixtureSVIResult)](self, run: Callable[[MixtureParameters, Progress], R]) -> R:
        options = self.options
        best: R | None = None
        for attempt in range(1 if self.again or self.labels is not None else options.n_init):
            # Of NUTS the chains show their progress, and the EM before it is brief.
            progress = Progress(int(options.verbose) * (options.inference != "nuts"), options.verbose_interval)
            progress.begin(attempt)
            result = run(options.parameters_ if self.again else self.start(), progress)
            progress.end(bound_of(result), result.converged)
            if best is None or bound_of(result) > bound_of(best) or not result.lower_bounds:
                best = result
        assert best is not None
        return best

    def start(self) -> MixtureParameters:
        """A mixture to start from."""
        options = self.options
        size, floor = options.n_components, options.reg_covar
        given = given_start(options, self.points)
        found = None
        if any(part is None for part in given):
            seeded: dict[str, Any] = {
                "method": options.init_params,
                "random_state": self.random_state,
                "reg_covar": floor,
            }
            if self.labels is not None:
                found = from_labels(self.e_step.filled(), self.labels, size, self.structure, reg_covar=floor)
            elif options.inference == "em":
                found = initialize(self.e_step, size, self.structure, **seeded)
            else:
                found = start(self.points, size, self.structure, **seeded)
        weights, means, factors = (
            getattr(found, name) if part is None else part
            for name, part in zip(("weights", "means", "precisions_cholesky"), given, strict=True)
        )
        if given[2] is None:
            assert found is not None
            return MixtureParameters(weights, means, found.covariances, self.structure)
        return MixtureParameters.from_precisions_cholesky(weights, means, factors, self.structure)

    def _em(self, begin: MixtureParameters, progress: Progress) -> EMResult:
        options = self.options
        return fit_em(
            self.e_step,
            begin,
            reg_covar=options.reg_covar,
            covariance_prior=options.covariance_prior,
            degrees_of_freedom_prior=options.degrees_of_freedom_prior,
            tol=options.tol,
            max_iter=options.max_iter,
            previous=options.lower_bound_ if self.again else -math.inf,
            report=progress.step if progress.verbose else None,
        )

    def _svi(self, begin: MixtureParameters, progress: Progress) -> MixtureSVIResult:
        options = self.options
        return fit_mixture_svi(
            self._in_memory("inference='svi'")[0],
            begin,
            priors=options.priors,
            reg_covar=options.reg_covar,
            family=options.guide,
            epochs=options.svi_epochs,
            tol=options.svi_tol,
            batch_size=options.batch_size,
            optimizer=options.optimizer,
            scheduler=options.scheduler,
            seed=self._seed(),
        )

    def _nuts(self, begin: MixtureParameters) -> MixtureNUTSResult:
        options = self.options
        return fit_mixture_nuts(
            self._in_memory("inference='nuts'")[0],
            begin,
            priors=options.priors,
            reg_covar=options.reg_covar,
            chains=options.nuts_chains,
            draws=options.nuts_draws,
            warmup=options.nuts_warmup,
            processes=options.nuts_processes,
            max_tree_depth=options.nuts_max_tree_depth,
            seed=self._seed(),
            progress=bool(options.verbose),
        )

    def _seed(self) -> int:
        return int(self.random_state.randint(2**31))


def _as_labels(labels: Any) -> Tensor:
    """Labels as a tensor, integers of any width as `int64`."""
    check_unmasked(labels, "labels", "pass labels.filled(-1)")
    if not isinstance(labels, Tensor):
        array = np.asarray(labels)
        array = np.asarray(array.tolist()) if array.dtype.kind == "O" else array
        if array.dtype.kind not in "biuf":
            raise ValueError(f"Expected integer labels, -1 where unknown; got values of dtype {array.dtype}.")
        labels = array
    labels = as_tensor(labels)
    return labels if labels.is_floating_point() or labels.is_complex() else labels.long()


def bound_of(result: Result) -> float:
    """What outcomes are compared by: EM's last bound, SVI's at the point that was taken, the mean of NUTS's."""
    if not result.lower_bounds:
        return -math.inf
    return result.lower_bounds[-1] if isinstance(result, EMResult) else result.lower_bound


def _unconverged(options: GaussianMixture, best: Result) -> str:
    if options.inference == "em":
        return (
            "Best performing initialization did not converge. Try different init parameters, or increase max_iter, "
            "tol, or check for degenerate data."
        )
    return (
        f"The best of the svi fits did not converge in {best.n_iter} iterations: raise svi_epochs or svi_tol, try "
        "another start, or check for degenerate data."
    )
