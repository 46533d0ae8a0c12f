import numpy as np
import pydicom
import pytest
from dicom_makers import rectangle, save_rtstruct, save_slices
from miniatures import damage

from autoseg.errors import ScanFileError
from autoseg.io.dicom import read_series, read_slices
from autoseg.io.geometry import ImageGeometry
from dataset_conversion.contour_masks import draw_contours
from dataset_conversion.dicom_objects import read_header, sort_slices
from dataset_conversion.rtstruct import read_names, read_structures

# voxel (z, y, x) lies at LPS (-10 + 2x, -20 + y, 30 + 4z)
GRID = ImageGeometry.from_affine((5, 8, 10), np.array([[-2, 0, 0, 10], [0, -1, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1.0]]))


def draw(*contours) -> tuple[np.ndarray, tuple[str, ...]]:
    drawn = draw_contours([np.array(one).reshape(-1, 3) for one in contours], GRID)
    return drawn.mask_zyx, drawn.notes


def test_a_contour_covers_the_voxels_whose_centers_it_holds():
    mask, notes = draw(rectangle((-5.0, 1.0), (-17.5, -15.5), 38.0))
    expected = np.zeros(GRID.shape_zyx, dtype=bool)
    expected[2, 3:5, 3:6] = True  # x -5 to 1 mm: columns 2.5 to 5.5; y: rows 2.5 to 4.5; z 38: slice 2
    np.testing.assert_array_equal(mask, expected)
    assert notes == ()


def test_a_contour_inside_another_one_is_a_hole_and_one_inside_that_is_none():
    mask, _ = draw(
        rectangle((-11.0, 9.0), (-20.5, -12.5), 30.0),
        rectangle((-9.0, 7.0), (-19.5, -13.5), 30.0),
        rectangle((-5.0, 1.0), (-17.5, -15.5), 30.0),
    )
    expected = np.ones((8, 10), dtype=bool)
    expected[1:7, 1:9] = False
    expected[3:5, 3:6] = True
    np.testing.assert_array_equal(mask[0], expected)
    assert not mask[1:].any()


def test_two_contours_beside_each_other_both_count():
    mask, _ = draw(rectangle((-11, -7), (-20.5, -18.5), 30.0), rectangle((3, 7), (-20.5, -18.5), 30.0))
    assert [tuple(index) for index in np.argwhere(mask[0])] == [(y, x) for y in (0, 1) for x in (0, 1, 7, 8)]


def test_contours_of_an_oblique_and_flipped_grid_lie_where_their_points_are():
    turn = np.array([[0.8, 0, 0.6], [0, -1, 0], [0.6, 0, -0.8]])  # columns: directions of x, y, z in RAS
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * (2.0, 1.0, 4.0), (5.0, -7.0, 11.0)
    grid = ImageGeometry.from_affine((4, 6, 7), affine)
    corners_xyz = np.array([(1.5, 0.5, 3), (4.5, 0.5, 3), (4.5, 2.5, 3), (1.5, 2.5, 3)])
    ras = corners_xyz @ affine[:3, :3].T + affine[:3, 3]
    drawn = draw_contours([ras * (-1, -1, 1)], grid)
    expected = np.zeros((4, 6, 7), dtype=bool)
    expected[3, 1:3, 2:5] = True
    np.testing.assert_array_equal(drawn.mask_zyx, expected)
    assert drawn.notes == ()


def test_contours_that_cannot_be_drawn_are_counted():
    mask, notes = draw(
        rectangle((-5, 1), (-17.5, -15.5), 30.0),
        rectangle((-5, 1), (-17.5, -15.5), 42.0),
        rectangle((-5, 1), (-17.5, -15.5), 40.0),
        rectangle((-5, 1), (-17.5, -15.5), 60.0),
        rectangle((100, 110), (-17.5, -15.5), 30.0),
        [-5, -17, 30, 1, -17, 34, 1, -15, 34, -5, -15, 30],
        [0, 0, 30, 1, 1, 30],
    )
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [0, 3]
    assert sorted(notes) == [
        "1 of 7 contours do not lie in the plane of the image's slices, and are left out.",
        "1 of 7 contours have under 3 points, and are left out.",
        "1 of 7 contours lie between the image's slices, and are left out.",
        "2 of 7 contours lie outside of the image, and are left out.",
        "2 slices between its first and last one have no contour, and stay empty.",
    ]


def test_a_contour_off_its_slice_by_little_counts_to_it():
    mask, notes = draw(rectangle((-5, 1), (-17.5, -15.5), 38.9))
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [2] and notes == ()


def test_no_contours_make_an_empty_mask():
    mask, notes = draw()
    assert not mask.any() and notes == ()


def test_structures_are_read_as_they_were_written(tmp_path):
    square = rectangle((-5, 1), (-17.5, -15.25), 30.0)
    path = save_rtstruct(tmp_path / "rs.dcm", {" Liver ": [square, square], "PTV 1": []})
    liver, empty = read_structures(path)
    assert (liver.name, empty.name, empty.contours_mm) == ("Liver", "PTV 1", ())
    np.testing.assert_array_equal(liver.contours_mm[1], np.array(square).reshape(-1, 3))
    assert read_names(path) == ("Liver",)


def test_points_and_open_lines_are_no_areas(tmp_path):
    path = save_rtstruct(tmp_path / "rs.dcm", {"iso": [[0, 0, 30]]}, kind="POINT")
    (structure,) = read_structures(path)
    assert structure.contours_mm == () and structure.left_out == {"POINT": 1}
    assert read_names(path) == ()


def test_a_header_says_what_a_file_is_and_what_it_refers_to(tmp_path):
    (slice_path, *_) = save_slices(tmp_path, np.zeros((1, 2, 2)), series="1.5")
    image = read_header(slice_path)
    assert (image.is_slice, image.is_annotation, image.modality, image.series_uid) == (True, False, "ct", "1.5")
    assert (image.place, image.frame_uid) == ((-10, -20, 30, 1, 0, 0, 0, 1, 0), "1.2.9")
    contours = read_header(save_rtstruct(tmp_path / "rs.dcm", {"a": []}, series="1.5"))
    assert (contours.is_slice, contours.is_annotation) == (False, True)
    assert (contours.referenced_series, contours.referenced_frames) == (("1.5",), ("1.2.9",))


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)])
def test_sorted_slices_are_the_volume_that_read_series_gives(tmp_path, direction, rng):
    array = rng.integers(-1000, 1000, (5, 4, 3)).astype(np.int16)
    paths = save_slices(tmp_path / "a", array, direction=direction, names=["c", "a", "e", "b", "d"])
    whole, modality = read_series(tmp_path / "a")
    sorted_paths = [header.path for header in sort_slices([read_header(path) for path in sorted(paths)])]
    scan, _ = read_slices(sorted_paths)
    np.testing.assert_array_equal(scan.array_zyx, whole.array_zyx)
    assert scan.geometry == whole.geometry and modality == "ct"


def test_slices_are_read_though_other_series_lie_beside_them(tmp_path):
    first = save_slices(tmp_path, np.full((3, 4, 5), 7), series="1.5")
    save_slices(tmp_path, np.full((3, 4, 5), 9), series="1.6")
    assert (read_slices(first)[0].array_zyx == 7).all()
    with pytest.raises(ScanFileError, match="2 DICOM series"):
        read_series(tmp_path)


@pytest.mark.parametrize("words", [b"-5.0\\abcd", b"-5.0\\nan ", b"-5.0     "])
def test_a_damaged_contour_is_an_error_without_its_text(tmp_path, words):
    path = save_rtstruct(tmp_path / "rs.dcm", {"Liver": [rectangle((-5, 1), (-17.5, -15.5), 30.0)]})
    content = path.read_bytes()
    assert content.count(b"-5.0\\-17.5") > 0
    path.write_bytes(content.replace(b"-5.0\\-17.5", words.ljust(10)))
    with pytest.raises(ScanFileError, match=r"rs\.dcm is damaged: an attribute .*\(ValueError\)\. Copy it") as caught:
        read_structures(path)
    assert "abcd" not in str(caught.value)


def test_two_structures_of_one_number_are_refused(tmp_path):
    path = save_rtstruct(tmp_path / "rs.dcm", {"a": [], "b": []})
    dataset = pydicom.dcmread(path)
    dataset.StructureSetROISequence[1].ROINumber = 1
    dataset.save_as(path)
    with pytest.raises(ScanFileError, match="two structures of one number"):
        read_structures(path)


def test_every_cut_and_many_changed_bytes_end_in_structures_or_one_error(tmp_path, rng):
    path = save_rtstruct(tmp_path / "rs.dcm", {"Liver": [rectangle((-5, 1), (-17.5, -15.5), 30.0)]})
    for one in damage(path.read_bytes(), rng, step=9, start=132):
        path.write_bytes(one)
        for read in (read_structures, read_header):
            try:
                read(path)
            except ScanFileError as error:
                assert str(error).isprintable() and "DOE" not in str(error)
