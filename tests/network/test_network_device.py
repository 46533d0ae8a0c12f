import pytest
import torch

from autoseg.errors import UsageError
from autoseg.network.device import choose_device, mixed_precision


@pytest.mark.parametrize("is_there", [True, False])
def test_auto_takes_cuda_where_there_is_one(monkeypatch, is_there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    assert choose_device("auto") == torch.device("cuda" if is_there else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


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
