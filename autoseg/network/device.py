"""Which device the network runs on, and in which precision.

Owns: the meaning of `--device`, autocast, and which errors mean that a device's memory is full.
"""

import functools
from contextlib import AbstractContextManager, nullcontext

import torch

from autoseg.errors import UsageError
from autoseg.ranks import local_rank

# What torch says where it has no class of errors for it; on a GPU a library asks for memory past torch's own allocator.
FULL_MEMORY_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a memory is full, a GPU's or the CPU's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in FULL_MEMORY_MESSAGES)


def choose_device(name: str = "auto") -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device; auto is CUDA where there is one, this rank's own.

    Raises:
        UsageError: The name is unknown, or CUDA is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank():
        name = f"cuda:{local_rank()}"  # of several processes on a machine each has a GPU of its own
    if name != "cpu" and not name.startswith("cuda"):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:<number>.")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no CUDA device here. Check the driver, or use --device cpu.")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:<number>.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices here, counted from 0.")
    return device


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast on CUDA (bfloat16 where the card has it, else float16); full precision on a CPU."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", dtype=cuda_dtype())


def convolution_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on a CPU with instructions for it; elsewhere nothing changes.

    For training's large convolutions alone: there it takes a quarter off a step, while the many small operations of
    the transformers lose to the casts what they gain.
    """
    if device.type != "cpu" or not has_fast_bfloat16():
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


@functools.cache
def has_fast_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware; older versions of torch do not tell."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def cuda_dtype() -> torch.dtype:
    """Return the half-precision type that this CUDA card computes fast."""
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
