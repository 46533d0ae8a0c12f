"""What the ranks of a training do together: sums and gradients added up, one clock, one state.

Owns: `Sharing`, torch's process group and its choice between nccl and gloo.
Does not own: who the ranks are and what becomes of a lost one (`ranks.py`), a core's processes (`core_processes.py`).

One rank's part of a step needs two exchanges: a vector of sums, from which the loss of the whole step follows, and the
gradients. They are the same on all ranks, to the bit, so all weights move alike and nothing else needs to be sent.
"""

import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed

from autoseg.distributed.last_words import ApartError
from autoseg.distributed.ranks import Ranks
from autoseg.errors import UsageError

LONGEST_WAIT = timedelta(days=7)  # the others may have longer work; `roll_call.py` tells when one is gone
CHUNK_BYTES = 64 << 20  # of a state, sent at once

log = logging.getLogger("autoseg")


class Sharing:
    """The ranks of a training; alone, every call gives back what it is given."""

    def __init__(self, ranks: Ranks, *, has_group: bool = False, is_by_cpu: bool = True) -> None:
        """Take the ranks.

        Args:
            ranks: This one and how many there are.
            has_group: Whether torch's process group connects them.
            is_by_cpu: Whether tensors of a GPU go through the CPU's memory, as gloo needs them.
        """
        self.ranks = ranks
        self._has_group, self._is_by_cpu = has_group, is_by_cpu
        self._untold = 0.0  # seconds of this rank
        self._told: Tensor | None = None  # those of the first rank, as it told them in this step

    @property
    def leads(self) -> bool:
        """Whether this rank writes the files."""
        return self.ranks.leads

    def spend(self, seconds: float) -> float:
        """Count seconds of work; return those that a run by the clock has taken meanwhile, the same on all ranks.

        The first rank's clock counts for all. It tells its time with the sums of a step, so it arrives a step later.
        """
        if not self._has_group:
            return seconds
        self._untold += seconds
        told, self._told = self._told, None
        return 0.0 if told is None else float(told)

    def add_up(self, sums: Tensor) -> Tensor:
        """Add up a vector over all ranks, and tell the time."""
        if not self._has_group:
            return sums
        told = self._untold if self.leads else 0.0
        self._untold = 0.0
        vector = torch.cat([sums, sums.new_tensor([told])])
        self._all(lambda values: distributed.all_reduce(values), vector)
        self._told = vector[-1]
        return vector[:-1]

    def add_gradients(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Add up gradients over all ranks, in one go."""
        if not self._has_group:
            return list(gradients)
        vector = torch.cat([gradient.flatten() for gradient in gradients])
        self._all(lambda values: distributed.all_reduce(values), vector)
        pieces = vector.split([gradient.numel() for gradient in gradients])
        # Into the tensors that are there: an optimizer is particular about their layout.
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))
        return list(gradients)

    def spread(self, content: bytes | None) -> bytes:
        """Give all ranks the bytes of the first one; what the others give does not count."""
        if not self._has_group:
            return content or b""
        size = torch.tensor([len(content or b"")])
        self._all(lambda values: distributed.broadcast(values, src=0), size)
        chunks = []
        for start in range(0, int(size), CHUNK_BYTES):
            length = min(CHUNK_BYTES, int(size) - start)
            own = (content or b"")[start : start + length] if self.leads else bytes(length)
            chunk = torch.frombuffer(bytearray(own), dtype=torch.uint8)
            self._all(lambda values: distributed.broadcast(values, src=0), chunk)
            chunks.append(chunk.numpy().tobytes())
        return b"".join(chunks)

    def are_alike(self, number: int) -> bool:
        """Return whether all ranks have the same 62-bit number."""
        if not self._has_group:
            return True
        ends = torch.tensor([number, -number])
        self._all(lambda values: distributed.all_reduce(values, op=distributed.ReduceOp.MAX), ends)
        return int(ends[0]) == -int(ends[1])

    def _all(self, exchange: Callable[[Tensor], object], values: Tensor) -> None:
        """Exchange a tensor in place.

        Raises:
            ApartError: The connection broke.
        """
        try:
            if values.device.type == "cpu" or not self._is_by_cpu:
                exchange(values)
            else:
                on_cpu = values.cpu()
                exchange(on_cpu)
                values.copy_(on_cpu)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # gloo has no class of its own for a connection that breaks
            raise ApartError(str(error)) from error


ALONE = Sharing(Ranks())


@contextmanager
def share_training(ranks: Ranks, device: torch.device) -> Iterator[Sharing]:
    """Connect the ranks: by gloo on CPUs, by nccl where each has a GPU of its own.

    Args:
        ranks: That torchrun started.
        device: Of this one.

    Raises:
        ApartError: They cannot be connected.
        UsageError: The only rank cannot even be connected with itself.
    """
    if not ranks.is_started:
        yield ALONE
        return
    is_by_cpu = device.type == "cpu" or _is_shared(ranks, device)
    if not is_by_cpu:
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group(
            "gloo" if is_by_cpu else "cpu:gloo,cuda:nccl",
            store=ranks.store_for("tensors"),
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=LONGEST_WAIT,
            device_id=None if is_by_cpu else device,
        )
    except (RuntimeError, ValueError) as error:
        if ranks.size == 1:
            reason = str(error).partition("\n")[0]
            raise UsageError(f"torch cannot make a group of one rank ({reason}). Start without torchrun.") from error
        raise ApartError(str(error)) from error
    yield Sharing(ranks, has_group=True, is_by_cpu=is_by_cpu)
    # Not after an error: nccl would wait for a rank that is gone.
    ranks.wait()
    distributed.destroy_process_group()


def _is_shared(ranks: Ranks, device: torch.device) -> bool:
    """Return whether two ranks have the same GPU, which nccl refuses."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    places = ranks.gather(f"{platform.node()} {uuid}")
    is_shared = len(set(places)) < len(places)
    if is_shared and ranks.leads:
        log.warning(
            "%d ranks share %d GPUs, so they exchange gradients through the CPU (gloo). One rank a GPU, with more "
            "training.batch_slices, is faster.",
            len(places),
            len(set(places)),
        )
    return is_shared
