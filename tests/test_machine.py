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
