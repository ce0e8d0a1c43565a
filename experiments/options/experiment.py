"""Experiments as objects: built from a configuration by the constructors' own signatures."""

from __future__ import annotations

import argparse
import inspect
import math
import warnings
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from pyro.infer import RenyiELBO, TraceEnum_ELBO, TraceTMC_ELBO
from pyro.infer.elbo import ELBO
from torch.optim import Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.loggers import Logger
from latentmix.experiments.options.calls import as_call
from latentmix.experiments.options.literals import instantiated
from latentmix.experiments.options.messages import blaming, one_line
from latentmix.experiments.options.mixture_fits import MixtureFits, add_mixture_arguments, unwrapped
from latentmix.experiments.options.parser import OptionParser, OptionsFile
from latentmix.experiments.options.parts import LINKED, PARTS, import_object
from latentmix.experiments.options.settings import Measures, Training, compose_objective
from latentmix.experiments.reading.limits import check_count
from latentmix.inference import Objective, TrainingState
from latentmix.inference.svi.optimizers import check_schedule_steps
from latentmix.models import Likelihood
from latentmix.models.display import Displayed
from latentmix.models.process_state import kept_warnings
from latentmix.models.words import plural

LONGEST_REHEARSAL = 10_000  # steps of a schedule

__all__ = ["Experiment", "experiment_parser", "plain"]


@dataclass(frozen=True, repr=False)
class Experiment(Displayed):
    """An experiment as objects, except for the parts whose shapes depend on the data.

    Args:
        config: The complete configuration as plain values; the same configuration gives the same run.
        data: The data set.
        training: Training of the VAE.
        mixture: Mixtures over the latents.
        measure: Figures beyond the bound.
        elbo: The ELBO that `--objective` names.
        objective: The loss of SVI: that ELBO, with its KL divergence weighted or clamped if asked.
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

    def shown(self) -> dict[str, Any]:
        parts = {name: self.config[name]["class_path"].rpartition(".")[2] for name in PARTS}
        training = f"{plural(self.training.epochs, 'epoch')}, {self.training.batch_size} a step"
        return {
            "name": self.config["name"],
            "data": self.data.source,
            "latent_dim": self.config["latent_dim"],
            **parts,
            "objective": type(self.elbo).__name__,
            "training": training,
        }

    @classmethod
    def from_config(cls, config: Namespace, *, checked: bool = True) -> Experiment:
        """Build the objects of a parsed configuration.

        Args:
            config: The configuration.
            checked: Whether to refuse options that would fail only after the data are loaded or the VAE is trained.

        Raises:
            ValueError: If an option is out of its range, options do not go together, an optimizer or a schedule cannot
                be built or stepped, or the objective has too few particles.
        """
        parser = experiment_parser()
        objects = instantiated(parser, config, {**PARTS, "objective": ELBO, "loggers": Logger})
        training = Training(**{field.name: objects[field.name] for field in fields(Training)})
        values = plain(parser, config)
        check_count("--latent_dim", values["latent_dim"])
        values["data"] |= objects.data.resolved_paths()
        if training.init_from is not None:
            values["init_from"] = str(Path(training.init_from).resolve())
        experiment = cls(
            values,
            objects.data,
            training,
            objects.mixture,
            objects.measure,
            objects.objective,
            compose_objective(objects.objective, training),
            objects.likelihood,
        )
        if checked:
            _check_options(experiment)
        return experiment

    def check_schedule(self, length: int) -> None:
        """Refuse a schedule by minibatches that ends before the training.

        Args:
            length: Number of training data.

        Raises:
            ValueError: If `--scheduler` has fewer steps than the training has minibatches.
        """
        training = self.training
        if training.schedule_steps:
            size = min(training.batch_size, length)
            epoch = TrainingState(length=length, batch_size=size, drop_last=training.drop_last)
            steps = training.epochs * epoch.batches
            _rehearse("optimizer", training.optimizer, "scheduler", training.scheduler, steps, by_steps=True)

    def parts(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """The VAE's and the guide's parts as plain values, completed with the arguments that follow from the data."""
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


@cache
def experiment_parser() -> ArgumentParser:
    """The options of an experiment, derived from the signatures of its parts."""
    parser = OptionParser(prog="latentmix run PRESET", add_help=False, allow_abbrev=False, print_config=None)
    parser.add_argument(
        "--config",
        action=OptionsFile,
        default=argparse.SUPPRESS,
        help="A YAML file of options; later options override it.",
    )
    parser.add_argument("--name", type=str, default="", help="Name of the run; by default that of its preset.")
    parser.add_argument(
        "--description",
        type=str,
        default="",
        help="A sentence on the experiment; options typed beside a file leave out the file's.",
    )
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


def plain(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """A configuration as plain values."""
    text = parser.dump(config, skip_validation=True, skip_unset=False)
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def _check_options(experiment: Experiment) -> None:
    """Refuse options that would fail only after the data are loaded or the VAE is trained."""
    least = 2 if isinstance(experiment.elbo, RenyiELBO) else 1
    why = ", which is the ELBO with one" if least > 1 else ""
    counts = {"num_particles": least, "num_sleep_particles": 1, "max_plate_nesting": 0}
    for name, smallest in counts.items():
        value = getattr(experiment.elbo, name, smallest)
        whole = isinstance(value, int) or (name == "max_plate_nesting" and value == math.inf)
        if not whole or value < smallest:
            kind = type(experiment.elbo).__name__ + (why if name == "num_particles" else "")
            raise ValueError(
                f"Expected a whole number as --objective.{name} of at least {smallest} for {kind}; got {value}."
            )
        if value != math.inf:
            check_count(f"--objective.{name}", value, smallest)
    training, svi = experiment.training, experiment.mixture.svi
    if training.schedule_steps and training.scheduler is None:
        raise ValueError("Expected a --scheduler for --schedule_steps true; got none.")
    least, by_steps = training.epochs, training.schedule_steps  # `check_schedule` knows the number of minibatches
    _rehearse("optimizer", training.optimizer, "scheduler", training.scheduler, least, by_steps=by_steps)
    if svi.optimizer is not None or svi.scheduler is not None:
        _rehearse("mixture.svi.optimizer", svi.optimizer or Adam, "mixture.svi.scheduler", svi.scheduler, svi.epochs)


def _rehearse(name: str, optimizer: Any, schedule: str, scheduler: Any, steps: int, *, by_steps: bool = False) -> None:
    """Take a step of an optimizer, and those of its schedule, on a parameter that is thrown away."""
    unit = ("minibatch", "minibatches") if by_steps else ("epoch", "epochs")
    leaf = torch.zeros(1, requires_grad=True)
    leaf.grad = torch.ones(1)
    with kept_warnings():
        warnings.simplefilter("ignore")
        try:
            made = optimizer([leaf])
            made.step()
        except Exception as error:
            raise ValueError(
                f"Expected --{name} to take steps of dense gradients; got {_call_of(optimizer)}: "
                f"{one_line(error).rstrip('.')}."
            ) from error
        try:
            if scheduler is not None:
                stepped = scheduler(made)
                loss = [1.0] if isinstance(stepped, ReduceLROnPlateau) else []
                for _ in range(min(steps, LONGEST_REHEARSAL)):
                    stepped.step(*loss)
        except Exception as error:
            raise ValueError(
                f"Expected --{schedule} to be a schedule of that optimizer for {plural(steps, *unit)}; got "
                f"{_call_of(scheduler)}: {_reason(error)}."
            ) from error
    if scheduler is not None:
        with blaming(f"--{schedule}"):
            check_schedule_steps(stepped, steps, by_steps=by_steps)


def _reason(error: Exception) -> str:
    return "it divides by a number that is 0" if isinstance(error, ZeroDivisionError) else one_line(error).rstrip(".")


def _call_of(make: Any) -> str:
    """A class and the arguments that differ from its defaults, as in `StepLR(step_size=0)`."""
    made = unwrapped(make)
    kind, given = (made.func, made.keywords) if isinstance(made, partial) else (made, {})
    return as_call({"class_path": getattr(kind, "__name__", str(kind)), "init_args": given})
