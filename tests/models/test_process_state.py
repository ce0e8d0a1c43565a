"""Filters of warnings in threads and forks; imports of whole modules, whatever interrupts them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from latentmix.models.process_state import exclusive, import_whole, kept_filters, kept_warnings

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


def _enter() -> None:
    with kept_filters():
        pass


@pytest.mark.parametrize("block", [kept_warnings, kept_filters])
def test_blocks_that_change_filters_do_not_overlap(block: Callable[[], AbstractContextManager[object]]) -> None:
    before, entered, waiting = list(warnings.filters), threading.Event(), threading.Event()

    def first() -> None:
        with block():
            warnings.simplefilter("error")
            entered.set()
            assert waiting.wait(10)
            threading.Event().wait(0.05)  # a second block would begin here, and end after this one

    def second() -> None:
        assert entered.wait(10)
        waiting.set()
        with kept_filters():
            threading.Event().wait(0.05)

    with ThreadPoolExecutor(2) as threads:
        for ended in [threads.submit(first), threads.submit(second)]:
            ended.result(20)
    assert warnings.filters == before


def test_filters_do_not_wait_for_a_fit_in_another_thread() -> None:
    with ThreadPoolExecutor(1) as threads, exclusive():
        threads.submit(_enter).result(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_forked_in_a_block_of_another_thread_has_the_filters_outside() -> None:
    before, entered, done = list(warnings.filters), threading.Event(), threading.Event()

    def hold() -> None:
        with kept_warnings():
            warnings.simplefilter("error")
            entered.set()
            done.wait(60)

    def forked() -> None:
        with kept_filters():
            os._exit(0 if warnings.filters == before else 3)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(10)
    child = multiprocessing.get_context("fork").Process(target=forked)
    child.start()
    child.join(30)
    done.set()
    holder.join(30)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0
    assert warnings.filters == before
