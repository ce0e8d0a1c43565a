"""Every picture function takes plain arrays, gives a figure, and changes nothing else of a caller's figure."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.experiments import figures
from latentmix.experiments.figures.style import settle
from latentmix.experiments.sweeps.gallery import DRAWN

from tests.experiments.figures.calls import CALLS, Call

PLAIN: dict[str, Callable[[Any], Any]] = {"numpy": np.asarray, "torch": torch.as_tensor, "lists": lambda a: a.tolist()}


@pytest.fixture(autouse=True)
def same_process() -> Iterator[None]:
    """Settings of Matplotlib, its back end and the figures of pyplot are unchanged, and nothing warns."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    settings, backend = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
    known = pyplot.get_fignums() if pyplot else []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert dict(matplotlib.rcParams) == settings
    assert matplotlib.get_backend(auto_select=False) == backend
    assert (pyplot.get_fignums() if pyplot else []) == known


def own_figure(call: Call, panels: int | None = None) -> tuple[Figure, list[Axes], Axes]:
    """A caller's figure with the axes of a picture and others, with a title and a layout of its own."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.suptitle("mine")
    count = call.panels if panels is None else panels
    other = figure.add_subplot(1, count + 1, 1)
    other.plot([0, 1], [1, 0], label="mine")
    other.set_title("also mine")
    axes = [figure.add_subplot(1, count + 1, place + 2, projection=call.projection) for place in range(count)]
    return figure, axes, other


def drawn(axes: Axes) -> bool:
    """Whether a picture is in axes."""
    return bool(axes.lines or axes.collections or axes.images or axes.patches or axes.texts)


def test_every_picture_function_has_a_call() -> None:
    assert set(CALLS) == set(DRAWN)
    assert set(DRAWN) <= set(figures.__all__)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_arrays_give_a_figure_of_their_own(name: str, kind: str) -> None:
    figure = CALLS[name].draw(name, PLAIN[kind])
    assert type(figure) is Figure
    assert figure.get_suptitle()
    assert sum(drawn(axes) for axes in figure.axes) >= CALLS[name].panels


@pytest.mark.parametrize("name", CALLS)
def test_given_axes_are_drawn_into_and_nothing_else_is_changed(name: str) -> None:
    call = CALLS[name]
    figure, axes, other = own_figure(call)
    engine, size, places = figure.get_layout_engine(), tuple(figure.get_size_inches()), list(figure.axes)
    children = [type(child) for child in figure.get_children()]
    others = [type(child) for child in other.get_children()]
    result = call.draw(name, ax=axes[0] if call.panels == 1 else axes)
    assert result is figure
    assert all(drawn(panel) for panel in axes)
    assert figure.axes == places
    assert [type(child) for child in figure.get_children()] == children  # no legends, titles or captions
    assert [type(child) for child in other.get_children()] == others
    assert figure.get_suptitle() == "mine"
    assert not figure.legends
    assert figure.get_layout_engine() is engine
    assert tuple(figure.get_size_inches()) == size
    assert other.get_title() == "also mine"
    settle(figure)


@pytest.mark.parametrize("name", CALLS)
def test_a_picture_is_the_same_in_given_axes(name: str) -> None:
    call = CALLS[name]
    alone, (_, axes, _) = call.draw(name), own_figure(call)
    call.draw(name, ax=np.array(axes))
    for own, given in zip(alone.axes, axes, strict=False):
        for kind in ("lines", "collections", "images"):
            assert len(getattr(own, kind)) == len(getattr(given, kind)), kind
        for mine, theirs in zip(own.images, given.images, strict=True):
            if name != "decoded_components":  # between its rows is the height of a text
                np.testing.assert_array_equal(mine.get_array(), theirs.get_array())
        for mine, theirs in zip(own.lines, given.lines, strict=True):
            np.testing.assert_array_equal(mine.get_xydata(), theirs.get_xydata())


@pytest.mark.parametrize("name", CALLS)
def test_other_axes_are_refused(name: str) -> None:
    call = CALLS[name]
    _, axes, _ = own_figure(call, call.panels + 1)
    with pytest.raises(ValueError, match=rf"(?s)Expected axes for the whole picture, .*; got {call.panels + 1}: "):
        call.draw(name, ax=axes)
    with pytest.raises(ValueError, match=r"Expected Matplotlib axes for ax, .*; got str"):
        call.draw(name, ax=["axes"] * call.panels)
    with pytest.raises(ValueError, match=r"Expected Matplotlib axes for ax, .*; got none"):
        call.draw(name, ax=[])
    figure = Figure()
    wrong = [figure.add_subplot(projection=None if call.projection else "polar") for _ in range(call.panels)]
    with pytest.raises(ValueError, match=r"Expected axes .*projection.*; got "):
        call.draw(name, ax=wrong)


def test_axes_of_several_figures_are_refused() -> None:
    axes = [Figure().add_subplot(), Figure().add_subplot()]
    with pytest.raises(ValueError, match="Expected axes of one figure"):
        CALLS["latent_map"].draw("latent_map", ax=axes)


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.spoilt])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_in_a_sentence(name: str, value: float) -> None:
    call = CALLS[name]
    array = np.array(call.arrays[call.spoilt], dtype=float)
    array.flat[0] = value
    figure, axes, _ = own_figure(call)
    with pytest.raises(ValueError, match=r"^Expected finite [\w ]+; got 1 NaN or infinite: leave them out\.$"):
        Call({**call.arrays, call.spoilt: array}, call.panels, call.options).draw(name, ax=axes)
    assert not any(drawn(panel) for panel in axes)
    assert figure.get_suptitle() == "mine"


@pytest.mark.parametrize("name", CALLS)
def test_arrays_that_do_not_fit_are_refused_in_a_sentence(name: str) -> None:
    call = CALLS[name]
    for argument, value in call.arrays.items():
        if isinstance(value, np.ndarray):
            wrong = Call({**call.arrays, argument: np.zeros((0, *value.shape[1:]))}, call.panels, call.options)
            with pytest.raises(ValueError, match=r"(?s)^Expected .+; got .+\.$"):
                wrong.draw(name)


@pytest.mark.parametrize("name", CALLS)
def test_docstrings_name_shapes_and_axes_and_have_an_example(name: str) -> None:
    function = getattr(figures, name)
    text = inspect.getdoc(function) or ""
    assert "        ax: " in f"    {text}".replace("\n", "\n    ")
    assert ">>> " in text
    assert f"import {name}" in text or f", {name}" in text
    assert inspect.signature(function).parameters["ax"].kind is inspect.Parameter.KEYWORD_ONLY


def test_figures_are_imported_by_name() -> None:
    script = (
        "import sys; from latentmix.experiments import figures; assert 'matplotlib' not in sys.modules; "
        "assert 'torch' not in sys.modules; figures.reliability; assert callable(figures.reliability); "
        "assert callable(figures.rate_distortion); assert 'matplotlib.pyplot' not in sys.modules; "
        "assert set(figures.__all__) <= set(dir(figures)); assert all(getattr(figures, n) for n in figures.__all__)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        figures.__getattr__("nothing")
