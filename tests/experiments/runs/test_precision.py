"""A run in bf16-mixed: its options are recorded, and another precision resumes no state of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentmix.experiments.cli import main
from latentmix.experiments.reading.options import read_options
from latentmix.experiments.runs.artifacts import RunFolder

from tests.experiments.runs.test_stages import QUICK

pytestmark = pytest.mark.usefixtures("no_pictures", "coarse")


def test_precision_and_compile_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    words = ["run", "digits", *QUICK, "--precision", "bf16-mixed", "--compile", "false", "--out", str(folder)]
    assert main(words) == 0
    config = read_options(folder / "config.yaml")
    assert (config["precision"], config["compile"]) == ("bf16-mixed", False)
    assert "precision: bf16-mixed" in (folder / "report.html").read_text()
    states = RunFolder(folder).load_training()
    assert [state.precision for _, state in states] == ["bf16-mixed"] * len(states) != []
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("bf16-mixed", "full"))
    (folder / "summary.json").unlink()
    capsys.readouterr()
    assert main(["resume", str(folder)]) == 2
    assert "Expected the precision of the fit that is resumed, bf16-mixed; got full" in capsys.readouterr().err
