import subprocess
import sys

import pytest

from autoseg import machine
from autoseg.machine import find_cpu_memory_gib


def test_cpu_memory_is_the_containers_limit_where_that_is_lower(monkeypatch, tmp_path):
    limit, unlimited = tmp_path / "memory.max", tmp_path / "other"
    limit.write_text(f"{2**29}\n")
    unlimited.write_text("max\n")
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (unlimited, limit, tmp_path / "absent"))
    assert find_cpu_memory_gib() == 0.5
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (unlimited,))
    assert find_cpu_memory_gib() > 0.5


def test_large_blocks_are_asked_of_the_system_one_by_one():
    """In a process of its own, since it stays: a block goes back at once although one above it stays."""
    program = """
import ctypes, sys
from autoseg.machine import LARGE_BLOCK_BYTES, give_large_blocks_back
give_large_blocks_back()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
for _ in range(40):  # glibc would learn after the first to keep such blocks
    block = libc.malloc(3 * LARGE_BLOCK_BYTES)
    ctypes.memset(block, 1, 3 * LARGE_BLOCK_BYTES)
    small = libc.malloc(100_000)
    ctypes.memset(small, 1, 100_000)
    libc.free(block)
assert resident() - before < 2 * LARGE_BLOCK_BYTES, resident() - before
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("glibc's memory is Linux's")
    subprocess.run([sys.executable, "-c", program], check=True)
