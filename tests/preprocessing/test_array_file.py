import resource
from pathlib import Path

import blosc2
import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.preprocessing.array_file import holds_plain_array, open_array, pack_array


def test_an_array_comes_back_slice_by_slice_and_nothing_else_is_opened(tmp_path: Path):
    array = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    path = tmp_path / "a.b2nd"
    path.write_bytes(pack_array(array))
    stored = open_array(path, shape=(1, 2, 3, 4), dtypes=("float32",))
    np.testing.assert_array_equal(stored[:, 1:2], array[:, 1:2])
    for shape, dtypes in (((1, 2, 3, 5), ("float32",)), ((1, 2, 3, 4), ("uint8", "uint16"))):
        with pytest.raises(DatasetError, match=r"a\.b2nd is not an array of autoseg, or is damaged. Delete the folder"):
            open_array(path, shape=shape, dtypes=dtypes)


def test_only_a_plain_array_is_one(tmp_path: Path):
    array = blosc2.asarray(np.zeros((2, 3)), urlpath=str(tmp_path / "a.b2nd"), mode="w")
    assert holds_plain_array(tmp_path / "a.b2nd")
    blosc2.asarray(
        np.zeros((2, 3)), urlpath=str(tmp_path / "b.b2nd"), mode="w", meta={"proxy-source": {"urlpath": "x"}}
    )
    (array + 1).save(str(tmp_path / "c.b2nd"))
    blosc2.SChunk(urlpath=str(tmp_path / "d.b2nd"), data=bytes(10), mode="w")
    (tmp_path / "e.b2nd").write_bytes(b"")
    (tmp_path / "f.b2nd").write_bytes((tmp_path / "a.b2nd").read_bytes()[:97])
    assert [holds_plain_array(tmp_path / f"{name}.b2nd") for name in "bcdef"] == [False] * 5


def test_a_window_is_read_without_a_look_at_the_rest_of_its_slice(tmp_path: Path):
    """Four blocks of 64 rows, one after the other in the file: damage in the third spoils it and leaves the first."""
    array = np.random.default_rng(0).integers(0, 100, (1, 1, 256, 512)).astype(np.float32)
    frame = bytearray(pack_array(array))
    place = int(0.6 * len(frame))
    frame[place : place + 64] = bytes(byte ^ 255 for byte in frame[place : place + 64])
    path = tmp_path / "a.b2nd"
    path.write_bytes(frame)
    stored = open_array(path, shape=array.shape, dtypes=("float32",))
    np.testing.assert_array_equal(stored[:, :, :64, 100:200], array[:, :, :64, 100:200])
    try:
        third = stored[:, :, 128:192]
    except DatasetError:
        return
    assert not np.array_equal(third, array[:, :, 128:192])


def test_more_arrays_are_at_hand_than_a_process_may_have_files_open(tmp_path: Path):
    """Ten thousand cases have twenty thousand files; the usual limit is 1,024."""
    frame = pack_array(np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3))
    paths = [tmp_path / f"{number}.b2nd" for number in range(80)]
    for path in paths:
        path.write_bytes(frame)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, len(list(Path("/proc/self/fd").iterdir())) + 20), hard))
    try:
        arrays = [open_array(path, shape=(1, 1, 2, 3), dtypes=("float32",)) for path in paths]
        assert all(array[0, 0, 1, 2] == 5 for array in arrays)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_that_is_replaced_by_something_else_is_not_opened_again(tmp_path: Path):
    path = tmp_path / "a.b2nd"
    path.write_bytes(pack_array(np.zeros((1, 1, 2, 3), np.float32)))
    stored = open_array(path, shape=(1, 1, 2, 3), dtypes=("float32",))
    operand = blosc2.asarray(np.zeros((2, 3)), urlpath=str(tmp_path / "operand.b2nd"), mode="w")
    (operand + 1).save(str(tmp_path / "lazy.b2nd"))
    (tmp_path / "lazy.b2nd").replace(path)
    with pytest.raises(DatasetError, match=r"a\.b2nd is damaged"):
        stored[0]
    path.unlink()
    with pytest.raises(DatasetError, match=r"a\.b2nd is damaged"):
        stored[0]
