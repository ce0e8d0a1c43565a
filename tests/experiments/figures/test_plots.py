from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from latentmix.experiments import figures
from latentmix.experiments.figures.style import class_styles

Array = NDArray[np.float64]
RANDOM = np.random.default_rng(0)
PLANE = np.random.default_rng(1).normal(size=(60, 2))


@pytest.fixture(autouse=True)
def same_matplotlib() -> Iterator[None]:
    rc, backend = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
    yield
    assert dict(matplotlib.rcParams) == rc
    assert matplotlib.get_backend(auto_select=False) == backend


def images(n: int, channels: int = 1, size: int = 8) -> Array:
    return RANDOM.uniform(size=(n, channels, size, size))


def components(k: int, dim: int, classes: list[int] | None = None) -> figures.Components:
    factors = RANDOM.normal(size=(k, dim, dim)) / dim
    return figures.Components(
        RANDOM.normal(size=(k, dim)), factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(dim), classes
    )


def record(epoch: int, *, validation: bool = True, terms: bool = True) -> dict[str, Any]:
    nan = float("nan")
    bound = {
        "loss": 100.0 / epoch,
        "log_likelihood": -90.0 / epoch if terms else nan,
        "kl": 10.0 / epoch if terms else nan,
    }
    return {"epoch": epoch, "training": bound, "validation": bound if validation else None, "seconds": 0.1}


def texts(figure: Figure) -> str:
    figure.draw_without_rendering()
    result = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return "\n".join(result)


@pytest.mark.parametrize("channels", [1, 3])
def test_images(channels: int, tmp_path: Path) -> None:
    originals = images(10, channels)
    drawn = {
        "reconstructions": figures.reconstructions(originals, torch.from_numpy(originals), mse=0.0123, ssim=0.87),
        "generated": figures.generated(torch.rand(30, channels, 8, 8)),
        "decoded_grid": figures.decoded_grid(images(20, channels), np.linspace(-1.5, 1.5, 5), np.arange(4.0)),
    }
    for name, figure in drawn.items():
        path = figures.save(figure, tmp_path / "figures" / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG")
    assert "MSE 0.0123, SSIM 0.8700" in texts(drawn["reconstructions"])
    assert "z₁" in texts(drawn["decoded_grid"])


def test_decoded_grid_has_second_latent_upwards() -> None:
    pixels = np.zeros((4, 1, 2, 2))
    pixels[1] = 1.0  # z1 high, z2 low
    canvas = np.asarray(figures.decoded_grid(pixels, [-1.0, 1.0], [-1.0, 1.0]).axes[0].get_images()[0].get_array())
    assert canvas[-2:, -2:].min() == 1.0
    assert canvas[:2].min() == 0.0
    assert canvas[-2:, :2, :3].max() == 0.0


@pytest.mark.parametrize("dim", [2, 10])
@pytest.mark.parametrize("classes", [3, 10, 12])
def test_latent_scatter(dim: int, classes: int, tmp_path: Path) -> None:
    names = list(range(classes))
    labels = RANDOM.integers(classes, size=200)
    fits = {"EM": components(classes, dim, names), "SVI": components(classes, dim, names[::-1])}
    figure = figures.latent_scatter(torch.randn(200, dim), torch.from_numpy(labels), fits, names, points=150)
    words = texts(figure)
    assert len(figure.axes) == (2 if dim == 2 else classes)
    assert "150 of 200 latents drawn" in words.replace("\n", " ")
    assert ("% of the variance" in words) == (dim > 2)
    assert figures.save(figure, tmp_path / "latents.png").stat().st_size > 10_000


def test_latent_scatter_projects_points_and_ellipses_by_one_matrix() -> None:
    turn = np.linalg.qr(RANDOM.normal(size=(5, 5)))[0]
    covariance = turn @ np.diag([9.0, 4.0, 0.01, 0.01, 0.01]) @ turn.T
    latents = RANDOM.multivariate_normal(np.arange(5.0), covariance, size=4000)
    mixture = figures.Components(latents.mean(axis=0)[None], np.cov(latents.T)[None])
    figure = figures.latent_scatter(latents, None, {"EM": mixture}, [])
    ellipse = figure.axes[0].patches[0]
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    inside = ellipse.get_patch_transform().inverted().transform(points)
    assert np.mean(np.sum(inside**2, axis=1) <= 1.0) == pytest.approx(1.0 - np.exp(-2.0), abs=0.02)


def test_latent_scatter_of_unlabelled_data() -> None:
    figure = figures.latent_scatter(RANDOM.normal(size=(50, 2)), None, {"EM": components(4, 2, [])}, [])
    assert "class" not in texts(figure)


def test_latent_scatter_without_a_mixture() -> None:
    z, labels = RANDOM.normal(size=(60, 5)), np.arange(60) % 3
    plain, named = figures.latent_scatter(z), figures.latent_scatter(z, labels, names=["cat", "dog", "owl"])
    assert plain.get_suptitle() == "Latents"
    assert not plain.legends
    assert len(plain.axes) == len(named.axes) == 1
    assert "principal component 1" in named.axes[0].get_xlabel()
    assert [text.get_text() for text in named.legends[0].get_texts()] == ["cat", "dog", "owl"]
    assert "ellipses" not in texts(named)


def test_latent_scatter_takes_words_and_colours() -> None:
    words = ["dog", "cat", "cat"] * 20
    figure = figures.latent_scatter(PLANE, words, colours=["red", "#00ff00"])
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["cat", "dog"]
    assert [line.get_color() for line in legend.get_lines()] == ["red", "#00ff00"]
    cats = np.asarray(figure.axes[0].collections[1].get_offsets())
    np.testing.assert_allclose(cats, PLANE[np.array(words) == "cat"])


def test_latent_scatter_draws_what_has_no_class_in_grey() -> None:
    labels = np.where(np.arange(60) < 20, np.nan, np.arange(60) % 2)
    figure = figures.latent_scatter(PLANE, labels)
    np.testing.assert_allclose(np.asarray(figure.axes[0].collections[0].get_offsets()), PLANE[:20])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1"]


@pytest.mark.parametrize("dim", [2, 4])
def test_several_mixtures_share_one_of_the_callers_axes(dim: int) -> None:
    fits = {"EM": components(3, dim), "SVI": components(3, dim)}
    ax = Figure(figsize=(6, 6)).add_subplot()
    figures.latent_scatter(RANDOM.normal(size=(60, dim)), None, fits, ax=ax)
    assert len(ax.patches) == 6
    assert ax.get_title().startswith("Latents and")
    assert ax.get_legend() is not None


def test_losses_of_arrays_are_those_of_records() -> None:
    history = [record(epoch, terms=False) for epoch in range(1, 6)]
    curves = {split: [epoch[split]["loss"] for epoch in history] for split in ("training", "validation")}
    assert texts(figures.losses(curves)) == texts(figures.losses(history))


@pytest.mark.parametrize(("validation", "terms", "panels"), [(True, True, 3), (False, True, 3), (True, False, 1)])
def test_losses(validation: bool, terms: bool, panels: int) -> None:
    figure = figures.losses([record(epoch, validation=validation, terms=terms) for epoch in range(1, 6)])
    words = texts(figure)
    assert len(figure.axes) == panels
    assert "nats per image" in words
    assert "training ends at 20.00" in words
    assert ("validation ends at 20.00" in words) == validation
    assert ("lowest validation loss: epoch 5" in words) == validation
    assert not any(axes.get_legend() for axes in figure.axes)  # it would cover the lines


def test_the_epoch_of_the_lowest_validation_loss_is_marked() -> None:
    history = [record(epoch) for epoch in range(1, 6)]
    for epoch, loss in zip(history, (5.0, 3.0, 2.5, 2.7, 4.0), strict=True):
        epoch["validation"] = {**epoch["validation"], "loss": loss}
    figure = figures.losses(history, thing="point")
    words = texts(figure)
    assert "lowest validation loss: epoch 3" in words
    assert "image" not in words
    for axes in figure.axes:
        assert [3, 3] in [list(line.get_xdata()) for line in axes.lines]


@pytest.mark.parametrize("classes", [[1, 4, 8], list(range(10))])
def test_confusion_matrices(classes: list[int]) -> None:
    matrix = np.diag([7] * len(classes))
    matrix[0, 1] = 1234
    figure = figures.confusion_matrices({"EM": matrix, "SVI": matrix.T}, classes, titles={"SVI": "<SVI>"})
    words = texts(figure)
    assert words.count("1234") == 2
    assert "EM: accuracy" in words
    assert "<SVI>" in words


def comparison(labelled: bool = True, **changes: Any) -> Figure:
    plain = {"accuracy": 0.95} if labelled else {}
    few = {"accuracy": 0.9, "accuracy_min": 0.85, "accuracy_max": 1.0}
    budgets = {"none": plain, "few": few, "all": plain} if labelled else {"none": plain}
    options: dict[str, Any] = {"assigned_alike": 0.973, "names": ["1", "4", "8"] if labelled else None}
    return figures.em_against_svi(
        {"em": [-3.0, -2.5], "svi": [-3.0, -1e6, *np.linspace(-3.0, -2.4, 297), -2.5]},
        {"em": budgets, "svi": budgets},
        {"em": [0.5, 0.3, 0.2], "svi": torch.tensor([0.4, 0.4, 0.2])},
        [0.001, 0.0, 0.002],
        **{**options, **changes},
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_em_against_svi(labelled: bool) -> None:
    figure = comparison(labelled)
    words = texts(figure)
    assert "97.3%" in words
    assert "SVI: −2.4000 after 300 iterations" in words
    assert len(figure.axes) == (4 if labelled else 3)
    assert ("0.900" in words) == labelled
    assert "Accuracy on the test points" in texts(comparison(thing="point"))


def test_trial_points_of_svi_are_left_out_and_axes_are_not_stretched() -> None:
    figure = comparison()
    traces, accuracy, weights, distances = figure.axes
    curves = [np.asarray(line.get_ydata()) for line in traces.lines if len(line.get_ydata()) > 1]
    assert all((np.diff(curve) >= 0).all() for curve in curves)
    assert traces.get_ylim()[0] > -3.1
    assert "its best so far" in figure.get_supxlabel()
    assert accuracy.get_xlim()[1] <= 1.0
    assert np.ptp(accuracy.get_xlim()) >= 0.1
    assert weights.get_ylim()[0] == 0.0
    assert distances.get_ylim() == (0.0, 0.1)  # distances of nothing are seen as nothing
    assert comparison(spread=0.001).axes[3].get_ylim()[1] > 2.0


def test_classes_differ_in_colour_and_marker() -> None:
    for classes in (1, 3, 8, 10):
        colours, markers = zip(*class_styles(classes), strict=True)
        assert len(set(colours)) == len(set(markers)) == classes
    assert len(set(class_styles(30))) == 30


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: figures.generated(np.zeros((4, 2, 8, 8))),
            r"Expected images of shape N x C x H x W .* \(4, 2, 8, 8\)",
        ),
        (lambda: figures.reconstructions(images(3), images(2)), "Expected originals and means of one length"),
        (
            lambda: figures.decoded_grid(images(8), [0.0, 1.0, 2.0], [0.0, 1.0]),
            "Expected 6 images for 3 and 2 .* got 8",
        ),
        (lambda: figures.latent_scatter(np.zeros((4, 1)), None, {}, []), r"D >= 2; got \(4, 1\)"),
        (lambda: figures.confusion_matrices({"EM": np.eye(2)}, [1, 4, 8]), "Expected a 3 x 3 confusion matrix for EM"),
        (lambda: figures.losses([]), "at least one epoch"),
        (lambda: figures.losses({"test": [1.0]}), "Expected losses of training, .*; got those of test"),
        (lambda: figures.losses({"training": [np.nan]}), "got NaN throughout"),
        (lambda: figures.latent_scatter(PLANE, [1, 2]), "Expected latents and labels of one length; got 60 .*, 2 "),
        (
            lambda: figures.latent_scatter(PLANE, mixtures=figures.Components(np.zeros((2, 3)), np.zeros((2, 3, 3)))),
            r"means of shape K x 2 .* as the latents have 2 dimensions; got \(2, 3\)",
        ),
        (lambda: figures.latent_scatter(PLANE, np.zeros(60), colours=["red", "blue"]), "classes and colours of one"),
        (lambda: figures.ecdf_differences({"mean": [1, 2]}), "ranks by quantity together with n_draws"),
        (lambda: figures.ecdf_differences({"mean": [1, 20]}, n_draws=19), "whole ranks from 0 to 19 for mean"),
    ],
)
def test_bad_input_is_refused(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


def test_names_with_dollars_are_no_formulas(tmp_path: Path) -> None:
    names = [r"$\frac$", "US$ or C$"]
    labels, components = (
        np.arange(60) % 2,
        figures.Components(np.zeros((2, 2)), np.stack([np.eye(2)] * 2), [0, 1], names),
    )
    drawn = {
        "scatter": figures.latent_scatter(PLANE, labels, {"EM": components}, [0, 1], names=names),
        "map": figures.latent_map({"PCA": PLANE}, labels, name="class", classes=[0, 1], names=names),
        "confusion": figures.confusion_matrices({"EM": np.eye(2)}, [0, 1], names=names),
        "decoded": figures.decoded_components(images(2), [0.5, 0.5], names=names),
    }
    for name, figure in drawn.items():
        assert figures.save(figure, tmp_path / f"{name}.png").exists()
    shown = [text.get_text().split("\n")[0] for text in drawn["decoded"].axes[0].texts]
    assert shown == [r"\$\frac\$", r"US\$ or C\$"]  # Matplotlib shows them without the backslashes
