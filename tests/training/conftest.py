"""A store of small cases, and torch on one thread so that sums come out the same."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.config.plans import Plans
from autoseg.distributed import collectives
from autoseg.distributed.collectives import Sharing
from autoseg.distributed.ranks import Ranks
from autoseg.io.geometry import ImageGeometry
from autoseg.preprocessing.pipeline import PreprocessedCase
from autoseg.preprocessing.store import CaseStore
from autoseg.preprocessing.transform import CaseTransform


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_case(store: CaseStore, case_id: str, image: np.ndarray, labels: np.ndarray, *, plans: Plans) -> None:
    """Write (C, S, R, W) voxels as if preprocessing had changed nothing."""
    shape = labels.shape
    transform = CaseTransform(
        original=ImageGeometry.from_spacing(shape, (3.0, 1.0, 1.0)),
        crop_box=tuple((0, size) for size in shape),
        slice_axis="z",
        resampled_shape=shape,
    )
    store.write(case_id, PreprocessedCase(image, labels, transform), plans.data.hash())


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CaseStore]:
    """Write noisy cases of 5 slices of 32 x 32 in which organ 1 is a bright box and organ 2 a dark one."""

    def make(plans: Plans, num_cases: int = 3, *, folder: Path | None = None) -> CaseStore:
        store = CaseStore(folder or tmp_path_factory.mktemp("store"), data_hash=plans.data.hash())
        for number in range(num_cases):
            rng = np.random.default_rng(number)
            labels = np.zeros((5, 32, 32), dtype=np.uint8)
            labels[1:4, 4 + number : 14 + number, 4:16] = 1
            labels[2:5, 18:28, 14 + number : 26 + number] = 2
            image = rng.normal(0, 0.3, labels.shape) + 2.0 * (labels == 1) - 2.0 * (labels == 2)
            write_case(store, f"case_{number}", image[None].astype(np.float32), labels, plans=plans)
        return store

    return make


class ThreadGroup:
    """torch's process group for ranks that are threads: each tensor is exchanged when all have brought theirs."""

    ReduceOp = torch.distributed.ReduceOp

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.brought: dict[int, torch.Tensor] = {}
        self.own = threading.local()
        self.exchanges = 0

    def all_reduce(self, values: torch.Tensor, op: Any = None) -> None:
        together = torch.stack(self._exchange(values))
        values.copy_(together.amax(dim=0) if op == self.ReduceOp.MAX else together.sum(dim=0))

    def broadcast(self, values: torch.Tensor, src: int) -> None:
        values.copy_(self._exchange(values)[src])

    def _exchange(self, values: torch.Tensor) -> list[torch.Tensor]:
        self.brought[self.own.rank] = values.clone()
        if self.barrier.wait() == 0:
            self.exchanges += 1
        together = [self.brought[rank] for rank in sorted(self.brought)]
        self.barrier.wait()
        return together


@pytest.fixture
def share_ranks(run_ranks: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Run a function of `Sharing` in a thread a rank, as `run_ranks` does; it has the group as `group`."""

    def share(function: Callable[[Sharing], Any], size: int = 2) -> list[Any]:
        group = ThreadGroup(size)
        share.group = group
        monkeypatch.setattr(collectives, "distributed", group)

        def work(ranks: Ranks) -> Any:
            group.own.rank = ranks.rank
            torch.set_num_threads(1)  # which is of a thread
            try:
                return function(Sharing(ranks, has_group=True))
            except BaseException:
                group.barrier.abort()
                raise

        return run_ranks(work, size)

    return share
