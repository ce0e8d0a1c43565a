"""`latentmix classify`: class probabilities of images, or points, under the mixtures of a run."""

from __future__ import annotations

import csv
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from latentmix.experiments.commands import (
    Usage,
    add_files,
    add_fit,
    add_run,
    allowed_modules,
    check_files,
    check_fit,
    command_parser,
    write_result,
)
from latentmix.experiments.places import check_new_file, check_run
from latentmix.experiments.reading.limits import MAX_GIB, MAX_PIXELS

USAGE = Usage(80, "classify RUN FILES [--out FILE.csv]", "class probabilities of images or points (files, folders)")


def main(words: list[str]) -> None:
    """Print, or write to a file, a table with a row per image or point."""
    parser = command_parser("classify")
    add_run(parser)
    add_files(parser, "+")
    add_fit(parser, {"draws": (100, "draws of each image or point"), "seed": (0, "seed of the draws")})
    parser.add_argument("--out", metavar="FILE", type=Path, help="a new CSV file for the table (default: print it)")
    arguments = parser.parse_args(words)
    check_new_file(arguments.out)
    check_run(arguments.run)
    check_files(arguments.files)
    check_fit(arguments)
    names, text = classify(
        arguments.run,
        arguments.files,
        arguments.inference,
        arguments.labels,
        average=arguments.average,
        draws=arguments.draws,
        seed=arguments.seed,
        trust=allowed_modules(arguments.trust),
        max_pixels=arguments.max_pixels,
        max_gib=arguments.max_gib,
    )
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        write_result(arguments.out, text)
        print(f"{len(names)} {text.partition(',')[0]}s: {arguments.out}")


def classify(
    path: Path,
    files: Sequence[Path],
    inference: str,
    budget: str | None,
    *,
    average: Literal["draws", "noise"] | None = "draws",
    draws: int = 100,
    seed: int = 0,
    trust: Sequence[str] = (),
    max_pixels: int = MAX_PIXELS,
    max_gib: float = MAX_GIB,
) -> tuple[list[str], str]:
    """Classify images, or points, by a finished run.

    Args:
        path: The folder of the run.
        files: `.npy` or `.npz` arrays; picture files or folders of them; for a run on points `.csv` or `.parquet`
            tables, too, whose columns are matched by name.
        inference: The fit of the mixture, such as `em`.
        budget: The label budget, `none`, `few` or `all`; by default `few` if the run has it, else `none`.
        average: Over what the probabilities are averaged, see `Run.classify`.
        draws: Draws of each image or point.
        seed: Seed of the draws.
        trust: Modules that the run may import.
        max_pixels: Most pixels of a picture before it is resized.
        max_gib: Most memory of an array or a table, in GiB.

    Returns:
        The names of the images or points, and a table of comma-separated values with the columns `image` or `point`,
        `predicted` and a probability per class, or without classes per component, numbered from 1 as in pictures.

    Raises:
        ValueError: If the run has no such fit or budget, a file cannot be read or holds other data than the run's, or
            "noise" is asked of a guide that is not normal.
    """
    from latentmix.experiments.options.messages import blaming
    from latentmix.experiments.runs.captions import lost_accuracy
    from latentmix.experiments.runs.component_names import component_names
    from latentmix.experiments.runs.run import load_run

    run = load_run(path, trust)
    fitted = run.fitted(inference, budget)
    inputs = run.known_data.of_files(files, max_pixels=max_pixels, max_gib=max_gib)
    with blaming("--average"):
        probabilities = run.classify(
            inputs.x, inference=inference, labels=budget, average=average, draws=draws, seed=seed
        )
    if average == "draws" and (note := lost_accuracy(run.summary, inference, budget)):
        warnings.warn(note, stacklevel=2)
    classes = fitted.class_names or component_names((), {}, probabilities.shape[1])
    kind, thing = "class" if fitted.classes else "component", "image" if len(run.vae.shape) == 3 else "point"
    labels = [classes[index] for index in probabilities.argmax(1)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([thing, "predicted", *(f"{kind} {name}" for name in classes)])
    for name, label, row in zip(inputs.names, labels, probabilities, strict=True):
        table.writerow([name, label, *(f"{value:.4f}" for value in row)])
    return list(inputs.names), text.getvalue()
