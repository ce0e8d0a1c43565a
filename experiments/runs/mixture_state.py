"""Fitted mixtures as tensors and plain values, and back: options and algorithm whole, nothing executed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from latentmix.experiments.options.mixture_fits import GUIDES
from latentmix.inference import EM, NUTS, SVI, GaussianMixture
from latentmix.models import MixtureParameters
from latentmix.models.mixture.covariances import covariance_structure

__all__ = ["load_mixture", "mixture_state"]

LEARNED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "lower_bounds_")
PARAMETERS = ("weights", "means", "covariances", "precisions_cholesky")
SCALARS = ("converged_", "n_iter_", "lower_bound_", "n_features_in_", "seconds_")
ALGORITHMS = {kind.name: kind for kind in (EM, SVI, NUTS)}
NAMED = (AutoGuide, Optimizer, LRScheduler, ReduceLROnPlateau, TorchDistributionMixin)
EARLIER = ("svi_", "nuts_")


def mixture_state(mixture: GaussianMixture) -> dict[str, Any]:
    """A fitted mixture as tensors and plain values.

    Raises:
        ValueError: If an option is an object that cannot be described, such as a lambda for an optimizer.
    """
    options, parameters = mixture.get_params(deep=False), mixture.parameters_
    return {
        "options": {name: _described(value, name) for name, value in options.items()},
        "parameters": {name: getattr(parameters, name) for name in PARAMETERS},
        "learned": {name: torch.as_tensor(np.asarray(getattr(mixture, name))) for name in LEARNED},
        "scalars": {name: np.asarray(getattr(mixture, name)).item() for name in SCALARS},
    }


def load_mixture(state: Mapping[str, Any]) -> GaussianMixture:
    """The mixture that `mixture_state`, also that of an earlier version, gave.

    Raises:
        ValueError: If it names a class that is not known, or is no guide, optimizer, schedule or distribution.
    """
    mixture = GaussianMixture(**(_built(state["options"]) if "options" in state else _earlier(state)))
    if "options" in state:
        weights, means, covariances, factors = (state["parameters"][name] for name in PARAMETERS)
        structure = covariance_structure(mixture.covariance_type)
        mixture.parameters_ = MixtureParameters(weights, means, covariances, structure, factors)
    for name, tensor in state["learned"].items():
        setattr(mixture, name, tensor.numpy())
    for name, value in state["scalars"].items():
        setattr(mixture, name, value)
    return mixture


def _described(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": torch.from_numpy(value)}
    if isinstance(value, list | tuple):
        return [_described(each, name) for each in value]
    if isinstance(value, torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    if isinstance(value, EM | SVI | NUTS):
        options = value.get_params(deep=False)
        return {"algorithm": value.name, "options": {key: _described(each, key) for key, each in options.items()}}
    if isinstance(value, Mapping):
        return {"mapping": {key: _described(each, f"{name}[{key!r}]") for key, each in value.items()}}
    if isinstance(value, TorchDistributionMixin):
        return _distribution(value, name)
    kind, keywords = (value.func, value.keywords) if isinstance(value, partial) and not value.args else (value, {})
    if isinstance(kind, type) and _is_loadable(kind):
        return {"class": _path(kind), "keywords": {key: _described(each, key) for key, each in keywords.items()}}
    raise ValueError(
        f"Expected an option {name} that can be saved, as a class or a functools.partial of one; got {value!r:.80}."
    )


def _distribution(value: Any, name: str) -> dict[str, Any]:
    """A distribution by the arguments of its constructor that its constraints name."""
    if isinstance(value, torch.distributions.Independent):
        return {"independent": _described(value.base_dist, name), "dimensions": value.reinterpreted_batch_ndims}
    kind = type(value)
    constrained = getattr(kind, "arg_constraints", {})
    for names in ([key for key in constrained if key in vars(value)], list(constrained)):
        try:
            arguments = {key: getattr(value, key) for key in names}
            same = kind(**arguments)
        except Exception:  # constructors refuse arguments in ways of their own
            continue
        alike = (same.batch_shape, same.event_shape) == (value.batch_shape, value.event_shape)
        if arguments and alike and _is_loadable(kind):
            described = {key: _described(each, key) for key, each in arguments.items()}
            return {"distribution": _path(kind), "arguments": described}
    raise ValueError(f"Expected a distribution for {name} that its parameters describe; got {value}.")


def _is_loadable(kind: type) -> bool:
    return issubclass(kind, NAMED) and getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return [_built(each) for each in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"array": array}:
            return array.numpy()
        case {"algorithm": word, "options": options}:
            if word not in ALGORITHMS:
                raise ValueError(f"Expected an algorithm out of {', '.join(ALGORITHMS)}; got {word!r}.")
            return ALGORITHMS[word](**_built(options))
        case {"mapping": mapping}:
            return _built(mapping)
        case {"independent": base, "dimensions": dimensions}:
            return _built(base).to_event(dimensions)
        case {"distribution": path, "arguments": arguments}:
            return _class_of(path)(**_built(arguments))
        case {"class": path, "keywords": keywords}:
            kind = _class_of(path)
            return partial(kind, **_built(keywords)) if keywords else kind
        case _:
            return {key: _built(each) for key, each in value.items()}


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _class_of(path: str) -> Any:
    """The class of that path; no module is imported for it."""
    module, _, name = path.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if not isinstance(kind, type) or not issubclass(kind, NAMED):
        raise ValueError(
            f"Expected an imported class of guides, optimizers, schedules or distributions; got the class {path}."
        )
    return kind


def _earlier(state: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a file in which those of the algorithms stood beside the others."""
    options = {name: value for name, value in state["parameters"].items() if not name.startswith(EARLIER)}
    own = {
        prefix: {
            name.removeprefix(prefix): value for name, value in state["parameters"].items() if name.startswith(prefix)
        }
        for prefix in EARLIER
    }
    if options["inference"] == "svi":
        options["inference"] = SVI(**own["svi_"], guide=GUIDES[state["guide"]])
    elif options["inference"] == "nuts":
        options["inference"] = NUTS(**own["nuts_"])
    return options
