import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to, constraints, transform_to

from latentmix.models.mixture.corr_cholesky import CorrCholesky, corr_cholesky
from latentmix.models.mixture.model import MixtureModel


@pytest.mark.parametrize("size", [2, 3, 6])
def test_the_transform_matches_torch(size: int) -> None:
    free = torch.randn(4, size * (size - 1) // 2, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    peer, ours = transform_to(constraints.corr_cholesky), transform_to(corr_cholesky)
    assert isinstance(biject_to(corr_cholesky), CorrCholesky)
    factor = ours(free)
    assert bool(corr_cholesky.check(factor).all())
    torch.testing.assert_close(factor, peer(free), rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.inv(factor), free, rtol=0, atol=1e-12)
    jacobian, expected = (map_.log_abs_det_jacobian(free, factor) for map_ in (ours, peer))
    torch.testing.assert_close(jacobian, expected, rtol=0, atol=1e-11)
    assert ours.forward_shape(free.shape) == factor.shape
    assert ours.inverse_shape(factor.shape) == free.shape


def test_gradients_match_finite_differences() -> None:
    free = torch.tensor([0.3, -1.2, 15.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: CorrCholesky()(u)[..., 1:, :2], free)
    # What is left of the third row is of the size 1e-7, and so are its derivatives: relative to them.
    (slope,) = torch.autograd.grad(CorrCholesky()(free)[2, 2].log(), free)
    np.testing.assert_allclose(slope[1:].numpy(), -np.tanh([-1.2, 15.0]), rtol=1e-12)


@pytest.mark.parametrize("conditional", [1e-3, 1e-7, 1e-9, 1e-12])
def test_nearly_singular_factors_keep_their_digits(conditional: float) -> None:
    """The variance of one feature given the other is 1e-24 of its own at the least, where 1 - tanh^2 is 0."""
    factor = torch.tensor([[1.0, 0.0], [-np.sqrt(1 - conditional**2), conditional]], dtype=torch.float64)
    again = CorrCholesky()(CorrCholesky().inv(factor))
    torch.testing.assert_close(again, factor, rtol=1e-12, atol=0)


def test_an_impossible_number_of_coordinates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected D\(D-1\)/2 free coordinates .* got 2"):
        CorrCholesky()(torch.zeros(2))


@pytest.mark.parametrize(
    "prior",
    [dist.LKJCholesky(3, 2.0), dist.ImproperUniform(constraints.corr_cholesky, (), (3, 3)), None],
)
def test_every_prior_of_correlations_has_the_transform(prior: dist.TorchDistribution | None) -> None:
    model = MixtureModel(2, 3, correlations=prior)
    support = model.priors(torch.zeros(1))["correlation_cholesky"].support
    assert isinstance(transform_to(support.base_constraint), CorrCholesky)
