"""Which optima EM ends at from many starts, and whether the likelihood has rival modes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
from latentmix.models.mixture.covariances import CovarianceType
from latentmix.models.process_state import kept_warnings

__all__ = ["Mode", "ModeReport", "modes"]


@dataclass(frozen=True)
class Mode:
    """One optimum.

    Attributes:
        log_likelihood: Nats per point, the highest of the fits that are there.
        gap: How much the best optimum has more, in nats in all.
        n_starts: How many starts ended there; none where only the fit that was known did.
        ari: Adjusted Rand index between its partition and that of the best optimum.
        smallest_weight: Weight of its smallest component.
        rival: Whether it is close to the best in likelihood, and another partition.
    """

    log_likelihood: float
    gap: float
    n_starts: int
    ari: float
    smallest_weight: float
    rival: bool


@dataclass(frozen=True)
class ModeReport:
    """Optima of the likelihood from many starts, the best first.

    Attributes:
        n_components: Number of components.
        covariance_type: Name of the covariance type.
        n_points: Number of points.
        log_likelihoods: `(S,)` of the starts that ended, nats per point, descending.
        converged: `(S,)` whether each of them converged.
        ari: `S x S` adjusted Rand indices between their partitions, in the same order.
        modes: The distinct optima, the best first.
        failures: Why other starts failed.
        tolerance: Nats per point within which two starts have one log-likelihood.
        same: Adjusted Rand index from which two partitions are one.
        close: Nats in all within which an optimum rivals the best.
        few: Share of the starts below which those that reach the best are few.
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

    @property
    def n_best(self) -> int:
        """How many starts reach the best optimum."""
        return self.modes[0].n_starts

    @property
    def rivals(self) -> tuple[Mode, ...]:
        """Optima close to the best in likelihood whose partition is another."""
        return tuple(mode for mode in self.modes if mode.rival)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to beware of, a sentence each."""
        found = []
        starts = len(self.log_likelihoods) + len(self.failures)
        if self.rivals:
            lowest = min(mode.ari for mode in self.rivals)
            nearest = min(mode.gap for mode in self.rivals)
            within = max(self.close, self.tolerance * self.n_points)
            found.append(
                f"The likelihood has rival modes: {len(self.rivals)} other partition{'s' * (len(self.rivals) > 1)} "
                f"(ARI with the best down to {lowest:.2f}) within {within:.3g} nats "
                f"of the best in all, the nearest {nearest:.2g} nats below: the clustering is not settled by the "
                "data."
            )
        if self.n_best < self.few * starts:
            found.append(
                f"Only {self.n_best} of {starts} starts reach the best optimum: a better one may be missed; take "
                f"n_init of {2 * max(1, round(starts / max(1, self.n_best)))} or more, or fewer components."
            )
        unconverged = self.converged.count(False)
        if unconverged:
            found.append(f"{unconverged} of {starts} starts did not converge: raise max_iter.")
        if self.failures:
            found.append(f"{len(self.failures)} of {starts} starts failed: {self.failures[0]}")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, without the estimator."""
        values = asdict(self) | {"n_best": self.n_best, "warnings": list(self.warnings)}
        return {name: value for name, value in values.items() if name != "mixture"}

    def table(self) -> str:
        """The optima as aligned text, and the warnings."""
        head = ["log-lik./point", "nats below", "starts", "ARI with best", "smallest weight", "rival"]
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
        first = (
            f"{self.n_components} components, {self.covariance_type}: {self.n_best} of "
            f"{len(self.log_likelihoods) + len(self.failures)} starts reach the best of {len(self.modes)} optima"
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
    """Fit a mixture from many starts, and compare where they end.

    Two starts end at one optimum where their log-likelihoods differ by at most `tolerance` per point and their
    partitions have an adjusted Rand index (Hubert and Arabie, 1985) of at least `same`. A rival is another partition
    at most `close` nats below the best in all: by default 5, from which on Kass and Raftery (*Bayes factors*, 1995)
    call the evidence very strong; a difference within `tolerance` counts as none.

    Args:
        x: `n x D` points.
        n_components: Number of components.
        n_starts: Number of starts.
        covariance_type: "full", "diag", "tied" or "spherical".
        init_params: How starts are found; "k-means++" spreads them more than "kmeans".
        random_state: Seed.
        tol: EM ends when the bound changes by less, in nats per datum.
        max_iter: Most iterations.
        reg_covar: Variance added to the diagonals.
        tolerance: See above.
        same: See above.
        close: See above.
        few: Share of the starts that should reach the best optimum.
        known: A fit to these points of as many components and this covariance type, whose optimum is among those
            reported; it counts as no start.
        n_jobs: Starts at a time, as joblib takes it.
        report: Called with the number of starts done and the last one's log-likelihood.

    Returns:
        The optima.

    Raises:
        ValueError: If an option or the points are not as described, or no start ends.

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
            f"Expected a known fit of {n_components} components, {covariance_type}; got one of {known.n_components}, "
            f"{known.covariance_type}."
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
    ended, failures = [] if known is None else [_ended(points, known)], []
    jobs = (delayed(_end)(points, {**options, "random_state": int(seed)}) for seed in seeds)
    for done, end in enumerate(Parallel(n_jobs=n_jobs, return_as="generator")(jobs), 1):
        if isinstance(end, str):
            failures.append(end)
        else:
            ended.append(end)
        if report is not None:
            report(done, float("nan") if isinstance(end, str) else end.log_likelihood)
    if not ended:
        raise ValueError(f"Expected a start that ends; got {n_starts} that fail: {failures[0]}")
    ended.sort(key=lambda end: -end.log_likelihood)
    ari = np.array([[adjusted_rand_score(a.partition, b.partition) for b in ended] for a in ended])
    starts = [place for place, end in enumerate(ended) if end.mixture is not known]
    found = ModeReport(
        n_components=n_components,
        covariance_type=covariance_type,
        n_points=len(points),
        log_likelihoods=tuple(ended[place].log_likelihood for place in starts),
        converged=tuple(bool(ended[place].mixture.converged_) for place in starts),
        ari=tuple(map(tuple, ari[np.ix_(starts, starts)].tolist())),
        modes=_grouped(ended, starts, ari, len(points), tolerance, same, close),
        failures=tuple(failures),
        tolerance=tolerance,
        same=same,
        close=close,
        few=few,
        mixture=ended[0].mixture,
    )
    for sentence in found.warnings:
        warn(sentence)
    return found


@dataclass(frozen=True)
class _End:
    """Where a start ended."""

    mixture: GaussianMixture
    log_likelihood: float
    partition: NDArray[np.int64]
    smallest_weight: float


def _end(points: NDArray[Any], options: dict[str, Any]) -> _End | str:
    """Where a start ends, or why it fails."""
    try:
        with kept_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = GaussianMixture(**options).fit(points)
    except (ArithmeticError, RuntimeError) as error:
        return " ".join(str(error).split())
    return _ended(points, fitted)


def _ended(points: NDArray[Any], fitted: GaussianMixture) -> _End:
    smallest = float(as_tensor(fitted.weights_).min())
    return _End(fitted, fitted.score(points), np.asarray(fitted.predict(points)), smallest)


def _grouped(
    ended: list[_End],
    starts: list[int],
    ari: NDArray[np.float64],
    n_points: int,
    tolerance: float,
    same: float,
    close: float,
) -> tuple[Mode, ...]:
    """The distinct optima: each fit joins the first that it agrees with, and else is one of its own."""
    leaders: list[int] = []
    members: dict[int, int] = {}
    for place, end in enumerate(ended):
        leader = next(
            (
                one
                for one in leaders
                if ended[one].log_likelihood - end.log_likelihood <= tolerance and ari[one, place] >= same
            ),
            place,
        )
        if leader == place:
            leaders.append(place)
        members[leader] = members.get(leader, 0) + (place in starts)
    found = []
    for one in leaders:
        gap = n_points * (ended[0].log_likelihood - ended[one].log_likelihood)
        agreement = float(ari[0, one])
        rival = gap <= max(close, tolerance * n_points) and agreement < same
        found.append(Mode(ended[one].log_likelihood, gap, members[one], agreement, ended[one].smallest_weight, rival))
    return tuple(found)
