"""`latentmix bench`: the speed of SVI and of EM, beside other libraries."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from latentmix.experiments.commands import (
    Usage,
    UsageError,
    add_numbers,
    comma_list,
    command_parser,
    write_result,
)
from latentmix.experiments.places import check_new_file
from latentmix.experiments.reading.limits import check_count

USAGE = Usage(
    110,
    "bench svi|em [--sizes 60000x20x10,...] [--covariance_type full,...]",
    "measure speed, beside other libraries",
)
EM = """\
Prints seconds per iteration, growth of memory (MiB) and mean log p(x) (nats per point) of EM here and in
scikit-learn, pomegranate and torchgmm, a table for each size and covariance type as it is done.
"""
NUMBERS = {
    "iterations": (5, "EM iterations that are timed"),
    "repeats": (3, "times of each at least, for a median"),
}


def main(words: list[str]) -> None:
    """Measure SVI or EM."""
    if words[:1] == ["em"]:
        bench_em(words[1:])
        return
    parser = command_parser("bench")
    parser.add_argument(
        "name",
        choices=("svi", "em"),
        help="what is measured: an epoch of SVI, or iterations of EM, whose options `latentmix bench em --help` lists",
    )
    parser.parse_args(words)
    bench_svi()


def bench_svi() -> None:
    """Print the seconds per epoch of SVI here, in Pyro and in hand-written PyTorch."""
    from latentmix.experiments.benchmarks.svi import svi_speed

    for row in svi_speed():
        values = asdict(row).items()
        print(
            "  ".join(
                f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in values
            )
        )


def bench_em(words: list[str]) -> None:
    """Print the seconds per iteration of EM here and in other libraries, and write them to a file if asked."""
    parser = command_parser("bench em", epilog=EM)
    sizes = "60000x20x10,200000x10x50,1000000x8x10"
    parser.add_argument(
        "--sizes", default=sizes, metavar="NxDxK,...", help=f"points x features x components (default: {sizes})"
    )
    parser.add_argument(
        "--covariance_type",
        default="full",
        metavar="TYPES",
        help="full, diag, tied, spherical, by commas (default: full)",
    )
    add_numbers(parser, NUMBERS)
    least = "time for which each comparison is repeated at least (default: 20)"
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help=least)
    parser.add_argument(
        "--dtype", default="float64", metavar="TYPE", help="of the points: float64 or float32 (default: float64)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of every library (default: torch's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new JSON file (default: none)")
    options = vars(parser.parse_args(words))
    out = options.pop("out")
    sizes_of = [_size(word) for word in comma_list("--sizes", options.pop("sizes"))]
    for size in sizes_of:
        for number in size:
            check_count("--sizes", number)
    for name in (*NUMBERS, "threads"):
        if options[name] is not None:
            check_count(f"--{name}", options[name])
    types = comma_list("--covariance_type", options.pop("covariance_type"))
    check_new_file(out)

    os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn's array API mode needs it before SciPy is imported
    from latentmix.experiments.benchmarks.em import em_speed, table

    report = partial(print, file=sys.stderr, flush=True) if sys.stderr.isatty() else None
    rows = []
    for row in em_speed(**options, sizes=sizes_of, covariance_types=types, report=report):
        rows.append(asdict(row))
        print(table(row), flush=True)
    write_result(out, json.dumps(rows, indent=1))


def _size(word: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", word)
    if match is None:
        raise UsageError(f"Expected --sizes of points x features x components, such as 60000x20x10; got {word!r}.")
    points, features, components = map(int, match.groups())
    return points, features, components
