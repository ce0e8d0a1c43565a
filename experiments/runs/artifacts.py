"""Run folders: the files of a run, written without pickle and read back."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from torch import Tensor

from latentmix.experiments.options.experiment import Experiment, experiment_parser, plain
from latentmix.experiments.options.parts import join
from latentmix.experiments.options.stored import read_configuration
from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.experiments.runs.stored import read_summary
from latentmix.guides import AmortizedGuide
from latentmix.inference import TrainingState
from latentmix.inference.isolation import isolated
from latentmix.models import VAE
from latentmix.models.files import write_atomically
from latentmix.models.reading import damaged, read_json, read_tensors

__all__ = ["Run", "RunFolder", "load_run", "load_tree", "save_tree", "versions"]


def save_tree(path: Path, tree: Any) -> None:
    """Write nested lists and dictionaries of tensors and plain values as safetensors and JSON.

    A file replaces an earlier one in one step, so that it is complete after an interruption, too.

    Args:
        path: Without an ending; `.safetensors` and `.json` are added.
        tree: The values.
    """
    tensors: dict[str, Tensor] = {}

    def plain(node: Any) -> Any:
        if isinstance(node, Tensor):
            key = str(len(tensors))
            tensors[key] = node.detach().cpu().contiguous().clone()
            return {"$tensor": key}
        if isinstance(node, dict):
            return {"$dict": [[plain(key), plain(value)] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            return [plain(value) for value in node]
        return node

    structure = plain(tree)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save(tensors, metadata={"structure": json.dumps(structure)})
    write_atomically(path.with_suffix(".safetensors"), data)


def load_tree(path: Path) -> Any:
    """Read the values that `save_tree` wrote; nothing in the file is executed.

    Raises:
        ValueError: If the file is missing or has another format.
    """
    file = path.with_suffix(".safetensors")
    tensors, metadata = read_tensors(file)
    with damaged(file, "safetensors with a structure"):
        return _tree(json.loads(metadata["structure"]), tensors)


def _tree(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, dict):
        if "$tensor" in node:
            return tensors[node["$tensor"]]
        return {_tree(key, tensors): _tree(value, tensors) for key, value in node["$dict"]}
    if isinstance(node, list):
        return [_tree(value, tensors) for value in node]
    return node


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's figures depend on."""
    packages = ("latentmix", "torch", "pyro-ppl", "zuko", "numpy", "scikit-learn", "torchvision", "torchmetrics")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: `config.yaml`, `metrics.jsonl`, `summary.json`, `checkpoints/`, `figures/`, `report.html`.

    Args:
        path: The folder.
    """

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make a new folder.

        Raises:
            ValueError: If the path exists or cannot be made.
        """
        cls.refuse_existing(path)
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise ValueError(f"Expected a new folder for the run; got {path}: {error.strerror}.") from error
        return cls(path)

    @staticmethod
    def refuse_existing(path: Path) -> None:
        """Refuse a path that exists.

        Raises:
            ValueError: If it does.
        """
        if path.exists():
            raise ValueError(
                f"Expected a new folder for the run; got {path}: it exists already, name another by --out."
            )

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """The folder of an earlier run.

        Raises:
            ValueError: If it has no configuration.
        """
        if not (path / "config.yaml").is_file():
            raise ValueError(f"Expected the folder of a run, with a config.yaml; got {path}.")
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of the weights."""
        return self.path / "checkpoints"

    @property
    def training_file(self) -> Path:
        """The state of training."""
        return self.checkpoints / "training.safetensors"

    @property
    def figures(self) -> Path:
        """Folder of the pictures."""
        return self.path / "figures"

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file."""
        write_atomically(self.path / name, json.dumps(values, indent=2).encode())

    def write_config(self, config: dict[str, Any]) -> None:
        """Write `config.yaml`."""
        write_atomically(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())

    def load_experiment(self) -> Experiment:
        """The experiment of `config.yaml`.

        Raises:
            ValueError: If the configuration is none of an experiment.
        """
        return Experiment.from_config(read_configuration(self.path / "config.yaml"))

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl`, one line per epoch."""
        write_atomically(self.path / "metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in history).encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            ValueError: If it is missing, as in an unfinished run.
        """
        self._require(name)
        return read_json(self.path / name, "the figures of a run")

    def read_summary(self) -> dict[str, Any]:
        """The figures of a finished run.

        Raises:
            ValueError: If they are missing, as in an unfinished run, or damaged.
        """
        self._require("summary.json")
        return read_summary(self.path / "summary.json")

    def _require(self, name: str) -> None:
        if not (self.path / name).exists():
            raise ValueError(
                f"Expected {name} in {self.path}; it is not there: `latentmix resume {self.path}` finishes the run."
            )

    def save_model(self, vae: VAE, guide: AmortizedGuide) -> None:
        """Write the weights and the parts of the VAE and the guide."""
        vae.save_pretrained(self.checkpoints)
        guide.save_pretrained(self.checkpoints)

    def load_model(self) -> tuple[VAE, AmortizedGuide]:
        """Read the VAE and the guide.

        Raises:
            ValueError: If the weights do not fit the parts.
        """
        read_configuration(self.path / "config.yaml")  # which imports a user's own classes, needed to build them
        with isolated(seed=0):
            return join(VAE.from_pretrained(self.checkpoints), AmortizedGuide.from_pretrained(self.checkpoints))

    def save_mixtures(self, mixtures: dict[str, dict[str, FittedMixture]]) -> None:
        """Write fitted mixtures by inference and label budget."""
        states = {
            inference: {labels: fitted.state_dict() for labels, fitted in budgets.items()}
            for inference, budgets in mixtures.items()
        }
        save_tree(self.checkpoints / "mixtures", states)

    def load_mixtures(self) -> dict[str, dict[str, FittedMixture]]:
        """Read fitted mixtures by inference and label budget."""
        states = load_tree(self.checkpoints / "mixtures")
        mixtures: dict[str, dict[str, FittedMixture]] = {}
        file = self.checkpoints / "mixtures.safetensors"
        with damaged(file, "fitted mixtures"):
            for inference, budgets in states.items():
                for labels, state in budgets.items():
                    with damaged(file, f"the mixture {inference!r:.20}, {labels!r:.20}"):
                        mixtures.setdefault(inference, {})[labels] = FittedMixture.from_state_dict(state)
        return mixtures

    def save_training(self, state: TrainingState) -> None:
        """Write the state of training, for `latentmix resume`."""
        save_tree(self.checkpoints / "training", state.state_dict())

    def load_training(self) -> TrainingState | None:
        """The state of training after the last complete epoch of a run, if there is one."""
        if not self.training_file.exists():
            return None
        saved = load_tree(self.checkpoints / "training")
        with damaged(self.training_file, "a state of training"):
            return TrainingState.from_state_dict(saved)


@dataclass(frozen=True)
class Run:
    """A finished run, read back.

    Attributes:
        vae: The model, in evaluation mode.
        guide: The guide, in evaluation mode.
        mixtures: Fitted mixtures by inference (`em`, `svi`) and label budget (`none`, `few`, `all`).
        config: The complete configuration.
        summary: The figures of `summary.json`.
    """

    vae: VAE
    guide: AmortizedGuide
    mixtures: dict[str, dict[str, FittedMixture]]
    config: dict[str, Any]
    summary: dict[str, Any]


def load_run(path: str | Path) -> Run:
    """Read a run folder back.

    Args:
        path: The folder.

    Returns:
        The VAE, the guide and the mixtures, with the configuration and the figures; on the CPU.

    Raises:
        ValueError: If the folder is not that of a finished run.

    Example:
        >>> from latentmix.experiments import ToFloat, load_run
        >>> run = load_run("runs/digits")  # doctest: +SKIP
        >>> latents = run.guide.encode(images, transform=ToFloat())  # doctest: +SKIP
        >>> run.mixtures["em"]["few"].classify(latents)  # doctest: +SKIP
    """
    folder = RunFolder.existing(Path(path))
    summary = folder.read_summary()
    config = plain(experiment_parser(), read_configuration(folder.path / "config.yaml"))
    vae, guide = folder.load_model()
    mixtures = folder.load_mixtures()
    _check_latents(folder.path, vae, guide, mixtures)
    return Run(vae.eval(), guide.eval(), mixtures, config, summary)


def _check_latents(path: Path, vae: VAE, guide: AmortizedGuide, mixtures: Mapping[str, Any]) -> None:
    """Refuse a guide, or mixtures, of another number of latent dimensions than the VAE's."""
    found = {"guide": guide.encoder.latent_dim}
    for inference, budgets in mixtures.items():
        found |= {f"mixture {inference}, {budget}": fit.mixture.n_features_in_ for budget, fit in budgets.items()}
    for name, length in found.items():
        if length != vae.latent_dim:
            raise ValueError(
                f"Expected the {name} in {path / 'checkpoints'} of {vae.latent_dim} latent dimensions, as the VAE; got "
                f"{length}: restore the files of one run."
            )
    if tuple(guide.encoder.shape) != tuple(vae.shape):
        raise ValueError(
            f"Expected the guide in {path / 'checkpoints'} of data {tuple(vae.shape)}, as the VAE; got "
            f"{tuple(guide.encoder.shape)}: restore the files of one run."
        )
