"""`latentmix bench`: the speed of SVI and of EM, beside other libraries."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentmix.experiments.commands import (
    Usage,
    UsageError,
    add_numbers,
    comma_list,
    command_parser,
)
from latentmix.experiments.places import check_new_file
from latentmix.experiments.reading.limits import check_count

if TYPE_CHECKING:
    from latentmix.experiments.benchmarks.em import EMSpeed
    from latentmix.experiments.benchmarks.record import Record
    from latentmix.experiments.benchmarks.svi.speed import SVISpeed

USAGE = Usage(110, "bench svi|em|all [--threads N]", "measure speed, beside other libraries")
EM = """\
Prints seconds per iteration, growth of memory (MiB) and mean log p(x) (nats per point) of EM here and in
scikit-learn, pomegranate and torchgmm, a table for each size and covariance type as it is done.
"""
SVI = """\
contestants:
  latentmix, latentmix-compiled                `latentmix.inference.fit` with compile=False, and with True
  latentmix-bf16, latentmix-compiled-bf16      the same with precision="bf16-mixed"
  pyro                                         `pyro.infer.SVI.step` with Pyro's Adam
  pytorch, pytorch-compiled                    written by hand, with one fused Adam; the loss under `torch.compile`
  numpyro                                      `numpyro.infer.SVI`, jitted, one `lax.scan` an epoch

networks:
  mlp                                          784-400-50, a hidden layer each way
  digits, conv16, conv64                       those of the presets digits, mnist_conv16, mnist_conv64

Data are random binary images, on the CPU. Every contestant has a process of its own; they take turns, an epoch each,
of which choosing minibatches at random is a part. The KL divergence is analytic in those written by hand, and sampled
elsewhere; Adam is torch's fused one but in pyro and numpyro. A table for each network and batch size is printed as it
is done; a contestant that is not installed, fails, or takes more than 20 minutes for an epoch is a line in it.

{legend}"""
ALL = """\
SVI is measured first, then EM; `latentmix bench svi --help` and `latentmix bench em --help` explain what is printed.
"""
OUT = "a new JSON file, which is written after each comparison (default: none)"
SIZES, SIZES_OF_ALL = "60000x20x10,200000x10x50,1000000x8x10", "60000x20x10,200000x10x50"
EM_NUMBERS = {
    "iterations": (5, "EM iterations that are timed"),
    "repeats": (3, "times of each at least, for a median"),
}
EM_OPTIONS = ("sizes", "covariance_type", *EM_NUMBERS, "seconds", "dtype")


def main(words: list[str]) -> None:
    """Measure SVI, EM, or both."""
    actions = {"svi": bench_svi, "em": bench_em, "all": bench_all}
    if words and words[0] in actions:
        actions[words[0]](words[1:])
        return
    parser = command_parser("bench")
    parser.add_argument(
        "name",
        choices=tuple(actions),
        help="what is measured: epochs of SVI, iterations of EM, or both; `latentmix bench svi --help`, and so on, "
        "lists the options",
    )
    parser.parse_args(words)


def bench_svi(words: list[str]) -> None:
    """Print the seconds per epoch of SVI here and in other libraries, and write them to a file if asked."""
    from latentmix.experiments.benchmarks.machine import machine
    from latentmix.experiments.benchmarks.record import Record
    from latentmix.experiments.benchmarks.svi.speed import LEGEND, table

    parser = command_parser("bench svi", epilog=SVI.format(legend=LEGEND))
    _add_svi(parser)
    _add_threads(parser, "OMP_NUM_THREADS, or the number of cores")
    parser.add_argument("--out", type=Path, metavar="FILE", help=OUT)
    options = vars(parser.parse_args(words))
    out = options.pop("out")
    rows = _svi_rows(options)
    check_new_file(out)
    print(LEGEND, end="")
    with Record(out, {"machine": machine()}, "svi") as record:
        _measure("svi", rows, lambda row: f"\n{table(row)}", record)


def bench_em(words: list[str]) -> None:
    """Print the seconds per iteration of EM here and in other libraries, and write them to a file if asked."""
    from latentmix.experiments.benchmarks.machine import machine
    from latentmix.experiments.benchmarks.record import Record

    parser = command_parser("bench em", epilog=EM)
    _add_em(parser, SIZES, 20.0)
    _add_threads(parser, "torch's")
    parser.add_argument("--out", type=Path, metavar="FILE", help=OUT)
    options = vars(parser.parse_args(words))
    out = options.pop("out")
    settings = _em_settings(options)
    check_new_file(out)
    rows = _em_rows(settings)

    from latentmix.experiments.benchmarks.em import table

    with Record(out, {"machine": machine()}, "em") as record:
        _measure("em", rows, table, record)


def bench_all(words: list[str]) -> None:
    """Print the figures of SVI and of EM, and write them to one file if asked."""
    from latentmix.experiments.benchmarks.machine import default_threads, machine
    from latentmix.experiments.benchmarks.record import Record
    from latentmix.experiments.benchmarks.svi import speed

    parser = command_parser("bench all", epilog=ALL)
    _add_svi(parser)
    _add_em(parser, SIZES_OF_ALL, 5.0)
    _add_threads(parser, "OMP_NUM_THREADS, or the number of cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help=OUT)
    options = vars(parser.parse_args(words))
    out = options.pop("json")
    if options["threads"] is None:
        options["threads"] = default_threads()
    em = _em_settings({name: options[name] for name in (*EM_OPTIONS, "threads")})
    svi_rows = _svi_rows({name: value for name, value in options.items() if name not in EM_OPTIONS})
    check_new_file(out, "--json")
    em_rows = _em_rows(em)

    from latentmix.experiments.benchmarks.em import table

    print(speed.LEGEND, end="")
    with Record(out, {"machine": machine()}, "svi", "em") as record:
        _measure("svi", svi_rows, lambda row: f"\n{speed.table(row)}", record)
        print()
        _measure("em", em_rows, table, record)


def _add_svi(parser: argparse.ArgumentParser) -> None:
    from latentmix.experiments.benchmarks.svi.cases import ARCHITECTURES
    from latentmix.experiments.benchmarks.svi.contestants import CONTESTANTS
    from latentmix.experiments.benchmarks.svi.speed import BATCH_SIZES, IMAGES, NETWORKS, TURNS

    networks, sizes = ",".join(NETWORKS), ",".join(map(str, BATCH_SIZES))
    text = f"networks, by commas: {', '.join(ARCHITECTURES)} (default: {networks})"
    parser.add_argument("--networks", default=networks, metavar="NAMES", help=text)
    text = f"images a step, by commas (default: {sizes})"
    parser.add_argument("--batch_sizes", default=sizes, metavar="N,...", help=text)
    text = "what is measured, by commas (default: all)"
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), metavar="NAMES", help=text)
    numbers = {"images": (IMAGES, "images an epoch"), "turns": (TURNS, "timed epochs of each, after a first one")}
    add_numbers(parser, numbers)


def _add_em(parser: argparse.ArgumentParser, sizes: str, seconds: float) -> None:
    parser.add_argument(
        "--sizes", default=sizes, metavar="NxDxK,...", help=f"points x features x components (default: {sizes})"
    )
    parser.add_argument(
        "--covariance_type",
        default="full",
        metavar="TYPES",
        help="full, diag, tied, spherical, by commas (default: full)",
    )
    add_numbers(parser, EM_NUMBERS)
    least = f"time for which each comparison of EM is repeated at least (default: {seconds:g})"
    parser.add_argument("--seconds", type=float, default=seconds, metavar="S", help=least)
    parser.add_argument(
        "--dtype", default="float64", metavar="TYPE", help="of the points: float64 or float32 (default: float64)"
    )


def _add_threads(parser: argparse.ArgumentParser, default: str) -> None:
    text = f"threads of every library (default: {default})"
    parser.add_argument("--threads", type=int, metavar="N", help=text)


def _svi_rows(options: dict[str, Any]) -> Iterator[SVISpeed]:
    """The comparisons of SVI, which are measured as they are asked for; the options are checked at once."""
    from latentmix.experiments.benchmarks.svi.speed import svi_speed

    sizes = [_whole("--batch_sizes", word) for word in comma_list("--batch_sizes", options["batch_sizes"])]
    words = {name: tuple(dict.fromkeys(comma_list(f"--{name}", options[name]))) for name in ("networks", "contestants")}
    counts = [("batch_sizes", size) for size in sizes]
    counts += [(name, options[name]) for name in ("images", "turns", "threads") if options[name] is not None]
    for name, count in counts:
        check_count(f"--{name}", count)
    settings = {**options, **words, "batch_sizes": tuple(dict.fromkeys(sizes))}
    return svi_speed(**settings, report=_reporter())


def _em_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Options of `em_speed`, checked as far as that is possible without torch."""
    sizes = [_size(word) for word in comma_list("--sizes", options["sizes"])]
    counts = [("sizes", number) for size in sizes for number in size]
    counts += [(name, options[name]) for name in (*EM_NUMBERS, "threads") if options[name] is not None]
    for name, count in counts:
        check_count(f"--{name}", count)
    types = comma_list("--covariance_type", options["covariance_type"])
    rest = {name: value for name, value in options.items() if name != "covariance_type"}
    return {**rest, "sizes": sizes, "covariance_types": types}


def _em_rows(settings: dict[str, Any]) -> Iterator[EMSpeed]:
    """The comparisons of EM, which are measured as they are asked for; the options are checked at once."""
    os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn's array API mode needs it before SciPy is imported
    from latentmix.experiments.benchmarks.em import em_speed

    return em_speed(**settings, report=_reporter())


def _measure[T](kind: str, rows: Iterable[T], table: Callable[[T], str], record: Record) -> None:
    """Print each row and add it to the record as soon as it is measured."""
    for row in rows:
        record.add(kind, asdict(row))  # type: ignore[call-overload]
        print(table(row), flush=True)


def _reporter() -> Callable[[str], None] | None:
    return partial(print, file=sys.stderr, flush=True) if sys.stderr.isatty() else None


def _whole(option: str, word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 100):
        raise UsageError(f"Expected whole numbers with commas between them for {option}, as in 64,128; got {word!r}.")
    return int(word)


def _size(word: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", word)
    if match is None:
        raise UsageError(f"Expected --sizes of points x features x components, such as 60000x20x10; got {word!r}.")
    points, features, components = map(int, match.groups())
    return points, features, components
