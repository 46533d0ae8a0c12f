import zlib
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.geometry import ImageGeometry
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.store import CaseStore
from autoseg.preprocessing.store_sums import check_cases, file_sum
from autoseg.preprocessing.transform import CaseTransform

SHAPE = (4, 6, 5)


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    """Give two cases."""
    store = CaseStore(tmp_path)
    transform = CaseTransform(
        ImageGeometry.from_spacing(SHAPE, (1, 1, 1)), tuple((0, size) for size in SHAPE), "z", SHAPE
    )
    for name in ("a", "b"):
        image = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
        store.write(name, PreprocessedCase(image, np.ones(SHAPE, np.uint8), transform), "hash")
    return store


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_file_sum_is_the_crc_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192  # more than one chunk
    (tmp_path / "x").write_bytes(content)
    assert file_sum(tmp_path / "x") == zlib.crc32(content)


@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd"])
def test_a_flipped_bit_is_an_error_that_names_the_file_and_the_remedy(store: CaseStore, name: str) -> None:
    check_cases(store, ["a", "b"], max_bytes=10**6)
    flip(store.folder / "b" / name, -5)
    check_cases(store, ["a"], max_bytes=10**6)
    with pytest.raises(DatasetError, match=rf"damaged, .*b/{name}. Delete the folders .* autoseg_plan again"):
        check_cases(store, ["a", "b"], max_bytes=10**6)


def test_no_more_is_read_than_asked_for(store: CaseStore) -> None:
    flip(store.folder / "b" / "image.b2nd", -5)
    check_cases(store, ["a", "b"], max_bytes=100)


def test_a_case_without_sums_is_taken(store: CaseStore) -> None:
    """As an older autoseg wrote it."""
    record = store.folder / "a" / "case.json"
    lines = [line for line in record.read_text().splitlines() if '"sums"' not in line]
    record.write_text("\n".join(lines))
    check_cases(CaseStore(store.folder), ["a"], max_bytes=10**6)
