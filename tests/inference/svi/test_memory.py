"""Freed memory is kept in a fit, where it would else be returned to the system and faulted in again in every step."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from latentmix.inference.svi.fit import _retain_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [torch.ones(size) for size in (6_500_000, 6_500_000, 2_000_000)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
before = faults()
_retain_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other rules")
def test_memory_that_was_freed_is_not_faulted_in_again() -> None:
    """Five times 60 MB are 73,000 pages of 4 KiB.

    That is more than twice the largest block, 26 MB, and less than twice that of `fit`; imports free smaller ones.
    """
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    before, after = map(int, result.stdout.split())
    assert before > 10_000
    assert after < 100
