"""Data sources are found by name, and added by a file each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentmix.experiments.data import sources as package
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.sources import find_source, sources, specific_options

LINE = """
import torch
from latentmix.experiments.data.base import Reading, Source, Split

def read(points: int, seed: int, size: int = 3) -> Reading:
    x = torch.linspace(0, 1, points)[:, None].expand(-1, size)
    return Reading([Split(x, torch.arange(points) % 2)])

SOURCES = (Source("line", read, suffixes=(".line",)), Source("segment", read))
"""


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file more in the package of sources."""
    (tmp_path / "line.py").write_text(LINE)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    sources.cache_clear()
    yield
    sources.cache_clear()
    sys.modules.pop(f"{package.__name__}.line", None)


def test_sources_are_those_of_the_documentation() -> None:
    assert set(sources()) == {
        *("digits", "mnist", "fashion_mnist", "kmnist", "file", "celeba", "image_folder", "natural_patches", "gmm3d"),
        "iris",
    }
    for name in sources():
        assert f"`{name}`" in Data.__doc__ or name == "file"


def test_options_of_a_source_are_the_parameters_of_its_reader() -> None:
    assert specific_options() == {
        "size": ["celeba", "image_folder", "natural_patches"],
        "channels": ["image_folder"],
        "label": ["file"],
        "columns": ["file"],
        "attribute": ["celeba"],
        "cache": ["celeba", "image_folder"],
        "max_corrupt": ["celeba", "image_folder"],
        "max_pixels": ["celeba", "image_folder"],
        "max_gib": ["file", "gmm3d"],
        "points": ["gmm3d"],
    }


@pytest.mark.usefixtures("line")
def test_a_source_is_added_by_one_file() -> None:
    dataset = Data("segment", points=50, size=2).load()
    assert (dataset.name, dataset.shape, dataset.classes) == ("segment", (2,), (0, 1))
    assert Data("segment", points=50).load().shape == (3,)
    assert find_source("points.line").name == "line"
    with pytest.raises(
        ValueError, match=r"Expected --data\.attribute with the source celeba alone; got 'Male' with 'segment'"
    ):
        Data("segment", attribute="Male").load()
    with pytest.raises(
        ValueError, match=r"Expected --data\.binarize auto or none for the points of segment; got static"
    ):
        Data("segment", binarize="static").load()
    with pytest.raises(ValueError, match=r"one of .*segment, or the path of a \.csv, .*\.npz, \.line file; got 'x'"):
        find_source("x")


@pytest.mark.usefixtures("line")
def test_paths_of_a_file_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTMIX_DATA", "data")
    assert Data("images.npy").resolved_paths() == {"source": str(tmp_path / "images.npy")}
    assert Data("mnist").resolved_paths() == {"root": str(tmp_path / "data")}
    assert Data("celeba", root="faces", cache="cache").resolved_paths() == {
        "root": str(tmp_path / "faces"),
        "cache": str(tmp_path / "cache"),
    }
    assert Data("image_folder").resolved_paths() == Data("digits").resolved_paths() == {}
