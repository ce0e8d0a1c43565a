r"""Criteria that compare mixtures, and their registry.

For a maximum-likelihood fit with log-likelihood :math:`\ell` of `n` points and `p` free parameters, lower is better for
BIC :math:`= -2\ell + p \log n` (Schwarz, 1978), AIC :math:`= -2\ell + 2p` (Akaike, 1974) and ICL
:math:`= \mathrm{BIC} + 2E`, with :math:`E = -\sum_{ik} r_{ik} \log r_{ik} \ge 0` the entropy of the
responsibilities, which penalises components that overlap (Biernacki, Celeux and Govaert, *Assessing a mixture model for
clustering with the integrated completed likelihood*, 2000, with the opposite sign and half the size). Higher is better
for the held-out log-likelihood and for PSIS-LOO, both in nats per point: held-out points are scored by the
maximum-likelihood fit of the others; PSIS-LOO scores each point by the posterior predictive density given the others,
under the weak conjugate priors of `gibbs` and from draws about one mode, so that it depends on these priors and does
not describe the fit itself. A Dirichlet process determines by itself how many components it uses.

To add a criterion, write a subclass of `Criterion` in a file and pass an instance to `register_criterion` there: once
the file is imported, `select`, its table and picture, and `latentmix select` take it by its name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import KFold, ShuffleSplit
from torch import Tensor

from latentmix.inference.mixtures.analysis.candidates import FIELDS, Candidate, Model
from latentmix.inference.mixtures.analysis.gibbs import gibbs
from latentmix.inference.mixtures.analysis.psis import leave_one_out
from latentmix.inference.mixtures.em.density import log_joint

__all__ = [
    "CRITERIA",
    "Criterion",
    "Evaluation",
    "criteria",
    "find_criterion",
    "log_densities",
    "register_criterion",
]


@dataclass(eq=False)
class Evaluation:
    """A fitted candidate to be measured, with the options of `select`.

    Attributes:
        points: `n x D` points, float64.
        mixture: The estimator fitted to them.
        fit: Fits the same candidate to other points.
        held_out: Number of folds, or the fraction of points that is held out.
        draws: Number of posterior draws.
        min_weight: Weight above which a component counts as used.
        random_state: Seed.
    """

    points: NDArray[np.float64]
    mixture: Any
    fit: Callable[[NDArray[np.float64]], Any]
    held_out: float
    draws: int
    min_weight: float
    random_state: int

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""
        return int(self.mixture.parameters_.n_parameters())

    @cached_property
    def log_joint(self) -> Tensor:
        """`n x K` log-densities of points and components, nats."""
        joint: Tensor = self.mixture._log_joints(self.points)
        return joint

    @cached_property
    def log_likelihood(self) -> float:
        """Log-likelihood of the fit, nats per point."""
        return float(self.log_joint.logsumexp(1).sum()) / len(self.points)

    def splits(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Rows of training and held-out points of each fold, the same for all candidates."""
        split = (
            ShuffleSplit(1, test_size=self.held_out, random_state=self.random_state)
            if self.held_out < 1
            else KFold(int(self.held_out), shuffle=True, random_state=self.random_state)
        )
        return list(split.split(self.points))


class Criterion(ABC):
    """A figure by which fits are compared: the lowest or the highest is best.

    Attributes:
        name: Its name in `select(criteria=...)` and on the command line: an identifier.
        label: Its name in tables and pictures.
        lower: Whether lower is better.
        help: Its line in `latentmix select --help`.
        title: Its name above a picture, by default the label.
        unit: Unit of the figure.
        digits: Decimals in the table.
        models: Models whose fits it measures; it compares those of the first.
        refits: Whether it is of fits to the training points of `Evaluation.splits`, which then have to be as many as
            the components. When a better optimum for all points is found, its figures are kept: they are named after
            it, as `name` or `name_error`.
        predictive: The predictive density that it scores, where this is not the fit's.
        caution: Causes of `doubts`, for captions.
        diagnostics: Further columns of the table: heading, figure and decimals.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.mixtures.analysis.criteria import Criterion, register_criterion
        >>> from latentmix.inference.mixtures.analysis.selection import select
        >>> class HannanQuinn(Criterion):
        ...     name, label, lower, help = "hqc", "HQC", True, "Hannan and Quinn's; lower is better"
        ...     def measure(self, evaluation):
        ...         n, p = len(evaluation.points), evaluation.n_parameters
        ...         return {"hqc": 2 * p * np.log(np.log(n)) - 2 * n * evaluation.log_likelihood}
        >>> register_criterion(HannanQuinn())
        >>> x = np.random.RandomState(0).randn(300, 1) + np.repeat([[-4.0], [4.0]], 150, 0)
        >>> select(x, range(1, 4), "full", criteria=["bic", "hqc"]).best("hqc").n_components
        2
    """

    name: ClassVar[str]
    label: ClassVar[str]
    lower: ClassVar[bool]
    help: ClassVar[str]
    title: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    models: ClassVar[tuple[Model, ...]] = ("mixture",)
    refits: ClassVar[bool] = False
    predictive: ClassVar[str] = ""
    caution: ClassVar[str] = ""
    diagnostics: ClassVar[tuple[tuple[str, str, int], ...]] = ()

    @abstractmethod
    def measure(self, evaluation: Evaluation) -> Mapping[str, Any]:
        """Figures of a fit by name: `name` is compared, `name_error` is its standard error, and others are `name_...`.

        Raises:
            ValueError: If there is no figure; like arithmetic and runtime errors it becomes the candidate's `reason`.
        """

    @final
    def figures(self, evaluation: Evaluation) -> Mapping[str, Any]:
        """The figures of `measure`, checked.

        Raises:
            ValueError: As `measure` raises it, or if figures are not named after the criterion.
        """
        figures = self.measure(evaluation)
        if not isinstance(figures, Mapping):
            raise ValueError(f"Expected figures of {self.name} by name; got {figures!r:.80}.")
        foreign = [
            name for name in figures if name in FIELDS or (name != self.name and not name.startswith(f"{self.name}_"))
        ]
        if foreign and type(self) not in map(type, _SHIPPED):
            raise ValueError(
                f"Expected figures of {self.name} by that name, or as {self.name}_error; got {foreign[0]!r}."
            )
        return figures

    @property
    def figure(self) -> str:
        """Name of the figure that it compares."""
        return self.name

    @property
    def model(self) -> Model:
        """The model whose fits it compares."""
        return self.models[0]

    def value(self, candidate: Candidate) -> float | None:
        """The figure of a candidate, if it is finite and to be compared."""
        return _finite(candidate.figure(self.figure)) if candidate.model == self.model else None

    def error(self, candidate: Candidate) -> float | None:
        """Its standard error, if it has one."""
        return _finite(candidate.figure(f"{self.figure}_error"))

    def doubts(self, candidate: Candidate) -> tuple[str, ...]:
        """Reasons why the figure of a candidate is unreliable, if any."""
        return ()


def criteria() -> dict[str, Criterion]:
    """All criteria by name, in the order of registration.

    Example:
        >>> from latentmix.inference.mixtures.analysis.criteria import criteria
        >>> criteria()["bic"].lower
        True
    """
    return dict(_REGISTRY)


def find_criterion(name: str) -> Criterion:
    """The criterion of that name.

    Raises:
        ValueError: If none is registered by it.
    """
    if name not in _REGISTRY:
        raise ValueError(f"Expected criteria out of {', '.join(_REGISTRY)}; got {name!r}.")
    return _REGISTRY[name]


def register_criterion(criterion: Criterion) -> None:
    """Make a criterion known by its name; the default of `select` remains `CRITERIA`.

    Args:
        criterion: An instance; it replaces one of the same class, so that a file may be imported again.

    Raises:
        ValueError: If it is no instance, `name`, `label`, `lower` or `help` is missing, or the name is no identifier,
            or that of another criterion or of a field of `Candidate`.
    """
    if not isinstance(criterion, Criterion):
        raise ValueError(f"Expected an instance of Criterion; got {criterion!r}.")
    missing = [attribute for attribute in ("name", "label", "lower", "help") if not hasattr(criterion, attribute)]
    if missing:
        raise ValueError(f"Expected a criterion with name, label, lower and help; got one without {missing[0]}.")
    if not criterion.models or not set(criterion.models) <= set(get_args(Model)):
        raise ValueError(f"Expected models of a criterion out of {', '.join(get_args(Model))}; got {criterion.models}.")
    name = criterion.name
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"Expected an identifier as the name of a criterion; got {name!r}.")
    old = _REGISTRY.get(name)
    taken = name in FIELDS if old is None else _class_name(old) != _class_name(criterion)
    if taken:
        raise ValueError(f"Expected a new name for a criterion; got {name!r}, which is taken.")
    _REGISTRY[name] = criterion


def log_densities(mixture: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(n,)` log-densities under the mixture of a fit, nats; of a Dirichlet process under its expected parameters.

    The exponential of a Dirichlet process's `score_samples`, as of scikit-learn's, integrates to less than one.
    """
    return np.asarray(log_joint(torch.from_numpy(points), mixture.parameters_).logsumexp(1))


class _Information(Criterion):
    """Base of the criteria that penalise the likelihood of the fit, in nats times two."""

    lower = True
    help = "lower is better, in nats times two"
    unit = "nats × 2"
    digits = 1


@final
class _BIC(_Information):
    name, label = "bic", "BIC"

    def measure(self, evaluation: Evaluation) -> Mapping[str, Any]:
        return {"bic": _bic(evaluation)}


@final
class _AIC(_Information):
    name, label = "aic", "AIC"

    def measure(self, evaluation: Evaluation) -> Mapping[str, Any]:
        return {"aic": _deviance(evaluation) + 2 * evaluation.n_parameters}


@final
class _ICL(_Information):
    name, label = "icl", "ICL"

    def measure(self, evaluation: Evaluation) -> Mapping[str, Any]:
        entropy = float(torch.special.entr(evaluation.log_joint.softmax(1)).sum())
        return {"icl": _bic(evaluation) + 2 * entropy}


@final
class _HeldOut(Criterion):
    name, label, lower = "held_out", "held-out", False
    help = "log-likelihood of points that a fit has not seen, nats per point; higher is better"
    title = "Held-out log-likelihood"
    unit = "nats per point"
    models = ("mixture", "dirichlet_process")
    refits = True

    def measure(self, evaluation: Evaluation) -> Mapping[str, Any]:
        points = evaluation.points
        densities = np.concatenate(
            [log_densities(evaluation.fit(points[train]), points[test]) for train, test in evaluation.splits()]
        )
        error = float(densities.std(ddof=1) / math.sqrt(len(densities))) if len(densities) > 1 else math.nan
        return {"held_out": float(densities.mean()), "held_out_error": error}


@final
class _PSISLOO(Criterion):
    name, label, lower = "loo", "PSIS-LOO", False
    help = (
        "PSIS-LOO: each point's posterior predictive log-density given the others, nats per point; higher is better; "
        "under weak conjugate priors and about the fit's mode, so no figure of the fit itself"
    )
    unit = "nats per point"
    predictive = "posterior predictive under weak conjugate priors"
    caution = "points of Pareto k > 0.7, or chains apart"
    diagnostics = (("k > 0.7", "n_unreliable", 0), ("R-hat", "r_hat", 2))

    def measure(self, evaluation: Evaluation) -> Mapping[str, Any]:
        drawn = gibbs(
            torch.from_numpy(evaluation.points),
            evaluation.mixture.parameters_,
            draws=math.ceil(evaluation.draws / 4),
            random_state=evaluation.random_state,
        )
        result = leave_one_out(drawn.log_likelihood.cpu().numpy())
        return {
            "loo": result.mean,
            "loo_error": result.standard_error,
            "loo_parameters": result.n_effective,
            "pareto_k": float(result.pareto_k.max()),
            "n_unreliable": result.n_unreliable,
            "r_hat": result.r_hat,
        }

    def doubts(self, candidate: Candidate) -> tuple[str, ...]:
        return candidate.doubts


@final
class _DirichletProcess(Criterion):
    name, label, lower = "dirichlet_process", "Dirichlet process", False
    help = "how many of the most components it uses"
    models = ("dirichlet_process",)

    @property
    def figure(self) -> str:
        return "evidence_bound"

    def measure(self, evaluation: Evaluation) -> Mapping[str, Any]:
        mixture = evaluation.mixture
        weights = np.sort(np.asarray(mixture.weights_))[::-1]
        return {
            "weights": tuple(weights.tolist()),
            "n_effective": int((weights > evaluation.min_weight).sum()),
            "evidence_bound": _finite(float(mixture.evidence_lower_bound_)),
            "log_likelihood": float(log_densities(mixture, evaluation.points).mean()),
        }


def _deviance(evaluation: Evaluation) -> float:
    return -2 * len(evaluation.points) * evaluation.log_likelihood


def _bic(evaluation: Evaluation) -> float:
    return _deviance(evaluation) + evaluation.n_parameters * math.log(len(evaluation.points))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _class_name(criterion: Criterion) -> tuple[str, str]:
    return type(criterion).__module__, type(criterion).__qualname__


_SHIPPED: tuple[Criterion, ...] = (_BIC(), _AIC(), _ICL(), _HeldOut(), _PSISLOO(), _DirichletProcess())
_REGISTRY: dict[str, Criterion] = {criterion.name: criterion for criterion in _SHIPPED}
CRITERIA = tuple(_REGISTRY)
