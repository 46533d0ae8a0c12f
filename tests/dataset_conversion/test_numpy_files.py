import pickle

import numpy as np
import pytest
from miniatures import damage

from autoseg.errors import ScanFileError
from dataset_conversion.numpy_files import read_npy, read_npz

ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("array", [ARRAY, np.asfortranarray(ARRAY), np.arange(3), np.zeros((0, 2)), ARRAY > 5])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), np.load(tmp_path / "a.npy"))
    np.savez_compressed(tmp_path / "a.npz", one=array, two=ARRAY)
    read = read_npz(tmp_path / "a.npz", ["one"], most_bytes=4096)
    assert list(read) == ["one"]
    np.testing.assert_array_equal(read["one"], array)


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", one=np.array([Bomb()], dtype=object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(ScanFileError, match=r"cannot be read as numpy's \(ValueError\)"):
            read_npy(tmp_path / name)
    with pytest.raises(ScanFileError, match="cannot be read as numpy's"):
        read_npz(tmp_path / "a.npz", ["one"], most_bytes=10**6)


def test_an_array_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"(2, 3, 4)", b"(9**9,4)".ljust(9)))
    with pytest.raises(ScanFileError):
        read_npy(tmp_path / "a.npy")
    claim = b"(2, 3, 4000000000), }"
    (tmp_path / "a.npy").write_bytes(content.replace(b"(2, 3, 4), }".ljust(len(claim)), claim))
    assert (tmp_path / "a.npy").read_bytes() != content
    with pytest.raises(ScanFileError):
        read_npy(tmp_path / "a.npy")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", one=np.zeros(10**6))
    with pytest.raises(ScanFileError, match=r"unpacks to 8000128 bytes; expected at most 1000000"):
        read_npz(tmp_path / "a.npz", ["one"], most_bytes=10**6)
    with pytest.raises(ScanFileError, match=r"KeyError"):
        read_npz(tmp_path / "a.npz", ["two"], most_bytes=10**9)


def test_cuts_and_changed_bytes_end_in_arrays_or_one_error(tmp_path, rng):
    np.save(tmp_path / "a.npy", ARRAY)
    np.savez_compressed(tmp_path / "a.npz", one=ARRAY)
    for path, read in (
        (tmp_path / "a.npy", read_npy),
        (tmp_path / "a.npz", lambda path: read_npz(path, ["one"], most_bytes=10**5)),
    ):
        content = path.read_bytes()
        for damaged in damage(content, rng, step=5):
            path.write_bytes(damaged)
            try:
                read(path)
            except ScanFileError as error:
                assert str(error).isprintable()
