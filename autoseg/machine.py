"""What this machine has for a process: memory.

Owns: `find_cpu_memory_gib`.
Does not own: GPUs (`planning/device.py`, `network/device.py`).
"""

import os
from pathlib import Path

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
FALLBACK_CPU_GIB = 8.0  # where the system does not tell
GIB = 2**30


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
