import json
import os
import resource
import signal
from pathlib import Path

import blosc2
import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.io.geometry import ImageGeometry
from autoseg.preprocessing.pipeline import PreprocessedCase
from autoseg.preprocessing.store import CaseStore
from autoseg.preprocessing.transform import CaseTransform

SHAPE = (2, 40, 30, 20)


def make_case(shape=SHAPE, *, has_labels=True, dtype=np.uint8, seed=0) -> PreprocessedCase:
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape[1:], dtype)
    labels[3:5, 2, 2] = 1
    labels[9, 1, 1] = 1
    labels[4, 5, 5] = 2
    labels[0, 0, 0] = np.iinfo(dtype).max  # ignored
    geometry = ImageGeometry.from_spacing(shape[1:], (1, 1, 1))
    transform = CaseTransform(geometry, tuple((0, size) for size in shape[1:]), "z", shape[1:])
    return PreprocessedCase(rng.normal(size=shape).astype(np.float32), labels if has_labels else None, transform)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_store_gives_back_what_was_written(tmp_path: Path, dtype: type) -> None:
    case = make_case(dtype=dtype)
    CaseStore(tmp_path / "new").write("liver 1", case, "abc")
    store = CaseStore(tmp_path / "new")
    assert store.case_ids() == ["liver 1"]
    assert store.shape("liver 1") == SHAPE
    np.testing.assert_array_equal(store.open_image("liver 1")[:], case.image)
    labels = store.open_labels("liver 1")
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels[:], case.labels)
    assert store.read_transform("liver 1") == case.transform


def test_store_takes_names_of_any_bytes(tmp_path: Path) -> None:
    case = make_case()
    name = os.fsdecode(b"\xff\xfe")  # no UTF-8
    CaseStore(tmp_path / name).write(name, case, "abc")
    store = CaseStore(tmp_path / name)
    assert store.case_ids() == [name]
    np.testing.assert_array_equal(store.open_image(name)[:, 3:9], case.image[:, 3:9])


def test_store_slices_as_numpy_does(tmp_path: Path) -> None:
    case = make_case()
    store = CaseStore(tmp_path)
    store.write("a", case, "abc")
    image = store.open_image("a")
    for key in [(slice(None), slice(7, 10)), (slice(None), 39), (0, slice(0, 1), slice(5, 9), slice(2, 4))]:
        np.testing.assert_array_equal(image[key], case.image[key])


def test_store_keeps_rows_of_single_slices_of_a_large_case_in_blocks_of_their_own(tmp_path: Path) -> None:
    case = make_case((1, 40, 200, 300))  # 240 kB a slice, 9.6 MB in all
    store = CaseStore(tmp_path)
    store.write("a", case, "abc")
    image = store.open_image("a")
    stored = blosc2.open(str(tmp_path / "a" / "image.b2nd"))
    assert stored.blocks == (1, 1, 100, 300)
    assert stored.chunks[1] == 17
    np.testing.assert_array_equal(image[:, 15:20], case.image[:, 15:20])


def test_store_organ_slices_skip_background_and_ignored(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.write("a", make_case(), "abc")
    slices = store.organ_slices("a")
    assert {organ: found.tolist() for organ, found in slices.items()} == {1: [3, 4, 9], 2: [4]}


def test_store_without_labels_has_none_and_says_so(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.write("a", make_case(has_labels=False), "abc")
    assert store.organ_slices("a") == {}
    with pytest.raises(DatasetError, match="a has no labels"):
        store.open_labels("a")


def test_is_current_asks_for_hash_sources_and_whole_files(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    assert not store.is_current("a", "abc")
    store.write("a", make_case(), "abc", sources=["a.nii.gz 10 1"])
    assert store.is_current("a", "abc")
    assert store.is_current("a", "abc", sources=["a.nii.gz 10 1"])
    assert not store.is_current("a", "other")
    assert not store.is_current("a", "abc", sources=["a.nii.gz 10 2"])
    image = tmp_path / "a" / "image.b2nd"
    image.write_bytes(image.read_bytes()[:-1])
    assert not store.is_current("a", "abc")
    image.unlink()
    assert not store.is_current("a", "abc")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 0}', '{"version": 2, "data_hash": "abc"}'])
def test_a_damaged_record_is_not_current_and_is_refused_with_the_remedy(tmp_path: Path, content: str) -> None:
    CaseStore(tmp_path).write("a", make_case(), "abc")
    (tmp_path / "a" / "case.json").write_text(content)
    assert not CaseStore(tmp_path).is_current("a", "abc")
    with pytest.raises(DatasetError, match="Run autoseg_plan again"):
        CaseStore(tmp_path).open_image("a")


def test_reading_a_stale_case_names_both_hashes_and_the_remedy(tmp_path: Path) -> None:
    CaseStore(tmp_path).write("a", make_case(), "old")
    with pytest.raises(DatasetError, match=r"hash old, expected new.*Run autoseg_plan again"):
        CaseStore(tmp_path, data_hash="new").open_labels("a")
    CaseStore(tmp_path, data_hash="old").open_labels("a")


def test_reading_a_missing_case_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"does not exist.*Run autoseg_plan again"):
        CaseStore(tmp_path).shape("b")


def test_writing_replaces_a_case_and_its_remembered_record(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.write("a", make_case(), "old")
    assert store.shape("a") == SHAPE
    store.write("a", make_case((1, 12, 8, 8), has_labels=False), "new")
    assert store.shape("a") == (1, 12, 8, 8)
    assert names_in(tmp_path / "a") == ["case.json", "image.b2nd"]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        CaseStore(tmp_path / folder).write("a", make_case(), "abc")
    names = names_in(tmp_path / "one" / "a")
    assert names == ["case.json", "image.b2nd", "labels.b2nd"]
    for name in names:
        assert (tmp_path / "one/a" / name).read_bytes() == (tmp_path / "two/a" / name).read_bytes()


def test_a_full_disk_leaves_the_former_case_untouched(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.write("a", make_case(), "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError):
            store.write("a", make_case(seed=1), "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.is_current("a", "old")
    assert names_in(tmp_path) == ["a"]


def test_a_flipped_bit_is_found_and_the_case_can_be_removed(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    for case_id in "abc":
        store.write(case_id, make_case(), "hash")
    path = tmp_path / "b" / "image.b2nd"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert store.is_current("b", "hash")  # name and size are what they were
    assert list(store.find_damaged(["a", "b", "c"])) == [("a", False), ("b", True), ("c", False)]
    store.remove("b")
    assert store.case_ids() == ["a", "c"] and not store.is_current("b", "hash")


def test_remove_leftovers_takes_only_what_was_being_written(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.write("a", make_case(), "abc")
    (tmp_path / ".writing-xyz").mkdir()
    (tmp_path / ".writing-xyz" / "case.json").write_text("{}")
    assert store.case_ids() == ["a"]
    store.remove_leftovers()
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("case_id", ["", ".", "..", ".hidden", "a/b", "a\0b"])
def test_an_id_that_is_no_folder_name_is_refused(tmp_path: Path, case_id: str) -> None:
    with pytest.raises(DatasetError, match="Rename the files"):
        CaseStore(tmp_path).write(case_id, make_case(), "abc")
    assert names_in(tmp_path) == []


def test_case_json_is_plain_and_small(tmp_path: Path) -> None:
    CaseStore(tmp_path).write("a", make_case(), "abc")
    text = (tmp_path / "a" / "case.json").read_text()
    assert json.loads(text)["organ_slices"] == {"1": [[3, 5], [9, 10]], "2": [[4, 5]]}
    assert len(text.splitlines()) < 14
