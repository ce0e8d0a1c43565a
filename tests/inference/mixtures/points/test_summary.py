import numpy as np
import pytest
import torch

from latentmix.inference.mixtures.points.summary import Summary, check_rows, check_weights_of_rows

X = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 3)) * [1.0, 1e3, 1e-3] + [0.0, 5e4, 1.0])
WEIGHT = torch.arange(60.0).double() % 4


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("missing", [False, True])
def test_summaries_of_parts_add_up_to_that_of_the_whole(weight, missing):
    x = X.where(torch.rand(X.shape, generator=torch.Generator().manual_seed(0)) > 0.2, torch.nan) if missing else X
    parts = [
        Summary.of(x[rows], None if weight is None else weight[rows], allow_nan=missing)
        for rows in (slice(0, 7), slice(7, 30), slice(30, 60))
    ]
    total, whole = parts[0] + parts[1] + parts[2], Summary.of(x, weight, allow_nan=missing)
    assert (total.count, total.weight) == (whole.count, whole.weight)
    for name in ("weights", "mean", "squares", "low", "high"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name), rtol=1e-12, atol=0)


def test_moments_are_those_of_the_observed_values():
    x = X.clone()
    x[::3, 1] = torch.nan
    observed = x[:, 1].isfinite()
    summary = Summary.of(x, WEIGHT, allow_nan=True)
    expected = np.average(x[observed, 1], weights=WEIGHT[observed])
    np.testing.assert_allclose(summary.mean[1], expected, rtol=1e-14)
    np.testing.assert_allclose(summary.weights[1], WEIGHT[observed].sum())
    np.testing.assert_allclose(summary.squares[1], WEIGHT[observed] @ (x[observed, 1] - expected).square(), rtol=1e-12)


def test_rows_and_weights_that_are_not_finite_are_named():
    x = X.clone()
    x[4, 2] = torch.nan
    with pytest.raises(ValueError, match="got NaN in row 104: drop or mend the row"):
        Summary.of(x, None, row=100)
    check_rows(x, allow_nan=True)
    x[9, 0] = torch.inf
    with pytest.raises(ValueError, match="got infinity in row 9: drop the row, or mark what is missing by NaN"):
        check_rows(x, allow_nan=True)
    with pytest.raises(ValueError, match=r"Expected sample_weight finite and not negative; got inf in row 12"):
        check_weights_of_rows(torch.tensor([0.0, 1.0, torch.inf]), 10)
