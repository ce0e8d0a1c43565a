"""Fitted mixtures as tensors and plain values, and back: options and algorithm whole; files execute nothing."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, final

import numpy as np
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.autoguide import AutoGuide
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from latentmix.experiments.options.mixture_fits import GUIDES
from latentmix.experiments.runs.mixture_checks import check_mixture
from latentmix.experiments.runs.mixture_draws import draws_state, load_draws
from latentmix.inference import EM, NUTS, SVI, GaussianMixture
from latentmix.inference.mixtures.gaussian import ALGORITHMS
from latentmix.models import MixtureParameters
from latentmix.models.mixture.covariances import CovarianceStructure, covariance_structure, covariance_types

__all__ = ["Unsaved", "load_mixture", "mixture_state"]

LEARNED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "lower_bounds_")
PARAMETERS = ("weights", "means", "covariances", "precisions_cholesky")
SCALARS = ("converged_", "n_iter_", "lower_bound_", "n_features_in_", "seconds_", "_steps", "_weight")
NAMED = (AutoGuide, Optimizer, LRScheduler, ReduceLROnPlateau, TorchDistributionMixin)


def mixture_state(mixture: GaussianMixture) -> dict[str, Any]:
    """A fitted mixture as tensors and plain values.

    Options that cannot be described, such as a function for an optimizer, are `Unsaved`: predictions do without them,
    and another fit asks for them. Of a posterior there are evenly spaced draws, see `draws_state`.

    Raises:
        ValueError: If its covariance type is not registered, without which it could not be loaded.
    """
    options, parameters = mixture.get_params(deep=False), mixture.parameters_
    extras: dict[str, Any] = {}
    if hasattr(mixture, "feature_names_in_"):
        extras["names"] = list(mixture.feature_names_in_)
    if hasattr(mixture, "posterior_"):
        extras["draws"] = draws_state(mixture.posterior_)
    if parameters.structure != _structure(parameters.structure.name):
        raise ValueError(
            f"Expected a registered covariance type of a mixture to save; got {parameters.structure!r}: call "
            "register_structure with it, under a name of its own."
        )
    return {
        "options": {name: _described(value) for name, value in options.items()},
        "structure": parameters.structure.name,
        "parameters": {name: getattr(parameters, name) for name in PARAMETERS},
        "learned": {name: torch.as_tensor(np.asarray(getattr(mixture, name))) for name in LEARNED},
        "scalars": {name: np.asarray(getattr(mixture, name)).item() for name in SCALARS if hasattr(mixture, name)},
        **extras,
    }


def load_mixture(state: Mapping[str, Any]) -> GaussianMixture:
    """The mixture that `mixture_state`, also that of an earlier version, gave.

    Raises:
        ValueError: If it names a class that is no guide, optimizer, schedule or distribution, or a covariance type that
            is not registered.
    """
    mixture = GaussianMixture(**(_built(state["options"]) if "options" in state else _earlier(state)))
    kind = state.get("structure", mixture.covariance_type)
    if not isinstance(kind, str) or kind not in covariance_types():
        raise ValueError(
            f"Expected a registered covariance type in a file; got {kind!r}: import the module that registers it."
        )
    if "options" in state:
        check_mixture(state["parameters"], kind, mixture.n_components)
    learned = {name: state["learned"][name] for name in LEARNED}
    check_mixture({name.removesuffix("_"): tensor for name, tensor in learned.items()}, kind, mixture.n_components)
    if learned["lower_bounds_"].ndim != 1 or not learned["lower_bounds_"].is_floating_point():
        raise ValueError("Expected lower_bounds_ of a mixture as a list of floats; got another tensor.")
    scalars = _scalars(state["scalars"])
    if scalars["n_features_in_"] != learned["means_"].shape[1]:
        raise ValueError(
            f"Expected n_features_in_ of a mixture to be the length of its means, {learned['means_'].shape[1]}; got "
            f"{scalars['n_features_in_']}."
        )
    if "names" in state:
        mixture.feature_names_in_ = np.asarray(state["names"], object)
    if "options" in state:
        weights, means, covariances, factors = (state["parameters"][name] for name in PARAMETERS)
        mixture.parameters_ = MixtureParameters(weights, means, covariances, covariance_structure(kind), factors)
    for name, tensor in learned.items():
        setattr(mixture, name, tensor.numpy())
    for name, value in scalars.items():
        setattr(mixture, name, value)
    if "draws" in state:
        mixture.posterior_ = load_draws(state["draws"], covariance_structure(kind), mixture.parameters_.means)
    return mixture


def _scalars(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The counts and figures of a fit.

    Raises:
        ValueError: If one is no number, or the number of features is missing.
    """
    scalars = {name: saved[name] for name in SCALARS if name in saved or name == "n_features_in_"}
    for name, value in scalars.items():
        if not isinstance(value, int | float):
            raise ValueError(f"Expected {name} of a mixture as a number; got {value!r:.60}.")
    return scalars


@final
class Unsaved:
    """An option that a file describes but does not hold, such as a function: set it again before another fit.

    Args:
        description: Its `repr`, or its import path.
    """

    def __init__(self, description: str) -> None:
        self.description = description

    def __repr__(self) -> str:
        return f"Unsaved({self.description!r})"

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ValueError(
            f"Expected an option that a file holds; got {self.description}, of which it holds the name alone: set it "
            "again, as by set_params(inference__NAME=...)."
        )


def _described(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        return {"array": torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))}
    if isinstance(value, list | tuple):
        return [_described(each) for each in value]
    if isinstance(value, torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    if isinstance(value, np.random.RandomState) and value.get_state(legacy=False)["bit_generator"] == "MT19937":
        _, words, *rest = value.get_state(legacy=True)
        return {"random_state": torch.from_numpy(words.astype(np.int64)), "rest": list(rest)}
    if isinstance(value, CovarianceStructure) and value == _structure(value.name):
        return value.name
    if isinstance(value, Unsaved):
        return {"unsaved": value.description}
    if isinstance(value, EM | SVI | NUTS):
        options = value.get_params(deep=False)
        return {"algorithm": value.name, "options": {name: _described(each) for name, each in options.items()}}
    if isinstance(value, Mapping):
        return {"mapping": {name: _described(each) for name, each in value.items()}}
    if isinstance(value, TorchDistributionMixin):
        return _distribution(value)
    word, kind, keywords = _construction(value)
    if isinstance(kind, type) and _is_importable(kind) and isinstance(keywords, dict):
        described = {name: _described(each) for name, each in keywords.items()}
        if not _holds_unsaved(described):
            return {word: _path(kind), "keywords": described}
    return {"unsaved": _path(value) if inspect.isfunction(value) else f"{value!r:.200}"}


def _construction(value: Any) -> tuple[str, Any, Any]:
    """The kind of an object, and the class and keywords that make it."""
    if isinstance(value, partial) and not value.args:
        return "class", value.func, value.keywords
    if isinstance(value, PyroOptim) and not isinstance(value, PyroLRScheduler) and not value.pt_clip_args:
        return "pyro_optim", value.pt_optim_constructor, value.pt_optim_args
    return "class", value, {}


def _distribution(value: Any) -> dict[str, Any]:
    """A distribution by arguments of its constructor that give one of the same shapes and attributes."""
    if isinstance(value, torch.distributions.Independent):
        return {"independent": _described(value.base_dist), "dimensions": value.reinterpreted_batch_ndims}
    kind = type(value)
    constrained = list(value.arg_constraints)
    signature = [name for name in inspect.signature(kind).parameters if name != "validate_args"]
    for names in (signature, [name for name in constrained if name in vars(value)], constrained):
        try:
            arguments = {name: getattr(value, name) for name in names}
            same = kind(**arguments)
            alike = (same.batch_shape, same.event_shape) == (value.batch_shape, value.event_shape) and all(
                _is_equal(getattr(same, name), getattr(value, name)) for name in signature
            )
        except Exception:  # constructors refuse arguments in ways of their own
            continue
        described = {name: _described(each) for name, each in arguments.items()}
        if arguments and alike and _is_importable(kind) and not _holds_unsaved(described):
            return {"distribution": _path(kind), "keywords": described}
    return {"unsaved": f"{value!r:.200}"}


def _is_equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and torch.allclose(first, second, equal_nan=True)
    return first is second or bool(first == second) or repr(first) == repr(second)


def _holds_unsaved(described: Any) -> bool:
    values = described.values() if isinstance(described, dict) else described if isinstance(described, list) else ()
    return (isinstance(described, dict) and "unsaved" in described) or any(map(_holds_unsaved, values))


def _is_importable(kind: type) -> bool:
    """Whether another process finds the class by its path, and may use it."""
    module = sys.modules.get(kind.__module__)
    there = kind.__module__ != "__main__" and getattr(module, kind.__qualname__, None) is kind
    return there and issubclass(kind, NAMED)


def _structure(name: str) -> CovarianceStructure | None:
    return covariance_structure(name) if name in covariance_types() else None


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return [_built(each) for each in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"array": array}:
            return array.numpy()
        case {"random_state": words, "rest": rest}:
            state = np.random.RandomState()
            state.set_state(("MT19937", words.numpy().astype(np.uint32), *rest))
            return state
        case {"unsaved": description}:
            return Unsaved(description)
        case {"algorithm": word, "options": options}:
            if word not in ALGORITHMS:
                raise ValueError(f"Expected an algorithm out of {', '.join(ALGORITHMS)}; got {word!r}.")
            return ALGORITHMS[word](**_built(options))
        case {"mapping": mapping}:
            return {name: _built(each) for name, each in mapping.items()}
        case {"independent": base, "dimensions": dimensions}:
            built = _built(base)
            return built if isinstance(built, Unsaved) else built.to_event(dimensions)
        case {"distribution": path, "keywords": keywords} | {"distribution": path, "arguments": keywords}:
            return _made(path, keywords, lambda kind, built: kind(**built))
        case {"pyro_optim": path, "keywords": keywords} | {"pyro_optim": path, "arguments": keywords}:
            return _made(path, keywords, PyroOptim)
        case {"class": path, "keywords": keywords}:
            return _made(path, keywords, lambda kind, built: partial(kind, **built) if built else kind)
        case _:
            return {name: _built(each) for name, each in value.items()}


def _made(path: str, keywords: Mapping[str, Any], make: Callable[[Any, dict[str, Any]], Any]) -> Any:
    """The object of a class and its arguments, unless one of them is unsaved."""
    kind, built = _class_of(path), _built(keywords)
    if isinstance(kind, Unsaved) or any(isinstance(each, Unsaved) for each in built.values()):
        return Unsaved(path)
    return make(kind, built)


def _path(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _class_of(path: str) -> Any:
    """The class of that path, or `Unsaved` where it is not imported: no module is imported for a file."""
    module, _, name = path.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if kind is None:
        return Unsaved(path)
    if not isinstance(kind, type) or not issubclass(kind, NAMED):
        raise ValueError(f"Expected a class of guides, optimizers, schedules or distributions; got {path}.")
    return kind


def _earlier(state: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a file in which those of the algorithms stood beside the others."""
    options = dict(state["parameters"])
    svi, nuts = _taken(options, "svi_"), _taken(options, "nuts_")
    batch_size = options.pop("batch_size", None)
    if options["inference"] == "svi":
        options["inference"] = SVI(**svi, batch_size=batch_size, guide=GUIDES[state["guide"]])
    elif options["inference"] == "nuts":
        options["inference"] = NUTS(**nuts)
    return options


def _taken(options: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Options of that prefix, taken out, without it."""
    return {name.removeprefix(prefix): options.pop(name) for name in list(options) if name.startswith(prefix)}
