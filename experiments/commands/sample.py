"""`latentmix sample`: images, or points, drawn from the prior of a run."""

from __future__ import annotations

import io
from pathlib import Path

from latentmix.experiments.commands import (
    Usage,
    UsageError,
    add_run,
    allowed_modules,
    command_parser,
    write_result,
)
from latentmix.experiments.places import check_new_file, check_run
from latentmix.experiments.reading.limits import check_count

USAGE = Usage(90, "sample RUN [-n N] [--out FILE]", "images, or points, drawn from the prior")


def main(words: list[str]) -> None:
    """Draw mean images, or points, from the prior into a picture or an array, and print the file."""
    parser = command_parser("sample")
    add_run(parser)
    parser.add_argument("-n", type=int, default=64, metavar="N", help="how many images, or points (default: 64)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="a new .png or .npy file (default: samples.png, or samples.npy for points)",
    )
    arguments = parser.parse_args(words)
    out: Path | None = arguments.out
    check_count("-n", arguments.n)
    check_count("--seed", arguments.seed, 0)
    if out is not None and out.suffix not in (".png", ".npy"):
        raise UsageError(f"Expected a .png or .npy file for the samples; got {out}.")
    check_new_file(out)
    check_run(arguments.run)

    import numpy as np

    from latentmix.experiments import figures
    from latentmix.experiments.data.schema import Schema
    from latentmix.experiments.runs.run import load_run

    run = load_run(arguments.run, allowed_modules(arguments.trust))
    vae, units = run.vae, Schema.from_dict(run.summary["data"]).standardisation
    if out is None:
        out = Path("samples.png" if len(vae.shape) == 3 else "samples.npy")
        check_new_file(out)
    if len(vae.shape) != 3 and out.suffix == ".png":
        raise ValueError(f"Expected a .npy file for samples that are points, not images; got {out}.")
    samples = vae.generate(arguments.n, seed=arguments.seed)
    samples = samples if units is None else units.restore(samples)
    if out.suffix == ".npy":
        array = io.BytesIO()
        np.save(array, samples.numpy())
        write_result(out, array.getvalue())
    else:
        figures.save(figures.generated(samples), out)
    print(out)
