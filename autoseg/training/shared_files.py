"""Weights and gradients in memory-mapped files, which several processes on a machine see at once.

Owns: how they are laid out: the trained parameters in the network's order, float32, each at the beginning of a cache
line. Where memory that torch takes itself begins, too: a library adds up in another order where a tensor begins
elsewhere, and one core would find other bits than two.
Does not own: the processes (`core_processes.py`, `core_worker.py`).
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from autoseg.network.model import AutosegNetwork

VALUES_A_LINE = 16  # 64 bytes of float32


def place_in_file(network: AutosegNetwork, path: Path, *, is_new: bool) -> list[Parameter]:
    """Move the trained weights into a file of their size, memory-mapped, or take those that are there.

    Returns:
        The weights, in the file's order.
    """
    parameters = trained_parameters(network)
    for parameter, piece in zip(parameters, map_file(path, like=parameters), strict=True):
        if is_new:
            piece.copy_(parameter.data)
        parameter.data = piece
    return parameters


def trained_parameters(network: AutosegNetwork) -> list[Parameter]:
    """List what has gradients, in the network's order."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def reserve(path: Path, *, like: Sequence[Parameter]) -> None:
    """Make a file of zeros that has its place on the disk: a mapped file without one ends the process when it is full.

    Raises:
        OSError: There is no room.
    """
    num_bytes = 4 * sum(map(_room_of, like))
    with path.open("wb") as file:
        file.truncate(num_bytes)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)


def map_file(path: Path, *, like: Sequence[Parameter]) -> list[Tensor]:
    """Map a reserved file, as tensors of the parameters' shapes."""
    rooms = [_room_of(parameter) for parameter in like]
    pieces = torch.from_numpy(np.memmap(path, dtype=np.float32, mode="r+", shape=(sum(rooms),))).split(rooms)
    return [piece[: one.numel()].view_as(one) for piece, one in zip(pieces, like, strict=True)]


def _room_of(parameter: Parameter) -> int:
    """Return the values from the beginning of a parameter to that of the next one."""
    return -(-parameter.numel() // VALUES_A_LINE) * VALUES_A_LINE


def fixed_tensors(network: AutosegNetwork) -> dict[str, Tensor]:
    """Return what the network holds beside its trained weights, such as its positional code."""
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    # Copies: a tensor that stands under two names, such as the code that clicks share, cannot be written twice.
    return {name: value.clone() for name, value in network.state_dict().items() if name not in trained}
