from __future__ import annotations

from functools import partial
from typing import Any

import pyro.optim
import pytest
import torch
from pyro.optim.clipped_adam import ClippedAdam
from sklearn.exceptions import ConvergenceWarning
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from latentmix.inference import GaussianMixture, SVIResult, fit
from latentmix.inference.mixtures.svi.fit import SVI

from tests.inference.svi.test_fit import normal_data, plain_guide, plain_model

OTHERS = [torch.zeros(2, requires_grad=True)]


def fitted(**options: Any) -> SVIResult:
    return fit(plain_model, plain_guide, normal_data(1_000), epochs=2, batch_size=100, seed=3, **options)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (pyro.optim.Adam({"lr": 0.01}), partial(Adam, lr=0.01)),
        (pyro.optim.SGD({"lr": 1e-4, "momentum": 0.9}), partial(SGD, lr=1e-4, momentum=0.9)),
        (pyro.optim.ClippedAdam({"lr": 0.01, "clip_norm": 0.5}), partial(ClippedAdam, lr=0.01, clip_norm=0.5)),
        (pyro.optim.PyroOptim(Adam, {"lr": 0.01}), partial(Adam, lr=0.01)),
        (Adam, partial(Adam)),
        (lambda leaves: Adam(leaves, lr=0.01), partial(Adam, lr=0.01)),
    ],
)
def test_an_optimizer_of_pyro_a_class_and_a_function_are_taken(given: Any, same: Any) -> None:
    assert fitted(optimizer=given).losses == pytest.approx(fitted(optimizer=same).losses, rel=1e-9)


REFUSED = [
    (
        {"optimizer": Adam(OTHERS)},
        "got Adam\\(...\\) of other parameters: pass a function that makes it, such as optimizer=",
    ),
    ({"optimizer": "Adam"}, "got 'Adam': pass a function"),
    ({"optimizer": 0.01}, "got 0.01: pass a function"),
    (
        {"optimizer": pyro.optim.MultiStepLR({"optimizer": Adam, "optim_args": {"lr": 0.1}, "milestones": [1]})},
        "two parts",
    ),
    ({"optimizer": pyro.optim.Adam(lambda name: {"lr": 0.1})}, "dictionary of options for all parameters .* got Adam"),
    ({"optimizer": pyro.optim.Adam({"lr": 0.1}, {"clip_norm": 1.0})}, "without clip_args"),
    (
        {"scheduler": StepLR(Adam(OTHERS), 1)},
        "got StepLR\\(...\\) of another optimizer: pass a function that makes it",
    ),
    (
        {"scheduler": ReduceLROnPlateau(Adam(OTHERS))},
        "got ReduceLROnPlateau\\(...\\) of another optimizer",
    ),
    ({"scheduler": "StepLR"}, "got 'StepLR': pass a function"),
    (
        {"scheduler": pyro.optim.StepLR({"optimizer": Adam, "optim_args": {"lr": 0.1}, "step_size": 1})},
        "of pyro.optim: pass a function that makes it, such as scheduler=",
    ),
]
MADE = [
    ({"optimizer": LBFGS}, "whose step needs no closure; got LBFGS"),
    ({"optimizer": lambda leaves: Adam(OTHERS)}, "got a Adam of others"),
    ({"optimizer": lambda leaves: None}, "it made None"),
    ({"optimizer": lambda: None}, "from parameters alone"),
    ({"scheduler": StepLR}, "missing a required argument: 'step_size': pass a function"),
    ({"scheduler": lambda optimizer: StepLR(Adam(OTHERS), 1)}, "got a StepLR of another"),
    ({"scheduler": lambda optimizer: 3}, "it made 3"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED + MADE)
def test_optimizers_that_cannot_train_are_refused_with_a_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^Expected [^\n]*{message}"):
        fitted(**options)


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_mixtures_refuse_likewise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2, inference=SVI(**options), random_state=0).fit(normal_data(50)[:, None])


def test_mixtures_take_an_optimizer_of_pyro() -> None:
    x = normal_data(50)[:, None]

    def bound(optimizer: Any) -> float:
        mixture = GaussianMixture(1, inference=SVI(epochs=5, optimizer=optimizer), random_state=0)
        with pytest.warns(ConvergenceWarning):
            return float(mixture.fit(x).lower_bound_)

    assert bound(pyro.optim.Adam({"lr": 0.05})) == pytest.approx(bound(partial(Adam, lr=0.05)), rel=1e-9)
