"""Recognizes that the memory of a GPU or CPU is full, frees it, and halves the number of slices computed at once.

Owns: `halve` for training, validation and `--dry-run`; `free_memory` for prediction, which ends on the CPU.
Does not own: what is computed again afterwards (`training/step.py`, `training/validation/`, `inference/predictor.py`).

Example:
    while True:
        try:
            return predict(num_slices)
        except MEMORY_ERRORS as error:
            num_slices = halve(num_slices, error, device=device)
"""

import gc
import logging

import torch

from autoseg.errors import TrainingError

log = logging.getLogger("autoseg")

MEMORY_ERRORS = (RuntimeError, MemoryError)  # the parents of what torch raises; `halve` raises all others again
# What torch says where it has no class of errors; on a GPU a library asks for memory past torch's own allocator.
FULL_MEMORY_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a GPU or of the CPU is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in FULL_MEMORY_MESSAGES)


def free_memory(error: BaseException, *, device: torch.device) -> str:
    """Free the memory that an error reports as full, and return the first line of its message.

    Raises:
        BaseException: The error itself, where it is not about memory.
    """
    if not is_out_of_memory(error):
        raise error
    error.__traceback__ = None  # its frames hold what filled the memory
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return str(error).partition("\n")[0]


def halve(size: int, error: BaseException, *, device: torch.device, least: int = 1) -> int:
    """Return half of the size that a memory was too small for, at least `least`, and free what is left over.

    Args:
        size: How many slices were computed at once.
        error: The error that was raised; one that is not about memory is raised again.
        device: The device whose memory is full.
        least: The smallest size that makes sense.

    Raises:
        TrainingError: The memory is too small even for `least`.
    """
    message = free_memory(error, device=device)
    if size <= least:
        what = "one slice" if least == 1 else f"one clip of {least} slices"
        raise TrainingError(explain_full_memory(device, message, what=f"{what} at a time")) from None
    half = max(least, size // 2)
    log.warning("the memory of %s is full; from now on with %d slices at a time (%s).", device, half, message)
    return half


def explain_full_memory(device: torch.device, message: str, *, what: str) -> str:
    """Explain what the memory of a device is too small for, and what to do."""
    other = "" if device.type == "cpu" else ", or use --device cpu"
    return (
        f"the memory of {device} is full even with {what}: {message.rstrip('.')}. Plan again with a smaller "
        f"network.image_size_px, network.backbone or training.batch_slices{other}."
    )
