"""TraceEnum_ELBO warns if it enumerates nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import JitTraceEnum_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor

from latentmix.inference import evaluate, fit

from tests.inference.normal import normal_data
from tests.inference.pairs import chain_pair, subsampled_pair

Pair = tuple[Callable[..., Any], Callable[..., Any]]


def discrete_pair(infer: Any, in_guide: bool = True) -> Pair:
    def model(x: Tensor) -> None:
        means = pyro.param("means", torch.tensor([-1.0, 2.0], dtype=x.dtype))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(2, dtype=x.dtype)), infer=infer)
            pyro.sample("x", dist.Normal(means[k], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        logits = pyro.param("logits", torch.zeros(2, dtype=x.dtype))
        with pyro.plate("data", len(x)):
            if in_guide:
                pyro.sample("k", dist.Categorical(logits=logits))

    return model, guide


def warnings_of(pair: Pair, elbo: Any, **options: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(*pair, normal_data(100), epochs=2, batch_size=100, objective=elbo, seed=0, **options)
    return [warning for warning in caught if "enumerat" in str(warning.message)]


@pytest.mark.parametrize("elbo", [TraceEnum_ELBO, JitTraceEnum_ELBO])
def test_a_model_without_discrete_sites_is_named_once_at_the_caller(elbo: Any) -> None:
    pair = subsampled_pair()[:2]
    (warning,) = warnings_of(pair, elbo(), validation=normal_data(100))
    assert "TraceEnum_ELBO enumerates nothing, as no site is marked" in str(warning.message)
    assert "Trace_ELBO is the same" in str(warning.message)
    assert warning.filename == __file__


def test_a_discrete_latent_that_is_sampled_is_named_with_the_remedy() -> None:
    (warning,) = warnings_of(discrete_pair({}), TraceEnum_ELBO())
    assert "enumerates nothing: 'k' is discrete but not marked" in str(warning.message)
    assert "mark it infer={'enumerate': 'parallel'}" in str(warning.message)


@pytest.mark.parametrize("elbo", [TraceEnum_ELBO(), TraceEnum_ELBO(strict_enumeration_warning=False)], ids=["", "lax"])
def test_a_discrete_latent_neither_enumerated_nor_in_the_guide_is_refused(elbo: Any) -> None:
    model, guide = discrete_pair({}, in_guide=False)
    message = (
        "Expected 'k', a discrete latent of the model, to be enumerated or in the guide; got neither: mark it infer="
    )
    with pytest.raises(ValueError, match=message), pytest.warns(UserWarning, match="Found vars in model"):
        fit(model, guide, normal_data(100), epochs=1, objective=elbo)
    with pytest.raises(ValueError, match=message), pytest.warns(UserWarning, match="Found vars in model"):
        evaluate(model, guide, normal_data(100), objective=elbo)


def test_no_warning_if_a_site_is_enumerated_or_the_warning_is_off() -> None:
    model, guide = discrete_pair({})
    assert not warnings_of((model, config_enumerate(guide)), TraceEnum_ELBO())
    assert not warnings_of(discrete_pair({"enumerate": "parallel"}, in_guide=False), TraceEnum_ELBO())
    assert not warnings_of(chain_pair()[:2], TraceEnum_ELBO())
    assert not warnings_of((model, guide), TraceEnum_ELBO(strict_enumeration_warning=False))
