"""What each command of the command line does."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from latentmix.experiments import figures as plots
from latentmix.experiments.data.datasets import (
    APPLIES,
    Data,
    Split,
    ToFloat,
    batch_transform,
    binarize_static,
    resolve_binarize,
)
from latentmix.experiments.data.image_cache import decode
from latentmix.experiments.data.sources import load_file
from latentmix.experiments.options.experiment import Experiment, experiment_parser, option_words
from latentmix.experiments.runs.artifacts import RunFolder, load_run
from latentmix.experiments.runs.measures import measure_vae
from latentmix.experiments.runs.metrics import classification
from latentmix.experiments.runs.pipeline import Session, latents_of, run_experiment
from latentmix.experiments.runs.report import headline, summary_table, write_report
from latentmix.inference import bound_of
from latentmix.inference.isolation import isolated

__all__ = ["bench_em", "bench_svi", "classify", "evaluate", "ex_post", "report", "resume", "run", "sample", "select"]


def run(experiment: Experiment, out: Path) -> None:
    """Run an experiment, print its table and, last, its folder."""
    print(f"run: {out}")
    try:
        summary = run_experiment(experiment, out)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(_way_on(out)) from interrupt
    _close(summary, out)


def resume(path: Path) -> None:
    """Go on with an interrupted run from its last complete epoch."""
    folder = RunFolder.existing(path)
    if (path / "summary.json").is_file():
        raise ValueError(f"Expected an interrupted run; got {path}, which has come to its end.")
    parser = experiment_parser()
    experiment = Experiment.from_config(parser.parse_object(yaml.safe_load((path / "config.yaml").read_text())))
    state = folder.load_training()
    print("from the start" if state is None else f"from epoch {state.epoch}")
    try:
        summary = Session.prepare(experiment).run(folder, progress=True, state=state)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(_way_on(path)) from interrupt
    _close(summary, path)


def _way_on(path: Path) -> str:
    return f"; `latentmix resume {path}` goes on from the last complete epoch" if path.exists() else ""


def _close(summary: dict[str, Any], path: Path) -> None:
    print(f"\n{summary_table(summary)}\n")
    print(
        f"test: {headline(summary['test'])}; {summary['parameters']:,} parameters, trained in "
        f"{summary['seconds']['train']:.1f} s"
    )
    if "coverage" in summary:
        coverage = summary["coverage"]
        print(
            f"samples: {coverage['covered']} of {coverage['components']} components covered, "
            f"{100 * coverage['outside']:.1f}% in none; energy distance {coverage['energy']['statistic']:.4f}, p = "
            f"{coverage['energy']['p_value']:.3f}"
        )
    print(f"report: {path / 'report.html'}")
    print(path)


def evaluate(path: Path, split: str, options: Sequence[str], samples: int, out: Path | None) -> None:
    """Measure a finished run on a split of its own, or of another, data set."""
    _refuse_existing(out)
    finished = load_run(path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Data, "data")
    known = finished.config["data"]
    asked = [word for option, word in pairwise(option_words(options)) if option == "--data.source"]
    other = bool(asked) and asked[-1] != known["source"]
    parser.set_defaults({f"data.{name}": value for name, value in known.items() if not (other and name in APPLIES)})
    data = parser.instantiate(_parsed(parser, option_words(options))).data
    images = replace(data, labels_per_class=1).load()
    if images.shape != finished.vae.shape:
        raise ValueError(f"Expected data of shape {finished.vae.shape} for this run; got {images.shape}.")
    chosen = images.splits[split] if split != "all" else _together(list(images.splits.values()))
    binarize = resolve_binarize(data.binarize, finished.vae.likelihood)
    seen = binarize_static(chosen.x, data.seed) if binarize == "static" else chosen.x
    transform = batch_transform(binarize)
    with isolated(seed=0):
        finished.vae.likelihood.check(transform(seen[:1024]))
    seed = finished.config["seed"]
    trained = Experiment.from_config(experiment_parser().parse_object(finished.config))
    figures: dict[str, Any] = {
        "run": str(path),
        "data": asdict(data),
        "split": split,
        "images": len(chosen),
        **measure_vae(
            finished.vae,
            finished.guide,
            chosen,
            seen,
            transform=transform,
            objective=bound_of(trained.objective),
            samples=samples,
            limit=len(chosen),
            seed=seed,
        ),
    }
    latents = latents_of(finished.guide, chosen, finished.config["mixture"]["latents"], seed)
    mixtures: dict[str, Any] = {}
    for inference, budgets in finished.mixtures.items():
        mixtures[inference] = {}
        for budget, fitted in budgets.items():
            entry: dict[str, Any] = {"log_likelihood": float(fitted.mixture.score(latents.latents))}
            if latents.labels is not None and fitted.classes:
                unknown = sorted(set(latents.labels.tolist()) - set(fitted.classes))
                if unknown:
                    raise ValueError(
                        f"Expected images of the classes {list(fitted.classes)} of this run; got classes {unknown} "
                        "too: choose with --data.classes."
                    )
                assigned = np.asarray(fitted.mixture.predict(latents.latents))
                entry |= classification(latents.labels, fitted.predict(latents.latents), assigned, fitted.classes)
            mixtures[inference][budget] = entry
    figures["mixtures"] = mixtures
    if out is not None:
        out.write_text(json.dumps(figures, indent=2))
    print(f"{split} split of {data.source}: {len(chosen)} {'images' if images.pictorial else 'points'}")
    print(f"{headline(figures)}\n")
    print(summary_table({"mixtures": mixtures}))


def _parsed(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """Options of a command that is not an experiment.

    Raises:
        ValueError: If one is unknown.
    """
    known = [name for action in parser._actions for name in action.option_strings if name != "-h"]
    unknown = next((word for word in words if word.startswith("--") and word not in known), None)
    if unknown is not None:
        listed = ", ".join(name for name in known if name not in ("--help", "--data") and not name.endswith("+"))
        raise ValueError(f"Expected options out of {listed}; got {unknown}.")
    return parser.parse_args(list(words))


def _together(splits: Sequence[Split]) -> Split:
    labels = [split.labels for split in splits if split.labels is not None]
    return Split(torch.cat([split.x for split in splits]), torch.cat(labels) if labels else None)


def classify(path: Path, files: Sequence[Path], inference: str, budget: str | None, out: Path | None) -> None:
    """Print, or write, a table of class probabilities: a row for every image."""
    _refuse_existing(out)
    finished = load_run(path)
    budgets = finished.mixtures[inference]
    budget = budget or ("few" if "few" in budgets else "none")
    if budget not in budgets:
        raise ValueError(f"Expected a label budget of this run, {', '.join(budgets)}; got {budget!r}.")
    fitted = budgets[budget]
    if len(finished.vae.shape) != 3:
        raise ValueError(f"Expected a run on images, to classify images by; got one on points in {path}.")
    names, images = _read_images(files, finished.vae.shape)
    probabilities = fitted.classify(finished.guide.encode(images, transform=ToFloat()))
    columns = [f"class {label}" for label in fitted.classes] or [
        f"component {index}" for index in range(probabilities.shape[1])
    ]
    best = probabilities.argmax(1)
    labels = [fitted.classes[index] if fitted.classes else int(index) for index in best]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "predicted", *columns])
    for name, label, row in zip(names, labels, probabilities, strict=True):
        table.writerow([name, label, *(f"{value:.4f}" for value in row)])
    if out is None:
        sys.stdout.write(text.getvalue())
    else:
        out.write_text(text.getvalue())
        print(f"{len(names)} images: {out}")


def _read_images(files: Sequence[Path], shape: tuple[int, ...]) -> tuple[list[str], Tensor]:
    names: list[str] = []
    parts: list[Tensor] = []
    for file in files:
        if file.suffix in (".npy", ".npz"):
            images, _ = load_file(str(file))
            names += [f"{file.name}:{index}" for index in range(len(images))]
        else:
            images = _read_picture(file, shape)
            names.append(file.name)
        if tuple(images.shape[1:]) != shape:
            raise ValueError(f"Expected images of shape {shape} for this run; got {tuple(images.shape[1:])} in {file}.")
        parts.append(images)
    return names, torch.cat(parts)


def _read_picture(file: Path, shape: tuple[int, ...]) -> Tensor:
    """A picture file as training decodes it, in the run's channels and size: a `1 x C x H x W` uint8 tensor."""
    channels, height, width = shape
    try:
        return torch.tensor(decode(file, (height, width), channels=channels))[None]
    except Exception as error:  # Pillow's decoders raise exceptions of many kinds on what is no image
        raise ValueError(
            f"Expected a picture, .npy or .npz file; got {file}, which cannot be read as one ({error})."
        ) from error


def sample(path: Path, n: int, seed: int, out: Path) -> None:
    """Draw mean images, or points, from the prior into a picture or an array."""
    if n < 1:
        raise ValueError(f"Expected at least one sample; got {n}.")
    if out.suffix not in (".png", ".npy"):
        raise ValueError(f"Expected a .png or .npy file for the samples; got {out}.")
    _refuse_existing(out)
    vae = load_run(path).vae
    if len(vae.shape) != 3 and out.suffix == ".png":
        raise ValueError(f"Expected a .npy file for samples that are points, not images; got {out}.")
    images = vae.generate(n, seed=seed)
    if out.suffix == ".npy":
        np.save(out, images.numpy())
    else:
        plots.save(plots.generated(images), out)
    print(out)


def report(path: Path) -> None:
    """Write `report.html` anew from what the run left."""
    folder = RunFolder.existing(path)
    folder.read_json("summary.json")
    write_report(folder.path)
    print(path / "report.html")


def ex_post(path: Path, options: Sequence[str], out: Path | None) -> None:
    """Print what a finished run gains when its prior is swapped for mixtures of its training latents."""
    from latentmix.experiments.commands.ex_post import ExPost, as_json, measure_ex_post, table

    _refuse_existing(out)
    finished = load_run(path)
    parser = ArgumentParser(exit_on_error=False, prog="latentmix ex-post")
    parser.add_class_arguments(ExPost)
    settings = ExPost(**vars(_parsed(parser, option_words(options, lists=("n_components", "forms")))))
    gains = measure_ex_post(finished, settings, print)
    if out is not None:
        out.write_text(json.dumps({"run": str(path), **as_json(gains, settings)}, indent=2))
    print(f"\nmean log-likelihood of test data and its gain, nats\n\n{table(gains)}")


def select(source: Path, options: dict[str, Any], out: Path) -> None:
    """Print what every criterion says of mixtures of a run's latents, or of points, and, last, the folder of it."""
    from latentmix.experiments.commands.select import Choice, choose, component_counts
    from latentmix.inference.mixtures.analysis.candidates import CRITERIA

    names = options.pop("criteria")
    settings = Choice(
        n_components=component_counts(options.pop("n_components")),
        covariance_types=tuple(options.pop("covariance_types").split(",")),
        criteria=CRITERIA if names is None else tuple(names.split(",")),
        **options,
    )
    selection, report = choose(source, settings, out, print)
    print(f"\n{selection.table()}\n\n{report.table()}\n\n{out}")


def bench_svi() -> None:
    """Print the seconds per epoch of SVI here, in Pyro and in hand-written PyTorch."""
    from latentmix.experiments.benchmarks.svi import svi_speed

    for row in svi_speed():
        values = {field.name: getattr(row, field.name) for field in fields(row)}
        print(
            "  ".join(
                f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"
                for name, value in values.items()
            )
        )


def bench_em(options: dict[str, Any], out: Path | None) -> None:
    """Print the seconds per iteration of EM here and in other libraries; write them to `out`."""
    from latentmix.experiments.benchmarks.em import em_speed, table

    _refuse_existing(out)
    found = []
    for row in em_speed(**options):
        found.append(asdict(row))
        print(table(row), flush=True)
    if out is not None:
        out.write_text(json.dumps(found, indent=1))


def _refuse_existing(out: Path | None) -> None:
    if out is not None and out.exists():
        raise ValueError(f"Expected a new file for the result; got {out}, which exists already: name another by --out.")
    if out is not None and not out.parent.is_dir():
        raise ValueError(
            f"Expected a folder that is there for the result; got {out}: make {out.parent}, or name another."
        )
