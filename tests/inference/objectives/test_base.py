from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor

from latentmix.inference import as_objective
from latentmix.inference.objectives.base import data_plate
from latentmix.inference.objectives.conversion import CallableObjective

from tests.inference.pairs import (
    TOTAL,
    Pair,
    assert_equal_to_pyro,
    auxiliary_pair,
    gradients,
    subsampled_pair,
    vae_pair,
)


class Unknown(Trace_ELBO):  # type: ignore[misc]
    """Half of Trace_ELBO, in code of its own."""

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Any, Any]:
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        return loss / 2, surrogate / 2


@pytest.mark.parametrize("elbo", [Unknown(), TraceGraph_ELBO()], ids=lambda elbo: type(elbo).__name__)
@pytest.mark.parametrize("pair", [vae_pair, subsampled_pair, auxiliary_pair])
def test_other_elbos_run_as_they_are(elbo: ELBO, pair: Callable[[], Pair]) -> None:
    terms = assert_equal_to_pyro(elbo, pair())
    assert terms.log_likelihood is None
    assert terms.kl is None


def test_a_callable_is_an_objective() -> None:
    model, guide, (x,), count = vae_pair()

    def loss(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> Tensor:
        return Trace_ELBO().differentiable_loss(model, guide, x) / count

    objective = as_objective(loss)
    assert isinstance(objective, CallableObjective)
    pyro.set_rng_seed(2)
    terms = objective.backward(model, guide, x)
    ours = gradients()
    assert terms[1:] == (None, None, None)
    pyro.set_rng_seed(2)
    assert terms.loss.item() == pytest.approx(as_objective(Trace_ELBO()).backward(model, guide, x).loss.item())
    for name, gradient in gradients().items():
        torch.testing.assert_close(ours[name], gradient)
    assert terms.totals(5)[:3].isnan().all()
    assert terms.totals(5)[3] == 5
    assert as_objective(objective) is objective


@pytest.mark.parametrize("value", [1.0, torch.zeros(2), None])
def test_a_callable_that_gives_no_scalar_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="Expected a scalar tensor from the objective; got"):
        as_objective(lambda model, guide: value)(lambda: None, lambda: None)


def test_other_objects_are_refused_as_objectives() -> None:
    with pytest.raises(ValueError, match="Expected an objective, a Pyro ELBO or a callable; got str"):
        as_objective("Trace_ELBO")  # type: ignore[arg-type]


def sites(model: Callable[..., Any], *batch: Tensor) -> Any:
    return poutine.trace(model).get_trace(*batch).nodes.values()


def test_data_plate() -> None:
    model, _, (x,), _ = subsampled_pair()
    plate = data_plate(sites(model, x), len(x))
    assert plate is not None
    assert (plate.name, plate.size, plate.full_size) == ("data", 12, TOTAL)
    assert data_plate(sites(model, x), 13) is None
    assert data_plate(sites(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))), 1) is None


def test_data_plate_is_not_mistaken_for_another_of_its_length() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("rows", TOTAL, subsample=x, dim=-2), pyro.plate("pixels", 12, dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand((12, 12)), obs=x)

    plate = data_plate(sites(model, torch.zeros(12, 12)), 12)
    assert plate is not None
    assert plate.name == "rows"
