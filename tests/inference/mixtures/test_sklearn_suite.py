"""scikit-learn's own tests of its mixtures, from the installed package, pass with our classes in their place."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.inference.mixtures.peer_suite import DESELECTED

MODULES = ("test_mixture", "test_gaussian_mixture", "test_bayesian_mixture")
_FOLDER = Path(__file__).parent


def outcomes(folder: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run the modules in another process; what became of each test, and the report."""
    path = folder / "outcomes.json"
    modules = [f"sklearn.mixture.tests.{name}" for name in MODULES]
    plain = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    plain_options = ("-p", "no:cacheprovider", "--tb=short")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "peer_suite", *plain_options, *arguments, "--pyargs", *modules],
        cwd=folder,
        env=plain | {"PYTHONPATH": str(_FOLDER), "PEER_SUITE_OUTCOMES": str(path)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    report = run.stdout + run.stderr
    assert path.exists(), report
    return json.loads(path.read_text()) | {"report": report}


def test_public_interface(tmp_path: Path) -> None:
    """Of the 77 tests that its own classes pass by default, 68 pass; 9 have a private function as their subject."""
    result = outcomes(tmp_path)
    assert result["failed"] == [], result["report"]
    assert result["deselected"] == sorted(DESELECTED)
    assert len(result["passed"]) == 68
    assert all("array_api" in name or "float32" in name for name in result["skipped"])


@pytest.mark.parametrize("namespace", ["numpy-None", "torch-cpu"])
def test_array_api(tmp_path: Path, namespace: str) -> None:
    """Tensors in, tensors out, and the same answer; scikit-learn skips these tests unless dispatch is set up."""
    result = outcomes(tmp_path, "-k", f"array_api_compliance and {namespace}", SCIPY_ARRAY_API="1")
    assert result["failed"] == [], result["report"]
    assert len(result["passed"]) == {"numpy-None": 16, "torch-cpu": 32}[namespace]
