"""Imports of whole modules, whatever interrupts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from latentmix.models.process_state import import_whole

INTERRUPTED = """
import _thread
from latentmix.models.process_state import import_whole

try:
    import_whole("package")
    print("not interrupted")
except KeyboardInterrupt:
    pass
import package.part
print(package.part.whole, package.last)
"""


def test_an_interrupted_import_is_completed(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    lines = [
        "import _thread, time",
        "from package import part",
        "_thread.interrupt_main()",
        "time.sleep(0.3)",
        "last = 1",
    ]
    (package / "__init__.py").write_text("\n".join(lines))
    (package / "part.py").write_text("whole = True")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}){INTERRUPTED}"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("True 1\n", "")


def test_an_error_of_an_import_is_raised() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'absent_package'"):
        import_whole("json", "absent_package")
