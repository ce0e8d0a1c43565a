"""Paths as users type them."""

from pathlib import Path

import pytest

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.image_cache import cache_folder
from latentmix.experiments.options.trust import configuration_file
from latentmix.experiments.reading.paths import user_path

NOBODY = "~nobody-of-this-name/points.csv"


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/points.csv") == Path("/somewhere/points.csv")
    assert user_path("points.csv") == Path("points.csv")


def test_an_unknown_home_folder_is_refused_wherever_a_path_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "Expected a path; got '~nobody-of-this-name/points.csv', whose home folder is not known"
    monkeypatch.setenv("LATENTMIX_CONFIG", NOBODY)
    for read in (
        lambda: user_path(NOBODY),
        lambda: cache_folder(NOBODY),
        configuration_file,
        Data(source=NOBODY).load,
        Data(source=NOBODY).resolved_paths,
        Data(source="image_folder", root=NOBODY).load,
        Data(source="mnist", root=NOBODY).load,
        Data(source="celeba", root=NOBODY).load,
    ):
        with pytest.raises(ValueError, match=message):
            read()
