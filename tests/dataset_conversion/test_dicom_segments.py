import numpy as np
import pydicom
import pytest
from dicom_makers import ORIGIN_LPS_MM, SPACING_XYZ_MM, save_seg, save_slices
from miniatures import damage

from autoseg.errors import ScanFileError
from autoseg.io.dicom import read_slices
from autoseg.io.geometry import ImageGeometry
from dataset_conversion.dicom_segments import read_names, read_segmentation
from dataset_conversion.label_grids import holds_same_voxels, labels_on_grid

SHAPE = (5, 7, 9)  # rows and columns whose product is no multiple of 8, so that frames begin inside of bytes


@pytest.fixture
def masks() -> dict[str, np.ndarray]:
    liver, spleen = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    liver[1:3, 2:4, 5:8] = 1
    spleen[2:5, 3, 7:9] = 1  # shares (2, 3, 7) with the liver
    return {"Liver": liver, "Spleen": spleen}


@pytest.fixture
def slices(tmp_path):
    return save_slices(tmp_path / "ct", np.zeros(SHAPE))


@pytest.mark.parametrize("shuffle", [False, True])
def test_binary_segments_are_the_masks_that_were_written(tmp_path, slices, masks, shuffle):
    path = save_seg(tmp_path / "seg.dcm", masks, slices=slices, shuffle=shuffle)
    segmentation = read_segmentation(path)
    assert segmentation.names == {1: "Liver", 2: "Spleen"} and read_names(path) == ("Liver", "Spleen")
    image = read_slices(slices)[0].geometry
    assert segmentation.geometry.shape_zyx == (4, 7, 9)  # planes 1 to 4; plane 0 has no frame
    assert holds_same_voxels(segmentation.geometry, image)
    for number, mask in enumerate(masks.values(), start=1):
        placed = labels_on_grid(segmentation.mask_of(number).astype(np.uint8), segmentation.geometry, target=image)
        np.testing.assert_array_equal(placed, mask)


def test_a_segment_lies_where_its_frames_say_in_patient_coordinates(tmp_path, slices, masks):
    segmentation = read_segmentation(save_seg(tmp_path / "seg.dcm", masks, slices=slices))
    z, y, x = np.argwhere(segmentation.mask_of(1))[0]
    place_ras = segmentation.geometry.affine_array @ [x, y, z, 1]
    expected_lps = np.array(ORIGIN_LPS_MM) + np.array([5, 2, 1]) * SPACING_XYZ_MM
    np.testing.assert_allclose(place_ras[:3], expected_lps * (-1, -1, 1))


def test_fractional_segments_count_from_a_half_on(tmp_path, slices):
    shares = np.zeros(SHAPE, dtype=np.float32)
    shares[2, 3, 2:6] = (0.2, 0.49, 0.51, 1.0)
    path = save_seg(tmp_path / "seg.dcm", {"Tumour": shares}, slices=slices, fractional=True)
    segmentation = read_segmentation(path)
    assert [tuple(index) for index in np.argwhere(segmentation.mask_of(1))] == [(0, 3, 4), (0, 3, 5)]


def test_a_segment_without_frames_is_empty(tmp_path, slices, masks):
    masks["Spleen"][:] = 0
    segmentation = read_segmentation(save_seg(tmp_path / "seg.dcm", masks, slices=slices))
    assert not segmentation.mask_of(2).any() and segmentation.mask_of(1).sum() == 12


def test_labels_go_to_the_nearest_voxel_of_another_grid():
    labels = np.zeros((2, 3, 4), np.uint8)
    labels[1, 2, 3], labels[0, 0, 0] = 5, 7
    fine = ImageGeometry.from_spacing((4, 6, 8), (0.5, 0.5, 0.5), (-0.25, -0.25, -0.25))  # each voxel in eight
    grid = ImageGeometry.from_spacing((2, 3, 4), (1.0, 1.0, 1.0))
    assert not holds_same_voxels(grid, fine)
    placed = labels_on_grid(labels, grid, target=fine)
    np.testing.assert_array_equal(placed, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_labels_go_to_a_turned_flipped_larger_grid_voxel_by_voxel(rng):
    labels = rng.integers(0, 9, (2, 3, 4)).astype(np.uint8)
    grid = ImageGeometry.from_spacing((2, 3, 4), (3.0, 2.0, 1.0))
    affine = np.array([[0, -1, 0, 4], [0, 0, 2, -2], [3, 0, 0, 0], [0, 0, 0, 1.0]])  # x: up, y: to the left, z: forward
    target = ImageGeometry.from_affine((5, 6, 2), affine)
    assert holds_same_voxels(grid, target)
    placed = labels_on_grid(labels, grid, target=target)
    expected = np.zeros((5, 6, 2), np.uint8)  # [front, left, up]
    expected[1:4, 1:5] = labels.transpose(1, 2, 0)[:, ::-1]
    np.testing.assert_array_equal(placed, expected)


@pytest.mark.parametrize("shift_mm", [0.3, 0.0])
def test_grids_that_are_shifted_by_a_part_of_a_voxel_are_not_the_same(shift_mm):
    grid = ImageGeometry.from_spacing((2, 3, 4), (1.0, 1.0, 1.0))
    other = ImageGeometry.from_spacing((2, 3, 4), (1.0, 1.0, 1.0), (shift_mm + 2, 0.0, 0.0))
    assert holds_same_voxels(grid, other) == (shift_mm == 0.0)


def change(path, edit) -> None:
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)


def frame(dataset, index):
    return dataset.PerFrameFunctionalGroupsSequence[index]


def set_place(dataset, index, place):
    frame(dataset, index).PlanePositionSequence[0].ImagePositionPatient = place


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda dataset: setattr(dataset, "SegmentationType", "LABELMAP"), "its type is LABELMAP with 1 bits a pixel"),
        (lambda dataset: setattr(dataset, "Rows", 6000), "frames of 9 x 6000 pixels do not fit"),
        (lambda dataset: setattr(dataset, "PixelData", b"\1\1"), "do not fit into the 2 bytes that it holds"),
        (lambda dataset: set_place(dataset, 1, [-10, -20, 35.0]), "do not lie behind each other at one distance"),
        (lambda dataset: set_place(dataset, 1, [-10, -19, 38.0]), "do not lie behind each other at one distance"),
        (lambda dataset: set_place(dataset, 1, [-10, -20, 400002.0]), "planes; expected at most 10000"),
        (lambda dataset: set_place(dataset, 1, [-10, -20]), r"is damaged: an attribute .*\(ValueError\)"),
        (lambda dataset: delattr(frame(dataset, 0), "PlanePositionSequence"), r"is damaged: .*\(AttributeError\)"),
        (lambda dataset: delattr(dataset, "PixelData"), r"is damaged: an attribute is missing"),
    ],
)
def test_a_segmentation_that_contradicts_itself_is_refused(tmp_path, slices, masks, edit, words):
    path = save_seg(tmp_path / "seg.dcm", masks, slices=slices)
    change(path, edit)
    with pytest.raises(ScanFileError, match=rf"seg\.dcm.*{words}"):
        read_segmentation(path)


def test_a_compressed_segmentation_is_refused_with_what_to_do(tmp_path, slices, masks):
    path = save_seg(tmp_path / "seg.dcm", {"a": masks["Liver"].astype(np.float32)}, slices=slices, fractional=True)
    change(path, lambda dataset: dataset.compress("1.2.840.10008.1.2.5", generate_instance_uid=False))
    with pytest.raises(ScanFileError, match=r"is compressed. Unpack it"):
        read_segmentation(path)


def test_every_cut_and_many_changed_bytes_end_in_segments_or_one_error(tmp_path, slices, masks, rng):
    path = save_seg(tmp_path / "seg.dcm", masks, slices=slices)
    for one in damage(path.read_bytes(), rng, step=67, start=132):
        path.write_bytes(one)
        try:
            segmentation = read_segmentation(path)
            assert segmentation.mask_of(1).size < 10**7
        except ScanFileError as error:
            assert str(error).isprintable() and "DOE" not in str(error)
