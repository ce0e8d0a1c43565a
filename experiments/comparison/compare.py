"""Compare finished runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from latentmix.experiments.comparison.configurations import (
    config_digest,
    configuration_groups,
    differences_of,
    group_names,
)
from latentmix.experiments.comparison.loo import compare_loo
from latentmix.experiments.comparison.pairs import compare_pairs, read_test_figures
from latentmix.experiments.comparison.results import ComparedRun, RunComparison, RunGroup
from latentmix.experiments.comparison.sources import Source, read_sources
from latentmix.experiments.comparison.summaries import confusions_of, curve_of, figures_of, reliabilities_of
from latentmix.experiments.runs.artifacts import versions
from latentmix.experiments.runs.pointwise import Pointwise
from latentmix.experiments.runs.run import Run
from latentmix.experiments.runs.stored import measure_of
from latentmix.inference.intervals import mean_interval

__all__ = ["compare_runs"]


def compare_runs(
    runs: Sequence[str | Path | Run],
    *,
    reference: str | Path | None = None,
    level: float = 0.9,
    trust: Iterable[str] = (),
) -> RunComparison:
    """Set finished runs side by side: what differs, their figures over seeds, and paired differences.

    Runs that differ by their seeds alone are a group, whose figures are means with Student's t intervals. Every other
    group is compared with the reference on the same test data, which a digest proves: differences of ELBOs,
    importance-weighted log-likelihoods, squared errors and accuracies with standard errors, see `paired_interval`, and
    McNemar's test for single runs. ELBOs and log-likelihoods are compared within one measure only. What cannot be
    compared is told in `refusals`, and everything else is.

    Args:
        runs: Folders of finished runs or of sweeps, which stand for their finished cells; or runs of `load_run`.
        reference: The run, by its name or folder, whose group others are compared with; by default the first.
        level: Level of all intervals.
        trust: Modules of classes of your own that the runs may import, see `load_run`.

    Returns:
        The comparison.

    Raises:
        ValueError: If there are fewer than two runs, one is not finished or is given twice, the reference is none of
            them, or the level is not between 0 and 1.

    Example:
        >>> from latentmix.experiments import compare_runs
        >>> comparison = compare_runs(["runs/digits", "runs/digits_mlp2"])  # doctest: +SKIP
        >>> comparison.table  # a pandas DataFrame, a row a group  # doctest: +SKIP
        >>> comparison.pairs[0].interval.low  # doctest: +SKIP
    """
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"Expected a level between 0 and 1; got {level!r:.60}.")
    sources, refusals = read_sources(runs, trust)
    if len(sources) < 2:
        raise ValueError(f"Expected two finished runs or more to compare; got {len(sources)}.")
    sources, repeated = _distinct(sources)
    refusals += repeated
    configs = {source.name: source.config for source in sources}
    differences = differences_of(configs)
    members = configuration_groups(configs)
    names, options = group_names(members, configs, differences)
    group_of = {run: name for name, runs_of in zip(names, members, strict=True) for run in runs_of}
    figures = read_test_figures(sources, refusals, measure=len(members) > 1)
    compared = tuple(_compared(source, group_of[source.name], figures.get(source.name)) for source in sources)
    by_name = {run.name: run for run in compared}
    groups = tuple(
        _group(name, [by_name[run] for run in runs_of], chosen, level)
        for name, runs_of, chosen in zip(names, members, options, strict=True)
    )
    main = next(group for group in groups if group.name == group_of[_reference(reference, sources)])
    samples = {source.name: source.importance_samples for source in sources}
    pairs, tests, unpaired = compare_pairs(groups, main, figures, samples, level)
    loo, apart = compare_loo(sources)
    return RunComparison(
        runs=compared,
        differences=tuple(differences),
        groups=groups,
        reference=main.name,
        pairs=tuple(pairs),
        mcnemar=tuple(tests),
        loo=tuple(loo),
        curves=tuple(curve_of(source.name, source.history) for source in sources),
        confusions=tuple(each for source in sources for each in confusions_of(source.name, source.summary)),
        reliabilities=tuple(each for source in sources for each in reliabilities_of(source.name, source.summary)),
        refusals=(*refusals, *unpaired, *apart),
        level=level,
        versions=versions(),
    )


def _compared(source: Source, group: str, pointwise: Pointwise | None) -> ComparedRun:
    summary = source.summary
    return ComparedRun(
        name=source.name,
        path=source.path,
        preset=str(summary["preset"]),
        seed=int(source.config["seed"]),
        data_seed=int(source.config["data"]["seed"]),
        measure=measure_of(summary),
        group=group,
        test_data="" if pointwise is None else pointwise.test_data,
        config_digest=config_digest(source.config),
        versions=source.versions,
        figures=figures_of(summary),
    )


def _group(name: str, runs: Sequence[ComparedRun], options: dict[str, str], level: float) -> RunGroup:
    figures = {
        figure: mean_interval([run.figures[figure] for run in runs], level)
        for figure in runs[0].figures
        if all(figure in run.figures for run in runs)
    }
    return RunGroup(name, tuple(run.name for run in runs), options, runs[0].measure, figures)


def _distinct(sources: Sequence[Source]) -> tuple[list[Source], list[str]]:
    """Runs of one configuration and one seed are copies of each other: the first counts."""
    kept: dict[str, Source] = {}
    refusals: list[str] = []
    for source in sources:
        first = kept.setdefault(config_digest(source.config), source)
        if first is not source:
            refusals.append(
                f"{source.name} is left out: it has the configuration and the seed of {first.name}, and is no further "
                "draw."
            )
    if len(kept) < 2:
        raise ValueError(
            f"Expected runs of different configurations or seeds; got {len(sources)} of one: name another run."
        )
    return list(kept.values()), refusals


def _reference(reference: str | Path | None, sources: Sequence[Source]) -> str:
    """The name of the run that is the reference."""
    if reference is None:
        return sources[0].name
    for source in sources:
        if str(reference) == source.name or (
            source.path is not None and Path(reference).resolve() == source.path.resolve()
        ):
            return source.name
    raise ValueError(
        f"Expected one of the runs as the reference, {', '.join(source.name for source in sources)}; got "
        f"{str(reference)!r:.200}."
    )
