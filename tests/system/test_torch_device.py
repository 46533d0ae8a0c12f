import re
import warnings

import pytest
import torch

from autoseg.errors import UsageError
from autoseg.system.torch_device import (
    choose_device,
    convolution_precision,
    has_fast_bfloat16,
    is_out_of_memory,
    mixed_precision,
)


@pytest.fixture
def fake_cuda(monkeypatch):
    """Make torch see so many CUDA devices; using one raises `error`, if there is one."""

    def fake(count, *, error=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

        def zeros(_size, *, device):
            if error is not None and device.type == "cuda":
                raise error

        monkeypatch.setattr(torch, "zeros", zeros)

    return fake


@pytest.mark.parametrize("count", [0, 1])
def test_auto_takes_cuda_where_there_is_one(fake_cuda, count, caplog):
    fake_cuda(count)
    assert choose_device("auto") == torch.device("cuda" if count else "cpu")
    assert ("working on the CPU: torch sees no CUDA device" in caplog.text) is (count == 0)
    assert choose_device("cpu") == torch.device("cpu")


def test_each_process_of_a_machine_takes_the_gpu_of_its_number(fake_cuda, monkeypatch):
    fake_cuda(2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="torch sees 2 CUDA devices"):
        choose_device("auto")


def test_a_process_that_sees_one_gpu_alone_takes_it_whatever_its_number(fake_cuda, monkeypatch):
    """As where a cluster gives each task a GPU of its own; ranks that share one notice it themselves."""
    fake_cuda(1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")


def test_cuda_asked_for_and_not_there_is_refused(fake_cuda):
    fake_cuda(0)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(UsageError, match=r"sees no CUDA device.* Or use --device cpu"):
            choose_device(name)


def test_a_driver_that_is_too_old_is_named_as_torch_names_it(monkeypatch, caplog):
    def warn_and_see_none():
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old\nmore", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn_and_see_none)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    message = r"driver on your system is too old\)\. Check what nvidia-smi says, and update the driver"
    with pytest.raises(UsageError, match=message):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")
    assert re.search(message, caplog.text) and "more" not in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("no kernel image is available"), AssertionError("not compiled")])
def test_a_device_that_does_not_work_is_refused_and_auto_goes_on_without_it(fake_cuda, error, caplog):
    fake_cuda(1, error=error)
    with pytest.raises(UsageError, match=rf"does not work \({error}\)\. Check .* Or use --device cpu"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")
    assert str(error) in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("CUDA error: out of memory")])
def test_a_device_whose_memory_is_full_is_taken_for_there_are_remedies(fake_cuda, error):
    fake_cuda(1, error=error)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert is_out_of_memory(error) and not is_out_of_memory(RuntimeError("shapes differ"))


def test_cuda_devices_have_numbers(fake_cuda):
    fake_cuda(2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="cuda:5"):
        choose_device("cuda:5")


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "mps", "cpu:0:0", "cuda:x", "cudax", "cuda:-1"])
def test_unknown_names_are_refused(fake_cuda, name):
    fake_cuda(2)
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
