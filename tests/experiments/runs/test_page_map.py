"""The section of the map: its elements, its data, and files that are none."""

from __future__ import annotations

import base64
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latentmix.experiments.runs.map_points import MAP
from latentmix.experiments.runs.packed import pack
from latentmix.experiments.runs.page_map import map_section
from latentmix.experiments.runs.report import write_report

from tests.experiments.runs.test_page_walk import Nesting
from tests.experiments.runs.walked_runs import mapped_run

HOSTILE = "</script><script>alert(1)</script>"
SENTENCE = "The map of the latents cannot be read from map.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    mapped_run(folder, 3, (1, 6, 6))
    return folder


@pytest.fixture
def stored(original: Path) -> Any:
    return json.loads((original / MAP).read_text())


def section(folder: Path) -> dict[str, Any]:
    values = map_section(folder, json.loads((folder / "summary.json").read_text()))
    assert values is not None
    return values


@pytest.mark.parametrize(("latent_dim", "shape"), [(2, (1, 6, 6)), (5, (3, 6, 8)), (2, (3,))])
def test_the_section_is_whole_and_its_scripts_alone_may_run(
    latent_dim: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    mapped_run(tmp_path, latent_dim, shape, names=(HOSTILE, "dog"))
    text = write_report(tmp_path).read_text("utf-8")
    library = max(re.findall(r"<script>(.*?)</script>", text, re.DOTALL), key=len)
    page = Nesting(text.replace(library, ""))
    assert not page.wrong
    assert not page.open
    assert [tag for tag, _ in page.tags].count("script") == 8
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0]
    assert policy.count("sha256-") == 6
    assert "unsafe-eval" not in policy
    ids = [attributes["id"] for attributes in page.with_attribute("id")]
    assert len(set(ids)) == len(ids)
    assert '<a href="#map">' in text
    assert HOSTILE not in text


def test_a_run_without_the_file_has_no_section(original: Path, tmp_path: Path) -> None:
    assert map_section(tmp_path, {}) is None


def test_axes_are_the_most_active_latents_first(original: Path) -> None:
    values = section(original)
    usage = json.loads((original / "summary.json").read_text())["test"]["kl_per_dimension"]
    assert [k for k, _, _ in values["latents"]] == sorted(range(3), key=lambda k: -usage[k])


def test_two_latents_lie_as_in_the_plane_of_the_decoder(tmp_path: Path) -> None:
    mapped_run(tmp_path, 2, (1, 6, 6))
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["test"]["kl_per_dimension"] = [0.1, 2.0]
    values = map_section(tmp_path, summary)
    assert values is not None
    assert [k for k, _, _ in values["latents"]] == [0, 1]


def picture(width: int, height: int, kind: str = "WEBP") -> str:
    buffer = BytesIO()
    Image.new("RGB", (width, height)).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


BROKEN: dict[str, Any] = {
    "count": 41,
    "total": 3,
    "centre": [0.0],
    "step": None,
    "latents": pack([1, 2], "<i2"),
    "labels": pack([7] * 40, "<u2"),
    "plane": {"origin": [0, 0], "directions": [], "explained": [1, 0]},
    "tsne": {"count": 3, "rows": pack([0, 1, 900], "<u2"), "points": pack([0] * 6, "<u2")},
    "images": {"columns": 0, "count": 40, "rows": "", "data": ""},
    "values": pack([0.0] * 40, "<f4"),
    "fits": {"em": HOSTILE},
}


@pytest.mark.parametrize("name", [*BROKEN, "all", "text", "missing"])
def test_a_broken_file_is_told_and_left_out(name: str, original: Path, stored: Any, tmp_path: Path) -> None:
    mapped_run(tmp_path, 3, (1, 6, 6))
    if name == "missing":
        del stored["fits"]
    broken = [HOSTILE] if name == "all" else stored | ({name: BROKEN[name]} if name in BROKEN else {})
    (tmp_path / MAP).write_text("{" if name == "text" else json.dumps(broken))
    text = write_report(tmp_path).read_text("utf-8")
    assert text.count(SENTENCE) == 1
    assert "alert(1)" not in text
    assert "map-data" not in text
    assert "Walk the latent space" in text


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("data", picture(5, 5)),
        ("data", picture(36, 42, "PNG")),
        ("data", "x"),
        ("data", base64.b64encode(b"<script>alert(1)</script>").decode()),
        ("rows", pack(range(40, 80), "<u2")),
        ("columns", 41),
        ("count", True),
    ],
)
def test_a_broken_sprite_is_told(place: str, value: Any, stored: Any, original: Path, tmp_path: Path) -> None:
    stored["images"][place] = value
    write(tmp_path, original, stored)
    assert SENTENCE in section(tmp_path)["reason"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("components", 10**9),
        ("responsibilities", pack([0], "<u1")),
        ("assigned", pack([3] * 40, "<u2")),
        ("means", pack([[float("inf"), 0, 0]] * 3, "<f4")),
        ("means", pack([[0, 0]] * 3, "<f4")),
        ("scales", None),
        ("covariances", pack([[float("nan")] * 6] * 3, "<f2")),
        ("budgets", {"other": {"names": ["a", "b", "c"], "classes": [0, 0, 0], "predicted": pack([0] * 40, "<u2")}}),
        ("budgets", {"none": {"names": ["a"], "classes": [0, 0, 0], "predicted": pack([0] * 40, "<u2")}}),
        ("budgets", {"none": {"names": ["a", "b", "c"], "classes": [0, 0, 2], "predicted": pack([0] * 40, "<u2")}}),
        ("budgets", [HOSTILE]),
    ],
)
def test_a_broken_fit_is_told(place: str, value: Any, stored: Any, original: Path, tmp_path: Path) -> None:
    stored["fits"][0][place] = value
    write(tmp_path, original, stored)
    assert SENTENCE in section(tmp_path)["reason"]


def write(folder: Path, original: Path, stored: Any) -> None:
    (folder / "figures").mkdir()
    (folder / MAP).write_text(json.dumps(stored))
    (folder / "summary.json").write_text((original / "summary.json").read_text())


def test_links_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    mapped_run(run, 2, (1, 6, 6))
    (run / MAP).rename(tmp_path / "private")
    (run / MAP).symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match="which is not followed"):
        write_report(run)
