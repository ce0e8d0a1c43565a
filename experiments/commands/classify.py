"""`latentmix classify`: class probabilities of images under the mixtures of a run."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from latentmix.experiments.commands import Usage, command_parser, refuse_existing
from latentmix.experiments.options.names import BUDGETS, FITS
from latentmix.experiments.reading.limits import MAX_GIB, MAX_PIXELS

PIXELS = f"most pixels of a picture (default: {MAX_PIXELS:,})"
GIB = f"most memory of an array, in GiB (default: {MAX_GIB:g})"
USAGE = Usage(80, "classify RUN IMAGES [--out FILE.csv]", "class probabilities of images (.npy, .npz, picture files)")


def main(words: list[str]) -> None:
    """Print, or write to a file, a table with a row per image."""
    parser = command_parser("classify")
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument("images", type=Path, nargs="+", help=".npy or .npz arrays, or picture files")
    parser.add_argument("--inference", choices=tuple(FITS), default="em", help="which fit of the mixture")
    parser.add_argument("--labels", choices=BUDGETS, help="which label budget (default: few)")
    parser.add_argument("--max_pixels", type=int, default=MAX_PIXELS, metavar="N", help=PIXELS)
    parser.add_argument("--max_gib", type=float, default=MAX_GIB, metavar="N", help=GIB)
    parser.add_argument("--out", type=Path, help="a new CSV file for the table (default: print it)")
    arguments = parser.parse_args(words)
    refuse_existing(arguments.out)
    limits = {"max_pixels": arguments.max_pixels, "max_gib": arguments.max_gib}
    names, text = classify(arguments.run, arguments.images, arguments.inference, arguments.labels, **limits)
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        arguments.out.write_text(text)
        print(f"{len(names)} images: {arguments.out}")


def classify(
    path: Path,
    files: Sequence[Path],
    inference: str,
    budget: str | None,
    *,
    max_pixels: int = MAX_PIXELS,
    max_gib: float = MAX_GIB,
) -> tuple[list[str], str]:
    """Classify images by a finished run.

    Args:
        path: The folder of the run.
        files: `.npy` or `.npz` arrays, or picture files.
        inference: The fit of the mixture, `em` or `svi`.
        budget: The label budget, `none`, `few` or `all`; by default `few` if the run has it, else `none`.
        max_pixels: Most pixels of a picture before it is resized.
        max_gib: Most memory of an array, in GiB.

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
    budgets = run.mixtures.get(inference)
    if not budgets:
        raise ValueError(f"Expected a fit of this run, {', '.join(run.mixtures)}; got {inference!r}.")
    budget = budget or ("few" if "few" in budgets else "none")
    if budget not in budgets:
        raise ValueError(f"Expected a label budget of this run, {', '.join(budgets)}; got {budget!r}.")
    fitted = budgets[budget]
    if len(run.vae.shape) != 3:
        raise ValueError(f"Expected a run on images, to classify images by; got one on points in {path}.")
    names, images = load_images(files, run.vae.shape, max_pixels=max_pixels, max_gib=max_gib)
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
