"""The pictures of a run: one plane, one name and one colour for the same thing, and words that fit the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from latentmix.experiments.data.base import Dataset
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.options.mixture_fits import MixtureFits
from latentmix.experiments.runs import pictures
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.mixtures import fit_mixtures
from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import SVI
from latentmix.models import (
    VAE,
    Bernoulli,
    FlowPrior,
    Gaussian,
    MixturePrior,
    MLPDecoder,
    Prior,
    StandardNormal,
    StudentT,
    VampPrior,
)

from tests.experiments.figures.layout import overlapping, texts

Drawn = dict[str, Figure]
BOUND = {"loss": 10.0, "log_likelihood": -8.0, "kl": 2.0}
HISTORY = [{"epoch": epoch, "training": BOUND, "validation": BOUND} for epoch in (1, 2, 3)]
COVERAGE = {"covered_components": [True, False, True], "outside": 0.1, "energy": {"statistic": 0.1, "p_value": 0.5}}
COVERAGE |= {"shares": [0.3, 0.0, 0.6], "expected": [1 / 3] * 3}
LONG = ["Iris-setosa", "Iris-versicolor", "Iris-virginica"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Drawn]:
    """Draws every picture of a run without training, and returns the figures in place of files."""

    def draw(dataset: Dataset, latent_dim: int, names: list[str] | None = None, **fits: Any) -> Drawn:
        caught: Drawn = {}
        monkeypatch.setattr(pictures.figures, "save", lambda figure, path: caught.update({path.stem: figure}))
        torch.manual_seed(0)
        shape = dataset.shape
        likelihood = Bernoulli() if dataset.pictorial else Gaussian(0.1)
        decoder = MLPDecoder(latent_dim=latent_dim, hidden=(8,), shape=shape, outputs=likelihood.outputs)
        vae = VAE(decoder=decoder, prior=StandardNormal(latent_dim), likelihood=likelihood)
        guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=latent_dim, hidden=(8,), shape=shape))
        train, test = (latents(split.labels, latent_dim) for split in (dataset.train, dataset.test))
        settings = MixtureFits(n_init=1, draws=1, svi=SVI(epochs=3), **{"posterior": None, **fits})
        options = {"labels_per_class": 4, "seed": 0, "label_seed": 0}
        mixtures, figures = fit_mixtures(train, test, dataset.classes, settings, **options)
        figures |= {} if dataset.truth is None else {"coverage": COVERAGE}
        measured = {"kl_per_dimension": [1.0] * latent_dim, "active": [True] * latent_dim, "mse": 0.1, "ssim": 0.5}
        summary = {"test": measured, **figures}
        options = {"names": names, "pictorial": dataset.pictorial, "decode": vae.decode if dataset.pictorial else None}
        flat = pictures.map_projections(test, dataset, seed=0)
        list(pictures.draw_vae(Path(), vae, guide, dataset, HISTORY, summary, projections=flat, names=names, seed=0))
        list(pictures.draw_mixtures(Path(), test, mixtures, figures, dataset.classes, **options))
        return caught

    return draw


def latents(labels: torch.Tensor | None, latent_dim: int) -> LatentSplit:
    """A cluster of latents for each class, longest along the diagonal."""
    assert labels is not None
    random, classes = np.random.default_rng(0), labels.cpu().numpy()
    centres = np.random.default_rng(1).normal(size=(10, latent_dim)) * 4
    values = (
        centres[classes] + random.normal(size=(len(classes), latent_dim)) + 2 * random.normal(size=(len(classes), 1))
    )
    return LatentSplit(values, classes)


def digits() -> Dataset:
    return Data(source="digits", classes=(1, 4, 8), limit=150).load()


def gmm3d() -> Dataset:
    return Data(source="gmm3d", classes=(2, 5, 7), points=240).load()


def points_of(figure: Figure, panel: int) -> np.ndarray[Any, Any]:
    offsets = [np.asarray(dots.get_offsets()) for dots in figure.axes[panel].collections]
    return np.unique(np.concatenate([part for part in offsets if len(part)]).round(9), axis=0)


@pytest.mark.parametrize("latent_dim", [2, 5])
def test_map_and_components_are_drawn_in_one_plane(drawn: Callable[..., Drawn], latent_dim: int) -> None:
    figures = drawn(digits(), latent_dim)
    shown, below = figures["map"].axes[0], figures["latents_none"].axes[0]
    assert points_of(figures["map"], 0) == pytest.approx(points_of(figures["latents_none"], 0))
    assert points_of(figures["map"], 0) == pytest.approx(points_of(figures["latents_few"], 0))
    assert shown.get_xlabel() == below.get_xlabel()
    assert shown.get_ylabel() == below.get_ylabel()
    assert shown.get_xlabel() == ("z₁" if latent_dim == 2 else shown.get_xlabel())
    assert ("decoded_grid" in figures) == (latent_dim == 2)
    assert "usage" in figures


def test_long_names_are_in_every_picture_of_classes_and_have_room(drawn: Callable[..., Drawn]) -> None:
    figures = drawn(digits(), 2, LONG)
    shown = {"map", "latents_none", "latents_few", "confusion_none", "confusion_few", "confusion_all", "em_against_svi"}
    for name in shown:
        assert set(LONG) <= set(texts(figures[name])), name
        assert name == "confusion_all" or not overlapping(figures[name]), name


def test_components_of_a_known_mixture_are_numbered_and_coloured_alike(drawn: Callable[..., Drawn]) -> None:
    figures = drawn(gmm3d(), 2)
    legends = {
        name: dict(zip(map(str, [2, 5, 7]), [line.get_color() for line in legend.get_lines()], strict=False))
        for name in ("map", "latents_none", "points_in_space", "points_pairwise")
        for legend in figures[name].legends
        if [text.get_text() for text in legend.get_texts()][:3] == ["2", "5", "7"]
    }
    assert list(legends) == ["map", "latents_none", "points_in_space", "points_pairwise"]
    assert all(colours == legends["map"] for colours in legends.values())
    for name, panel in (("coverage", 0), ("em_against_svi", 2), ("confusion_none", 0)):
        axes = figures[name].axes[panel]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "5", "7"], name


def test_points_are_not_called_images(drawn: Callable[..., Drawn]) -> None:
    for name, figure in drawn(gmm3d(), 3).items():
        assert not any("image" in text for text in texts(figure)), name


def test_the_type_of_the_covariances_is_said(drawn: Callable[..., Drawn]) -> None:
    figures = drawn(digits(), 2, covariance_type="tied")
    assert "covariance type: tied" in figures["latents_none"].get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_new_pictures_of_images(drawn: Callable[..., Drawn], latent_dim: int) -> None:
    figures = drawn(digits(), latent_dim, LONG)
    rows = figures["traversals"].axes[0].get_yticklabels()
    assert [label.get_text() for label in rows] == [f"z{'₁₂₃₄₅'[k]}  1.00 nats" for k in range(latent_dim)]
    assert [axes.get_title() for axes in figures["worst"].axes] == ["Greatest errors", "Errors at the median"]
    assert len(figures["prior"].axes) == {1: 1, 2: 2, 5: 4}[latent_dim]
    named = [text.get_text().split("\n")[0] for text in figures["components_none"].axes[0].texts]
    assert len(named) == 2 * 3
    assert set(named) <= {name if len(name) <= 14 else f"{name[:6]}…{name[-6:]}" for name in LONG}
    for name in ("traversals", "worst", "prior", "components_none"):
        assert not overlapping(figures[name]), name


def test_of_points_the_prior_alone_is_drawn_anew(drawn: Callable[..., Drawn]) -> None:
    figures = drawn(gmm3d(), 3)
    assert "prior" in figures
    assert not {"traversals", "worst", "components_none"} & set(figures)


def test_the_worst_reconstruction_is_that_of_the_greatest_error() -> None:
    torch.manual_seed(0)
    decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 28, 28))
    vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 28, 28)))
    split, caught = digits().test, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures.figures, "save", lambda figure, path: caught.update({path.stem: figure}))
        list(pictures._draw_worst(Path(), vae, guide, split))
    images = split.x.double() / 255
    errors = (images - pictures.reconstruct(vae, guide, split.x)).square().flatten(1).mean(1)
    worst, typical = caught["worst"].axes
    written = [float(label.get_text()) for label in worst.get_xticklabels()]
    assert written == pytest.approx(errors.sort(descending=True).values[:4].tolist(), rel=0.01)
    middle = [float(label.get_text()) for label in typical.get_xticklabels()]
    assert min(middle) - 1e-3 <= float(errors.median()) <= max(middle) + 1e-3
    shown = np.asarray(worst.images[0].get_array())[:28, :28, 0]
    np.testing.assert_allclose(shown, images[errors.argmax(), 0], atol=1 / 126 + 1e-9)


def test_a_traversal_changes_one_latent_and_spans_the_samples() -> None:
    decoder = MLPDecoder(latent_dim=3, hidden=(8,), shape=(1, 8, 8))
    vae, seen, caught = VAE(decoder=decoder, prior=StandardNormal(3), likelihood=Bernoulli()), [], {}
    samples = torch.randn(5000, 3, dtype=torch.float64) * torch.tensor([3.0, 0.1, 1.0]) + torch.tensor([-20.0, 5.0, 0])
    decode = vae.decode
    vae.decode = lambda z: seen.append(z) or decode(z)  # type: ignore[method-assign, func-returns-value]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures.figures, "save", lambda figure, path: caught.update({path.stem: figure}))
        list(pictures._draw_traversals(Path(), vae, samples, {"kl_per_dimension": [0.1, 2.0, 1.0]}))
    latents = seen[0].reshape(3, 7, 3).double()
    centre, ends = samples.mean(0), samples.quantile(torch.tensor([0.005, 0.995], dtype=torch.float64), dim=0)
    for row, dimension in enumerate([1, 2, 0]):  # by descending KL divergence
        others = [k for k in range(3) if k != dimension]
        torch.testing.assert_close(latents[row][:, others], centre[others].expand(7, 2), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(latents[row][[0, -1], dimension], ends[:, dimension], atol=1e-4, rtol=1e-5)
        assert (latents[row][:, dimension].diff() > 0).all()


@pytest.mark.parametrize(
    "prior", [StandardNormal(2), StudentT(2), MixturePrior(2, 3), VampPrior(2, (1, 28, 28), 5), FlowPrior(2)]
)
def test_every_prior_is_drawn_with_its_components(prior: Prior) -> None:
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 28, 28)))
    if isinstance(prior, VampPrior):
        prior.bind(guide.posterior)
    decoder, caught = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 28, 28)), {}
    vae = VAE(decoder=decoder, prior=prior, likelihood=Bernoulli())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures.figures, "save", lambda figure, path: caught.update({path.stem: figure}))
        samples = pictures._posterior_samples(guide, digits().test, seed=0)
        list(pictures._draw_prior(Path(), vae, samples, {}, seed=0))
    assert len(samples) >= 4000
    expected = {MixturePrior: 3, VampPrior: 5}.get(type(prior), 0)
    assert len(caught["prior"].axes[0].patches) == expected
    assert ("components of the prior" in texts(caught["prior"])) == bool(expected)


def test_several_components_of_one_class_have_names_of_their_own(drawn: Callable[..., Drawn]) -> None:
    figures = drawn(digits(), 2, n_components=5)
    named = [label.get_text() for label in figures["em_against_svi"].axes[2].get_xticklabels()]
    assert len(set(named)) == 5
    assert {name[0] for name in named} <= {"1", "4", "8"}
    assert set(named) <= set(texts(figures["latents_none"]))


def test_decoded_images_cover_the_samples_of_the_posterior() -> None:
    torch.manual_seed(0)
    decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8))
    vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8)))
    split, seen = digits().test, []
    samples = torch.randn(5000, 2) * torch.tensor([3.0, 0.1]) + torch.tensor([-20.0, 5.0])
    guide.draw = lambda *_, **__: samples  # type: ignore[method-assign]
    decode = vae.decode
    vae.decode = lambda z: seen.append(z) or decode(z)  # type: ignore[method-assign, func-returns-value]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures.figures, "save", lambda figure, path: None)
        list(pictures._draw_plane(Path(), vae, guide, split, seed=0))
    (grid,) = seen
    ends = samples.quantile(torch.tensor([0.005, 0.995]), dim=0)
    torch.testing.assert_close(torch.stack([grid.min(0).values, grid.max(0).values]), ends)
