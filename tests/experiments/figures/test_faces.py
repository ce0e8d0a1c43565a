from __future__ import annotations

from collections.abc import Callable, Iterator

import matplotlib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentmix.experiments import figures
from latentmix.experiments.figures.planes import latent_plane
from latentmix.experiments.runs.projections import project

from tests.experiments.figures.layout import overlapping, texts

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_matplotlib() -> Iterator[None]:
    rc, backend = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
    yield
    assert dict(matplotlib.rcParams) == rc
    assert matplotlib.get_backend(auto_select=False) == backend


def images(*shape: int) -> NDArray[np.float64]:
    return RANDOM.uniform(size=shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [8, 10])
def test_interpolations(channels: int, count: int) -> None:
    straight = torch.rand(count, channels, 8, 8)
    figure = figures.interpolations(images(2, channels, 8, 8), straight, images(count, channels, 8, 8))
    words = texts(figure)
    assert words.count("original") == 2
    assert {"0%", "100%"} < set(words)
    assert any(text.startswith("Straight") for text in words)
    assert any(text.startswith("Spherical") for text in words)
    assert not overlapping(figure)


def test_interpolations_run_from_the_first_image_to_the_second() -> None:
    ends = np.stack([np.zeros((1, 4, 4)), np.ones((1, 4, 4))])
    way = np.linspace(0.0, 1.0, 5)[:, None, None, None] * np.ones((1, 1, 4, 4))
    first, last, straight, spherical = figures.interpolations(ends, way, way**2).axes
    assert np.asarray(first.get_images()[0].get_array())[..., :3].max() == 0.0
    assert np.asarray(last.get_images()[0].get_array()).min() == 1.0
    for axes, middle in ((straight, 0.5), (spherical, 0.25)):
        canvas = np.asarray(axes.get_images()[0].get_array())
        assert canvas[0, [0, canvas.shape[1] // 2, -1], 0] == pytest.approx([0.0, middle, 1.0])


@pytest.mark.parametrize("attributes", [["Blond_Hair"], ["Blond_Hair", "Smiling", "Male"]])
def test_attribute_vectors(attributes: list[str]) -> None:
    rows = {name: images(3, 5, 3, 8, 8) for name in attributes}
    figure = figures.attribute_vectors(images(3, 3, 8, 8), rows, [-2, -1, 0, 1, 2])
    words = texts(figure)
    assert len(figure.axes) == len(attributes)
    assert {"Blond Hair", "original", "−2", "0", "+1"} < set(words)
    assert not overlapping(figure)
    frame = figure.axes[0].patches[0]
    zero = figure.axes[0].get_xticks()[3]  # the original, -2, -1, 0
    assert frame.get_x() < zero < frame.get_x() + frame.get_width()
    assert frame.get_width() < 10


def test_attribute_vectors_without_a_reconstruction() -> None:
    figure = figures.attribute_vectors(images(2, 1, 8, 8), {"Male": images(2, 2, 1, 8, 8)}, [0.5, 1.5])
    assert not figure.axes[0].patches
    assert not any("Framed" in text for text in texts(figure))


def test_generated_and_reconstructions_of_colour_images() -> None:
    pixels = images(20, 3, 64, 64)
    for figure in (figures.generated(pixels), figures.reconstructions(pixels[:10], pixels[10:])):
        assert not overlapping(figure)
        canvas = np.asarray(figure.axes[0].get_images()[0].get_array())
        assert canvas[:64, :64, :3] == pytest.approx(pixels[0].transpose(1, 2, 0))


def test_latent_map() -> None:
    planes = {"PCA": RANDOM.normal(size=(40, 2)), "t-SNE": RANDOM.normal(size=(40, 2))}
    has = torch.arange(40) % 4 == 0
    axes = ("principal component 1", "principal component 2 (20% of the variance)")
    figure = figures.latent_map(planes, has, name="Blond_Hair", axes=axes, total=1000)
    words = texts(figure)
    assert {"Latents by Blond Hair (40 of 1,000 drawn)", "no", "yes", "PCA", "t-SNE"} < set(words)
    assert "principal component 2\n(20% of the variance)" in words
    assert not overlapping(figure)
    rare = figure.axes[0].collections[-1]
    assert np.asarray(rare.get_offsets()) == pytest.approx(planes["PCA"][::4])


def test_latent_map_of_named_classes() -> None:
    figure = figures.latent_map(
        {"z": np.eye(2)}, [4, 1], name="class", classes=(1, 4), names=("one", "four"), axes=("z₁", "z₂")
    )
    words = texts(figure)
    assert {"one", "four", "z₁", "z₂"} < set(words)
    assert not any("t-SNE" in text for text in words)
    panel = figure.axes[0]
    assert np.ptp(panel.get_xlim()) == pytest.approx(np.ptp(panel.get_ylim()))  # one scale on both axes


def test_latent_usage() -> None:
    figure = figures.latent_usage(torch.tensor([0.25, 2.0, 0.0]), torch.tensor([True, True, False]))
    words = texts(figure)
    assert {"active: 2, 2.25 nats in all", "not active: 1, 0.00 nats in all"} < set(words)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["2", "1", "3"]
    assert "rank of the latent dimension" in texts(figures.latent_usage(np.ones(64), np.ones(64)))


def test_rate_distortion_names_every_model_without_overlap() -> None:
    models = {f"model {k}": (25.0 + 0.2 * k, 80.0 - 0.1 * k) for k in range(5)} | {"beta 4": (12.0, 99.0)}
    figure = figures.rate_distortion(models, measure="mass on {0, 1}")
    assert set(models) < set(texts(figure))
    assert any("mass on {0, 1}" in text for text in texts(figure))
    assert not overlapping(figure)
    written = [text for text in figure.axes[0].texts if text.get_text() in models]
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in written]
    assert len(boxes) == len(models)
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_rate_distortion_draws_lines_of_equal_bounds() -> None:
    axes = figures.rate_distortion({"one": (3.0, -1000.0), "two": (9.0, -1010.0)}).axes[0]
    lines = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 2]
    assert lines
    assert all(np.ptp(line.sum(axis=1)) < 1e-9 for line in lines)


def test_projections() -> None:
    groups = np.repeat(np.eye(3, 6) * 20.0, 40, axis=0)
    latents = groups + RANDOM.normal(size=groups.shape)
    state = np.random.get_state()[1].copy()
    projections = project(torch.from_numpy(latents).float(), limit=60, seed=1)
    again = project(torch.from_numpy(latents).float(), limit=60, seed=1)
    assert np.array_equal(np.random.get_state()[1], state)
    assert len(projections.rows) == 60
    centred = latents - latents.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    assert projections.plane.explained == pytest.approx(values[[-1, -2]] / values.sum(), rel=1e-5)
    expected = np.abs((centred @ vectors[:, [-1, -2]])[projections.rows])
    assert np.abs(projections.points["PCA"]) == pytest.approx(expected, abs=1e-4)
    for name, points in projections.points.items():
        assert points.dtype == np.float64
        assert np.array_equal(points, again.points[name])
        centres = points.reshape(3, 20, 2).mean(axis=1)
        spread = np.abs(points.reshape(3, 20, 2) - centres[:, None]).mean()
        assert min(np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 2 * spread


def test_projections_of_collapsed_latents() -> None:
    projections = project(np.full((10, 3), 0.1))
    assert all(not points.any() for points in projections.points.values())
    assert projections.plane.explained == (0.0, 0.0)


def test_two_dimensional_latents_are_drawn_as_they_are() -> None:
    latents = RANDOM.normal(size=(50, 2)) @ [[-3.0, 1.0], [0.0, -1.0]] + 7.0
    projections = project(latents)
    assert list(projections.points) == ["z"]
    assert np.array_equal(projections.points["z"], latents)
    assert np.array_equal(projections.plane.project(latents), latents)
    assert projections.plane.names == ("z₁", "z₂")


def test_signs_of_principal_components_do_not_depend_on_the_order_of_the_latents() -> None:
    latents = RANDOM.normal(size=(80, 4)) * [4.0, 3.0, 1.0, 1.0]
    plane, turned = latent_plane(latents), latent_plane(latents[::-1])
    assert plane.directions == pytest.approx(turned.directions)
    assert (plane.directions.max(axis=0) == np.abs(plane.directions).max(axis=0)).all()
    covariance = np.cov(latents.T)
    assert plane.project_covariances(covariance) == pytest.approx(np.cov(plane.project(latents).T))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.interpolations(images(3, 1, 4, 4), images(8, 1, 4, 4), images(8, 1, 4, 4)), "got 3 and 8"),
        (lambda: figures.interpolations(images(2, 1, 4, 4), images(8, 1, 4, 4), images(7, 1, 4, 4)), "of one length"),
        (lambda: figures.interpolations(images(2, 2, 4, 4), images(8, 1, 4, 4), images(7, 1, 4, 4)), "C of 1 or 3"),
        (lambda: figures.attribute_vectors(images(2, 1, 4, 4), {}, [0.0]), "at least one attribute"),
        (lambda: figures.attribute_vectors(images(2, 1, 4, 4), {"Male": images(2, 3, 1, 4, 4)}, [0.0]), "2 x 1 x C"),
        (lambda: figures.attribute_vectors(images(2, 1, 4, 4), {"Male": images(2, 1, 1, 5, 5)}, [0.0]), "of one size"),
        (lambda: figures.latent_map({}, [1], name="class"), "at least one projection"),
        (lambda: figures.latent_map({"PCA": np.eye(2)}, [1, 2, 3], name="class"), "3 x 2 for PCA"),
        (lambda: figures.latent_map({"PCA": np.eye(2)}, [1, 2], name="class", classes=[1]), "among the classes; got 2"),
        (
            lambda: figures.latent_map({"z": np.eye(2)}, [1, 2], name="class", classes=[1, 2], names=["a"]),
            "2 classes, 1 names",
        ),
        (lambda: figures.latent_usage([1.0, 2.0], [True]), "of one length; got 2 kl_per_dim, 1 active"),
        (lambda: figures.latent_usage([], []), "at least one latent dimension"),
        (lambda: figures.rate_distortion({}), "at least one model"),
        (lambda: figures.rate_distortion({"one": (1.0, float("nan"))}), "finite rate and distortion"),
        (lambda: project(np.zeros((3, 4))), r"4 or more latents .* \(3, 4\)"),
        (lambda: project(np.full((5, 2), np.nan)), "finite latents"),
    ],
)
def test_bad_input_is_refused(draw: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
