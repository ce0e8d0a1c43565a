"""Optima of the likelihood that EM reaches from many starts, and rival modes among them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from latentmix.inference.mixtures.em.initialization import StartMethod
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.inference.mixtures.points.validation import check_points
from latentmix.inference.mixtures.progress import warn
from latentmix.inference.tables import aligned
from latentmix.inference.workers import tied
from latentmix.models.arguments import check_n_jobs
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceType
from latentmix.models.process_state import kept_filters, kept_warnings
from latentmix.models.words import plural

__all__ = ["Mode", "ModeReport", "modes"]


@dataclass(frozen=True)
class Mode:
    """One optimum.

    Attributes:
        log_likelihood: Nats per point, the highest of the fits that reached it.
        gap: Total log-likelihood of the best optimum minus that of this one, in nats.
        n_starts: Number of starts that ended there; 0 if only the known fit did.
        ari: Adjusted Rand index between its partition and that of the best optimum.
        smallest_weight: Weight of its smallest component.
        rival: Whether it is close to the best in likelihood, yet a different partition.
    """

    log_likelihood: float
    gap: float
    n_starts: int
    ari: float
    smallest_weight: float
    rival: bool


@dataclass(frozen=True, repr=False)
class ModeReport(Displayed):
    """Optima of the likelihood from many starts, the best first.

    Attributes:
        n_components: Number of components.
        covariance_type: Name of the covariance type.
        n_points: Number of points.
        log_likelihoods: `(S,)` log-likelihoods of the starts that did not fail, nats per point, descending.
        converged: `(S,)` whether each of them converged.
        ari: `S x S` adjusted Rand indices between their partitions, in the same order.
        modes: The distinct optima, the best first.
        failures: The errors of the other starts.
        tolerance: Difference, in nats per point, up to which two log-likelihoods count as equal.
        same: Adjusted Rand index from which two partitions count as one.
        close: Difference in total log-likelihood, in nats, up to which an optimum rivals the best.
        few: Fraction of the starts below which those that reach the best count as few.
        mixture: The fitted estimator of the best optimum.
    """

    n_components: int
    covariance_type: CovarianceType
    n_points: int
    log_likelihoods: tuple[float, ...]
    converged: tuple[bool, ...]
    ari: tuple[tuple[float, ...], ...]
    modes: tuple[Mode, ...]
    failures: tuple[str, ...]
    tolerance: float
    same: float
    close: float
    few: float
    mixture: GaussianMixture = field(repr=False, compare=False)

    def shown(self) -> dict[str, Any]:
        best, starts = self.modes[0], len(self.log_likelihoods) + len(self.failures)
        figures = {
            "mixture": f"{plural(self.n_components, 'component')}, {self.covariance_type}, of "
            f"{plural(self.n_points, 'point')}",
            "best optimum": f"mean log p(x) {best.log_likelihood:.6g} nats per point, reached by {self.n_best} of "
            f"{plural(starts, 'start')}",
            "optima": f"{len(self.modes)}, {len(self.rivals)} of them rivals of the best",
        }
        return figures | ({"warnings": " ".join(self.warnings)} if self.warnings else {})

    @property
    def n_best(self) -> int:
        """Number of starts that reach the best optimum."""
        return self.modes[0].n_starts

    @property
    def rivals(self) -> tuple[Mode, ...]:
        """Optima close to the best in likelihood, with a different partition."""
        return tuple(mode for mode in self.modes if mode.rival)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings, a sentence each."""
        sentences = []
        starts = len(self.log_likelihoods) + len(self.failures)
        if self.rivals:
            lowest = min(mode.ari for mode in self.rivals)
            nearest = min(mode.gap for mode in self.rivals)
            within = max(self.close, self.tolerance * self.n_points)
            sentences.append(
                f"The likelihood has rival modes: {plural(len(self.rivals), 'other partition')} "
                f"(ARI with the best down to {lowest:.2f}) within {within:.3g} nats "
                f"of the best in all, the nearest {nearest:.2g} nats below: the clustering is not settled by the "
                "data."
            )
        if self.n_best < self.few * starts:
            sentences.append(
                f"Only {self.n_best} of {plural(starts, 'start')} reach the best optimum: a better one may be missed; "
                f"take n_init of {2 * max(1, round(starts / max(1, self.n_best)))} or more, or fewer components."
            )
        unconverged = self.converged.count(False)
        if unconverged:
            sentences.append(f"{unconverged} of {plural(starts, 'start')} did not converge: raise max_iter.")
        if self.failures:
            sentences.append(f"{len(self.failures)} of {plural(starts, 'start')} failed: {self.failures[0]}")
        return tuple(sentences)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, without the estimator."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "mixture"}
        values["modes"] = tuple(map(asdict, self.modes))
        return values | {"n_best": self.n_best, "warnings": list(self.warnings)}

    def table(self) -> str:
        """The optima as aligned text, and the warnings."""
        head = ["mean log p(x)", "nats below", "starts", "ARI with best", "smallest weight", "rival"]
        rows = [
            [
                f"{mode.log_likelihood:.5f}",
                f"{mode.gap:,.2f}",
                str(mode.n_starts),
                f"{mode.ari:.3f}",
                f"{mode.smallest_weight:.4f}",
                "yes" if mode.rival else "",
            ]
            for mode in self.modes
        ]
        starts = plural(len(self.log_likelihoods) + len(self.failures), "start")
        first = (
            f"{plural(self.n_components, 'component')}, {self.covariance_type}: {self.n_best} of {starts} reach the "
            f"best of {plural(len(self.modes), 'optimum', 'optima')}"
        )
        return "\n".join([first, "", aligned(head, rows, left=0), *self.warnings])


def modes(
    x: NDArray[Any] | Tensor,
    n_components: int,
    *,
    n_starts: int = 20,
    covariance_type: CovarianceType = "full",
    init_params: StartMethod = "k-means++",
    random_state: int = 0,
    tol: float = 1e-6,
    max_iter: int = 2000,
    reg_covar: float = 1e-6,
    tolerance: float = 1e-4,
    same: float = 0.9,
    close: float = 5.0,
    few: float = 0.2,
    known: GaussianMixture | None = None,
    n_jobs: int | None = None,
    report: Callable[[int, float], None] | None = None,
) -> ModeReport:
    """Fit a mixture from many starts, and compare the optima that they reach.

    Two starts reach one optimum if their log-likelihoods differ by at most `tolerance` per point and their partitions
    have an adjusted Rand index (Hubert and Arabie, 1985) of at least `same`. A rival is a different partition whose
    total log-likelihood is at most `close` nats below the best: by default 5, above which Kass and Raftery (*Bayes
    factors*, 1995) call the evidence very strong; a difference within `tolerance` counts as none.

    Args:
        x: `n x D` points.
        n_components: Number of components.
        n_starts: Number of starts.
        covariance_type: A covariance type, such as "full".
        init_params: Initialization of the starts; "k-means++" spreads them more than "kmeans".
        random_state: Seed.
        tol: EM ends when the bound changes by less, in nats per datum.
        max_iter: Maximum number of iterations.
        reg_covar: Variance added to the diagonals.
        tolerance: See above.
        same: See above.
        close: See above.
        few: Fraction of the starts that should reach the best optimum.
        known: A fit to these points with as many components and this covariance type, whose optimum is reported
            too; it does not count as a start.
        n_jobs: Number of starts at a time, as joblib takes it.
        report: Called with the number of finished starts and the log-likelihood of the last.

    Returns:
        The optima.

    Raises:
        ValueError: If an option or the points are not as described, or every start fails.

    Warns:
        ConvergenceWarning: If there are rival modes, few starts reach the best optimum, or starts fail or do not
            converge.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.mixtures.analysis.modes import modes
        >>> x = np.random.RandomState(0).randn(300, 2) + np.repeat([[-4.0, 0.0], [4.0, 0.0]], 150, 0)
        >>> modes(x, 2, n_starts=5).n_best
        5
    """
    check_n_jobs(n_jobs)
    if n_starts < 2:
        raise ValueError(f"Expected n_starts >= 2; got {n_starts}.")
    if not (tolerance > 0 and 0 < same <= 1 and close >= 0 and 0 <= few <= 1):
        raise ValueError(
            f"Expected tolerance > 0, same in (0, 1], close >= 0 and few in [0, 1]; got {tolerance}, {same}, {close}, "
            f"{few}."
        )
    points = check_points(x).cpu().numpy()
    if known is not None and (known.n_components, known.covariance_type) != (n_components, covariance_type):
        raise ValueError(
            f"Expected a known fit of {plural(n_components, 'component')}, {covariance_type}; got one of "
            f"{known.n_components}, {known.covariance_type}."
        )
    if known is not None:
        check_is_fitted(known)
    options = {
        "n_components": n_components,
        "covariance_type": covariance_type,
        "init_params": init_params,
        "tol": tol,
        "max_iter": max_iter,
        "reg_covar": reg_covar,
    }
    seeds = np.random.RandomState(random_state).randint(2**31, size=n_starts)
    ends, failures = [] if known is None else [_end_of(points, known)], []
    jobs = (delayed(tied(_end))(points, {**options, "random_state": int(seed)}) for seed in seeds)
    for done, end in enumerate(Parallel(n_jobs=n_jobs, return_as="generator")(jobs), 1):
        if isinstance(end, str):
            failures.append(end)
        else:
            ends.append(end)
        if report is not None:
            report(done, float("nan") if isinstance(end, str) else end.log_likelihood)
    if not ends:
        raise ValueError(f"Expected a start that ends; got {n_starts} that fail: {failures[0]}")
    ends.sort(key=lambda end: -end.log_likelihood)
    with kept_filters():
        ari = np.array([[adjusted_rand_score(a.partition, b.partition) for b in ends] for a in ends])
    starts = [place for place, end in enumerate(ends) if end.mixture is not known]
    outcome = ModeReport(
        n_components=n_components,
        covariance_type=covariance_type,
        n_points=len(points),
        log_likelihoods=tuple(ends[place].log_likelihood for place in starts),
        converged=tuple(bool(ends[place].mixture.converged_) for place in starts),
        ari=tuple(map(tuple, ari[np.ix_(starts, starts)].tolist())),
        modes=_grouped(ends, starts, ari, len(points), tolerance, same, close),
        failures=tuple(failures),
        tolerance=tolerance,
        same=same,
        close=close,
        few=few,
        mixture=ends[0].mixture,
    )
    for sentence in outcome.warnings:
        warn(sentence)
    return outcome


@dataclass(frozen=True)
class _End:
    """The fit that a start ended with."""

    mixture: GaussianMixture
    log_likelihood: float
    partition: NDArray[np.int64]
    smallest_weight: float


def _end(points: NDArray[Any], options: dict[str, Any]) -> _End | str:
    """The fit from one start, or the error that it failed with."""
    try:
        with kept_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = GaussianMixture(**options).fit(points)
    except (ArithmeticError, RuntimeError) as error:
        return " ".join(str(error).split())
    return _end_of(points, fitted)


def _end_of(points: NDArray[Any], fitted: GaussianMixture) -> _End:
    joint = fitted._log_joints(points)
    density = float(joint.logsumexp(1).sum()) / len(joint)
    return _End(fitted, density, joint.argmax(1).cpu().numpy(), float(as_tensor(fitted.weights_).min()))


def _grouped(
    ends: list[_End],
    starts: list[int],
    ari: NDArray[np.float64],
    n_points: int,
    tolerance: float,
    same: float,
    close: float,
) -> tuple[Mode, ...]:
    """The distinct optima: each fit joins the first that it agrees with, or is a new one."""
    leaders: list[int] = []
    members: dict[int, int] = {}
    for place, end in enumerate(ends):
        for leader in leaders:
            if ends[leader].log_likelihood - end.log_likelihood <= tolerance and ari[leader, place] >= same:
                break
        else:
            leader = place
            leaders.append(place)
        members[leader] = members.get(leader, 0) + (place in starts)
    optima = []
    for leader in leaders:
        end, agreement = ends[leader], float(ari[0, leader])
        gap = n_points * (ends[0].log_likelihood - end.log_likelihood)
        rival = gap <= max(close, tolerance * n_points) and agreement < same
        optima.append(Mode(end.log_likelihood, gap, members[leader], agreement, end.smallest_weight, rival))
    return tuple(optima)
