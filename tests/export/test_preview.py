import io

import numpy as np
import pytest
from PIL import Image

from autoseg.export.colors import as_bytes, organ_color
from autoseg.export.preview import GAP_PX, PANEL_PX, count_labeled, draw_preview
from autoseg.export.statistics import measure_organs
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan


def draw(labels, names, affine=None):
    geometry = ImageGeometry.from_affine(labels.shape, np.eye(4) if affine is None else affine)
    scan = Scan(np.full(labels.shape, 50, np.int16), geometry)
    organs = measure_organs(labels, scan.array_zyx, geometry=geometry, names=names)
    return np.asarray(Image.open(io.BytesIO(draw_preview(scan, labels, organs))))


def has_color(picture, index):
    return bool((picture == np.array(as_bytes(organ_color(index)))).all(axis=-1).any())


def test_the_patients_right_is_on_the_left_and_the_front_on_top():
    labels = np.zeros((20, 30, 30), np.uint8)
    labels[5:15, 22:27, 22:27] = 4  # front right: large y, large x
    labels[5:15, 3:8, 3:8] = 9  # back left
    picture = draw(labels, {4: "liver", 9: "spleen"})
    axial = picture[20:PANEL_PX, :PANEL_PX]  # below its title
    half = PANEL_PX // 2
    assert has_color(axial[: half - 20, :half], 0) and has_color(axial[half:, half:], 1)
    assert not has_color(axial[half:, half:], 0) and not has_color(axial[: half - 20, :half], 1)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)])
def test_the_picture_goes_by_the_patient_and_not_by_the_files_axes(flips):
    labels = np.zeros((20, 30, 30), np.uint8)
    labels[12:18, 22:27, 22:27] = 4
    affine = np.diag([*flips, 1.0])
    for axis, flip in zip((2, 1, 0), flips, strict=True):  # x, y, z
        if flip < 0:
            labels = np.flip(labels, axis)
            affine[2 - axis, 3] = labels.shape[axis] - 1
    straight = np.zeros((20, 30, 30), np.uint8)
    straight[12:18, 22:27, 22:27] = 4
    assert np.array_equal(draw(labels, {4: "liver"}, affine), draw(straight, {4: "liver"}))


def test_every_panel_and_the_list_are_there():
    labels = np.zeros((20, 30, 30), np.uint8)
    labels[5:15, 10:20, 10:20] = 4
    picture = draw(labels, {4: "liver", 9: "spleen"})
    assert picture.shape == (2 * PANEL_PX + GAP_PX, 3 * PANEL_PX + 2 * GAP_PX, 3)
    for row in range(2):
        for column in range(3):
            top, left = row * (PANEL_PX + GAP_PX), column * (PANEL_PX + GAP_PX)
            assert has_color(picture[top : top + PANEL_PX, left : left + PANEL_PX], 0), (row, column)
    assert not has_color(picture, 1), "an absent organ is not listed"


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 50), (300, 4, 4)])
def test_a_scan_without_organs_and_of_any_shape_is_drawn(shape):
    picture = draw(np.zeros(shape, np.uint8), {k: f"<b>organ \x1b {k}" for k in range(1, 40)})
    assert picture.shape[0] == 2 * PANEL_PX + GAP_PX


def test_many_organs_end_in_a_count():
    labels = np.arange(1, 41, dtype=np.uint8).reshape(4, 2, 5)
    assert draw(labels, {k: "x" * 60 for k in range(1, 41)}).any()


def test_labeled_voxels_are_counted_along_every_axis():
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 2, 3:] = 7
    along_z, along_y, along_x = count_labeled(labels)
    assert (along_z.tolist(), along_y.tolist(), along_x.tolist()) == ([0, 2, 0], [0, 0, 2, 0], [0, 0, 0, 1, 1])
