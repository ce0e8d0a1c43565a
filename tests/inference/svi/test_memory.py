"""Freed memory is kept in a fit, where it would else be returned to the system and faulted in again in every step."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# glibc's own account of the bytes that it holds from the system, free ones included: some kernels count no page faults.
PROGRAM = """
import ctypes, torch
from latentmix.inference.svi.fit import _retain_memory
torch.set_num_threads(1)
class Account(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Account
def mapped_and_kept(*megabytes):
    before = mallinfo2()
    blocks = [torch.ones(size * 250_000) for size in megabytes]
    held = mallinfo2()
    del blocks
    after = mallinfo2()
    return held.hblkhd - before.hblkhd, after.arena + after.hblkhd - before.arena - before.hblkhd
print(*mapped_and_kept(20))
_retain_memory()
for _ in range(5):
    print(*mapped_and_kept(30, 24, 8))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="other C libraries have other rules")
def test_memory_that_was_freed_is_not_faulted_in_again() -> None:
    """A large block is mapped by itself and returned when it is freed; within a fit it stays, and serves the next step.

    Blocks of 62 MB are more than twice one of 30 MB, of which the library would keep twice the size.
    """
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    before, first, *_, last = (tuple(map(int, line.split())) for line in result.stdout.splitlines())
    assert before[0] > 19_000_000
    assert before[1] == 0
    assert first[0] == 0
    assert first[1] > 50_000_000
    assert last == (0, 0)
