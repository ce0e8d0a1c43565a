from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from latentmix.models import Gaussian, Laplace, Likelihood


def linked_noise(kind: str, likelihood: Likelihood, outputs: Tensor) -> Tensor:
    """Variance or scale by the documented formula."""
    floor = 1e-4 if isinstance(likelihood, Gaussian) else 1e-2
    if kind == "pixel":
        return floor + torch.log1p(outputs[..., 1].exp())
    return torch.full(outputs.shape[:-1], 0.7 if kind == "fixed" else 0.1, dtype=outputs.dtype)


@pytest.mark.parametrize("kind", ["fixed", "shared", "pixel"])
def test_gaussian_and_laplace_equal_scipy(kind: str) -> None:
    choice: Any = 0.7 if kind == "fixed" else kind
    for likelihood in (Gaussian(choice).double(), Laplace(choice).double()):
        outputs = 2 * torch.randn(50, 2, 3, likelihood.outputs, dtype=torch.float64)
        x = 2 * torch.randn(50, 2, 3, dtype=torch.float64)
        noise = linked_noise(kind, likelihood, outputs).numpy()
        if isinstance(likelihood, Gaussian):
            expected = scipy.stats.norm.logpdf(x.numpy(), outputs[..., 0].numpy(), noise**0.5)
        else:
            expected = scipy.stats.laplace.logpdf(x.numpy(), outputs[..., 0].numpy(), noise)
        # A shared level has passed through the logarithm in float32.
        torch.testing.assert_close(likelihood(outputs).log_prob(x), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
@pytest.mark.parametrize("noise", [0.7, "shared", "pixel"])
def test_densities_integrate_to_one(kind: type[Gaussian | Laplace], noise: Any) -> None:
    likelihood = kind(noise)
    outputs = torch.tensor([-0.5, 0.3], dtype=torch.float64)[: likelihood.outputs]

    def density(x: float) -> float:
        value: float = likelihood(outputs).log_prob(torch.tensor(x, dtype=torch.float64)).exp().item()
        return value

    total, _ = scipy.integrate.quad(density, -20, 20, points=[-0.5], limit=200)
    assert total == pytest.approx(1.0, abs=1e-8)


def test_shared_noise_is_a_parameter_or_a_buffer() -> None:
    learned, set_after_epochs = Gaussian("shared"), Gaussian("shared", closed_form=True)
    assert [name for name, _ in learned.named_parameters()] == ["log_noise"]
    assert [name for name, _ in set_after_epochs.named_buffers()] == ["log_noise"]
    assert not list(set_after_epochs.parameters())
    for likelihood in (learned, set_after_epochs):
        assert likelihood.var_x == pytest.approx(0.1, rel=1e-6)
        likelihood.set_noise_level(0.3)
        assert likelihood.var_x == pytest.approx(0.3, rel=1e-6)
        assert likelihood(torch.zeros(2, 1)).stddev.square()[0].item() == pytest.approx(0.3, rel=1e-6)


def test_present_noise_of_the_other_forms() -> None:
    assert (Gaussian(0.25).var_x, Gaussian("pixel").var_x) == (0.25, None)
    assert (Laplace(2).scale, Laplace("pixel").scale) == (2.0, None)
    assert Laplace("shared").scale == pytest.approx(0.1, rel=1e-6)


def test_learned_noise_stays_above_its_floor() -> None:
    outputs = torch.tensor([[0.0, -1e4]])
    assert Gaussian("pixel", min_var=0.01)(outputs).stddev.item() == pytest.approx(0.1)
    shared = Laplace("shared", closed_form=True, min_scale=0.5)
    shared.set_noise_level(0.0)
    assert shared.scale == pytest.approx(0.5, rel=1e-5)
    assert shared(outputs[:, :1]).log_prob(torch.zeros(1)).isfinite().all()


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, math.inf, True, "each", None])
def test_noise_levels_must_be_positive(value: Any) -> None:
    for kind, name in ((Gaussian, "var_x"), (Laplace, "scale")):
        with pytest.raises(ValueError, match=f"Expected {name} to be a positive number, 'shared' or 'pixel'; got"):
            kind(value)


def test_other_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="a positive floor for var_x; got 0"):
        Gaussian("pixel", min_var=0.0)
    with pytest.raises(ValueError, match=r"var_x='shared' with closed_form=True; got 0\.1"):
        Gaussian(0.1, closed_form=True)
    with pytest.raises(ValueError, match="scale='shared' with closed_form=True; got 'pixel'"):
        Laplace("pixel", closed_form=True)
    with pytest.raises(ValueError, match=r"finite level of shared noise; got 0.2 for Gaussian\(var_x=0.1\)"):
        Gaussian(0.1).set_noise_level(0.2)
    with pytest.raises(ValueError, match="finite level of shared noise; got nan"):
        Gaussian("shared").set_noise_level(math.nan)
