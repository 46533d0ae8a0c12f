"""One case from the source's files to the dataset's."""

import numpy as np
import pytest

from autoseg.errors import ScanFileError
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan, write_label_map
from dataset_conversion.case_files import put_on_grid, read_files
from dataset_conversion.source import SourceCase


def test_put_on_grid_other_place_is_an_error() -> None:
    here = ImageGeometry.from_spacing((2, 2, 2), (1.0, 1.0, 1.0))
    there = ImageGeometry.from_spacing((2, 2, 2), (1.0, 1.0, 1.0), (5.0, 0.0, 0.0))
    with pytest.raises(ScanFileError, match="origin"):
        put_on_grid(Scan(np.zeros((2, 2, 2)), here), there)


def test_put_on_grid_other_order_of_axes_keeps_every_voxel_in_its_place():
    array = np.arange(24).reshape(2, 3, 4)
    here = ImageGeometry.from_affine(array.shape, np.diag([1.0, 2.0, 3.0, 1.0]))
    flipped = np.array([[0, 0, 1.0, 0], [0, -2.0, 0, 4.0], [3.0, 0, 0, 0], [0, 0, 0, 1]])  # i is z, j is -y, k is x
    there = ImageGeometry.from_affine((4, 3, 2), flipped)
    moved = put_on_grid(Scan(array, here), there)
    assert moved.geometry == there
    for z, y, x in ((0, 0, 0), (1, 2, 3), (1, 0, 2)):
        assert moved.array_zyx[x, 2 - y, z] == array[z, y, x]


def test_read_files_puts_a_dicom_series_on_the_grid_of_its_labels(tmp_path, save_dicom):
    hot = np.zeros((3, 4, 5), dtype=np.int16)
    hot[2, 1, 3] = 700
    save_dicom(tmp_path / "series", hot, spacing_xyz_mm=(1.0, 2.0, 4.0), origin_lps_mm=(-10.0, -20.0, 30.0))
    rows = np.array([[-1.0, 0, 0, 10.0], [0, 2.0, 0, 14.0], [0, 0, 4.0, 30.0], [0, 0, 0, 1]])  # y the other way
    geometry = ImageGeometry.from_affine((3, 4, 5), rows)
    labels = (hot == 700).astype(np.uint8)[:, ::-1]
    write_label_map(tmp_path / "labels.nii.gz", labels, geometry=geometry, names={1: "hot"})
    content = read_files(SourceCase("a", (tmp_path / "series",), tmp_path / "labels.nii.gz"))
    np.testing.assert_array_equal(content.channels[0].scan.array_zyx == 700, labels == 1)
    assert content.channels[0].file is None and content.labels.file == tmp_path / "labels.nii.gz"
