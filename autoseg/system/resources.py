"""Finds the cores and the memory that this process may use, and sets how memory is returned to the system.

Owns: `find_num_cores`, `find_cpu_memory_gib`, `find_free_bytes`, `give_large_blocks_back`, `end_with_parent`.
Does not own: GPUs (`planning/hardware.py`, `torch_device.py`), the memory that a case needs.

A container limits a process by its control group (cgroup) or any above it; versions 1 and 2 are read.
"""

import contextlib
import ctypes
import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

SYSTEM = Path("/")
FALLBACK_CPU_GIB = 8.0  # if the system does not report it
FALLBACK_FREE_SHARE = 0.5  # of all memory, if the system does not report the free part
GIB = 2**30
PR_SET_PDEATHSIG = 1  # prctl's name for "send me a signal when my parent ends" (linux/prctl.h)
# glibc's names for what `mallopt` sets (malloc.h)
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE_BLOCK_BYTES = 8 << 20


def find_num_cores(system: Path = SYSTEM) -> int:
    """Return the number of cores that this process may use: its CPU affinity, or its container's quota if lower.

    Args:
        system: The root of the file system with the information; tests give another.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [bound]
    for folder in _control_groups("cpu", system=system):
        quota, period = _cpu_quota(folder)
        if quota > 0 and period > 0:
            shares.append(math.ceil(quota / period))
    return max(1, min(shares))


def find_cpu_memory_gib(system: Path = SYSTEM) -> float:
    """Return the memory that this process may use: the machine's, or the container's limit if lower."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return FALLBACK_CPU_GIB
    limits = [limit for limit, _used in _memory_limits(system)]
    return max(0.1, round(min([total, *limits]) / GIB, 1))


def find_free_bytes(system: Path = SYSTEM) -> int:
    """Return the memory that is available to this process now, including cached files."""
    rooms = [max(0, limit - used) for limit, used in _memory_limits(system)]
    available = _read_fields(system / "proc/meminfo").get("MemAvailable")
    if available is None:
        rooms.append(int(FALLBACK_FREE_SHARE * GIB * find_cpu_memory_gib(system)))
    else:
        rooms.append(1024 * available)
    return min(rooms)


def _control_groups(controller: str, *, system: Path) -> Iterator[Path]:
    """Yield the folder of this process's control group and the visible folders above it."""
    with contextlib.suppress(OSError):
        for line in (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _number, controllers, path = (*line.split(":", 2), "", "")[:3]
            root = system / "sys/fs/cgroup"
            if controllers:  # version 1 has a tree for each controller, version 2 one for all and no names
                root /= controller
                if controller not in controllers.split(","):
                    continue
            own = root / path.lstrip("/")
            inner = [] if ".." in own.parts else [own, *own.parents]  # outside of what the container sees
            yield from (folder for folder in inner if root in folder.parents)
            yield root


def _memory_limits(system: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of each group with a limit; cached files do not count as used."""
    for folder in _control_groups("memory", system=system):
        limits = [_read_number(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
        used = _read_number(folder / "memory.current") or _read_number(folder / "memory.usage_in_bytes") or 0
        statistics = _read_fields(folder / "memory.stat")
        cached = statistics.get("total_inactive_file", statistics.get("inactive_file", 0))
        yield from ((limit, max(0, used - cached)) for limit in limits if limit is not None)


def _cpu_quota(folder: Path) -> tuple[int, int]:
    """Return the quota and the period of a group in microseconds; (-1, -1) without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return (int(quota), int(period)) if quota != "max" else (-1, -1)
    quota_us, period_us = _read_number(folder / "cpu.cfs_quota_us"), _read_number(folder / "cpu.cfs_period_us")
    return (quota_us, period_us) if quota_us is not None and period_us is not None else (-1, -1)


def _read_number(path: Path) -> int | None:
    """Return the number in a file; None for "max", "-1" or a missing file."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdecimal() else None


def _read_fields(path: Path) -> dict[str, int]:
    """Return the numbers in a file of lines such as "name 12" or "name: 12 kB"; empty if it cannot be read."""
    fields = {}
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text(encoding="ascii").splitlines():
            name, *values = line.split()
            if values and values[0].isdecimal():
                fields[name.rstrip(":")] = int(values[0])
    return fields


def end_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends; other systems cannot."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before
            os._exit(1)


def give_large_blocks_back() -> None:
    """Make glibc return each large block to the system at once, and use one memory arena for all threads.

    Otherwise memory fragments, since feature maps are allocated and freed by different threads: predicting 192 slices
    of 512 x 512 px then took 1.9 GiB instead of 1.3. This costs about 5 % of the time. Without glibc nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(M_ARENA_MAX, 1)
