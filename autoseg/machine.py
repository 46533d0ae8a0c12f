"""What this machine has for a process: memory, and how it is taken and given back.

Owns: `find_cpu_memory_gib`, `give_large_blocks_back`.
Does not own: GPUs (`planning/device.py`, `network/device.py`).
"""

import ctypes
import os
import sys
from pathlib import Path

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
FALLBACK_CPU_GIB = 8.0  # where the system does not tell
GIB = 2**30
# glibc's names for what `mallopt` sets (malloc.h)
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE_BLOCK_BYTES = 8 << 20


def find_cpu_memory_gib() -> float:
    """Return the memory that this process may use: the machine's, or the container's limit where that is lower."""
    try:
        sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):
        return FALLBACK_CPU_GIB
    for path in CGROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            sizes.append(int(text))
    return max(0.1, round(min(sizes) / GIB, 1))


def give_large_blocks_back() -> None:
    """Let glibc ask the system for each large block and give it back at once, and keep all threads' memory together.

    Otherwise the network's maps, which threads make and others let go, leave holes that fill no more: a prediction of
    192 slices of 512 x 512 px then took 1.9 GiB in place of 1.3. It costs some 5 % of the time. Other systems' memory
    is left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(M_ARENA_MAX, 1)
