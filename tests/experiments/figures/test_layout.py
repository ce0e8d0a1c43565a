"""Every picture at few and many classes and dimensions, under short and long names: texts have room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from latentmix.experiments import figures
from latentmix.experiments.figures.style import SMALL, WIDTH, fitted, settle, shortened, text_width, wrapped

from tests.experiments.figures.layout import overlapping, texts

LONG = ("Iris-setosa", "Iris-versicolor", "Iris-virginica", "T-shirt/top", "Trouser", "Ankle boot", "Sneaker", "Bag")
LONG = (*LONG, "a class whose name is far too long", "another class whose name is too long")
SENTENCE = "Test images by class: components seeded by the first draw of a few labelled images, from one start"


def names_of(classes: int, named: bool) -> list[str] | None:
    return list(LONG[:classes]) if named else None


def components(k: int, dim: int, classes: list[int] | None, spread: float = 1.5, seed: int = 0) -> figures.Components:
    random = np.random.default_rng(seed)
    factors = random.normal(size=(k, dim, dim)) / dim
    covariances = factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(dim)
    return figures.Components(random.normal(size=(k, dim)) * spread, covariances, classes)


def cloud(n: int, dim: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=(n, dim)) * 2.0


def check(figure: Figure) -> None:
    assert not overlapping(figure)
    assert figure.get_size_inches()[0] <= WIDTH + 1e-9


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 6, 10])
def test_confusion_matrices(classes: int, named: bool) -> None:
    matrix = np.diag([980] * classes)
    figure = figures.confusion_matrices(
        {"EM": matrix, "SVI": matrix}, range(classes), names=names_of(classes, named), heading=SENTENCE
    )
    check(figure)
    assert figure.get_suptitle().replace("\n", " ") == SENTENCE
    assert shortened(LONG[1], 18) in texts(figure) if named else "1" in texts(figure)


@pytest.mark.parametrize("classes", [3, 10])
@pytest.mark.parametrize(("fits", "abreast"), [(2, 2), (3, 2), (12, 3)])
def test_confusion_matrices_abreast(classes: int, fits: int, abreast: int) -> None:
    names = [f"{chr(65 + k)}: prior=MixturePrior(n_components=10, covariance_type=diag)" for k in range(fits)]
    figure = figures.confusion_matrices(
        {name: np.diag([36] * classes) for name in names}, range(classes), heading=SENTENCE, abreast=abreast
    )
    check(figure)
    drawn = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title()[:2] for axes in drawn] == [name[:2] for name in names]
    assert all(axes.get_title().endswith("accuracy 1.000") for axes in drawn)
    assert len({round(axes.get_position().y0, 3) for axes in drawn}) == -(-fits // abreast)
    with pytest.raises(ValueError, match=r"Expected at least one confusion matrix of one class or more; got none\."):
        figures.confusion_matrices({}, range(classes))


@pytest.mark.parametrize(("classes", "named"), [(1, True), (2, False), (3, True), (4, True), (10, False), (10, True)])
@pytest.mark.parametrize("dim", [2, 10])
def test_latents(dim: int, classes: int, named: bool) -> None:
    labels = np.arange(120) % classes
    fits = {name: components(classes, dim, list(range(classes)), seed=seed) for seed, name in enumerate(("EM", "SVI"))}
    names = names_of(classes, named)
    figure = figures.latent_scatter(
        cloud(120, dim), labels, fits, range(classes), names=names, heading=SENTENCE, caption="covariance type: full"
    )
    check(figure)
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "covariance type: full" in caption
    assert len(figure.axes) == (2 if dim == 2 else classes)
    values = {name: cloud(120, 2) for name in (["z"] if dim == 2 else ["PCA", "t-SNE"])}
    check(figures.latent_map(values, labels, name="class", classes=range(classes), names=names, axes=("z₁", "z₂")))


def test_a_saved_picture_is_laid_out(tmp_path: Path) -> None:
    fits = {name: components(4, 10, [0, 1, 2, 3]) for name in ("EM", "SVI")}
    figure = figures.latent_scatter(cloud(60, 10), np.arange(60) % 4, fits, range(4), heading=SENTENCE)
    figures.save(figure, tmp_path / "latents.png")
    saved = [axes.get_position().bounds for axes in figure.axes]
    settle(figure)
    assert [axes.get_position().bounds for axes in figure.axes] == [pytest.approx(place, abs=0.01) for place in saved]


def test_a_single_component_is_drawn_over_all_classes_in_colour() -> None:
    fits = {"EM": components(1, 3, [2]), "SVI": components(1, 3, [2])}
    figure = figures.latent_scatter(cloud(60, 3), np.arange(60) % 3, fits, range(3))
    check(figure)
    assert len(figure.axes[0].collections) == 1 + 3
    assert all(len(points.get_offsets()) == 20 for points in figure.axes[0].collections[1:])


@pytest.mark.parametrize("k", [4, 30])
@pytest.mark.parametrize("dim", [2, 3])
def test_latents_without_labels(dim: int, k: int) -> None:
    fits = {"EM": components(k, dim, None), "SVI": components(k, dim, None)}
    figure = figures.latent_scatter(cloud(90, dim), None, fits, [])
    figure.draw_without_rendering()
    if k < 30 or dim > 2:
        check(figure)
    assert {str(number + 1) for number in range(min(k, 20))} <= set(texts(figure))
    assert ("the first 20 of 30 components" in figure.get_supxlabel().replace("\n", " ")) == (k == 30 and dim == 3)


def test_marks_of_components_at_one_place_do_not_cover_each_other() -> None:
    crowd = components(10, 2, list(range(10)), spread=0.05)
    figure = figures.latent_scatter(cloud(200, 2), np.arange(200) % 10, {"EM": crowd, "SVI": crowd}, range(10))
    texts(figure)
    for axes in figure.axes:
        boxes = [text.get_bbox_patch().get_window_extent().padded(-1) for text in axes.texts]
        assert len(boxes) == 10
        assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


@pytest.mark.parametrize("dim", [2, 3])
def test_ellipses_of_two_fits_differ_by_their_line_and_are_labelled(dim: int) -> None:
    fits = {name: components(3, dim, [0, 1, 2]) for name in ("EM", "SVI")}
    figure = figures.latent_scatter(cloud(60, dim), np.arange(60) % 3, fits, range(3))
    lines = {patch.get_linestyle() for axes in figure.axes for patch in axes.patches}
    assert lines == {"-", "--"}
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["0", "1", "2", "EM", "SVI"]
    assert [line.get_linestyle() for line in legend.get_lines()[-2:]] == ["-", "--"]


@pytest.mark.parametrize(
    ("k", "named", "labelled"), [(2, False, True), (10, True, True), (10, False, False), (60, False, True)]
)
def test_em_against_svi(k: int, named: bool, labelled: bool) -> None:
    few: dict[str, Any] = {"accuracy": 0.9, "accuracy_min": 0.85, "accuracy_max": 1.0}
    budgets = {"none": {"accuracy": 1.0}, "few": few, "all": {"accuracy": 0.8}} if labelled else {"none": {}}
    figure = figures.em_against_svi(
        {"em": np.linspace(-9.2, -8.4, 30).tolist(), "svi": [-9.2, -20000.0, -8.3, -8.4]},
        {"em": budgets, "svi": budgets},
        {"em": np.full(k, 1 / k), "svi": np.full(k, 1 / k)},
        np.full(k, 1e-6),
        assigned_alike=0.973,
        names=names_of(k, named),
    )
    check(figure)


def test_fits_that_do_not_move_are_drawn_flat() -> None:
    trace = [-1.80864381024, -1.80864381025, -1.80864381024]
    budgets = {"none": {"accuracy": 1.0}}
    weights = {"em": [1.0], "svi": [1.0]}
    fits = {"em": budgets, "svi": budgets}
    figure = figures.em_against_svi({"em": trace, "svi": trace}, fits, weights, [4.1e-16], assigned_alike=1.0)
    check(figure)
    low, high = figure.axes[0].get_ylim()
    assert high - low > 0.0005
    assert low < trace[0] < high
    assert "Distances of their means\nbelow 0.001" in texts(figure)


def test_of_many_components_some_are_named() -> None:
    names = [f"c{k}" for k in range(60)]
    traces = {"em": [-2.0, -1.0], "svi": [-2.0, -1.0]}
    figure = figures.em_against_svi(
        traces,
        {"em": {}, "svi": {}},
        {"em": np.full(60, 1 / 60), "svi": np.full(60, 1 / 60)},
        np.full(60, 0.1),
        assigned_alike=1.0,
        names=names,
    )
    check(figure)
    labels = {round(tick): text.get_text() for axes in figure.axes[1:] for tick, text in _ticks(axes)}
    assert 10 < len(labels) < 30
    assert all(label == names[place] for place, label in labels.items())


def _ticks(axes: Axes) -> Iterator[tuple[float, Text]]:
    return zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)


@pytest.mark.parametrize("fits", [("EM", "SVI"), ("EM", "SVI", "SVI posterior", "NUTS")])
def test_reliability(fits: tuple[str, ...]) -> None:
    counts, at = [0, 0, 0, 0, 0, 3, 0, 8, 20, 300], np.linspace(0.05, 0.95, 10)
    bins = {"count": counts, "confidence": at.tolist(), "accuracy": (at**2).tolist()}
    ways = {"plug_in": {"ece": 0.0531, "bins": bins}, "draws": {"ece": 0.0259, "bins": bins}}
    figure = figures.reliability({name: {"n_draws": 100, **ways} for name in fits}, heading=SENTENCE, thing="point")
    check(figure)
    assert "NUTS: ECE 0.053 → 0.026" in texts(figure) or len(fits) == 2
    assert {"mean over 100 draws of q", "share of\npoints"} <= set(texts(figure))
    drawn = [axes for axes in figure.axes if axes.get_title()]
    assert all(len(axes.lines[1].get_xdata()) == 4 for axes in drawn)  # empty bins are left out


@pytest.mark.parametrize(("count", "abreast"), [(1, 2), (3, 2), (12, 3)])
def test_reliability_abreast(count: int, abreast: int) -> None:
    bins = {"count": [1, 9], "confidence": [0.25, 0.75], "accuracy": [0.0, 1.0]}
    ways = {way: {"ece": 0.05, "bins": bins} for way in ("plug_in", "draws")}
    names = [f"{chr(65 + k)}: prior=MixturePrior(n_components=10, covariance_type=diag)" for k in range(count)]
    figure = figures.reliability(dict.fromkeys(names, ways), heading=SENTENCE, abreast=abreast)
    check(figure)
    drawn = [axes for axes in figure.axes if axes.get_title()]
    assert all(axes.get_title().endswith("ECE 0.050 → 0.050") for axes in drawn)
    assert len(drawn) == count
    assert "mean over draws of q" in texts(figure)


def test_no_reliability_without_fits() -> None:
    with pytest.raises(ValueError, match="Expected fits with figures of calibration; got none"):
        figures.reliability({})


@pytest.mark.parametrize("dims", [1, 2, 10, 64])
def test_use_of_the_latents(dims: int) -> None:
    used = np.arange(dims) < max(dims // 2, 1)
    figure = figures.latent_usage(np.linspace(2.0, 0.0, dims), used)
    check(figure)
    width = figure.axes[0].patches[-1].get_window_extent().width
    assert width < 0.2 * figure.bbox.width  # few bars stay narrow


@pytest.mark.parametrize("epochs", [1, 2, 2000])
@pytest.mark.parametrize("validated", [True, False])
def test_losses(epochs: int, validated: bool) -> None:
    bound = {"loss": 12345.678, "log_likelihood": -12000.5, "kl": 345.2}
    history = [
        {"epoch": epoch, "training": bound, "validation": bound if validated else None}
        for epoch in range(1, epochs + 1)
    ]
    figure = figures.losses(history, thing="point")
    check(figure)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert "training ends at 12,346" in labels[-1]
    assert "training ends at 345.20" in labels[1]
    assert max(text_width(label, SMALL) for label in labels) < 0.95 * WIDTH / 3


@pytest.mark.parametrize(("k", "named"), [(2, True), (10, False), (10, True)])
def test_points(k: int, named: bool) -> None:
    names, x, owners = names_of(k, named), cloud(60, 3), np.arange(60) % k
    caption = "Energy distance 0.0123, p = 0.005 by permutations"
    check(figures.points_pairwise(x, x, owners, owners, components(k, 3, None), names=names, caption=caption))
    check(figures.coverage(np.full(k, 1 / k), np.full(k, 1 / k), np.arange(k) % 2, names=names, outside=0.1))
    figure = figures.points_in_space(x, x, owners, np.zeros(60), names=names, caption=caption)
    assert {shortened(name, 18) for name in names or map(str, range(k))} <= set(texts(figure))


@pytest.mark.parametrize("count", [1, 12, 64])
@pytest.mark.parametrize("size", [(1, 8, 8), (1, 8, 64), (3, 32, 16)])
def test_images(count: int, size: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).uniform(size=(count, *size))
    for figure in (figures.generated(images), figures.reconstructions(images, images, mse=0.01, ssim=0.5)):
        check(figure)
    check(figures.decoded_grid(images[:1].repeat(120, axis=0), np.linspace(-30, 40, 12), np.linspace(-2000, 1, 10)))


def test_wrapped_lines_are_short_and_of_about_one_length() -> None:
    lines = wrapped(SENTENCE, 5.0, 13, "bold").split("\n")
    assert " ".join(lines) == SENTENCE
    widths = [text_width(line, 13, "bold") for line in lines]
    assert max(widths) <= 5.0
    assert min(widths) > 0.6 * max(widths)
    assert wrapped("one\ntwo", 9.0, 10) == "one\ntwo"
    assert wrapped("incomprehensibilities", 0.1, 10) == "incomprehensibilities"


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("width", [1.7, 2.4, 6.0])
@pytest.mark.parametrize("name", ["run", "", SENTENCE, "x" * 200, "a " * 200, f"A: prior={'Mixture' * 9}, {SENTENCE}"])
def test_fitted_texts_are_no_longer_and_no_wider_than_asked(name: str, width: float, lines: int) -> None:
    text = fitted(name, width, lines)
    assert text.count("\n") < lines
    assert text_width(text, SMALL) <= width
    if text_width(name, SMALL) <= width:
        assert text == name
    else:
        filled = lines if " " in name else 1  # a single word is not broken
        assert len(text) > min(len(name), 10 * width * filled) / 2


@pytest.mark.parametrize(
    ("k", "dim", "budgets", "nuts", "named"),
    [
        (3, 2, (), False, False),
        (3, 10, ("none", "all"), True, True),
        (10, 2, ("none",), False, True),
        (10, 10, ("none", "all"), True, False),
    ],
)
def test_posterior_forest(k: int, dim: int, budgets: tuple[str, ...], nuts: bool, named: bool) -> None:
    quantities = [("weight", j, None) for j in range(k)]
    quantities += [(kind, j, d) for kind in ("mean", "scale") for j in range(k) for d in range(dim)]
    random = np.random.default_rng(0)
    point, sd = np.abs(random.normal(size=len(quantities))), 0.1 + random.random(len(quantities))
    interval = {"point": point, "sd": sd, "low": point - 1.6 * sd, "high": point + 1.6 * sd}
    fits: dict[str, dict[str, Any]] = {"EM": {"point": point, "sd": sd}, "SVI": {"point": point}}
    fits |= {"SVI posterior": interval} | ({"NUTS": {**interval, "point": point + 100 * (sd > 1.0)}} if nuts else {})
    accuracies = {
        f"labels: {budget}": {"EM": [0.812], "SVI": [0.811], **{name: [0.8, 0.75, 0.9] for name in list(fits)[2:]}}
        for budget in budgets
    }
    names = names_of(k, named) or [str(j + 1) for j in range(k)]
    figure = figures.posterior_forest(quantities, fits, names, accuracies=accuracies)
    check(figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["Weights", *[f"{s} (12 of {k * dim})" if k * dim > 12 else s for s in ("Means", "Scales")]]
    assert ("0.800 (0.750 to 0.900)" in texts(figure)) == bool(budgets)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(fits)
