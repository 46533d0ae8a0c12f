import shutil

import numpy as np
import pytest

from autoseg.datasets.dataset import read_channels
from autoseg.datasets.prediction_inputs import find_cases
from autoseg.errors import DatasetError, ScanFileError
from autoseg.io.dicom import find_series, is_dicom, read_series, series_sha256

SHAPE = (5, 4, 3)


@pytest.fixture
def array(rng):
    return rng.integers(-1000, 1000, SHAPE).astype(np.int16)


def test_a_series_is_a_volume_on_its_own_grid(save_dicom, array, tmp_path) -> None:
    save_dicom(tmp_path / "series", array)
    scan, modality = read_series(tmp_path / "series")
    np.testing.assert_array_equal(scan.array_zyx, array)
    assert modality == "ct"
    # LPS to RAS: x and y run the other way
    np.testing.assert_allclose(scan.geometry.affine, [[-1, 0, 0, 10], [0, -2, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])


def test_the_order_of_the_file_names_does_not_matter(save_dicom, array, tmp_path) -> None:
    save_dicom(tmp_path / "series", array)
    files = sorted((tmp_path / "series").iterdir())
    for number, path in enumerate(reversed(files)):
        path.rename(path.with_name(f"IM{number}"))  # and without an ending
    np.testing.assert_array_equal(read_series(tmp_path / "series")[0].array_zyx, array)


def test_a_missing_or_doubled_slice_is_refused(save_dicom, array, tmp_path) -> None:
    save_dicom(tmp_path / "series", array)
    files = sorted((tmp_path / "series").iterdir())
    files[2].unlink()
    with pytest.raises(ScanFileError, match=r"slices 2 and 3 of 4 lie 8 mm apart, others 4 mm: a slice is missing"):
        read_series(tmp_path / "series")


@pytest.mark.parametrize("place", [2, 4])  # the last one leaves no gap
def test_a_file_that_is_cut_off_is_refused(save_dicom, array, tmp_path, place) -> None:
    save_dicom(tmp_path / "series", array)
    path = sorted((tmp_path / "series").iterdir())[place]
    whole = path.read_bytes()
    for kept in (140, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ScanFileError, match=r"002.dcm is damaged|004.dcm is damaged|cannot be read"):
            read_series(tmp_path / "series")


@pytest.mark.parametrize("content", [b"", b"cut", bytes(131)])
def test_a_last_slice_of_which_nothing_is_left_is_missed(save_dicom, array, tmp_path, content) -> None:
    save_dicom(tmp_path / "series", array)
    (tmp_path / "series" / "notes.txt").write_text("none of these")
    sorted((tmp_path / "series").glob("*.dcm"))[-1].write_bytes(content)
    with pytest.raises(ScanFileError, match=r"1\.2\.3_004\.dcm is empty, or does not begin as DICOM.*Copy it again"):
        read_series(tmp_path / "series")


def test_two_series_are_an_error_and_modality_is_told(save_dicom, array, tmp_path) -> None:
    save_dicom(tmp_path / "series", array, modality="MR")
    assert read_series(tmp_path / "series")[1] == "mr"
    save_dicom(tmp_path / "series", array, series="1.2.4")
    with pytest.raises(ScanFileError, match="2 DICOM series"):
        read_series(tmp_path / "series")


def test_series_are_found_and_known_again_by_their_bytes(save_dicom, array, tmp_path) -> None:
    save_dicom(tmp_path / "a", array)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("none of these")
    assert find_series(tmp_path) == [tmp_path / "a", tmp_path / "b"] and find_series(tmp_path / "b") == [tmp_path / "b"]
    assert not is_dicom(tmp_path / "a" / "notes.txt") and not is_dicom(tmp_path / "a") and not is_dicom(tmp_path / "x")
    assert series_sha256(tmp_path / "a") == series_sha256(tmp_path / "b")
    path = sorted((tmp_path / "b").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert series_sha256(tmp_path / "a") != series_sha256(tmp_path / "b")


def test_folders_of_series_are_cases_to_predict(save_dicom, array, tmp_path) -> None:
    for name in ("b", "a"):
        save_dicom(tmp_path / "scans" / name, array)
    cases, _ = find_cases(tmp_path / "scans", channel_names=["CT"])
    assert [case.case_id for case in cases] == ["a", "b"]
    np.testing.assert_array_equal(read_channels(cases[0])[0].array_zyx, array)
    one, _ = find_cases(tmp_path / "scans" / "a", channel_names=["CT"])
    assert [case.case_id for case in one] == ["a"]
    with pytest.raises(DatasetError, match="no DICOM series"):
        find_cases(tmp_path / "scans", channel_names=["T1", "T2"])


def test_a_tilted_gantry_is_refused_since_no_right_angled_grid_holds_its_slices(save_dicom, array, tmp_path) -> None:
    save_dicom(tmp_path / "series", array, sideways_mm=0.4)
    with pytest.raises(ScanFileError, match=r"its slices move sideways by up to 1.6 mm"):
        read_series(tmp_path / "series")


def test_a_fractional_slope_gives_float32(save_dicom, array, tmp_path) -> None:
    save_dicom(tmp_path / "series", array)
    slope = bytes.fromhex("2800531002000000")  # tag and length; the writer takes whole numbers alone
    for path in (tmp_path / "series").iterdir():
        content = path.read_bytes()
        assert content.count(slope + b"1 ") == 1
        path.write_bytes(content.replace(slope + b"1 ", slope + b".5"))
    scan, _ = read_series(tmp_path / "series")
    assert scan.array_zyx.dtype == np.float32
    np.testing.assert_array_equal(scan.array_zyx, array * np.float32(0.5))


def test_series_that_links_name_alike_elsewhere_are_two_cases(save_dicom, array, tmp_path) -> None:
    (tmp_path / "scans").mkdir()
    for number in (1, 2):
        save_dicom(tmp_path / f"store{number}" / "ct", array)
        (tmp_path / "scans" / f"patient{number}").symlink_to(tmp_path / f"store{number}" / "ct")
    cases, _ = find_cases(tmp_path / "scans", channel_names=["CT"])
    assert [case.case_id for case in cases] == ["patient1", "patient2"]
