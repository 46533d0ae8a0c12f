import importlib.metadata

import pytest

from autoseg.errors import UsageError
from autoseg.planning.hardware import find_device, find_gpu_memory_gib
from autoseg.system.resources import find_num_cores


@pytest.fixture
def fake_gpu(monkeypatch, tmp_path):
    """Put an nvidia-smi on the path that answers with a number of MiB, or fails."""

    def fake(answer: str | None, *, torch_version: str = "2.6.0+cu124"):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{answer}'\n" if answer is not None else "#!/bin/sh\nexit 9\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(importlib.metadata, "version", lambda name: torch_version)

    return fake


def test_auto_takes_the_gpu_that_is_there(fake_gpu):
    fake_gpu("24576")
    found = find_device("auto")
    assert (found.kind, found.memory_gib) == ("cuda", 24.0)
    assert found.cores == find_num_cores()


def test_auto_takes_the_cpu_where_the_driver_fails_or_torch_is_for_cpus(fake_gpu):
    fake_gpu(None)
    assert find_device("auto").kind == "cpu"
    fake_gpu("24576", torch_version="2.6.0+cpu")
    assert find_device("auto").kind == "cpu"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_gpu_is_not_there(fake_gpu, monkeypatch, hidden):
    fake_gpu("24576")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert find_gpu_memory_gib() is None


def test_cuda_elsewhere_needs_its_memory(fake_gpu):
    fake_gpu(None)
    with pytest.raises(UsageError, match="--memory-gib"):
        find_device("cuda")
    elsewhere = find_device("cuda", memory_gib=40)
    assert elsewhere.memory_gib == 40 and elsewhere.cores is None


@pytest.mark.parametrize("memory_gib", [0, -1, float("nan"), float("inf")])
def test_an_impossible_memory_is_a_usage_error(memory_gib):
    with pytest.raises(UsageError, match="memory"):
        find_device("cpu", memory_gib=memory_gib)
