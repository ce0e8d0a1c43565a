"""Logs without a network: a folder of one's own for each library, and MLflow's empty store, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.experiments.loggers.offline import keep_offline


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    keep_offline(monkeypatch, tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take seconds to make."""
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    with pytest.MonkeyPatch.context() as patch:
        keep_offline(patch, tmp_path_factory.mktemp("caches"))
        from mlflow.tracking import MlflowClient

        file = tmp_path_factory.mktemp("store") / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{file}")
    return file


@pytest.fixture
def folder_of(tmp_path: Path, empty_store: Path) -> Callable[[str], Path]:
    """An empty folder for a logger by its name, that of MLflow with its tables."""

    def make(name: str) -> Path:
        folder = tmp_path / name.lower()
        folder.mkdir(parents=True)
        if name == "MLflow":
            shutil.copy(empty_store, folder)
        return folder

    return make
