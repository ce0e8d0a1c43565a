"""Settings of training and of evaluation, and the objective and device that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentmix.experiments.loggers import Logger
from latentmix.experiments.options.messages import blaming
from latentmix.experiments.reading.limits import MAX_NETWORK_GIB, check_count
from latentmix.inference import FreeBits, Objective, Weighted, as_objective
from latentmix.inference.compiled.plan import Compiling
from latentmix.inference.mixtures.points.validation import check_device
from latentmix.inference.objectives.precision import Precision

__all__ = ["Measures", "Training", "compose_objective", "device_of"]


@dataclass(frozen=True)
class Training:
    """Training of the VAE.

    Args:
        epochs: Passes over the training images.
        batch_size: Images per step.
        drop_last: Whether to drop the last minibatch of an epoch when it is smaller than the others, as batch
            normalisation requires where it would hold a single image.
        optimizer: Any torch optimizer.
        scheduler: A learning-rate schedule, stepped after every epoch.
        schedule_steps: Whether the schedule is stepped after every minibatch instead.
        clip_norm: Largest norm of all gradients together; larger ones are scaled down to it. By default, no bound.
        max_skipped: Most steps in succession that are skipped, since a loss or a gradient is not finite or a
            decomposition fails; one more ends training.
        patience: Epochs without a better validation ELBO, counted from the end of the warm-up, after which training
            stops and the best weights are restored; by default all epochs are run.
        beta: Weight of the KL divergence in the objective; reported figures are always at 1.
        warmup: Epochs over which that weight rises to `beta`.
        free_bits: Nats of KL divergence that each latent dimension may use at no cost (requires a KL per dimension).
        start_prior: Epochs after which a learned mixture prior is re-initialized from a mixture fitted by EM to samples
            of q, as in VaDE; by default never.
        init_from: A folder of pre-trained weights, or a run, to start from.
        seed: Seed of the initial weights, of training and of the mixtures' starts.
        precision: `full`, or `bf16-mixed`, products of linear layers and convolutions in bfloat16 and the rest in
            float32, which is faster on processors and GPUs with such products; figures are measured in float32.
        compile: Whether steps run as compiled graphs, which takes some seconds at the start and a C++ compiler; `auto`
            compiles trainings of many thousand steps on a CPU, and the run's log says why not.
        device: A torch device; `auto` uses a GPU if there is one.
        loggers: Logs besides the run's own files, several by commas (each requires the extra of its name).
        max_gib: Most memory of the weights of the VAE and the guide, in GiB; training takes about four times as much.
    """

    epochs: int = 20
    batch_size: int = 128
    drop_last: bool = False
    optimizer: Callable[[Iterable[Tensor]], Optimizer] = Adam
    scheduler: Callable[[Optimizer], LRScheduler] | None = None
    schedule_steps: bool = False
    clip_norm: float | None = None
    max_skipped: int = 10
    patience: int | None = None
    beta: float = 1.0
    warmup: int = 0
    free_bits: float | None = None
    start_prior: int | None = None
    init_from: str | None = None
    seed: int = 0
    precision: Precision = "full"
    compile: Compiling = "auto"
    device: str = "auto"
    loggers: Sequence[Logger] = ()
    max_gib: float = MAX_NETWORK_GIB

    def __post_init__(self) -> None:
        check_count("--seed", self.seed, 0)
        for name in ("epochs", "batch_size", "patience", "start_prior", "warmup"):
            value = getattr(self, name)
            if value is not None:
                check_count(f"--{name}", value, 0 if name == "warmup" else 1)
        check_count("--max_skipped", self.max_skipped, 0)
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ValueError(f"Expected --clip_norm above 0 and finite; got {self.clip_norm}.")
        if not self.max_gib > 0:
            raise ValueError(f"Expected --max_gib above 0; got {self.max_gib}.")
        if self.start_prior is not None and self.start_prior >= self.epochs:
            raise ValueError(
                "Expected --start_prior below --epochs, so that training continues after it; got "
                f"{self.start_prior} of {self.epochs}."
            )


@dataclass(frozen=True)
class Measures:
    """Figures beyond the bound and the reconstructions.

    Args:
        samples: Samples of q per test image for the importance-weighted log-likelihood; 0 skips it.
        images: Most test images for the importance-weighted log-likelihood.
    """

    samples: int = 0
    images: int = 1000

    def __post_init__(self) -> None:
        check_count("--measure.samples", self.samples, 0)
        check_count("--measure.images", self.images)


def compose_objective(elbo: ELBO, training: Training) -> Objective:
    """The objective of an ELBO whose KL divergence is weighted or clamped as training asks.

    Raises:
        ValueError: If the ELBO and the weight do not go together.
    """
    if isinstance(elbo, TraceEnum_ELBO) and elbo.max_plate_nesting == math.inf:
        vectorized = elbo.vectorize_particles and elbo.num_particles > 1
        elbo.max_plate_nesting = 1 + vectorized  # that of a VAE; Pyro would run the model to guess it
    objective = as_objective(elbo)
    if training.free_bits is not None:
        if type(elbo) not in (Trace_ELBO, TraceMeanField_ELBO):
            raise ValueError(
                f"Expected Trace_ELBO or TraceMeanField_ELBO for --free_bits, which clamps a KL per dimension; got "
                f"{type(elbo).__name__}."
            )
        with blaming("--free_bits"):
            objective = FreeBits(training.free_bits, num_particles=elbo.num_particles)
    if training.beta != 1 or training.warmup:
        with blaming("--warmup" if training.beta == 1 else "--beta or --warmup"):
            objective = Weighted(objective, beta=training.beta, warmup=training.warmup)
    return objective


def device_of(training: Training) -> torch.device:
    """The device of an experiment.

    Raises:
        ValueError: If it is unknown or not available.
    """
    if training.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with blaming("--device"):
        return check_device(training.device)
