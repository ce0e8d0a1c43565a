import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from pyro.optim import Adam

from latentmix.guides.mixture import global_guide
from latentmix.models.mixture.model import MixtureModel

START = {
    "weights": torch.tensor([0.25, 0.75]),
    "means": torch.tensor([[-2.0, 0.0], [2.0, 1.0]]),
    "scales": torch.tensor([[1.0, 0.5], [0.7, 2.0]]),
    "correlation_cholesky": torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [0.0, 1.0]]]),
}


@pytest.mark.parametrize("family", [AutoDelta, AutoNormal, AutoMultivariateNormal])
def test_starts_at_the_given_values_and_trains(family):
    x = torch.cat([torch.randn(30, 2) - 2, torch.randn(60, 2) + 2])
    model = MixtureModel(2, 2)
    guide = global_guide(model, family=family, start=START)
    guide(x)
    median = guide.median(x)
    assert set(START) <= set(median)
    for name, value in START.items():
        torch.testing.assert_close(median[name], value, rtol=1e-4, atol=1e-4)
    svi = SVI(model, guide, Adam({"lr": 0.02}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_the_assignments_are_not_in_the_guide():
    x = torch.zeros(5, 2)
    assert "assignment" not in global_guide(MixtureModel(2, 2), start=START)(x)


def test_refuses_a_wrong_or_missing_start():
    with pytest.raises(ValueError, match=r"Expected a start of shape \(3, 2\) for means; got \(2, 2\)"):
        global_guide(MixtureModel(3, 2), start=START | {"weights": torch.ones(3) / 3})
    with pytest.raises(ValueError, match="for scales; got None"):
        global_guide(MixtureModel(2, 2), start={name: START[name] for name in START if name != "scales"})
    with pytest.raises(ValueError, match="prior of weights is improper"):
        global_guide(MixtureModel.maximum_likelihood(2, 2))
