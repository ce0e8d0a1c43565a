import pytest
import torch
from torch.distributions import constraints, transform_to

from latentmix.inference.mixtures.svi.row_norms import RowNorms
from latentmix.models.mixture.corr_cholesky import CorrCholesky, from_partial_correlations


@pytest.fixture(params=[1, 2, 5])
def rows(request: pytest.FixtureRequest) -> tuple[RowNorms, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The maps at order D, three factors, and their row norms and free coordinates."""
    size = request.param
    generator = torch.Generator().manual_seed(size)
    free = torch.randn(3, size * (size - 1) // 2, generator=generator, dtype=torch.float64)
    scales = torch.rand(3, size, generator=generator, dtype=torch.float64) + 0.1
    correlation = free.new_ones(3, 1, 1) if size == 1 else transform_to(constraints.corr_cholesky)(free)
    return RowNorms(size, free), scales[..., None] * correlation, scales, free


def coordinates(factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = factor.norm(dim=-1)
    return scales, CorrCholesky().inv(factor / scales[..., None])


def test_push_is_the_derivative_and_pull_its_transpose(rows) -> None:
    maps, factor, scales, free = rows
    generator = torch.Generator().manual_seed(0)
    move = torch.randn(factor.shape, generator=generator, dtype=torch.float64).tril()
    pushed = maps.push(factor, move)
    step = 1e-6
    ahead, behind = coordinates(factor + step * move), coordinates(factor - step * move)
    for slope, after, before in zip(pushed, ahead, behind, strict=True):
        torch.testing.assert_close(slope, (after - before) / (2 * step), rtol=1e-6, atol=1e-7)
    gradients = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in (scales, free)]
    pulled = maps.pull(factor, *gradients)
    expected = sum((a * b).sum() for a, b in zip(gradients, pushed, strict=True))
    torch.testing.assert_close((pulled * move).sum(), expected, rtol=1e-12, atol=1e-12)


def test_nearly_singular_factors_stay_finite() -> None:
    factor = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-9, 0.0], [0.0, 1.0, 1e-12]], dtype=torch.float64)
    maps = RowNorms(3, factor)
    scales, free = coordinates(factor)
    again = scales[..., None] * from_partial_correlations(free)
    torch.testing.assert_close(again, factor, rtol=1e-9, atol=1e-15)
    assert all(part.isfinite().all() for part in maps.push(factor, torch.ones(3, 3).double().tril()))
    assert maps.pull(factor, scales, free).isfinite().all()
