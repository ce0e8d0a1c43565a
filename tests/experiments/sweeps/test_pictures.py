"""A sweep's pictures: all cells with their errors over seeds, and their learning curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentmix.experiments.sweeps import pictures
from latentmix.experiments.sweeps.pictures import MOST_CURVES, draw_curves, draw_overview

from tests.experiments.sweeps.test_seeds import record, results, seeds


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the figures, which are not drawn."""
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(pictures, "save", lambda figure, path: path)
    for name in ("sweep_overview", "learning_curves"):
        monkeypatch.setattr(pictures, name, lambda *args, name=name, **more: arguments.update({name: (*args, more)}))
    return arguments


def write(out: Path, cells: list[dict[str, Any]], epochs: int = 3, validation: bool = True) -> None:
    """Records of epochs, in which the loss of a cell falls to its negative ELBO."""
    for cell in cells:
        folder = out / "cells" / cell["id"]
        folder.mkdir(parents=True, exist_ok=True)
        losses = [-cell["figures"]["elbo"] + epochs - epoch for epoch in range(1, epochs + 1)]
        bounds = [{"loss": loss, "log_likelihood": 1.0 - loss, "kl": 1.0} for loss in losses]
        lines = [
            {"epoch": epoch, "training": bound, "validation": bound if validation else None}
            for epoch, bound in enumerate(bounds, 1)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_cells_over_seeds_are_one_with_all_their_figures(tmp_path: Path, drawn: dict[str, Any]) -> None:
    cells = [*seeds(-100.0, prior="A"), *seeds(-90.0, prior="B"), record(0.0, status="failed", prior="B", seed="3")]
    cells.append(record(0.0, status="refused", prior="C", seed="0"))
    assert draw_overview(tmp_path, results(*cells)) == tmp_path / "sweep.png"
    shown, axes, more = drawn["sweep_overview"]
    assert axes == {"prior": ["A", "B", "C"]}
    assert [(cell["options"]["prior"], cell["status"]) for cell in shown] == [
        ("A", "done"),
        ("B", "done"),
        ("C", "refused"),
    ]
    assert shown[0]["figures"]["elbo"] == [-101.0, -100.0, -99.0]
    assert more["heading"] == "Sweep over prior: 6 cells"


def test_a_sweep_over_the_seed_alone_is_one_row(tmp_path: Path, drawn: dict[str, Any]) -> None:
    draw_overview(tmp_path, results(*seeds(-100.0)))
    (cell,), axes, more = drawn["sweep_overview"]
    assert axes == {"preset": ["digits"]}
    assert cell["options"] == {"preset": "digits"}
    assert more["heading"] == "Sweep over seed: 3 cells"


def test_cells_of_one_seed_are_drawn_one_by_one(tmp_path: Path, drawn: dict[str, Any]) -> None:
    draw_overview(tmp_path, results(record(-100.0, prior="A", seed="0"), record(-90.0, prior="B", seed="0")))
    shown, axes, _ = drawn["sweep_overview"]
    assert axes == {"prior": ["A", "B"]}
    assert [cell["figures"]["elbo"] for cell in shown] == [-100.0, -90.0]


def test_curves_of_seeds_are_one_group_of_its_measure(tmp_path: Path, drawn: dict[str, Any]) -> None:
    cells = [*seeds(-100.0, latent_dim="2", prior="A"), *seeds(-90.0, "mass", latent_dim="3", prior="A")]
    write(tmp_path, cells)
    assert draw_curves(tmp_path, results(*cells)) == tmp_path / "learning_curves.png"
    curves, more = drawn["learning_curves"]
    assert curves["latent_dim=2"] == {
        "validation": [[103.0, 102.0, 101.0], [102.0, 101.0, 100.0], [101.0, 100.0, 99.0]]
    }
    assert more["measures"] == {"latent_dim=3": "mass", "latent_dim=2": "density"}
    assert more["heading"] == "Learning curves"


def test_a_few_curves_of_each_measure_are_drawn_those_of_the_best(tmp_path: Path, drawn: dict[str, Any]) -> None:
    cells = [record(-100.0 - k, prior=f"P{k}") for k in range(20)]
    cells += [record(500.0 - k, "mass", prior=f"M{k}") for k in range(3)]
    write(tmp_path, cells)
    draw_curves(tmp_path, results(*cells))
    curves, more = drawn["learning_curves"]
    assert len(curves) == MOST_CURVES
    assert set(curves) == {"M0", "M1", "M2", *(f"P{k}" for k in range(9))}
    assert more["heading"] == "Learning curves: the 12 of 23 settings with the highest ELBO"


def test_without_histories_there_are_no_curves(tmp_path: Path, drawn: dict[str, Any]) -> None:
    cells = seeds(-100.0)
    assert draw_curves(tmp_path, results(*cells)) is None
    write(tmp_path, cells, validation=False)
    assert draw_curves(tmp_path, results(*cells)) is None
    write(tmp_path, cells[:1])
    (tmp_path / "cells" / cells[1]["id"] / "metrics.jsonl").write_text("{\n{}\n")  # damaged
    draw_curves(tmp_path, results(*cells))
    ((curves, _),) = drawn.values()
    assert len(curves["digits"]["validation"]) == 1


def test_both_are_drawn(tmp_path: Path) -> None:
    cells = [*seeds(-100.0, prior="A"), *seeds(-90.0, prior="B")]
    write(tmp_path, cells)
    for draw in (draw_overview, draw_curves):
        picture = draw(tmp_path, results(*cells))
        assert picture is not None
        assert np.frombuffer(picture.read_bytes()[:8], np.uint8).tobytes() == b"\x89PNG\r\n\x1a\n"
