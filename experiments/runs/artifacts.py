"""Run folders: the files of a run, written without pickle and read back."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import yaml
from jsonargparse import ArgumentError, Namespace
from numpy.typing import NDArray
from torch import Tensor

from latentmix.experiments.options.experiment import Experiment, experiment_parser
from latentmix.experiments.options.logger_words import check_addresses
from latentmix.experiments.options.messages import one_line
from latentmix.experiments.options.parts import join
from latentmix.experiments.options.trust import importing, trusted_modules
from latentmix.experiments.places import check_run, remove_unfinished
from latentmix.experiments.reading.options import read_options
from latentmix.experiments.runs.folders import make_folder
from latentmix.experiments.runs.locks import FolderLock
from latentmix.experiments.runs.stored import read_history, read_summary
from latentmix.guides import AmortizedGuide
from latentmix.inference import TrainingState
from latentmix.inference.isolation import isolated
from latentmix.models import VAE
from latentmix.models.files import inside, write_atomically
from latentmix.models.reading import damaged, read_json, read_tensors

if TYPE_CHECKING:
    from latentmix.experiments.runs.mixtures import FittedMixture
    from latentmix.experiments.runs.pointwise import Pointwise

__all__ = ["LEFT_OUT", "RunFolder", "load_tree", "save_tree", "versions"]

TRAINING = ("training-even", "training-odd")  # states after an even and an odd number of epochs: two generations
LEFT_OUT = "It is left out, and the epoch that it ended is repeated."


def save_tree(path: Path, tree: Any) -> None:
    """Write nested lists and dictionaries of tensors and plain values as safetensors.

    One file holds both, the plain values as JSON in its metadata; it replaces an earlier one in one step, so that it is
    complete after an interruption, too.

    Args:
        path: Without an ending; `.safetensors` is added.
        tree: The values.
    """
    tensors: dict[str, Tensor] = {}
    keys: dict[int, str] = {}  # a tensor that stands in several places is written once

    def plain(node: Any) -> Any:
        if isinstance(node, Tensor):
            key = keys.setdefault(id(node), str(len(keys)))
            if key not in tensors:
                tensors[key] = node.detach().cpu().contiguous().clone()
            return {"$tensor": key}
        if isinstance(node, dict):
            return {"$dict": [[plain(key), plain(value)] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            return [plain(value) for value in node]
        return node

    structure = plain(tree)
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
    """A run on disk: `config.yaml`, `metrics.jsonl`, `summary.json`, `checkpoints/`, `posterior.nc`, `pointwise.npz`,
    `figures/`, `report.html`.

    A run has three stages, each written when it ends: training (`checkpoints/`), measuring (`posterior.nc`, if a
    mixture has draws, `pointwise.npz`, then `summary.json`), and drawing (`figures/`, then `report.html`, unless it is
    to have no pictures). Files are whole or not there, and links among them are refused.

    Args:
        path: The folder; it may be a link.
        trust: Modules besides LatentMix's own, torch's and Pyro's that its configuration may import.
        lock: The lock under which it is written, see `locked`.
    """

    path: Path
    trust: tuple[str, ...] = ()
    lock: FolderLock | None = field(default=None, repr=False, compare=False)

    @classmethod
    def create(cls, path: Path, config: dict[str, Any] | None = None) -> RunFolder:
        """Make a new folder with its `config.yaml`, if there is a configuration, as `make_folder` does."""
        files = {} if config is None else {"config.yaml": yaml.safe_dump(config, sort_keys=False).encode()}
        make_folder(path, files)
        return cls(path)

    @classmethod
    def existing(cls, path: Path, trust: Iterable[str] = ()) -> RunFolder:
        """The folder of an earlier run.

        Args:
            path: The folder.
            trust: Modules that its configuration may import, besides those of the user's configuration.

        Raises:
            ValueError: If it has no configuration.
        """
        check_run(path)
        return cls(path, trusted_modules(trust))

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """The folder, for writing: a block that one process at a time may enter.

        Raises:
            LockedError: If another process writes it, or, on writing, if the folder was moved, replaced or removed.
        """
        with FolderLock(self.path) as lock:
            for name in ("", "checkpoints", "figures"):
                remove_unfinished(inside(self.path, name))
            lock.seal("config.yaml")
            yield replace(self, lock=lock)

    def seal(self, *names: str) -> None:
        """Note files that the run has finished: nothing else may change them until it ends."""
        if self.lock is not None:
            self.lock.seal(*names)

    def check(self) -> None:
        """Refuse, at the end of a stage, a folder whose configuration or finished files are no longer what they were.

        Raises:
            LockedError: If something else has changed or removed one, or the folder.
        """
        if self.lock is not None:
            self.lock.check_sealed()

    def finished(self, *, pictures: bool = True) -> bool:
        """Whether the last stage of the run, with pictures or without, is done."""
        return self.measured and (not pictures or inside(self.path, "report.html").is_file())

    @property
    def measured(self) -> bool:
        """Whether training and measuring are done; figures that cannot be read are measured anew."""
        file = inside(self.path, "summary.json")
        with suppress(ValueError):
            return file.is_file() and bool(read_summary(file))
        return False

    @property
    def checkpoints(self) -> Path:
        """Folder of the weights."""
        return inside(self.path, "checkpoints")

    def place(self, name: str) -> Path:
        """The place of a file that is to be written.

        Args:
            name: The path relative to the folder.

        Raises:
            ValueError: If a part of the path is a link.
            LockedError: If the folder was moved, replaced or removed since it was locked.
        """
        if self.lock is not None:
            self.lock.check()
        return inside(self.path, name)

    def subfolder(self, name: str) -> Path:
        """A folder within, made if it is not there; raises as `place` does."""
        path = self.place(name)
        path.mkdir(exist_ok=True)
        return path

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file."""
        write_atomically(self.place(name), json.dumps(values, indent=2).encode())

    def read_config(self) -> Namespace:
        """The configuration, complete with defaults; the classes that it names are imported.

        Raises:
            ValueError: If it cannot be read, is none of an experiment, or names a class of a module that is not
                trusted; then nothing is imported.
        """
        file = inside(self.path, "config.yaml")
        values = read_options(file, "the configuration of a run")
        with importing(file, self.trust):
            try:
                return experiment_parser().parse_object(values)
            except (ArgumentError, ValueError) as error:
                raise ValueError(
                    f"Expected the configuration of a run in {file}; got another: {one_line(error)}"
                ) from error

    def load_experiment(self) -> Experiment:
        """The experiment of `config.yaml`; raises as `read_config` does."""
        config, file = self.read_config(), inside(self.path, "config.yaml")
        with importing(file, self.trust):
            check_addresses(config.loggers, file)
            return Experiment.from_config(config)

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl`, one line per epoch."""
        lines = "".join(json.dumps(epoch) + "\n" for epoch in history)
        write_atomically(self.place("metrics.jsonl"), lines.encode())

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, without a last one that is cut off; none if there is no such file.

        Raises:
            ValueError: If another line is no record of an epoch.
        """
        return read_history(inside(self.path, "metrics.jsonl"))

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            ValueError: If it is missing, as in an unfinished run.
        """
        return read_json(self._require(name), "the figures of a run")

    def read_summary(self, *, complete: bool = True) -> dict[str, Any]:
        """The figures of a finished run.

        Args:
            complete: Whether all figures that a run writes have to be there.

        Raises:
            ValueError: If they are missing, as in an unfinished run, or damaged.
        """
        return read_summary(self._require("summary.json"), complete=complete)

    def _require(self, name: str) -> Path:
        file = inside(self.path, name)
        if not file.exists():
            raise ValueError(
                f"Expected {name} in {self.path}; it is not there: `latentmix resume {self.path}` finishes the run."
            )
        return file

    def save_model(self, vae: VAE, guide: AmortizedGuide) -> None:
        """Write the weights and the parts of the VAE and the guide."""
        folder = self.subfolder("checkpoints")
        vae.save_pretrained(folder)
        guide.save_pretrained(folder)
        self.seal(*(f"checkpoints/{part}.{ending}" for part in ("vae", "guide") for ending in ("json", "safetensors")))

    def load_model(self) -> tuple[VAE, AmortizedGuide]:
        """Read the VAE and the guide, after `read_config`, which imports a user's own classes.

        Raises:
            ValueError: If the weights do not fit the parts.
        """
        with isolated(seed=0):
            return join(VAE.from_pretrained(self.checkpoints), AmortizedGuide.from_pretrained(self.checkpoints))

    def save_mixtures(self, mixtures: dict[str, dict[str, FittedMixture]]) -> None:
        """Write fitted mixtures by inference and label budget; draws that budgets share are written once."""
        states = {
            inference: {labels: fitted.state_dict() for labels, fitted in budgets.items()}
            for inference, budgets in mixtures.items()
        }
        draws: dict[int, Any] = {}
        for inference, budgets in mixtures.items():
            for labels, fitted in budgets.items():
                state = states[inference][labels]
                if "draws" in state:
                    state["draws"] = draws.setdefault(id(fitted.mixture), state["draws"])
        save_tree(self.subfolder("checkpoints") / "mixtures", states)
        self.seal("checkpoints/mixtures.safetensors")

    def load_mixtures(self) -> dict[str, dict[str, FittedMixture]]:
        """Read fitted mixtures by inference and label budget."""
        from latentmix.experiments.runs.mixtures import FittedMixture

        file = inside(self.checkpoints, "mixtures.safetensors")
        states = load_tree(file)
        mixtures: dict[str, dict[str, FittedMixture]] = {}
        with damaged(file, "fitted mixtures"):
            for inference, budgets in states.items():
                for labels, state in budgets.items():
                    with damaged(file, f"the mixture {inference!r:.20}, {labels!r:.20}"):
                        mixtures.setdefault(inference, {})[labels] = FittedMixture.from_state_dict(state)
        return mixtures

    def save_posterior(self, mixtures: Mapping[str, Mapping[str, FittedMixture]], latents: NDArray[np.float64]) -> bool:
        """Write `posterior.nc` for ArviZ, and whether there is one: if a fit has draws.

        Args:
            mixtures: Fitted mixtures by inference and label budget.
            latents: The `N x D` latents that they were fitted to.
        """
        from latentmix.experiments.runs.posterior import POSTERIOR, posterior_bytes

        data = posterior_bytes(mixtures, latents)
        if data is None:
            return False
        write_atomically(self.place(POSTERIOR), data)
        self.seal(POSTERIOR)
        return True

    def save_pointwise(self, pointwise: Pointwise) -> None:
        """Write `pointwise.npz`, the figures of each test datum."""
        from latentmix.experiments.runs.pointwise import POINTWISE

        write_atomically(self.place(POINTWISE), pointwise.to_bytes())
        self.seal(POINTWISE)

    def save_training(self, state: TrainingState) -> None:
        """Write the state of training, for `latentmix resume`; that of the epoch before is kept, too."""
        save_tree(self.subfolder("checkpoints") / TRAINING[state.epoch % 2], state.state_dict())

    def load_training(self) -> list[tuple[Path, TrainingState]]:
        """The states of training that are whole, after their files, the newest first; a warning tells broken ones."""
        states: list[tuple[Path, TrainingState]] = []
        for name in (*TRAINING, "training"):  # the last is that of earlier versions
            file = inside(self.checkpoints, f"{name}.safetensors")
            if not file.exists():
                continue
            try:
                saved = load_tree(file)
                with damaged(file, "a state of training"):
                    states.append((file, TrainingState.from_state_dict(saved)))
            except ValueError as error:
                warnings.warn(f"{error} {LEFT_OUT}", stacklevel=2)
        return sorted(states, key=lambda found: found[1].epoch, reverse=True)
