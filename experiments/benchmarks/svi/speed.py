"""The comparison: contestants in turns, their figures, and a table of them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from latentmix.experiments.benchmarks.machine import default_threads
from latentmix.experiments.benchmarks.svi.cases import ARCHITECTURES, Case
from latentmix.experiments.benchmarks.svi.contestants import (
    CONTESTANTS,
    FLOORS,
    NUMPYRO,
    PYTORCH,
    Contestant,
)
from latentmix.experiments.benchmarks.svi.processes import Epoch, Worker, WorkerError

__all__ = ["BATCH_SIZES", "IMAGES", "LEGEND", "NETWORKS", "TURNS", "Figures", "Floor", "SVISpeed", "svi_speed", "table"]

NETWORKS, BATCH_SIZES, IMAGES, TURNS = ("mlp",), (64, 128, 256), 20_480, 5

LEGEND = """\
s/epoch, min  seconds of an epoch, the median of the turns and the least; spread: (max - min) / median
/pytorch      s/epoch in units of hand-written eager PyTorch; /numpyro: of NumPyro
us/step       microseconds of a step
start         seconds that the first epoch takes longer, to make networks and to compile with empty caches
again         the same in a second process, which finds inductor's cache
cores         processor seconds per second
MiB           growth of resident memory at its greatest, compilation included, without libraries imported before and
              the data, of which numpyro makes a copy that counts
nats          negative ELBO per datum, the mean of the last epoch: all should agree within a few
floor         products at the best rate measured here, and Adam's reading and writing at that of a copy
"""


@dataclass(frozen=True)
class Figures:
    """Figures of one contestant.

    Attributes:
        seconds: Median time of an epoch.
        least: The least time of an epoch.
        spread: Difference between the greatest time and the least, in units of the median.
        step: Median time of a step, in microseconds.
        to_pytorch: `seconds` in units of hand-written eager PyTorch; None if that was not measured.
        to_numpyro: Likewise of NumPyro.
        start: Seconds that the first epoch took longer than the median, with empty caches.
        restart: The same in a second process, with inductor's cache; None if inductor does not compile it.
        cores: Processor time per time, of all timed epochs.
        memory: Greatest growth of resident memory in MiB, without imported libraries and the data, of which NumPyro
            makes a copy that counts; None if unknown.
        loss: Mean negative ELBO of the last epoch, nats per datum.
    """

    seconds: float
    least: float
    spread: float
    step: float
    to_pytorch: float | None
    to_numpyro: float | None
    start: float
    restart: float | None
    cores: float
    memory: float | None
    loss: float


@dataclass(frozen=True)
class Floor:
    """A lower bound of an epoch's time, without what pixels, activations and random numbers cost.

    Attributes:
        seconds: The bound, of an epoch.
        to_pytorch: `seconds` in units of hand-written eager PyTorch; None if that was not measured.
        to_numpyro: Likewise of NumPyro.
        parameters: Number of parameters.
        operations: Floating-point operations of the products of a step.
        rate: Best rate of products, in operations a second.
        product: The product that reached it.
        bytes: Bytes that a step of Adam reads and writes.
        memory_rate: Best rate of a copy that moves as many, in bytes a second.
    """

    seconds: float
    to_pytorch: float | None
    to_numpyro: float | None
    parameters: int
    operations: int
    rate: float
    product: str
    bytes: int
    memory_rate: float


@dataclass(frozen=True)
class SVISpeed:
    """One comparison.

    Attributes:
        network: A name out of `ARCHITECTURES`.
        batch_size: Images a step.
        images: Images an epoch.
        steps: Steps of an epoch.
        threads: Threads of every library.
        load: Load average of the last minute before the comparison.
        turns: Timed epochs of each contestant.
        contestants: Figures by contestant.
        floors: Lower bounds by precision.
        missing: Reasons why contestants were not measured, by contestant.
    """

    network: str
    batch_size: int
    images: int
    steps: int
    threads: int
    load: float
    turns: int
    contestants: dict[str, Figures]
    floors: dict[str, Floor]
    missing: dict[str, str]


def svi_speed(
    *,
    networks: Sequence[str] = NETWORKS,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    images: int = IMAGES,
    turns: int = TURNS,
    contestants: Sequence[str] = tuple(CONTESTANTS),
    threads: int | None = None,
    report: Callable[[str], None] | None = None,
) -> Iterator[SVISpeed]:
    """Measure the training of VAEs on random binary images.

    Every contestant has a process of its own. They take turns, an epoch each, so that all meet the same load. One that
    fails is left out, with the reason.

    Args:
        networks: Names out of `ARCHITECTURES`.
        batch_sizes: Images a step.
        images: Images an epoch.
        turns: Timed epochs of each contestant, after a first one.
        contestants: Names out of `CONTESTANTS`.
        threads: Threads of every library; by default `OMP_NUM_THREADS`, or the number of cores.
        report: Called with a line on each turn.

    Returns:
        One comparison per network and batch size, measured as they are asked for.

    Raises:
        ValueError: If a name is unknown, a list empty, a number below one, or a minibatch larger than an epoch.

    Example:
        >>> from latentmix.experiments.benchmarks.svi.speed import svi_speed
        >>> svi_speed(networks=["mpl"])
        Traceback (most recent call last):
            ...
        ValueError: Expected --networks out of mlp, digits, conv16, conv64; got 'mpl'.
    """
    for option, values in (("networks", networks), ("batch_sizes", batch_sizes), ("contestants", contestants)):
        if not values:
            raise ValueError(f"Expected --{option} of at least one; got none.")
    for option, names, known in (("networks", networks, ARCHITECTURES), ("contestants", contestants, CONTESTANTS)):
        for name in names:
            if name not in known:
                raise ValueError(f"Expected --{option} out of {', '.join(known)}; got {name!r}.")
    number = default_threads() if threads is None else threads
    if (least := min(*batch_sizes, images, turns, number)) < 1:
        raise ValueError(f"Expected --batch_sizes, --images, --turns and --threads of at least 1; got {least}.")
    if max(batch_sizes) > images:
        raise ValueError(f"Expected --batch_sizes of at most --images, {images}; got {max(batch_sizes)}.")
    cases = [Case(network, size, images) for network in networks for size in batch_sizes]
    return _rows(cases, turns, contestants, number, report)


def table(row: SVISpeed) -> str:
    """A comparison in lines of text, of at most 120 columns."""
    from latentmix.models.words import plural

    floors = list(row.floors.values())
    size = f", {floors[0].parameters:,} parameters" if floors else ""
    threads = plural(row.threads, "thread")
    columns = f"{'s/epoch':>9}{'min':>9}{'spread':>8}{'/pytorch':>9}{'/numpyro':>9}{'us/step':>9}"
    lines = [
        f"{row.network}, batch {row.batch_size}: {plural(row.images, 'image')}, "
        f"{plural(row.steps, 'step')} an epoch{size}, {threads}, load {row.load:.1f}, {plural(row.turns, 'turn')}",
        f"{'':26}{columns}{'start':>8}{'again':>8}{'cores':>7}{'MiB':>7}{'nats':>9}",
    ]
    for name, own in row.contestants.items():
        ratios = _cell(own.to_pytorch, 9, 2) + _cell(own.to_numpyro, 9, 2)
        times = f"{own.seconds:9.4f}{own.least:9.4f}{own.spread:8.0%}{ratios}{own.step:9.0f}"
        starts = _cell(own.start, 8, 2) + _cell(own.restart, 8, 2)
        lines.append(f"  {name:24}{times}{starts}{own.cores:7.2f}{_cell(own.memory, 7, 0)}{own.loss:9.2f}")
    for name, floor in row.floors.items():
        ratios = _cell(floor.to_pytorch, 9, 2) + _cell(floor.to_numpyro, 9, 2)
        step = 1e6 * floor.seconds / row.steps
        lines.append(f"  {f'floor, {name}':24}{floor.seconds:9.4f}{'':17}{ratios}{step:9.0f}")
    lines += [
        f"  floor, {name}: {floor.operations / 1e9:.3g} GFLOP a step at {floor.rate / 1e9:.0f} GFLOP/s "
        f"({floor.product}), {floor.bytes / 1e6:.3g} MB at {floor.memory_rate / 1e9:.1f} GB/s"
        for name, floor in row.floors.items()
    ]
    return "\n".join([*lines, *(f"  {name}: {reason:.110}" for name, reason in row.missing.items())])


def _cell(value: float | None, width: int, decimals: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{decimals}f}"


def _rows(
    cases: Sequence[Case],
    turns: int,
    contestants: Sequence[str],
    threads: int,
    report: Callable[[str], None] | None,
) -> Iterator[SVISpeed]:
    for index, case in enumerate(cases, 1):
        named = f"[{index}/{len(cases)}] {case.network}, batch {case.batch_size}"

        def tell(step: str, named: str = named) -> None:
            if report is not None:
                report(f"{named}: {step}")

        with _Comparison(case, turns, threads, tell) as comparison:
            row = comparison.measure({name: CONTESTANTS[name] for name in contestants})
        yield row


def _ratio(seconds: float, other: float | None) -> float | None:
    return None if other is None else seconds / other


class _Comparison:
    """The processes of one case, and the folder of their caches; both end with the block."""

    def __init__(self, case: Case, turns: int, threads: int, tell: Callable[[str], None]) -> None:
        self.case, self.turns, self.threads, self.tell = case, turns, threads, tell
        self.missing: dict[str, str] = {}
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        folder = TemporaryDirectory(prefix="latentmix-bench-", ignore_cleanup_errors=True)
        self._folder = Path(self._stack.enter_context(folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, contestants: dict[str, Contestant]) -> SVISpeed:
        """All figures, of first epochs, of turns, and of second processes that find inductor's cache."""
        load = os.getloadavg()[0]
        self.missing = {name: each.obstacle for name, each in contestants.items() if each.obstacle is not None}
        self._start({name: each for name, each in contestants.items() if name not in self.missing})
        first = self._each("first epoch of {}", Worker.epoch)
        precisions = {contestants[name].precision for name in first}
        floors = {f"floor, {kind}": kind for kind in FLOORS if kind in precisions}
        self._start({name: FLOORS[kind] for name, kind in floors.items()})
        times: dict[str, list[Epoch]] = {}
        for turn in range(1, self.turns + 1):
            for name, epoch in self._each(f"turn {turn} of {self.turns}, {{}}", Worker.epoch).items():
                times.setdefault(name, []).append(epoch)
        results = self._each("end of {}", Worker.finish)
        self._end()
        self._start({name: contestants[name] for name in results if name in first and contestants[name].compiled})
        again = self._each("second process of {}", Worker.epoch)
        self._end()

        medians = {name: statistics.median(epoch.seconds for epoch in times[name]) for name in results if name in first}
        figures = {
            name: self._figures(name, times[name], medians, first[name], again.get(name), *results[name])
            for name in medians
        }
        bounds: dict[str, Floor] = {
            kind: self._floor(results[name][0], medians) for name, kind in floors.items() if name in results
        }
        case = self.case
        return SVISpeed(
            network=case.network,
            batch_size=case.batch_size,
            images=case.images,
            steps=case.steps,
            threads=self.threads,
            load=load,
            turns=self.turns,
            contestants=figures,
            floors=bounds,
            missing=self.missing,
        )

    def _figures(
        self,
        name: str,
        times: list[Epoch],
        medians: Mapping[str, float],
        first: Epoch,
        again: Epoch | None,
        result: dict[str, Any],
        memory: float | None,
    ) -> Figures:
        seconds, median = [epoch.seconds for epoch in times], medians[name]
        return Figures(
            seconds=median,
            least=min(seconds),
            spread=(max(seconds) - min(seconds)) / median,
            step=1e6 * median / self.case.steps,
            to_pytorch=_ratio(median, medians.get(PYTORCH)),
            to_numpyro=_ratio(median, medians.get(NUMPYRO)),
            start=max(0.0, first.seconds - median),
            restart=None if again is None else max(0.0, again.seconds - median),
            cores=sum(epoch.cpu for epoch in times) / sum(seconds),
            memory=memory,
            loss=result["loss"],
        )

    def _floor(self, measured: dict[str, Any], medians: Mapping[str, float]) -> Floor:
        step = measured["operations"] / measured["rate"] + measured["bytes"] / measured["memory_rate"]
        seconds = self.case.steps * step
        to_pytorch, to_numpyro = (_ratio(seconds, medians.get(other)) for other in (PYTORCH, NUMPYRO))
        return Floor(seconds, to_pytorch, to_numpyro, **measured)

    def _start(self, contestants: Mapping[str, Contestant]) -> None:
        """Start processes, all at once, and wait until they are ready."""
        for name, contestant in contestants.items():
            self._workers[name] = worker = Worker(contestant, self.case, self.threads, self._folder / name)
            self._stack.callback(worker.end)
        self._each("start of {}", Worker.wait, contestants)

    def _each[T](self, step: str, action: Callable[[Worker], T], names: Iterable[str] | None = None) -> dict[str, T]:
        """Results of an action on one process after the other; a process that fails is ended, and its reason kept."""
        results = {}
        for name in list(self._workers if names is None else names):
            self.tell(step.format(name))
            try:
                results[name] = action(self._workers[name])
            except WorkerError as error:
                self.missing[name] = str(error)
                self._workers.pop(name).end()
        return results

    def _end(self) -> None:
        """End all processes."""
        while self._workers:
            self._workers.popitem()[1].end()
