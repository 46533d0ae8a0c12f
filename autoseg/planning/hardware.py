"""Finds the device that a plan is made for, without importing torch.

Owns: `find_device`.
Does not own: rules that depend on it (`rules/`), the device that a run uses (`system/torch_device.py`).
"""

import importlib.metadata
import logging
import os
import shutil
import subprocess
from typing import Literal

from autoseg.config.plans import Device
from autoseg.errors import UsageError
from autoseg.system.resources import find_cpu_memory_gib, find_num_cores

log = logging.getLogger("autoseg")

NVIDIA_SMI_SECONDS = 20


def find_device(kind: Literal["auto", "cpu", "cuda"], *, memory_gib: float | None = None) -> Device:
    """Describe the device.

    Args:
        kind: "auto" chooses CUDA if there is a GPU and torch was not installed for CPUs only.
        memory_gib: The memory of the device; None asks the system.

    Raises:
        UsageError: CUDA was asked for without a GPU or a given memory; or the memory is not a valid size.
    """
    if memory_gib is not None and not 0 < memory_gib <= 100_000:
        raise UsageError(f"--memory-gib {memory_gib} is not a valid size; expected GiB, such as 24.")
    if kind == "cpu":
        return Device(kind="cpu", memory_gib=memory_gib or find_cpu_memory_gib())
    if kind == "cuda" and memory_gib is not None:
        return Device(kind="cuda", memory_gib=memory_gib)
    gpu_gib = find_gpu_memory_gib()
    if kind == "cuda" and gpu_gib is None:
        raise UsageError("--device cuda: nvidia-smi shows no GPU here. Add --memory-gib N to plan for another machine.")
    if gpu_gib is not None and (kind == "cuda" or _is_torch_for_gpus()):
        return Device(kind="cuda", memory_gib=memory_gib or gpu_gib, cores=find_num_cores())
    fault = "nvidia-smi shows no GPU here" if gpu_gib is None else "torch was built for CPUs alone"
    log.info("%s: planning for the CPU. For a GPU elsewhere: --device cuda --memory-gib N, its memory.", fault)
    return Device(kind="cpu", memory_gib=memory_gib or find_cpu_memory_gib())


def find_gpu_memory_gib() -> float | None:
    """Return the memory of the first GPU in CUDA_VISIBLE_DEVICES; None if there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if program is None or (visible is not None and visible.strip() in ("", "-1")):
        return None
    command = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    if visible is not None:
        command.append(f"--id={visible.split(',')[0].strip()}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True)
        return round(float(answer.stdout.split()[0]) / 1024, 1)  # MiB
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None  # the driver is not loaded, or gives no number


def _is_torch_for_gpus() -> bool:
    try:
        return not importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
