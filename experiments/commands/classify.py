"""`latentmix classify`: class probabilities of images under the mixtures of a run."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from latentmix.experiments.commands import Usage, UsageError, command_parser, refuse_existing
from latentmix.experiments.options.names import BUDGETS, FITS

USAGE = Usage(80, "classify RUN IMAGES [--out FILE.csv]", "class probabilities of images (.npy, .npz, picture files)")


def main(words: list[str]) -> None:
    """Print, or write to a file, a table with a row per image."""
    parser = command_parser("classify")
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of the run")
    parser.add_argument("images", metavar="IMAGES", type=Path, nargs="+", help=".npy or .npz arrays, or picture files")
    parser.add_argument("--inference", choices=tuple(FITS), default="em", help="which fit of the mixture (default: em)")
    parser.add_argument(
        "--labels",
        choices=BUDGETS,
        help="the fit by how many labels: none, a few per class, or all (default: few, or none without classes)",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="a new CSV file for the table (default: print it)")
    arguments = parser.parse_args(words)
    refuse_existing(arguments.out)
    for file in arguments.images:
        if not file.exists():
            raise UsageError(f"Expected images in files that are there; got {file}, which is missing.")
    names, text = classify(arguments.run, arguments.images, arguments.inference, arguments.labels)
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        arguments.out.write_text(text)
        print(f"{len(names)} images: {arguments.out}")


def classify(path: Path, files: Sequence[Path], inference: str, budget: str | None) -> tuple[list[str], str]:
    """Classify images by a finished run.

    Args:
        path: The folder of the run.
        files: `.npy` or `.npz` arrays, or picture files.
        inference: The fit of the mixture, `em` or `svi`.
        budget: The label budget, `none`, `few` or `all`; by default `few` if the run has it, else `none`.

    Returns:
        The names of the images, and a table of comma-separated values with the columns `image`, `predicted` and a
        probability per class, or per component without classes.

    Raises:
        ValueError: If the run has no such budget or is not on images, or an image cannot be read.
    """
    from latentmix.experiments.data.pictures import load_images
    from latentmix.experiments.data.pixels import ToFloat
    from latentmix.experiments.runs.artifacts import load_run

    run = load_run(path)
    budgets = run.mixtures[inference]
    budget = budget or ("few" if "few" in budgets else "none")
    if budget not in budgets:
        raise ValueError(f"Expected a label budget of this run, {', '.join(budgets)}; got {budget!r}.")
    fitted = budgets[budget]
    if len(run.vae.shape) != 3:
        raise ValueError(f"Expected a run on images, to classify images by; got one on points in {path}.")
    names, images = load_images(files, run.vae.shape)
    probabilities = fitted.classify(run.guide.encode(images, transform=ToFloat()))
    columns = [f"class {label}" for label in fitted.classes] or [
        f"component {index}" for index in range(probabilities.shape[1])
    ]
    labels = [fitted.classes[index] if fitted.classes else int(index) for index in probabilities.argmax(1)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "predicted", *columns])
    for name, label, row in zip(names, labels, probabilities, strict=True):
        table.writerow([name, label, *(f"{value:.4f}" for value in row)])
    return names, text.getvalue()
