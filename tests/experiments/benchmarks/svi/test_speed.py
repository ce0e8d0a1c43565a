"""The comparison of SVI with other libraries, at small sizes; no time is asserted."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from latentmix.experiments.benchmarks.svi import processes as processes_of_contestants
from latentmix.experiments.benchmarks.svi.contestants import CONTESTANTS
from latentmix.experiments.benchmarks.svi.speed import Figures, Floor, SVISpeed, svi_speed, table

SMALL = {"networks": ["digits"], "batch_sizes": [16], "images": 64, "turns": 2, "threads": 1}


def measured(*contestants: str, **options: object) -> SVISpeed:
    (row,) = svi_speed(**{**SMALL, "contestants": contestants, **options})  # type: ignore[arg-type]
    return row


def processes(log: Path) -> list[int]:
    return [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("pid ")]


def ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def real() -> SVISpeed:
    return measured("latentmix", "pyro", "pytorch", "latentmix-bf16")


def test_contestants_train_the_same_thing(real: SVISpeed) -> None:
    names = ["latentmix", "pyro", "pytorch"]
    assert set(names) <= set(real.contestants)
    losses = [figures.loss for figures in real.contestants.values()]
    assert max(losses) - min(losses) < 1.5
    assert 36 < min(losses) < 64 * math.log(2)  # 39.1 nats is the entropy of the pixels
    for name in names:
        figures = real.contestants[name]
        assert 0 < figures.least <= figures.seconds
        assert figures.step == pytest.approx(1e6 * figures.seconds / 4)
        assert figures.to_pytorch == pytest.approx(figures.seconds / real.contestants["pytorch"].seconds)
        assert figures.start >= 0
        assert figures.cores > 0
        assert (figures.to_numpyro, figures.restart) == (None, None)
        assert figures.memory is None or 0 <= figures.memory < 1000


def test_bf16_is_measured_or_missing_with_a_reason(real: SVISpeed) -> None:
    reason = real.missing.get("latentmix-bf16")
    assert ("latentmix-bf16" in real.contestants) == (reason is None)
    assert ("bf16-mixed" in real.floors) == (reason is None)
    assert reason is None or "no option `precision`" in reason


def test_the_floor_lies_below_every_contestant(real: SVISpeed) -> None:
    floor = real.floors["float32"]
    assert floor.parameters == 64 * 512 + 512 + 2 * (512 * 10 + 10) + 10 * 512 + 512 + 512 * 64 + 64
    assert floor.bytes == 28 * floor.parameters
    assert floor.operations == 2 * 16 * (2 * 64 * 512 + 3 * (2 * 512 * 10 + 10 * 512 + 512 * 64))
    assert floor.seconds == pytest.approx(4 * (floor.operations / floor.rate + floor.bytes / floor.memory_rate))
    assert 0 < floor.seconds < min(figures.least for figures in real.contestants.values())


def test_the_table_has_a_line_for_everything_within_120_columns(real: SVISpeed) -> None:
    lines = table(real).splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) == 2 + len(real.contestants) + 2 * len(real.floors) + len(real.missing)
    assert lines[0].startswith("digits, batch 16: 64 images, 4 steps an epoch, 82,004 parameters, 1 thread, load ")


def test_contestants_take_turns(log: Path) -> None:
    steps: list[str] = []
    row = measured("trains", "shows-threads", report=steps.append, threads=3)
    turns = [f"turn {turn} of 2, {name}" for turn in (1, 2) for name in ("trains", "shows-threads", "floor, float32")]
    firsts = [f"first epoch of {name}" for name in ("trains", "shows-threads")]
    assert [step.removeprefix("[1/1] digits, batch 16: ") for step in steps if "epoch" in step or "turn" in step] == [
        *firsts,
        *turns,
    ]
    assert log.read_text().splitlines()[1:] == ["epoch 1", "epoch 2", "epoch 3"]
    assert row.contestants["trains"].loss == pytest.approx(3.3, abs=0.05)  # three pixels in ten, after three epochs
    assert row.contestants["shows-threads"].loss == 3 * 3


def test_a_failing_contestant_is_a_line_with_its_reason(log: Path) -> None:
    names = ["fails", "fails-later", "dies", "is-unavailable", "is-not-there", "is-not-installed", "trains"]
    row = measured(*names)
    assert list(row.contestants) == ["trains"]
    assert row.missing == {
        "fails": "failed: ValueError: no such thing",
        "fails-later": "failed: ValueError: later",
        "dies": "failed: its process ended with code 3: a last word",
        "is-unavailable": "it takes another machine",
        "is-not-there": "failed: AttributeError: module 'fake_contestants' has no attribute 'no_such_function'",
        "is-not-installed": "not installed: pip install 'latentmix[bench]'",
    }
    assert all(f"  {name}: {reason}" in table(row).splitlines() for name, reason in row.missing.items())


def test_a_contestant_that_hangs_is_ended(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(line: str) -> None:
        monkeypatch.setattr(processes_of_contestants, "LONGEST", 0.5 if line.endswith("epoch of hangs") else 100.0)

    row = measured("hangs", "trains", report=limit)
    assert list(row.contestants) == ["trains"]
    reason = "failed: no answer within 0.5 seconds: take fewer --images, or leave it out"
    assert row.missing == {"hangs": reason}
    assert all(map(ended, processes(log)))


def test_a_comparison_without_contestants_has_reasons_alone(log: Path) -> None:
    row = measured("is-not-installed", "dies")
    assert (row.contestants, row.floors, list(row.missing)) == ({}, {}, ["is-not-installed", "dies"])
    assert len(table(row).splitlines()) == 4


def test_a_second_process_finds_the_cache(log: Path) -> None:
    row = measured("compiles", "trains")
    compiled = row.contestants["compiles"]
    assert compiled.restart is not None
    assert compiled.restart < 0.5 <= compiled.start
    assert row.contestants["trains"].restart is None
    (own,) = measured("compiles").contestants.values()
    assert own.start >= 0.5, "caches are not shared between comparisons"


def test_each_precision_has_a_floor(log: Path) -> None:
    assert list(measured("in-bf16", "trains").floors) == ["float32", "bf16-mixed"]
    assert list(measured("in-bf16").floors) == ["bf16-mixed"]


def test_an_interruption_ends_all_processes(log: Path) -> None:
    def interrupt(line: str) -> None:
        if "turn 2" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured("trains", "shows-threads", report=interrupt)
    (process,) = processes(log)
    assert ended(process)


def test_every_figure_is_written(log: Path) -> None:
    row = asdict(measured("trains"))
    assert set(row) == {field.name for field in fields(SVISpeed)}
    assert set(row["contestants"]["trains"]) == {field.name for field in fields(Figures)}
    assert set(row["floors"]["float32"]) == {field.name for field in fields(Floor)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": ["mpl"]}, "Expected --networks out of mlp, digits, conv16, conv64; got 'mpl'"),
        ({"contestants": ["jax"]}, "Expected --contestants out of latentmix, .*; got 'jax'"),
        ({"batch_sizes": [0]}, "of at least 1; got 0"),
        ({"turns": 0}, "of at least 1; got 0"),
        ({"threads": 0}, "of at least 1; got 0"),
        ({"images": 63, "batch_sizes": [64]}, "Expected --batch_sizes of at most --images, 63; got 64"),
        ({"networks": []}, "Expected --networks of at least one"),
        ({"batch_sizes": []}, "Expected --batch_sizes of at least one"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        svi_speed(**options)  # type: ignore[arg-type]


def test_every_contestant_names_a_function() -> None:
    for contestant in CONTESTANTS.values():
        module, _, name = contestant.function.partition(":")
        path = Path(__file__).parents[4].joinpath(*module.split(".")[1:]).with_suffix(".py")
        assert f"\ndef {name}(" in path.read_text()
