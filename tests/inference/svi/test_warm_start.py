from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.optim import SGD

from latentmix.inference import TrainingState, fit

from tests.inference.normal import normal_data, normal_model
from tests.inference.svi.test_fit import fit_vae, make_pair


class ModuleGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.m = PyroParam(torch.zeros((), dtype=torch.float64))
        self.s = PyroParam(torch.ones((), dtype=torch.float64), constraint=dist.constraints.positive)

    def forward(self, x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(self.m, self.s))


def statements(shape: tuple[int, ...] = ()) -> Callable[[Tensor], None]:
    def guide(x: Tensor) -> None:
        m = pyro.param("m", torch.zeros(shape, dtype=x.dtype))
        s = pyro.param("s", torch.ones((), dtype=x.dtype), constraint=dist.constraints.positive)
        pyro.sample("loc", dist.Normal(m.sum(), s))

    return guide


MAKERS: list[Callable[[], Any]] = [statements, ModuleGuide, lambda: AutoNormal(normal_model(100))]
still = partial(SGD, lr=1e-30)


@pytest.mark.parametrize("make", MAKERS)
def test_a_warm_start_begins_at_the_fitted_values_with_more_data_and_another_rate(make: Callable[[], Any]) -> None:
    first = fit(normal_model(100), make(), normal_data(100), epochs=20, batch_size=20, seed=0)
    kept = copy.deepcopy(first.parameters)
    outside = set(pyro.get_param_store())
    later = fit(
        normal_model(300), make(), normal_data(300), epochs=1, batch_size=30, seed=1, optimizer=still, store=first.store
    )
    for name, value in kept.items():
        torch.testing.assert_close(later.parameters[name], value)
        torch.testing.assert_close(first.parameters[name], value)
    assert set(pyro.get_param_store()) == outside
    trained = fit(normal_model(300), make(), normal_data(300), epochs=5, seed=1, store=first.store)
    assert any(not torch.equal(trained.parameters[name], value) for name, value in kept.items())
    again = fit(normal_model(100), make(), normal_data(100), epochs=1, optimizer=still, store=first.store)
    for name, value in kept.items():
        torch.testing.assert_close(again.parameters[name], value)


def test_a_warm_start_of_a_rebuilt_model(binary_images: Tensor) -> None:
    first = fit_vae(make_pair(seed=1), binary_images)
    later = fit_vae(make_pair(seed=2), binary_images, epochs=1, optimizer=still, store=first.store)
    assert later.parameters.keys() == first.parameters.keys()
    for name, value in first.parameters.items():
        torch.testing.assert_close(later.parameters[name], value)


def test_a_store_that_does_not_fit_is_refused_in_one_sentence() -> None:
    x = normal_data(100)
    first = fit(normal_model(100), statements(), x, epochs=1, seed=0)

    def again(guide: Any, **options: Any) -> None:
        fit(normal_model(100), guide, x, epochs=1, **{"store": first.store, **options})

    with pytest.raises(ValueError, match=r"Expected 'm' of shape \(3,\) in store; got \(\)\.$"):
        again(statements((3,)))
    with pytest.raises(
        ValueError, match=r"'AutoNormal.locs.loc' is not in store: pass the store of a fit with the same"
    ):
        again(AutoNormal(normal_model(100)))
    unknown = {kind: {**part, "n": next(iter(part.values()))} for kind, part in first.store.items()}
    with pytest.raises(ValueError, match="'n' is not in the model and guide"):
        again(statements(), store=unknown)
    limits = {**first.store["constraints"], "s": dist.constraints.unit_interval}
    with pytest.raises(ValueError, match=r"Expected 's' under the constraint .* in store"):
        again(statements(), store={**first.store, "constraints": limits})
    with pytest.raises(ValueError, match=r"pass result\.store"):
        again(statements(), store=first)
    with pytest.raises(ValueError, match="Expected store or a state"):
        again(statements(), state=TrainingState.from_state_dict(first.state.state_dict()))
