"""Configurations: from presets, files and options to objects, by the constructors' own signatures."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, TraceTMC_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentmix.experiments.data.datasets import ROOTED, Data
from latentmix.experiments.options.earlier import ExperimentParser, refuse_earlier_names
from latentmix.experiments.options.mixture_fits import MixtureFits, add_mixture_arguments
from latentmix.experiments.options.untyped import import_object, instantiated
from latentmix.guides import AmortizedGuide, Encoder, Family
from latentmix.inference import FreeBits, Objective, Weighted, as_objective
from latentmix.inference.mixtures.points.validation import check_device
from latentmix.models import VAE, Decoder, Likelihood, Prior, VampPrior

__all__ = [
    "Experiment",
    "Measures",
    "Training",
    "build_parts",
    "experiment_parser",
    "option_words",
]

PARTS = {"encoder": Encoder, "decoder": Decoder, "prior": Prior, "likelihood": Likelihood, "family": Family}
LINKED = {"latent_dim", "shape", "outputs", "enumerated", "frozen"}
WORDS = {"--description", "--name", "--data.source", "--data.root", "--data.cache", "--init_from"}


@dataclass(frozen=True)
class Training:
    """How the VAE is trained.

    Args:
        epochs: Passes over the training images.
        batch_size: Images a step.
        drop_last: Whether a last minibatch of fewer images is left out of every epoch, as batch normalisation needs
            where it would be a single image.
        optimizer: Any torch optimizer.
        scheduler: A learning-rate schedule, stepped after every epoch.
        patience: Epochs without a better validation ELBO after which training ends and the best weights come
            back, counted from the end of the warm-up; by default all epochs are run.
        beta: Weight of the KL divergence in the objective; figures are at 1 always.
        warmup: Epochs over which that weight rises to `beta`.
        free_bits: Nats that each latent dimension may take for nothing (needs a KL per dimension).
        start_prior: Epochs after which a learned mixture prior is started anew from a mixture fitted by EM to samples
            of q, as VaDE is; by default never.
        init_from: A folder of pre-trained weights, or a run, to start from.
        seed: Seed of the initial weights, of training and of the mixtures' starts.
        device: `auto` takes a GPU where there is one.
        tensorboard: Whether to write TensorBoard logs into the run folder (needs the extra `tensorboard`).
    """

    epochs: int = 20
    batch_size: int = 128
    drop_last: bool = False
    optimizer: Callable[[Iterable[Tensor]], Optimizer] = Adam
    scheduler: Callable[[Optimizer], LRScheduler] | None = None
    patience: int | None = None
    beta: float = 1.0
    warmup: int = 0
    free_bits: float | None = None
    start_prior: int | None = None
    init_from: str | None = None
    seed: int = 0
    device: str = "auto"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"Expected a seed in 0 ... 2**31 - 1; got {self.seed}.")
        for name in ("epochs", "batch_size", "patience", "start_prior"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Expected {name} of at least 1; got {value}.")
        if self.start_prior is not None and self.start_prior >= self.epochs:
            raise ValueError(
                f"Expected start_prior below epochs, so that training goes on from there; got {self.start_prior} of "
                f"{self.epochs}."
            )


@dataclass(frozen=True)
class Measures:
    """What is measured beyond the bound and the reconstructions.

    Args:
        samples: Samples of q per test image for the importance-weighted log-likelihood; 0 leaves it out.
        images: Most test images that it is measured on.
    """

    samples: int = 0
    images: int = 1000

    def __post_init__(self) -> None:
        if self.samples < 0 or self.images < 1:
            raise ValueError(
                f"Expected measure.samples of at least 0 and measure.images of at least 1; got {self.samples} and "
                f"{self.images}."
            )


@dataclass(frozen=True)
class Experiment:
    """An experiment as objects, but for the parts whose shapes depend on the data.

    Args:
        config: The complete configuration, as plain values; the same again gives the same run.
        data: Which images.
        training: How the VAE is trained.
        mixture: How mixtures are fitted.
        measure: What is measured beyond the bound.
        elbo: The ELBO that was named.
        objective: What SVI minimises: that ELBO, with its KL divergence weighted or clamped where asked.
        likelihood: The likelihood; it depends on no shape.
    """

    config: dict[str, Any]
    data: Data
    training: Training
    mixture: MixtureFits
    measure: Measures
    elbo: ELBO
    objective: Objective
    likelihood: Likelihood

    @classmethod
    def from_config(cls, config: Namespace) -> Experiment:
        """Make the objects that a parsed configuration names."""
        parser = experiment_parser()
        objects = instantiated(parser, config)
        training = Training(**{field.name: objects[field.name] for field in fields(Training)})
        values = plain(parser, config)
        values["data"] |= located(objects.data)
        if training.init_from is not None:
            values["init_from"] = str(Path(training.init_from).resolve())
        return cls(
            values,
            objects.data,
            training,
            objects.mixture,
            objects.measure,
            objects.objective,
            compose_objective(objects.objective, training),
            objects.likelihood,
        )

    def parts(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """The VAE's and the guide's parts as plain values, with what follows from the data filled in."""
        parts = {name: dict(self.config[name]) for name in PARTS}
        linked = {
            "latent_dim": self.config["latent_dim"],
            "shape": list(shape),
            "outputs": self.likelihood.outputs,
            "enumerated": isinstance(self.elbo, TraceEnum_ELBO | TraceTMC_ELBO),
        }
        for part in parts.values():
            accepted = inspect.signature(import_object(part["class_path"])).parameters
            filled = {name: value for name, value in linked.items() if name in accepted}
            part["init_args"] = {**part.get("init_args", {}), **filled}
        return parts


def build_parts(parts: Mapping[str, Any]) -> tuple[VAE, AmortizedGuide]:
    """Make the VAE and the guide from plain values, with untrained weights from torch's random state.

    Args:
        parts: For each of encoder, decoder, prior, likelihood and family a class path and its arguments.

    Raises:
        ValueError: If the parts do not fit each other.
    """
    parser = ArgumentParser(exit_on_error=False)
    for name, base in PARTS.items():
        parser.add_subclass_arguments(base, name, required=True)
    made = instantiated(parser, parser.parse_object(dict(parts)))
    vae = VAE(decoder=made.decoder, prior=made.prior, likelihood=made.likelihood)
    if made.encoder.latent_dim != vae.latent_dim or tuple(made.encoder.shape) != vae.shape:
        raise ValueError(
            f"Expected an encoder of data {vae.shape} into latent_dim {vae.latent_dim}; got "
            f"{tuple(made.encoder.shape)} into {made.encoder.latent_dim}."
        )
    return join(vae, AmortizedGuide(encoder=made.encoder, family=made.family))


def join(vae: VAE, guide: AmortizedGuide) -> tuple[VAE, AmortizedGuide]:
    """A model and its guide, a prior that is made of the guide bound to it."""
    if isinstance(vae.prior, VampPrior):
        vae.prior.bind(guide.posterior)
    return vae, guide


def compose_objective(elbo: ELBO, training: Training) -> Objective:
    """The objective that an ELBO and the weight of its KL divergence make.

    Raises:
        ValueError: If they do not go together.
    """
    if isinstance(elbo, TraceEnum_ELBO) and elbo.max_plate_nesting == math.inf:
        vectorized = elbo.vectorize_particles and elbo.num_particles > 1
        elbo.max_plate_nesting = 1 + vectorized  # that of a VAE; Pyro would run the model to find out
    objective = as_objective(elbo)
    if training.free_bits is not None:
        if type(elbo) not in (Trace_ELBO, TraceMeanField_ELBO):
            raise ValueError(
                f"Expected Trace_ELBO or TraceMeanField_ELBO for --free_bits, which clamps a KL per dimension; got "
                f"{type(elbo).__name__}."
            )
        objective = FreeBits(training.free_bits, num_particles=elbo.num_particles)
    if training.beta != 1 or training.warmup:
        objective = Weighted(objective, beta=training.beta, warmup=training.warmup)
    return objective


@cache
def experiment_parser() -> ArgumentParser:
    """The options of an experiment, derived from the signatures of its parts."""
    parser = ExperimentParser(exit_on_error=False, prog="latentmix run PRESET", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="A YAML file of options; later options override it.")
    parser.add_argument("--name", type=str, default="", help="What the run is called; by default as its preset.")
    parser.add_argument("--description", type=str, default="", help="A sentence on the experiment.")
    parser.add_argument("--latent_dim", type=int, default=2, help="Length of z, for every part.")
    for name, base in PARTS.items():
        standalone = name in ("likelihood", "family")
        parser.add_subclass_arguments(base, name, skip=LINKED, required=True, instantiate=standalone)
    parser.add_subclass_arguments(ELBO, "objective", default={"class_path": "pyro.infer.Trace_ELBO"})
    parser.add_class_arguments(Training)
    parser.add_class_arguments(Data, "data")
    add_mixture_arguments(parser)
    parser.add_class_arguments(Measures, "measure")
    return parser


def option_words(words: Sequence[str], lists: Collection[str] = ()) -> list[str]:
    """Options as the parser wants them: `--option=value` as two words, and `1,4,8`, or `1`, as a list.

    Args:
        words: Words of the command line.
        lists: Names of options that are lists, beside those of an experiment.
    """
    split: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        split += [option, value] if word.startswith("--") and equals else [word]
    refuse_earlier_names(word.removeprefix("--") for word in split if word.startswith("--"))
    options = ["", *split]
    known = _list_options() | set(lists)
    return [_as_list(option, word, known) for option, word in zip(options, split, strict=False)]


def _as_list(option: str, word: str, lists: Collection[str]) -> str:
    several = re.fullmatch(r"[\w.+-]+(,[\w.+-]+)+", word) and not word.startswith("--") and option not in WORDS
    one = option.startswith("--") and option.strip("-").rpartition(".")[2] in lists and re.fullmatch(r"[\w.+-]+", word)
    return f"[{word}]" if several or (one and word not in ("null", "None")) else word


@cache
def _list_options() -> set[str]:
    """Names of the arguments that are lists, of the parts that LatentMix has and of an experiment's settings."""
    classes: list[type] = [Data, Measures, MixtureFits, Training]
    for base in PARTS.values():
        classes += kinds_of(base)
    arguments = [item for kind in classes for item in inspect.signature(kind).parameters.items()]
    return {name for name, argument in arguments if re.match(r"(Sequence|list|tuple)\[", str(argument.annotation))}


def kinds_of(base: type) -> list[type]:
    """The classes that derive from another, at any depth."""
    children: list[type] = base.__subclasses__()
    return [kind for child in children for kind in (child, *kinds_of(child))]


def plain(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """A configuration as plain values."""
    text = parser.dump(config, skip_validation=True, skip_unset=False)
    values: dict[str, Any] = yaml.safe_load(text)
    values.pop("config", None)
    return values


def located(data: Data) -> dict[str, str]:
    """Where the data lie, in words that hold from any folder and without the environment."""
    if data.source.endswith((".npz", ".npy")):
        return {"source": str(Path(data.source).resolve())}
    root = data.root or (None if data.source == "image_folder" else os.environ.get("LATENTMIX_DATA"))
    places = {"root": root if data.source in ROOTED else None, "cache": data.cache}
    return {name: str(Path(place).expanduser().resolve()) for name, place in places.items() if place}


def check_options(experiment: Experiment) -> None:
    """Try what would fail only after the data are loaded, or the VAE is trained.

    Raises:
        ValueError: If an optimizer or a schedule cannot be made, or the objective has no particle.
    """
    least = 2 if isinstance(experiment.elbo, RenyiELBO) else 1
    why = ", which is the ELBO with one" if least > 1 else ""
    counts = {"num_particles": least, "num_sleep_particles": 1, "max_plate_nesting": 0}
    for name, smallest in counts.items():
        value = getattr(experiment.elbo, name, smallest)
        whole = isinstance(value, int) or (name == "max_plate_nesting" and value == math.inf)
        if not whole or value < smallest:
            kind = type(experiment.elbo).__name__ + (why if name == "num_particles" else "")
            raise ValueError(
                f"Expected a whole number as objective.{name} of at least {smallest} for {kind}; got {value}."
            )
    makers: dict[str, Any] = {
        "optimizer": experiment.training.optimizer,
        "mixture.svi.optimizer": experiment.mixture.svi.optimizer,
    }
    for name, make in makers.items():
        if make is None:
            continue
        leaf = torch.zeros(1, requires_grad=True)
        leaf.grad = torch.ones(1)
        try:
            optimizer = make([leaf])
            optimizer.step()
            if name == "optimizer" and experiment.training.scheduler is not None:
                experiment.training.scheduler(optimizer)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"Expected --{name} to take steps of dense gradients; got {error}") from error


def device_of(training: Training) -> torch.device:
    """The device that an experiment runs on.

    Raises:
        ValueError: If it is unknown, or not there.
    """
    if training.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return check_device(training.device)
