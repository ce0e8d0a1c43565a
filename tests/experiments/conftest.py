"""A small CelebA, a cache of decoded images per test, pictures that cost little, and a browser."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from latentmix.experiments.data import image_cache
from latentmix.experiments.figures import style
from latentmix.experiments.reading.pictures import decode
from latentmix.experiments.runs.pipeline import Session

from tests.experiments.data.celeba_folder import make_celeba


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_celeba(tmp_path_factory.mktemp("data")).parent


@pytest.fixture
def celeba(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may modify; `copytree` keeps modification times."""
    return shutil.copytree(original, tmp_path / "data")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LATENTMIX_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the decoded files, in any order."""
    names: list[str] = []

    def counting(path: Path, size: tuple[int, int], **options: Any) -> NDArray[np.uint8]:
        names.append(path.name)
        return decode(path, size, **options)

    monkeypatch.setattr(image_cache, "decode", counting)
    return names


@pytest.fixture
def strict() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def coarse() -> Iterator[None]:
    """Pictures of few pixels that are not laid out, for a whole module in which only their presence matters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "DPI", 25)
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, driven by Playwright; for a module, as its event loop would be in others' way."""
    driver = pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser, and is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"none of {', '.join(names)} is on PATH")
    with driver.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path)
        yield chromium
        chromium.close()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw nothing; their report is written all the same."""
    monkeypatch.setattr(Session, "draw", lambda *_: None)
