import dataclasses
import math
import re
import warnings
import weakref

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.standardised import standardised_model
from latentmix.inference.mixtures.svi.fit import SVI, MixtureSVIResult
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import TYPES


def drawn(covariance_type: str, n_features: int = 2, chains: int = 2, draws: int = 25) -> MixturePosterior:
    model = MixtureModel(3, n_features, covariance_type=covariance_type)
    torch.manual_seed(0)
    priors = model.priors(torch.empty(0, dtype=torch.float64))
    sites = {name: prior.sample((chains, draws)) for name, prior in priors.items()}
    return MixturePosterior(sites, model.structure, torch.full((n_features,), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_features", [1, 2])
def test_densities_equal_those_of_each_drawn_mixture(covariance_type, n_features) -> None:
    posterior = drawn(covariance_type, n_features)
    x = torch.randn(7, n_features, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    density = posterior.log_likelihood(x, pointwise=True)
    expected = torch.stack([posterior.draw(1, index).log_likelihood(x) for index in range(25)])
    torch.testing.assert_close(density[1], expected)
    torch.testing.assert_close(posterior.log_likelihood(x)[1], expected.sum(-1))
    model = MixtureModel(3, n_features, covariance_type=covariance_type, covariance_floor=0.1)
    sites = {name: values[1, 3] for name, values in posterior.sites.items()}
    torch.testing.assert_close(model.parameters(sites).log_likelihood(x), expected[3], rtol=1e-6, atol=1e-6)
    predictive = density.exp().mean((0, 1)).log()
    torch.testing.assert_close(posterior.predictive_log_density(x), predictive)


def test_chunks_change_nothing(monkeypatch) -> None:
    posterior, x = drawn("full"), torch.ones(7, 2, dtype=torch.float64)
    whole = posterior.log_likelihood(x), posterior.predictive_log_density(x)
    monkeypatch.setattr("latentmix.inference.mixtures.draws._CHUNK", 130)
    torch.testing.assert_close((posterior.log_likelihood(x), posterior.predictive_log_density(x)), whole)


def test_densities_of_many_points_are_never_held_together(monkeypatch) -> None:
    """60,000 points at 1,000 draws would take 480 MB."""
    original, alive, sizes = MixturePosterior._log_density, weakref.WeakSet(), []

    def watched(self, *arguments):
        density = original(self, *arguments)
        alive.add(density)
        sizes.append(sum(each.numel() for each in alive))
        return density

    monkeypatch.setattr(MixturePosterior, "_log_density", watched)
    posterior, x = drawn("full"), torch.ones(60_000, 2, dtype=torch.float64)
    posterior.log_likelihood(x)
    posterior.predictive_log_density(x)
    assert max(sizes) <= 4 * len(x)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_mean_averages_the_parameters(covariance_type) -> None:
    posterior = drawn(covariance_type)
    mean = posterior.mean()
    torch.testing.assert_close(mean.weights, posterior.sites["weights"].flatten(0, 1).mean(0))
    each = torch.stack([posterior.draw(0, index).covariances for index in range(25)])
    other = torch.stack([posterior.draw(1, index).covariances for index in range(25)])
    torch.testing.assert_close(mean.covariances, torch.cat([each, other]).mean(0))
    assert mean.structure is posterior.structure


def test_diagnostics_detect_bad_chains() -> None:
    good = drawn("diag", draws=400)
    assert float(np.max(good.r_hat()["means"])) < 1.03
    # Independent draws: the effective size is their number, 800, within a third.
    assert 530 < float(np.median(good.ess()["means"])) < 1070
    means = good.sites["means"].clone()
    means[1, :, 0, 0] += 10
    apart = MixturePosterior({**good.sites, "means": means}, good.structure, good.covariance_floor)
    assert apart.r_hat()["means"][0, 0] > 1.5
    assert apart.r_hat()["means"][1, 0] < 1.03
    sticky = {name: values[:, torch.arange(400) // 20 * 20] for name, values in good.sites.items()}
    stuck = MixturePosterior(sticky, good.structure, good.covariance_floor)
    assert float(np.median(stuck.ess()["means"])) < 100


def test_r_hat_of_one_chain_is_that_of_its_halves() -> None:
    good = drawn("diag", chains=1, draws=400)
    means = good.sites["means"].clone()
    means[:, 200:, 0, 0] += 10
    moved = MixturePosterior({**good.sites, "means": means}, good.structure, good.covariance_floor)
    assert moved.r_hat()["means"][0, 0] > 1.5
    assert good.r_hat()["means"][0, 0] < 1.05


def test_the_summary_lists_every_quantity() -> None:
    posterior = drawn("full", draws=100)
    table = posterior.summary()
    assert list(table.columns) == ["mean", "sd", "q5", "median", "q95", "r_hat", "ess_bulk", "ess_tail"]
    assert len(table) == 3 + 6 + 6 + 12
    values = posterior.sites["means"][..., 1, 0].numpy()
    row = table.loc["means[1, 0]"]
    assert row["mean"] == pytest.approx(values.mean())
    assert row["sd"] == pytest.approx(values.std(ddof=1))
    assert row["q5"] == pytest.approx(np.quantile(values, 0.05))


@pytest.fixture(scope="module")
def svi() -> tuple[torch.Tensor, MixtureSVIResult]:
    generator = torch.Generator().manual_seed(0)
    x = 50 + 4 * torch.randn(400, 1, generator=generator, dtype=torch.float64)
    start = MixtureParameters(torch.ones(1).double(), x.mean(0)[None], x.var(0)[None], covariance_structure("diag"))
    priors = {"means": dist.Normal(0.0, 100.0), "scales": dist.HalfNormal(20.0)}
    return x, SVI(priors=priors, guide=AutoMultivariateNormal, epochs=400).fit(x, start)


def test_draws_of_a_guide_have_its_moments(svi) -> None:
    """One Gaussian: the posterior of its mean is normal, of mean and sd in closed form up to the prior's 1e-3."""
    x, result = svi
    posterior = result.draw(800, seed=1)
    means = posterior.sites["means"].flatten()
    exact = float(x.std() / math.sqrt(len(x)))
    # Five standard errors of 800 draws (false alarm 6e-7), and a tenth of the sd for the optimizer's noise.
    assert float(means.mean()) == pytest.approx(float(x.mean()), abs=exact * (5 / math.sqrt(800) + 0.1))
    assert float(means.std()) == pytest.approx(exact, rel=5 / math.sqrt(1600) + 0.1)
    assert posterior.inference == "svi"
    assert (posterior.n_chains, posterior.n_draws) == (1, 800)
    again = result.draw(800, seed=1).sites["means"]
    assert torch.equal(again, posterior.sites["means"])


def test_a_guide_has_no_r_hat(svi) -> None:
    posterior = svi[1].draw(10)
    assert "r_hat" not in posterior.summary().columns
    for call in (posterior.r_hat, posterior.ess):
        with pytest.raises(ValueError, match="Expected draws of NUTS; got draws of a guide"):
            call()


def test_a_point_mass_and_zero_draws_are_refused(svi) -> None:
    x, result = svi
    with pytest.raises(ValueError, match="Expected draws >= 1; got 0"):
        result.draw(0)
    point = SVI(epochs=2).fit(x, result.parameters)
    with pytest.raises(ValueError, match="Expected a guide with a density"):
        point.draw()


def test_draws_of_a_guide_are_aligned_to_a_reference(svi) -> None:
    x, _ = svi
    structure = covariance_structure("diag")
    start = MixtureParameters(
        torch.full((2,), 0.5).double(),
        torch.tensor([[45.0], [55.0]]).double(),
        torch.full((2, 1), 9.0).double(),
        structure,
    )
    result = SVI(priors={}, guide=AutoNormal, epochs=30).fit(x, start)
    plain = result.draw(20)
    turned = result.draw(20, reference=start.permuted(torch.tensor([1, 0])))
    assert torch.equal(plain.sites["means"].flip(2), turned.sites["means"])
    expected = standardised_model(x, 2, structure, priors={})
    torch.testing.assert_close(result.location, expected.location)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_summary_holds_scales(covariance_type) -> None:
    posterior = drawn(covariance_type)
    table, expected = posterior.summary(), posterior.draw(0, 0).expanded_covariances().diagonal(dim1=-2, dim2=-1).sqrt()
    rows = [name for name in table.index if name.startswith("scales[")]
    assert len(rows) == posterior.sites["scales"][0, 0].numel()
    scales = torch.from_numpy(posterior.quantities()["scales"])[0, 0]
    torch.testing.assert_close(scales[:, None].expand(3, 2) if scales.shape == (3,) else scales.expand(3, 2), expected)


def test_points_may_be_an_array() -> None:
    posterior, x = drawn("full"), torch.ones(7, 2, dtype=torch.float64)
    assert torch.equal(posterior.log_likelihood(x.numpy()), posterior.log_likelihood(x))
    assert torch.equal(posterior.predictive_log_density(x.float().numpy()), posterior.predictive_log_density(x))


def test_the_table_shows_every_column_and_the_worst_figures() -> None:
    likelihoods = torch.randn(2, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    posterior = dataclasses.replace(drawn("diag", draws=100), log_likelihoods=likelihoods)
    head, _, *rows, _, last = posterior.table().splitlines()
    assert re.split("  +", head) == ["quantity", "mean", "sd", "5%", "median", "95%", "R-hat", "ESS bulk", "ESS tail"]
    summary = posterior.summary()
    assert [row.split("  ")[0] for row in rows] == list(summary.index)
    assert summary.index[-1] == "log_likelihood"
    r_hat, ess = posterior.worst()
    assert r_hat == summary["r_hat"].max()
    assert ess == summary[["ess_bulk", "ess_tail"]].min(axis=None)
    assert last == f"R-hat {r_hat:.4g} at most, effective sample size {ess:.0f} at least, of 200 draws"
    assert not any("..." in row for row in rows)


def test_the_repr_says_what_the_draws_are() -> None:
    assert "2 x 25 by nuts" in repr(drawn("diag"))
    assert "3 components, 2 features, diag" in repr(drawn("diag"))


@pytest.mark.parametrize("n_features", [1, 2])
def test_points_of_any_kind_have_the_same_densities(n_features) -> None:
    posterior = drawn("full", n_features)
    x = np.random.default_rng(0).normal(size=(7, n_features))
    expected = posterior.predictive_log_density(torch.from_numpy(x))
    read_only = x.copy()
    read_only.flags.writeable = False
    for given in (x, x.astype(">f8"), pd.DataFrame(x), pd.DataFrame(x).astype("Float64"), read_only, x.tolist()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.testing.assert_close(posterior.predictive_log_density(given), expected)
            assert posterior.log_likelihood(given, pointwise=True).shape == (2, 25, 7)


def test_points_that_are_not_n_x_d_numbers_are_refused() -> None:
    posterior, x = drawn("full", 3), torch.randn(3)
    for call in (posterior.predictive_log_density, posterior.log_likelihood):
        for item in (x, x.numpy(), x.tolist()):
            with pytest.raises(ValueError, match=r"Expected 2D array, got 1D array instead: .* for one point by X"):
                call(item)
        assert call(x[None]).shape[-1] in (1, 25)
        with pytest.raises(ValueError, match="Expected points with 3 features; got 2"):
            call(x[None, :2])
        with pytest.raises(ValueError, match="Expected X to be finite; got NaN or infinity in 1 rows: 0"):
            call(np.ma.array(x[None].numpy(), mask=[[0, 1, 0]]))


def test_nearly_collinear_draws_keep_their_digits() -> None:
    """To a correlation of 1 - 5e-16, by the factors; covariances themselves could not tell it from 1."""
    small = 3e-8
    factor = torch.tensor([[1.0, 0.0], [math.sqrt(1 - small**2), small]]).double()
    sites = {
        "weights": torch.ones(1, 1, 1).double(),
        "means": torch.zeros(1, 1, 1, 2).double(),
        "scales": torch.ones(1, 1, 1, 2).double(),
        "correlation_cholesky": factor.expand(1, 1, 1, 2, 2),
    }
    draws = MixturePosterior(sites, covariance_structure("full"), torch.zeros(2).double())
    density = draws.log_likelihood(torch.ones(1, 2).double())
    exact = -math.log(2 * math.pi) - math.log(small) - 0.5 * (1 + ((1 - factor[1, 0].item()) / small) ** 2)
    assert float(density) == pytest.approx(exact, abs=1e-6)
    floored = MixturePosterior(sites, covariance_structure("full"), torch.full((2,), 1e-24).double())
    assert float(floored.log_likelihood(torch.ones(1, 2).double())) == float(density)
    singular = MixturePosterior(
        {**sites, "correlation_cholesky": torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double().expand(1, 1, 1, 2, 2)},
        covariance_structure("full"),
        torch.zeros(2).double(),
    )
    with pytest.raises(ValueError, match="Expected draws with positive definite covariances; got a singular one"):
        singular.log_likelihood(torch.ones(1, 2).double())
