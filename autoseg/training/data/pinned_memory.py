"""Memory that a GPU fetches from by itself, while the processor goes on.

Owns: `pinned`, the only user of CUDA's registration of memory.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import torch

log = logging.getLogger("autoseg")


class Memory(Protocol):
    """Some memory of this process."""

    address: int
    num_bytes: int


@contextmanager
def pinned(memories: Sequence[Memory], *, device: torch.device) -> Iterator[None]:
    """Keep memory in its place for CUDA; where that is refused, or on another device, copies from it only take longer.

    Copies of other kinds of memory wait for the GPU, some 10 ms for a batch of 84 MB.
    """
    if device.type != "cuda":
        yield
        return
    library = torch.cuda.cudart()
    kept = []
    for memory in memories:
        if int(library.cudaHostRegister(memory.address, memory.num_bytes, 0)) != 0:
            log.debug("CUDA keeps no memory of %d bytes in its place; copies take longer", memory.num_bytes)
            with suppress(RuntimeError):  # the refusal would be told by whatever is asked of CUDA next
                torch.zeros(1, device=device)
            break
        kept.append(memory)
    try:
        yield
    finally:
        with suppress(RuntimeError):  # an error of CUDA that is on its way says more than one told here
            torch.cuda.synchronize(device)
        for memory in kept:
            library.cudaHostUnregister(memory.address)
