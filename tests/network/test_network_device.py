import pytest
import torch

from autoseg.errors import UsageError
from autoseg.network.device import (
    choose_device,
    convolution_precision,
    has_fast_bfloat16,
    is_out_of_memory,
    mixed_precision,
)


@pytest.mark.parametrize("is_there", [True, False])
def test_auto_takes_cuda_where_there_is_one(monkeypatch, is_there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cuda" if is_there else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_each_process_of_a_machine_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="torch sees 2 CUDA devices"):
        choose_device("auto")


def test_cuda_asked_for_and_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(UsageError, match="sees no CUDA device"):
            choose_device(name)


def test_cuda_devices_have_numbers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="cuda:5"):
        choose_device("cuda:5")


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "mps", "cpu:0:0", "cuda:x", "cudax", "cuda:-1"])
def test_unknown_names_are_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="expected auto, cpu, cuda"):
        choose_device(name)


def test_a_cpu_computes_in_full_precision():
    with mixed_precision(torch.device("cpu")):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)],
    ids=str,
)
def test_convolutions_are_in_bfloat16_where_the_cpu_multiplies_it(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    has_fast_bfloat16.cache_clear()
    with convolution_precision(torch.device("cpu")):
        assert torch.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1)).dtype == dtype
    has_fast_bfloat16.cache_clear()


def test_a_torch_that_does_not_tell_means_full_precision(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    has_fast_bfloat16.cache_clear()
    assert not has_fast_bfloat16()
    has_fast_bfloat16.cache_clear()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_full_memory_is_known_by_each_of_its_errors(error):
    assert is_out_of_memory(error)


def test_a_real_refusal_of_the_cpus_memory_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("out of memory"), OSError(28, "full")]
)
def test_another_error_is_not_taken_for_full_memory(error):
    assert not is_out_of_memory(error)
