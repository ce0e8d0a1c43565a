"""Results of a comparison of runs, and their plain values for `compare.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentmix.inference.intervals import McNemarTest, MeanInterval, PairedInterval
from latentmix.models.display import Displayed
from latentmix.models.words import plural

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

__all__ = [
    "ComparedRun",
    "Confusion",
    "Curve",
    "Difference",
    "LooRow",
    "Pair",
    "PairedTest",
    "Reliability",
    "RunComparison",
    "RunGroup",
]


@dataclass(frozen=True, repr=False)
class ComparedRun(Displayed):
    """A run among others.

    Attributes:
        name: Its name in the comparison, unique: the last parts of its path.
        path: Its folder; `None` for one that was read from none.
        preset: The name of its configuration.
        seed: The seed of training.
        data_seed: The seed of the data's splits and labels.
        measure: What ELBOs and log-likelihoods are densities or masses of, such as `mass on {0, 1},
            binarize=dynamic`: those of one measure and the same data alone can be ranked.
        group: The name of its group.
        test_data: Digest of its test data; empty where they could not be had.
        config_digest: SHA-256 of the options of its configuration that can change a figure, its seeds among them.
        versions: Versions of the packages that it was made with.
        figures: Its figures by name, such as `elbo` and `accuracy_em_few`.
    """

    name: str
    path: Path | None
    preset: str
    seed: int
    data_seed: int
    measure: str
    group: str
    test_data: str
    config_digest: str
    versions: Mapping[str, str]
    figures: Mapping[str, float]

    def shown(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "path": str(self.path),
            "preset": self.preset,
            "seed": self.seed,
            "group": self.group,
        }


@dataclass(frozen=True, repr=False)
class RunGroup(Displayed):
    """Runs that are alike in everything but their seeds.

    Attributes:
        name: Its name, unique: the preset, and options by which groups of this preset differ.
        runs: Names of its runs.
        options: Values of the options by which groups differ, by dotted name; parts as calls.
        measure: As `ComparedRun.measure`.
        figures: Of every figure that all its runs have, its mean over them with Student's t interval.
    """

    name: str
    runs: tuple[str, ...]
    options: Mapping[str, str]
    measure: str
    figures: Mapping[str, MeanInterval]


@dataclass(frozen=True, repr=False)
class Difference(Displayed):
    """An option in whose value the configurations of runs differ.

    Attributes:
        option: Its dotted name, such as `mixture.n_components`.
        values: Its value by the name of the run, parts as calls such as `MLPDecoder(hidden=[512])`.
    """

    option: str
    values: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class Pair(Displayed):
    """A figure of a group less that of the reference, on the same test data.

    Attributes:
        group: The group.
        reference: The group that it is compared with.
        figure: `elbo`, `iw_log_likelihood`, `squared_error`, or `accuracy_FIT_BUDGET`. Accuracies are those of the
            fits that the runs keep: with few labels, of the first draw of these.
        interval: The difference, its standard error, interval and p-value. ELBOs and log-likelihoods are in nats per
            datum, squared errors per value of a datum.
    """

    group: str
    reference: str
    figure: str
    interval: PairedInterval


@dataclass(frozen=True, repr=False)
class PairedTest(Displayed):
    """McNemar's exact test of the classes that two single runs predict.

    Attributes:
        group: The group, of one run.
        reference: The group that it is compared with, of one run.
        fit: The fit of the mixture, such as `em`.
        budget: The label budget; empty for the components of a mixture prior.
        test: Data that one of them alone classifies rightly, first of `group`, and the p-value.
    """

    group: str
    reference: str
    fit: str
    budget: str
    test: McNemarTest


@dataclass(frozen=True)
class LooRow:
    """Leave-one-out cross-validation of mixtures over the same latents, by ArviZ; the best first.

    Attributes:
        run: The run.
        fit: The fit whose posterior it is.
        latents: Digest of the latents; rows of one digest are comparable.
        rank: From 0, the best.
        elpd: Expected log predictive density, summed over the latents, in nats.
        se: Its standard error.
        difference: Its `elpd` less that of the best, 0 for the best.
        difference_se: Its standard error, 0 for the best.
        p: Effective number of parameters.
        weight: Weight in stacking.
        n: Number of latents.
        high_k: Number of latents whose Pareto k is above ArviZ's threshold, where the estimate is not reliable.
    """

    run: str
    fit: str
    latents: str
    rank: int
    elpd: float
    se: float
    difference: float
    difference_se: float
    p: float
    weight: float
    n: int
    high_k: int

    @property
    def warning(self) -> bool:
        """Whether the estimate is unreliable for some latents."""
        return self.high_k > 0


@dataclass(frozen=True, repr=False)
class Curve(Displayed):
    """Losses of a run by epoch.

    Attributes:
        run: The run.
        epochs: `E` numbers of epochs, from 1.
        training: `E` losses of training, in nats per datum.
        validation: `E` losses of the validation data, NaN where they were not measured.
    """

    run: str
    epochs: NDArray[np.int64]
    training: NDArray[np.float64]
    validation: NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Confusion(Displayed):
    """Counts of test data by true class and predicted class.

    Attributes:
        run: The run.
        fit: The fit of the mixture, such as `em`.
        budget: The label budget.
        classes: Names of the `C` classes.
        counts: A `C x C` array, true classes by row.
    """

    run: str
    fit: str
    budget: str
    classes: tuple[str, ...]
    counts: NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Reliability(Displayed):
    """Calibration of the class probabilities of a run, in bins of confidence of equal width.

    Attributes:
        run: The run.
        fit: The fit of the mixture, such as `em`.
        budget: The label budget.
        way: `plug_in`, `draws` or `noise`, see `Run.classify`.
        count: `B` numbers of data in a bin.
        confidence: `B` mean confidences, 0 of an empty bin.
        accuracy: `B` accuracies, 0 of an empty bin.
        ece: Expected calibration error.
    """

    run: str
    fit: str
    budget: str
    way: str
    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    ece: float


@dataclass(frozen=True, repr=False)
class RunComparison(Displayed):
    """Finished runs side by side.

    Attributes:
        runs: The runs, in the order asked.
        differences: Options in whose values their configurations differ, but for those that cannot matter.
        groups: Runs that are alike in everything but their seeds, in the order of their first runs.
        reference: The name of the group that others are compared with.
        pairs: Paired differences of the other groups from the reference.
        mcnemar: McNemar's tests of single runs against a single reference.
        loo: Leave-one-out cross-validation of mixtures over the same latents.
        curves: Losses by epoch, of each run.
        confusions: Confusion matrices of runs with labels.
        reliabilities: Calibration of runs with labels.
        refusals: Sentences on what is not compared, and why.
        level: Level of all intervals.
        versions: Versions of the packages of this comparison.
    """

    runs: tuple[ComparedRun, ...]
    differences: tuple[Difference, ...]
    groups: tuple[RunGroup, ...]
    reference: str
    pairs: tuple[Pair, ...] = ()
    mcnemar: tuple[PairedTest, ...] = ()
    loo: tuple[LooRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    reliabilities: tuple[Reliability, ...] = ()
    refusals: tuple[str, ...] = ()
    level: float = 0.9
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def table(self) -> DataFrame:
        """A row a group, by its name: `runs`, `measure`, and of every figure its mean over the group's runs.

        Where a group has several runs, `FIGURE_low` and `FIGURE_high` are the ends of Student's t interval; they are
        NaN for a group of one, and `FIGURE_n` is the number of runs that have the figure.
        """
        from pandas import DataFrame, Index

        rows = []
        for group in self.groups:
            row: dict[str, Any] = {"runs": len(group.runs), "measure": group.measure}
            for name in self.figures:
                if name in group.figures:
                    each = group.figures[name]
                    row |= {name: each.mean, f"{name}_low": each.low, f"{name}_high": each.high, f"{name}_n": each.n}
            rows.append(row)
        columns = ["runs", "measure", *(f"{name}{end}" for name in self.figures for end in ("", "_low", "_high", "_n"))]
        index = Index([group.name for group in self.groups], name="group")
        return DataFrame(rows, index=index, columns=columns)

    @property
    def frame(self) -> DataFrame:
        """A row a run, by its name: `group`, `preset`, `seed`, `data_seed`, `measure`, and its figures."""
        from pandas import DataFrame, Index

        rows = [
            {
                **{name: getattr(run, name) for name in ("group", "preset", "seed", "data_seed", "measure")},
                **run.figures,
            }
            for run in self.runs
        ]
        return DataFrame(rows, index=Index([run.name for run in self.runs], name="run"))

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures of any run, in the order of the table."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.figures))

    def group(self, name: str) -> RunGroup:
        """The group of that name."""
        return next(group for group in self.groups if group.name == name)

    def pair(self, group: str, figure: str) -> Pair | None:
        """The paired difference of a group from the reference; `None` where it was refused."""
        return next((pair for pair in self.pairs if (pair.group, pair.figure) == (group, figure)), None)

    def shown(self) -> dict[str, Any]:
        return {
            "runs": f"{len(self.runs)} in {plural(len(self.groups), 'group')}",
            "differ in": ", ".join(difference.option for difference in self.differences) or "nothing",
            "reference": self.reference,
            "paired differences": len(self.pairs),
            "not compared": len(self.refusals),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `compare.json` holds them; NaN is `None`."""
        plain = {
            "level": self.level,
            "versions": dict(self.versions),
            "reference": self.reference,
            "runs": [{**_fields(run), "path": None if run.path is None else str(run.path)} for run in self.runs],
            "differences": [_fields(difference) for difference in self.differences],
            "groups": [
                {**_fields(group), "figures": {name: each.to_dict() for name, each in group.figures.items()}}
                for group in self.groups
            ],
            "pairs": [
                {"group": pair.group, "reference": pair.reference, "figure": pair.figure, **pair.interval.to_dict()}
                for pair in self.pairs
            ],
            "mcnemar": [
                {**{name: getattr(each, name) for name in ("group", "reference", "fit", "budget")}, **asdict(each.test)}
                for each in self.mcnemar
            ],
            "loo": [asdict(row) for row in self.loo],
            "curves": [_fields(curve) for curve in self.curves],
            "confusions": [_fields(confusion) for confusion in self.confusions],
            "reliabilities": [_fields(reliability) for reliability in self.reliabilities],
            "refusals": list(self.refusals),
        }
        values: dict[str, Any] = _plain(plain)
        return values


def _fields(result: Any) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__dataclass_fields__}


def _plain(value: Any) -> Any:
    """A value of JSON's types alone."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
