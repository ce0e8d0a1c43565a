"""Run folders: the files of a run, written without pickle and read back."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from torch import Tensor

from latentmix.experiments.options.experiment import Experiment, experiment_parser
from latentmix.experiments.options.parser import read_options
from latentmix.experiments.options.parts import PARTS, import_object, join
from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.guides import AmortizedGuide
from latentmix.inference import TrainingState
from latentmix.inference.isolation import isolated
from latentmix.models import VAE
from latentmix.models.files import write_atomically

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
    if not file.is_file():
        raise ValueError(f"Expected the file {file}; it is not there.")
    try:
        with safetensors.safe_open(file, framework="pt") as stored:
            structure = json.loads(stored.metadata()["structure"])
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"Expected safetensors with a structure in {file}; got {error}.") from error

    def tree(node: Any) -> Any:
        if isinstance(node, dict):
            if "$tensor" in node:
                return tensors[node["$tensor"]]
            return {tree(key): tree(value) for key, value in node["$dict"]}
        if isinstance(node, list):
            return [tree(value) for value in node]
        return node

    return tree(structure)


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
        """Make a new folder, or take an empty one.

        Raises:
            ValueError: If the path holds something or cannot be made.
        """
        cls.refuse_existing(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"Expected a new folder for the run; got {path}: {error.strerror}.") from error
        return cls(path)

    @staticmethod
    def refuse_existing(path: Path) -> None:
        """Refuse a path that exists, but for an empty folder.

        Raises:
            ValueError: If it does.
        """
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
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
        values = read_options(self.path / "config.yaml")
        return Experiment.from_config(experiment_parser().parse_object(values))

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl`, one line per epoch."""
        write_atomically(self.path / "metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in history).encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            ValueError: If it is missing, as in an unfinished run.
        """
        file = self.path / name
        if not file.is_file():
            raise ValueError(
                f"Expected {name} in {self.path}; it is not there: `latentmix resume {self.path}` finishes the run."
            )
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(
                f"Expected JSON in {file}; got {error}: `latentmix resume {self.path}` writes it anew."
            ) from error

    def save_model(self, vae: VAE, guide: AmortizedGuide) -> None:
        """Write the weights and the parts of the VAE and the guide."""
        vae.save_pretrained(self.checkpoints)
        guide.save_pretrained(self.checkpoints)

    def load_model(self) -> tuple[VAE, AmortizedGuide]:
        """Read the VAE and the guide.

        Raises:
            ValueError: If the weights do not fit the parts.
        """
        config = read_options(self.path / "config.yaml")
        for part in PARTS:
            import_object(config[part]["class_path"])  # a user's own class has to be imported to be built
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
        return {
            inference: {labels: FittedMixture.from_state_dict(state) for labels, state in budgets.items()}
            for inference, budgets in states.items()
        }

    def save_training(self, state: TrainingState) -> None:
        """Write the state of training, for `latentmix resume`."""
        save_tree(self.checkpoints / "training", state.state_dict())

    def load_training(self) -> TrainingState | None:
        """The state of training after the last complete epoch of a run, if there is one."""
        if not (self.checkpoints / "training.safetensors").is_file():
            return None
        return TrainingState.from_state_dict(load_tree(self.checkpoints / "training"))


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
    summary = folder.read_json("summary.json")
    vae, guide = folder.load_model()
    config = read_options(folder.path / "config.yaml")
    return Run(vae.eval(), guide.eval(), folder.load_mixtures(), config, summary)
