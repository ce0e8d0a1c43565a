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
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import safetensors.torch
import yaml
from jsonargparse import ArgumentError, Namespace
from numpy.typing import NDArray
from torch import Tensor

from latentmix.experiments.options.experiment import Experiment, experiment_parser, plain
from latentmix.experiments.options.messages import one_line
from latentmix.experiments.options.names import BUDGETS, fit_name
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
from latentmix.models.display import Displayed, brief
from latentmix.models.files import inside, write_atomically
from latentmix.models.reading import damaged, read_json, read_tensors

if TYPE_CHECKING:
    from latentmix.experiments.runs.mixtures import FittedMixture

__all__ = ["LEFT_OUT", "Run", "RunFolder", "load_run", "load_tree", "save_tree", "versions"]

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
    """A run on disk: `config.yaml`, `metrics.jsonl`, `summary.json`, `checkpoints/`, `figures/`, `report.html`.

    A run has three stages, each written when it ends: training (`checkpoints/`), measuring (`summary.json`), and
    drawing (`figures/`, then `report.html`, unless it is to have no pictures). Files are whole or not there, and links
    among them are refused.

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
        config = self.read_config()
        with importing(inside(self.path, "config.yaml"), self.trust):
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


@dataclass(frozen=True, repr=False)
class Run(Displayed):
    """A finished run, read back.

    Attributes:
        vae: The model, in evaluation mode.
        guide: The guide, in evaluation mode.
        mixtures: Fitted mixtures by inference (`em`, `svi`, `posterior`, `nuts`) and label budget (`none`, `few`,
            `all`).
        config: The complete configuration.
        summary: The figures of `summary.json`.
    """

    vae: VAE
    guide: AmortizedGuide
    mixtures: dict[str, dict[str, FittedMixture]]
    config: dict[str, Any]
    summary: dict[str, Any]

    def fitted(self, inference: str = "em", labels: str | None = None) -> FittedMixture:
        """The mixture of a fit and a label budget.

        Args:
            inference: The fit, such as `em`.
            labels: The label budget, `none`, `few` or `all`; by default `few` if the run has it, else `none`.

        Raises:
            ValueError: If the run has no such fit or budget.
        """
        budgets = self.mixtures.get(inference)
        if not budgets:
            raise ValueError(f"Expected a fit of this run, {', '.join(self.mixtures)}; got {inference!r:.60}.")
        budget = labels or ("few" if "few" in budgets else "none")
        if budget not in budgets:
            raise ValueError(f"Expected a label budget of this run, {', '.join(budgets)}; got {budget!r:.60}.")
        return budgets[budget]

    def classify(
        self,
        data: Tensor | NDArray[Any],
        *,
        inference: str = "em",
        labels: str | None = None,
        average: Literal["draws", "noise"] | None = "draws",
        draws: int = 100,
        seed: int = 0,
    ) -> NDArray[np.float64]:
        r"""Probabilities of the classes of images or points, averaged over what is not known of their latents.

        By default they are means over draws of q(z given x) and, where the fit keeps draws of the mixture's posterior,
        over these: :math:`\frac1S \sum_s p(c \mid z_s, \theta_s)`. "noise" takes the responsibilities at the mean of q
        under the mixture convolved with the covariance of q, and `None` those of the mixture itself (plug-in), as
        `FittedMixture.classify` gives them of latents.

        Args:
            data: `N x C x H x W` images of bytes, or of floats in [0, 1]; or `N x D` points as the guide takes them,
                standardised if the run's are.
            inference: The fit, such as `em`.
            labels: The label budget; by default `few` if the run has it, else `none`.
            average: Over what they are averaged.
            draws: Draws of each datum; the standard error of a probability is at most half of their root's reciprocal.
            seed: Seed of the draws: the same data in the same order have the same draws.

        Returns:
            An `N x n_classes` array, its columns as `fitted(inference, labels).classes`; without classes, of the
            components.

        Raises:
            ValueError: If the run has no such fit, the data or an option are not as described, or "noise" is asked of
                a guide that is not normal.

        Example:
            >>> run = load_run("runs/digits")  # doctest: +SKIP
            >>> run.classify(images, labels="few").argmax(1)  # doctest: +SKIP
        """
        from latentmix.experiments.runs.class_probabilities import check_data, class_probabilities

        fitted, x = self.fitted(inference, labels), check_data(data, self.vae.shape)
        return class_probabilities(self.guide, fitted, x, average=average, draws=draws, seed=seed)

    def shown(self) -> dict[str, Any]:
        test = self.summary.get("test", {})
        named = {"ELBO": "elbo", "log p(x), importance-weighted": "iw_log_likelihood", "MSE": "mse", "SSIM": "ssim"}
        figures = {name: test[key] for name, key in named.items() if key in test}
        accuracies = {
            f"accuracy, {fit_name(inference)}": ", ".join(
                f"{budgets[labels]['accuracy']:.3f} (labels: {labels})"
                for labels in BUDGETS
                if "accuracy" in budgets.get(labels, {})
            )
            for inference, budgets in self.summary.get("mixtures", {}).items()
            if isinstance(budgets, dict)
        }
        parts = {name: self.config[name]["class_path"].rpartition(".")[2] for name in ("prior", "likelihood", "family")}
        return {
            "preset": self.summary.get("preset"),
            "data": self.config["data"]["source"],
            "latent": f"{self.vae.latent_dim} dimensions",
            **parts,
            **{f"test {name}": brief(value) for name, value in figures.items()},
            **{name: text for name, text in accuracies.items() if text},
        }


def load_run(path: str | Path, trust: Iterable[str] = ()) -> Run:
    """Read a run folder back.

    Args:
        path: The folder.
        trust: Modules of classes of your own that the run may import, such as `("helpers",)`; LatentMix's own, torch's
            and Pyro's need no mention, nor do those that you have imported already.

    Returns:
        The VAE, the guide and the mixtures, with the configuration and the figures; on the CPU.

    Raises:
        ValueError: If the folder is not that of a finished run, or it names a class of a module that is not trusted.

    Example:
        >>> from latentmix.experiments import ToFloat, load_run
        >>> run = load_run("runs/digits")  # doctest: +SKIP
        >>> run.classify(images)  # averaged over draws of q  # doctest: +SKIP
        >>> latents = run.guide.encode(images, transform=ToFloat())  # doctest: +SKIP
        >>> run.mixtures["em"]["few"].classify(latents)  # at the means of q  # doctest: +SKIP
    """
    folder = RunFolder.existing(Path(path), trust)
    summary, config = folder.read_summary(), plain(experiment_parser(), folder.read_config())
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
