"""`latentmix encode`: latents of images or points, and what a mixture of a run makes of them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from latentmix.experiments.commands import (
    Usage,
    UsageError,
    add_files,
    add_fit,
    add_run,
    allowed_modules,
    check_files,
    check_fit,
    command_parser,
)
from latentmix.experiments.places import check_new_file, check_run

USAGE = Usage(85, "encode RUN FILES|--split S [--out FILE]", "latents and class probabilities, as npz, csv or netCDF")
SUFFIXES = (".npz", ".csv", ".nc")
NUMBERS = {
    "draws": (
        None,
        "draws of q of each image or point to write and to average over (default: write none, average over 100)",
    ),
    "seed": (0, "seed of the draws"),
}


def main(words: list[str]) -> None:
    """Write latents to a file, or print them as a table."""
    parser = command_parser(
        "encode",
        epilog="with --split also --data.root, --data.source, ...: other data than the run's, as for `latentmix run`",
    )
    add_run(parser)
    add_files(parser, "*")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        help="data of the run in the place of files, with their labels",
    )
    add_fit(parser, NUMBERS)
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="a new .npz, .csv or .nc (netCDF) file (default: print a table)"
    )
    arguments, options = parser.parse_known_args(words)
    out: Path | None = arguments.out
    if out is not None and out.suffix not in SUFFIXES:
        raise UsageError(f"Expected a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file for the latents; got {out}.")
    check_new_file(out)
    check_run(arguments.run)
    if bool(arguments.files) == (arguments.split is not None):
        got = "both" if arguments.files else "neither"
        raise UsageError(f"Expected files of images or points, or --split; got {got} (see `latentmix encode --help`).")
    if options and arguments.split is None:
        raise UsageError(f"Expected options of this command; got {options[0]}, which goes with --split.")
    check_files(arguments.files)
    check_fit(arguments)

    from latentmix.experiments.options.messages import blaming
    from latentmix.experiments.runs.captions import lost_accuracy
    from latentmix.experiments.runs.encoding_files import table_lines, write_arrays, write_netcdf, write_table
    from latentmix.experiments.runs.run import load_run

    run = load_run(arguments.run, allowed_modules(arguments.trust))
    run.fitted(arguments.inference, arguments.labels)
    with blaming("--average"):
        encoder = run.encoder(
            arguments.inference,
            arguments.labels,
            average=arguments.average,
            draws=arguments.draws,
            seed=arguments.seed,
        )
    if encoder.about["moments"] != "exact":
        told = f"q of {encoder.about['family']} is not normal: means and scales are {encoder.about['moments']}"
        warnings.warn(told, stacklevel=2)
    known = run.known_data
    if arguments.split is None:
        inputs = known.of_files(arguments.files, max_pixels=arguments.max_pixels, max_gib=arguments.max_gib)
    else:
        inputs = known.of_split(known.load(known.chosen(options)), arguments.split)
    if out is None:
        for lines in table_lines(encoder.chunks(inputs)):
            sys.stdout.write(lines)
    elif out.suffix == ".csv":
        write_table(out, encoder.chunks(inputs, progress=True))
    else:
        encoding = encoder.encode(inputs, max_gib=arguments.max_gib, progress=True)
        (write_arrays if out.suffix == ".npz" else write_netcdf)(out, encoding)
    if out is not None:
        print(f"{len(inputs)} {encoder.things}s: {out}")
    if arguments.average == "draws" and (note := lost_accuracy(run.summary, arguments.inference, arguments.labels)):
        warnings.warn(note, stacklevel=2)
