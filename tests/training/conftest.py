"""A store of small cases, and torch on one thread so that sums come out the same."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.geometry import ImageGeometry
from autoseg.plans import Plans
from autoseg.preprocessing.case import PreprocessedCase
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
