from types import SimpleNamespace

import pytest
import torch

from autoseg.training.data.loading_worker import BatchMemory
from autoseg.training.data.pinned_memory import pinned

CUDA = torch.device("cuda")


@pytest.fixture
def library(monkeypatch):
    """Stand in for CUDA's library, which keeps memory as long as `room` lasts, and for a look at the device."""
    state = SimpleNamespace(room=10, kept=[], told=[])

    def register(address, num_bytes, flags):
        assert flags == 0 and num_bytes == 4 * 6 + 8 * 3
        if len(state.kept) == state.room:
            return 2
        state.kept.append(address)
        return 0

    def unregister(address):
        state.kept.remove(address)
        return 0

    cudart = SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=unregister)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: state.told.append(len(state.kept)))
    monkeypatch.setattr(torch, "zeros", lambda *_size, device: state.told.append(str(device)))
    return state


def test_memory_is_kept_for_a_gpu_and_let_go_once_it_is_idle(library):
    memories = [BatchMemory(6, 3) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt), pinned(memories, device=CUDA):
        assert library.kept == [memory.address for memory in memories]
        raise KeyboardInterrupt
    assert library.kept == [] and library.told == [3]


def test_memory_that_is_refused_is_used_as_it_is_and_the_refusal_is_taken_off_the_device(library):
    library.room = 1
    with pinned([BatchMemory(6, 3) for _ in range(3)], device=CUDA):
        assert len(library.kept) == 1 and library.told == ["cuda"]
    assert library.kept == []


def test_a_cpu_needs_none(library):
    with pinned([BatchMemory(6, 3)], device=torch.device("cpu")):
        assert library.kept == []
