import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from autoseg.export.seg_nrrd import write_seg_nrrd
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import read_scan, write_label_map

AFFINE = np.array([[0, -1.5, 0, 5], [0, 0, 2.5, -7], [-1.0, 0, 0, 9], [0, 0, 0, 1]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_simpleitk_sees_the_label_map_where_its_nifti_twin_lies(tmp_path, rng, dtype):
    labels = rng.integers(0, 4, (3, 4, 5)).astype(dtype)
    geometry = ImageGeometry.from_affine(labels.shape, AFFINE)
    write_seg_nrrd(tmp_path / "a.seg.nrrd", labels, geometry=geometry, names={1: "liver"})
    write_label_map(tmp_path / "a.nii.gz", labels, geometry=geometry, names={1: "liver"})
    one, twin = (sitk.ReadImage(str(tmp_path / name)) for name in ("a.seg.nrrd", "a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(one), labels)
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(one, get)(), getattr(twin, get)(), atol=1e-6)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.seg.nrrd").array_zyx, labels)


def test_segments_have_names_values_and_colors_and_no_name_breaks_a_line(tmp_path):
    labels = np.zeros((1, 2, 3), np.uint8)
    geometry = ImageGeometry.from_spacing(labels.shape, (1, 1, 1))
    names = {7: "left kidney", 2: "evil\nSegment9_Name:=x\n\n"}
    write_seg_nrrd(tmp_path / "a.seg.nrrd", labels, geometry=geometry, names=names)
    image = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
    facts = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert (facts["Segment1_Name"], facts["Segment1_LabelValue"], facts["Segment1_Layer"]) == ("left kidney", "7", "0")
    assert facts["Segment0_LabelValue"] == "2" and "Segment9_Name" not in facts and "Segment2_Name" not in facts
    assert facts["Segment1_Color"] == "1.000000 0.498039 0.054902" and facts["Segment1_Extent"] == "0 2 0 1 0 0"
    assert "labelmap" in facts["Segmentation_MasterRepresentation"]


def test_equal_content_gives_equal_bytes(tmp_path):
    labels = np.ones((2, 2, 2), np.uint8)
    for name in ("a", "b"):
        geometry = ImageGeometry.from_spacing(labels.shape, (1, 1, 1))
        write_seg_nrrd(tmp_path / f"{name}.seg.nrrd", labels, geometry=geometry, names={1: "liver"})
    assert (tmp_path / "a.seg.nrrd").read_bytes() == (tmp_path / "b.seg.nrrd").read_bytes()
