import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoseg.system.resources import find_cpu_memory_gib, find_free_bytes, find_num_cores

GIB = 2**30


@pytest.fixture
def system(tmp_path):
    """Give a writer of the files that the system tells by: (path, content); returns the root that they lie under."""

    def write(files):
        for name, content in {"proc/meminfo": f"MemFree: 7 kB\nMemAvailable: {100 * 2**20} kB\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return write


OWN, ABOVE = "sys/fs/cgroup/jobs/mine", "sys/fs/cgroup/jobs"
V1 = "9:name=systemd:/\n4:memory:/jobs/mine\n2:cpu,cpuacct:/jobs/mine\n0::/\n"


def test_memory_without_control_groups_is_the_machines(system):
    root = system({})
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    assert find_cpu_memory_gib(root) == pytest.approx(everything, abs=0.06)
    assert find_free_bytes(root) == 100 * GIB


@pytest.mark.parametrize(
    ("files", "gib", "free"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"}, 1.0, GIB),
        ({"proc/self/cgroup": "0::/jobs/mine\n", f"{OWN}/memory.max": f"{GIB // 2}\n"}, 0.5, GIB // 2),
        ({"proc/self/cgroup": "0::/jobs/mine\n", f"{ABOVE}/memory.max": f"{GIB // 2}\n"}, 0.5, GIB // 2),
        ({"proc/self/cgroup": "0::/jobs/mine\n", f"{ABOVE}/memory.high": f"{GIB}\n"}, 1.0, GIB),
        ({"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"}, 1.0, GIB),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": f"{GIB}\n"}, 1.0, GIB),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n"}, 1.0, GIB),
    ],
    ids=["container", "own", "above", "soft", "outside", "v1", "v1 container"],
)
def test_memory_is_the_lowest_limit_of_the_groups_that_can_be_seen(system, files, gib, free):
    root = system(files)
    assert (find_cpu_memory_gib(root), find_free_bytes(root)) == (gib, free)


def test_free_memory_is_what_others_of_the_group_leave_and_cached_files_are_free(system):
    own = {"memory.max": f"{GIB}\n", "memory.current": f"{GIB // 2}\n"}
    files = {"proc/self/cgroup": "0::/jobs/mine\n", **{f"{OWN}/{name}": text for name, text in own.items()}}
    assert find_free_bytes(system(files)) == GIB // 2
    files[f"{OWN}/memory.stat"] = f"anon 9\ninactive_file {GIB // 4}\n"
    assert find_free_bytes(system(files)) == 3 * GIB // 4
    files[f"{OWN}/memory.current"] = f"{2 * GIB}\n"
    assert find_free_bytes(system(files)) == 0


@pytest.mark.parametrize("word", ["max\n", "9223372036854771712\n", "", "what\n"])
def test_a_group_without_a_limit_limits_nothing(system, word):
    root = system({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": word, "sys/fs/cgroup/cpu.max": word})
    assert find_free_bytes(root) == 100 * GIB
    assert find_num_cores(root) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/jobs/mine\n", f"{OWN}/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/jobs/mine\n", f"{ABOVE}/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/jobs/mine\n", f"{OWN}/cpu.max": "10000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/jobs/mine\n", f"{OWN}/cpu.max": "max 100000\n"}, 64),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/jobs/mine/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/jobs/mine/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_cores_are_the_containers_share_of_those_of_a_large_host(system, monkeypatch, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: range(64))
    assert find_num_cores(system(files)) == cores


def test_a_process_ends_with_its_parent_even_one_that_is_killed():
    child = "import os, time; from autoseg.system.resources import end_with_parent; end_with_parent(os.getppid());"
    child += "print(os.getpid(), flush=True); time.sleep(60)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    number = parent.stdout.readline().strip()
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 10
    while (stat := Path(f"/proc/{number}/stat")).exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_large_blocks_are_asked_of_the_system_one_by_one():
    """In a process of its own, since it stays: a block goes back at once although one above it stays."""
    program = """
import ctypes, sys
from autoseg.system.resources import LARGE_BLOCK_BYTES, give_large_blocks_back
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
