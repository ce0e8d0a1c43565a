"""Class probabilities averaged over q and over the mixture's posterior: quadrature, closed forms, seeds, refusals."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import log_loss
from torch import Tensor

from latentmix.experiments.data.base import Split
from latentmix.experiments.runs import class_probabilities as module
from latentmix.experiments.runs.class_probabilities import class_probabilities, measure_probabilities, probability_draws
from latentmix.experiments.runs.metrics import calibration
from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.experiments.runs.run import Run
from latentmix.guides import AmortizedGuide, AutoregressiveFlow, DiagonalNormal, FullNormal, MLPEncoder
from latentmix.guides.encoders import Encoder
from latentmix.guides.families import ConditionalDistribution, Family
from latentmix.inference import GaussianMixture
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.models import VAE, Bernoulli, MixtureParameters, MLPDecoder, StandardNormal
from latentmix.models.mixture.covariances import covariance_structure

WEIGHTS, MEANS, SCALES = (0.3, 0.7), (-1.0, 1.5), (0.8, 0.5)
X = torch.tensor([[-1.0], [0.2], [0.5], [2.0]], dtype=torch.float64)
SPREAD = 0.6


@final
class Itself(Encoder):
    def __init__(self, size: int) -> None:
        super().__init__(size, (size,), size)

    def encode(self, x: Tensor) -> Tensor:
        return x


@final
class Around(Family):
    """q(z given x) is normal about x with one standard deviation."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def build(self, features: int, latent_dim: int) -> ConditionalDistribution:
        return _Around(self.scale)


class _Around(ConditionalDistribution):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        return dist.Normal(features, self.scale).to_event(1)

    def mean(self, features: Tensor) -> Tensor:
        return features

    def covariance(self, features: Tensor) -> Tensor:
        return torch.full_like(features, self.scale**2)


def line_mixture() -> GaussianMixture:
    mixture = GaussianMixture(2, covariance_type="diag")
    weights, means, variances = (torch.tensor(part, dtype=torch.float64) for part in (WEIGHTS, MEANS, SCALES))
    mixture.parameters_ = MixtureParameters(
        weights, means[:, None], variances.square()[:, None], covariance_structure("diag")
    )
    return mixture


def line() -> tuple[AmortizedGuide, FittedMixture]:
    return AmortizedGuide(Itself(1), Around(SPREAD)), FittedMixture(line_mixture(), (4, 7), (7, 4))


def responsibility(z: Any, spread: float = 0.0) -> Any:
    """Responsibility of the first component, whose class is 7, at z, under covariances that hold a spread."""
    joint = [w * norm.pdf(z, m, (s**2 + spread**2) ** 0.5) for w, m, s in zip(WEIGHTS, MEANS, SCALES, strict=True)]
    return joint[0] / (joint[0] + joint[1])


def in_the_plane(family: Family) -> tuple[AmortizedGuide, FittedMixture, Tensor]:
    """A guide of a family on 3 x 3 images, a full mixture over its two latents, and images."""
    torch.manual_seed(0)
    guide = AmortizedGuide(MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 3, 3)), family)
    points = torch.randn(60, 2, dtype=torch.float64) + torch.tensor([[2.0, 0.0]]) * (torch.arange(60) % 3)[:, None]
    mixture = GaussianMixture(3, random_state=0).fit(points.numpy())
    images = torch.randint(256, (11, 1, 3, 3), dtype=torch.uint8)
    return guide, FittedMixture(mixture, (0, 1), (0, 1, 0)), images


def test_a_mean_over_draws_of_q_is_the_integral() -> None:
    guide, fitted = line()
    averaged = class_probabilities(guide, fitted, X, draws=20_000)
    for x, row in zip(X.flatten().tolist(), averaged, strict=True):
        exact, _ = quad(lambda z, x=x: responsibility(z) * norm.pdf(z, x, SPREAD), x - 6, x + 6)
        assert row[1] == pytest.approx(exact, abs=4 * 0.5 / 20_000**0.5)
        assert row.sum() == pytest.approx(1.0)
        assert abs(exact - responsibility(x)) > 0.01 or x == 2.0  # averaging matters


def test_noise_is_the_mixture_convolved_with_q() -> None:
    guide, fitted = line()
    averaged = class_probabilities(guide, fitted, X, average="noise")
    np.testing.assert_allclose(averaged[:, 1], responsibility(X.flatten().numpy(), SPREAD), rtol=1e-6)


@pytest.mark.parametrize("family", [DiagonalNormal(), DiagonalNormal(scale="softplus"), FullNormal()])
def test_noise_of_an_encoder_is_the_closed_form(family: Family) -> None:
    guide, fitted, images = in_the_plane(family)
    means, covariances = (part.double().numpy() for part in guide.moments(images / 255.0))
    parameters = fitted.mixture.parameters_
    for row, mean, covariance in zip(
        class_probabilities(guide, fitted, images, average="noise"), means, covariances, strict=True
    ):
        own = np.diag(covariance) if covariance.ndim == 1 else covariance
        parts = zip(parameters.weights, parameters.means, parameters.covariances, strict=True)
        joint = [float(w) * multivariate_normal.pdf(mean, m.numpy(), c.numpy() + own) for w, m, c in parts]
        np.testing.assert_allclose(row, [(joint[0] + joint[2]) / sum(joint), joint[1] / sum(joint)], rtol=1e-4)


@pytest.mark.parametrize("family", [DiagonalNormal(), FullNormal(), AutoregressiveFlow(transforms=1, hidden=(4,))])
def test_without_averaging_they_are_those_of_the_latents(family: Family) -> None:
    guide, fitted, images = in_the_plane(family)
    plug_in = class_probabilities(guide, fitted, images, average=None)
    np.testing.assert_array_equal(plug_in, fitted.classify(guide.encode(images / 255.0)))
    averaged = class_probabilities(guide, fitted, images, draws=7)
    np.testing.assert_allclose(averaged.sum(1), 1.0)
    assert averaged.shape == plug_in.shape == (11, 2)


def test_draws_are_seeded_and_leave_the_random_states(monkeypatch: pytest.MonkeyPatch) -> None:
    guide, fitted, images = in_the_plane(DiagonalNormal())
    state, legacy = torch.get_rng_state(), np.random.get_state(legacy=False)
    first, again, other = (class_probabilities(guide, fitted, images, draws=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], legacy["state"]["key"])


def test_data_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    guide, fitted, images = in_the_plane(DiagonalNormal())
    exact = class_probabilities(guide, fitted, images, draws=4000)
    monkeypatch.setattr(module, "_CHUNK", 4 * 4000 * 2)
    sizes: list[int] = []
    draw = AmortizedGuide.draw

    def counting(self: AmortizedGuide, x: Tensor, **options: Any) -> Tensor:
        z = draw(self, x, **options)
        sizes.append(z.numel())
        return z

    monkeypatch.setattr(AmortizedGuide, "draw", counting)
    np.testing.assert_allclose(class_probabilities(guide, fitted, images, draws=4000), exact, atol=0.04)
    assert sizes == [32_000, 32_000, 24_000]


def test_draws_of_the_posterior_are_paired_with_those_of_q() -> None:
    torch.manual_seed(1)
    sites = {
        "weights": torch.rand(2, 5, 2, dtype=torch.float64).softmax(-1),
        "means": torch.randn(2, 5, 2, 1, dtype=torch.float64),
        "scales": torch.rand(2, 5, 2, 1, dtype=torch.float64) + 0.5,
    }
    posterior = MixturePosterior(sites, covariance_structure("diag"), torch.zeros(1, dtype=torch.float64))
    mixture = line_mixture()
    mixture.posterior_ = posterior
    guide = AmortizedGuide(Itself(1), Around(1e-9))
    fitted = FittedMixture(mixture, (0, 1), (0, 1))
    each = [posterior.draw(chain, draw).responsibilities(X) for chain in range(2) for draw in range(5)]
    exact = torch.stack(each).mean(0).numpy()
    for draws in (10, 20):
        np.testing.assert_allclose(class_probabilities(guide, fitted, X, draws=draws), exact, atol=1e-6)
    some = class_probabilities(guide, fitted, X, draws=5)
    np.testing.assert_allclose(some, torch.stack(each[::2]).mean(0).numpy(), atol=1e-6)
    np.testing.assert_allclose(
        class_probabilities(guide, fitted, X, average=None), line_mixture().predict_proba(X.numpy())
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": "mean"}, "Expected average to be 'draws', 'noise' or None; got 'mean'"),
        ({"draws": 0}, "Expected draws from 1 to 100,000; got 0"),
        ({"draws": 10**9}, "Expected draws from 1 to 100,000; got 1000000000"),
        ({"draws": 1.5}, "Expected draws from 1 to 100,000; got 1.5"),
        ({"seed": -1}, "Expected a seed of at least 0; got -1"),
        ({"seed": None}, "Expected a seed of at least 0; got None"),
    ],
)
def test_other_options_are_refused(options: dict[str, Any], message: str) -> None:
    guide, fitted = line()
    with pytest.raises(ValueError, match=message):
        class_probabilities(guide, fitted, X, **options)


def test_noise_is_refused_of_a_q_that_is_not_normal() -> None:
    guide, fitted, images = in_the_plane(AutoregressiveFlow(transforms=1, hidden=(4,)))
    with pytest.raises(ValueError, match=r"Expected a normal q, .* got AutoregressiveFlow: average over draws instead"):
        class_probabilities(guide, fitted, images, average="noise")


def run() -> tuple[Run, Tensor]:
    guide, fitted, images = in_the_plane(DiagonalNormal())
    vae = VAE(MLPDecoder(latent_dim=2, hidden=(4,), shape=(1, 3, 3)), StandardNormal(2), Bernoulli())
    return Run(vae, guide, {"em": {"none": fitted}}, {}, {}), images


def test_a_run_classifies_images_of_any_kind() -> None:
    finished, images = run()
    expected = class_probabilities(finished.guide, finished.mixtures["em"]["none"], images, draws=9, seed=3)
    for given in (images, images.numpy(), images / 255.0, (images / 255.0).numpy()):
        np.testing.assert_allclose(finished.classify(given, draws=9, seed=3), expected, rtol=1e-6)
    assert finished.fitted() is finished.mixtures["em"]["none"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"Expected images as a tensor or an array of shape N x 1 x 3 x 3; got shape \(1, 3, 3\)"),
        (lambda x: x[:0], r"of shape N x 1 x 3 x 3; got shape \(0, 1, 3, 3\)"),
        (lambda x: x.tolist(), "Expected images as a tensor or an array of shape N x 1 x 3 x 3; got list"),
        (lambda x: x.float(), "Expected images of bytes, or of floats in .* got floats from .* divide them by 255"),
        (lambda x: x.long(), "Expected a tensor of uint8, booleans or floats; got torch.int64"),
        (lambda x: x * torch.nan, "Expected finite images; got NaN or infinity"),
    ],
)
def test_other_data_are_refused(change: Any, message: str) -> None:
    finished, images = run()
    with pytest.raises(ValueError, match=message):
        finished.classify(change(images))


def test_a_fit_that_the_run_has_not_is_refused() -> None:
    finished, images = run()
    with pytest.raises(ValueError, match="Expected a fit of this run, em; got 'nuts'"):
        finished.classify(images, inference="nuts")
    with pytest.raises(ValueError, match="Expected a label budget of this run, none; got 'all'"):
        finished.classify(images, labels="all")


def test_figures_are_plug_in_and_averaged() -> None:
    guide, fitted, images = in_the_plane(DiagonalNormal())
    without = FittedMixture(fitted.mixture, (), ())
    split = Split(images, torch.arange(11) % 2)
    figures = measure_probabilities(guide, {"em": {"none": fitted}, "svi": {"none": without}}, split, draws=6, seed=2)
    assert list(figures) == ["em"]
    measured = figures["em"]["none"]
    assert measured["n_draws"] == 6
    labels, ways = (torch.arange(11) % 2).numpy(), {"plug_in": None, "draws": "draws", "noise": "noise"}
    for way, average in ways.items():
        probabilities = class_probabilities(guide, fitted, images, average=average, draws=6, seed=2)  # type: ignore[arg-type]
        assert measured[way] == calibration(labels, probabilities, (0, 1))
    flow, fitted, images = in_the_plane(AutoregressiveFlow(transforms=1, hidden=(4,)))
    assert list(measure_probabilities(flow, {"em": {"none": fitted}}, split)["em"]["none"]) == [
        "n_draws",
        "plug_in",
        "draws",
    ]


def test_calibration_matches_scikit_learn_and_its_bins() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(3, 0.3), 400)
    probabilities[:5] = [1.0, 0.0, 0.0]  # certain, and some of them wrong
    labels = random.choice([1, 4, 8], 400)
    figures = calibration(labels, probabilities, [1, 4, 8])
    assert figures["nll"] == pytest.approx(log_loss(labels, probabilities, labels=[1, 4, 8]))
    predicted = np.array([1, 4, 8])[probabilities.argmax(1)]
    assert figures["accuracy"] == np.mean(predicted == labels)
    bins = {name: np.array(values) for name, values in figures["bins"].items()}
    assert bins["count"].sum() == 400
    assert len(bins["count"]) == 10
    gaps = np.abs(bins["confidence"] - bins["accuracy"])
    assert figures["ece"] == pytest.approx((bins["count"] * gaps).sum() / 400, abs=1e-6)


@pytest.mark.parametrize("classes", [[3], [3, 5]])
def test_certainty_is_calibrated_when_it_is_right(classes: list[int]) -> None:
    labels = np.resize(classes, 12)
    figures = calibration(labels, np.equal.outer(labels, classes).astype(float), classes)
    assert (figures["accuracy"], figures["nll"]) == (1.0, 0.0)
    assert figures["ece"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("with_posterior", [False, True])
def test_probabilities_at_each_draw_have_the_mean_of_classify(with_posterior: bool) -> None:
    finished, images = run()
    if with_posterior:
        mixture = finished.mixtures["em"]["none"].mixture
        parameters = mixture.parameters_
        sites = {name: value.expand(1, 3, *value.shape) for name, value in parameters.sites().items()}
        mixture.posterior_ = MixturePosterior(sites, parameters.structure, torch.zeros(2, dtype=torch.float64))
    each = finished.class_probabilities(images, draws=9, seed=3)
    assert each.dims == ("draw", "image", "class")
    assert each["class"].values.tolist() == list(finished.fitted().class_names)
    np.testing.assert_allclose(each.mean("draw"), finished.classify(images, draws=9, seed=3), atol=1e-12)
    np.testing.assert_allclose(each.sum("class"), 1.0)
    assert float(each.std("draw").max()) > 1e-3


def test_probabilities_of_points_and_of_components() -> None:
    guide, fitted = line()
    each = probability_draws(guide, FittedMixture(fitted.mixture, (), ()), X, draws=500)
    assert each.dims == ("draw", "point", "component")
    expected = class_probabilities(guide, FittedMixture(fitted.mixture, (), ()), X, draws=500)
    np.testing.assert_allclose(each.mean("draw"), expected, atol=1e-12)


def test_probabilities_at_each_draw_are_bounded() -> None:
    guide, fitted = line()
    with pytest.raises(ValueError, match=r"^Expected probabilities of at most 2 GiB; got 100,000 draws .* fewer draws"):
        probability_draws(guide, fitted, X.expand(-1, 1).repeat(1000, 1), draws=100_000)
    with pytest.raises(ValueError, match="Expected draws from 1"):
        probability_draws(guide, fitted, X, draws=0)
