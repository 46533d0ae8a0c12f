"""Chooses the device that the network runs on, and its precision.

Owns: the meaning of `--device`, and autocast.
Does not own: a memory that is full (`out_of_memory.py`).
"""

import functools
import logging
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch

from autoseg.distributed.ranks import local_rank
from autoseg.errors import UsageError
from autoseg.system.out_of_memory import is_out_of_memory

log = logging.getLogger("autoseg")

MOST_LETTERS = 200  # of what another program says


def choose_device(name: str = "auto") -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:1"; auto is this rank's GPU if CUDA works, else the CPU.

    The log explains why auto chose the CPU.

    Raises:
        UsageError: The name is unknown, or CUDA is asked for and cannot be used.
    """
    is_asked_for = name != "auto"
    name = name if is_asked_for else "cuda"
    if name == "cuda" and local_rank() and torch.cuda.device_count() != 1:
        # Of several processes on a machine each has a GPU of its own; a cluster may let each see no other.
        name = f"cuda:{local_rank()}"
    if name != "cpu" and not name.startswith("cuda"):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:<number>.")
    fault = _why_no_cuda() if name != "cpu" else ""
    if not fault:
        try:
            device = torch.device(name)
        except RuntimeError:
            raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:<number>.") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise UsageError(f"--device {name}: torch sees {count} CUDA devices, counted from 0. Name one of them.")
        fault = _try(device)
    if not fault:
        return device
    if is_asked_for:
        raise UsageError(f"--device {name}: {fault} Or use --device cpu.")
    log.warning("working on the CPU: %s", fault)
    return torch.device("cpu")


def _why_no_cuda() -> str:
    """Explain why torch sees no CUDA device, with the remedy; return "" if it sees one.

    torch reports a driver that is too old or does not answer in a warning.
    """
    with warnings.catch_warnings(record=True) as reported:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    if not torch.backends.cuda.is_built():
        return "torch sees no CUDA device here: it was built for CPUs alone. For a GPU install torch for CUDA."
    reason = "".join(f" ({_first_line(one.message)})" for one in reported[:1])
    return f"torch sees no CUDA device here{reason}. Check what nvidia-smi says, and update the driver."


def _try(device: torch.device) -> str:
    """Use a device once, and explain why it does not work; a full memory does not count, since it is handled later."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a driver or card that torch cannot use has no class of its own
        if not is_out_of_memory(error):
            return f"the CUDA device does not work ({_first_line(error)}). Check what nvidia-smi says, and the driver."
    return ""


def _first_line(words: object) -> str:
    return str(words).partition("\n")[0][:MOST_LETTERS]


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast on CUDA (bfloat16 where the card has it, else float16); full precision on a CPU."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", dtype=cuda_dtype())


def convolution_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on a CPU with instructions for it; elsewhere nothing changes.

    Used for the large convolutions of training, where it saves a quarter of a step. The many small operations of the
    transformers would lose as much by the casts as they gain.
    """
    if device.type != "cpu" or not has_fast_bfloat16():
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


@functools.cache
def has_fast_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware; False if torch is too old to know."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def cuda_dtype() -> torch.dtype:
    """Return the half-precision type that this CUDA card computes fast."""
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
