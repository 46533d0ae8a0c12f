import csv
import io

import numpy as np
import pytest

from autoseg.export.statistics import OrganStatistics, format_statistics, measure_organs
from autoseg.io.geometry import ImageGeometry


def measure(labels, image, *, names, spacing=(2.0, 0.5, 1.0), **more):
    geometry = ImageGeometry.from_spacing(labels.shape, spacing)
    return measure_organs(labels, image, geometry=geometry, names=names, **more)


def test_volume_intensity_and_box_of_a_box():
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1:3, 2:5, 3:4] = 4
    image = np.zeros((5, 6, 7), np.int16)
    image[1, 2:5, 3], image[2, 2:5, 3] = 10, 40
    [organ] = measure(labels, image, names={4: "liver"})
    assert organ == OrganStatistics(
        name="liver",
        value=4,
        num_voxels=6,
        volume_ml=pytest.approx(0.006),  # six voxels of 1 mm3
        mean_intensity=25.0,
        box_ijk=((3, 3), (2, 4), (1, 2)),
        touches_border=False,
    )


@pytest.mark.parametrize("place", [(0, 2, 2), (4, 2, 2), (2, 0, 2), (2, 4, 2), (2, 2, 0), (2, 2, 4)])
def test_an_organ_at_any_face_touches_the_border(place):
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[place] = 1
    [organ] = measure(labels, labels, names={1: "spleen"})
    assert organ.touches_border


def test_an_absent_organ_has_no_place_and_other_values_do_not_count():
    labels = np.full((2, 2, 2), 300, np.uint16)
    labels[0, 0, 0] = 7
    absent, present = measure(labels, np.ones((2, 2, 2)), names={300: "aorta", 5: "liver", 7: "spleen"})[:2]
    assert (absent.name, absent.num_voxels, absent.mean_intensity, absent.box_ijk) == ("liver", 0, None, None)
    assert not absent.touches_border
    assert (present.name, present.num_voxels) == ("spleen", 1)


def test_values_without_a_name_are_left_out():
    labels = np.array([[[1, 2, 2, 9]]], np.uint8)
    [organ] = measure(labels, np.array([[[1.0, 5.0, 7.0, 8.0]]]), names={2: "liver"})
    assert (organ.num_voxels, organ.mean_intensity) == (2, 6.0)


def test_measures_agree_with_whole_array_formulas(rng):
    labels = rng.integers(0, 4, (6, 7, 8)).astype(np.uint8)
    image = rng.normal(size=labels.shape).astype(np.float32)
    for organ in measure(labels, image, names={1: "a", 2: "b", 3: "c"}):
        mask = labels == organ.value
        assert organ.num_voxels == mask.sum()
        assert organ.mean_intensity == pytest.approx(image[mask].mean(), rel=1e-5)
        z, y, x = np.nonzero(mask)
        assert organ.box_ijk == ((x.min(), x.max()), (y.min(), y.max()), (z.min(), z.max()))


def test_csv_has_a_row_an_organ_and_no_formula():
    labels = np.array([[[1]]], np.uint8)
    organs = measure(labels, labels, names={1: "=1+1", 2: "liver, left"})
    header, one, other = csv.reader(io.StringIO(format_statistics([("-case\n", organs)])))
    assert header[:4] == ["case", "organ", "label", "voxels"]
    assert one == ["'-case\\n", "'=1+1", "1", "1", "0.001", "1", "0", "0", "0", "0", "0", "0", "yes", ""]
    assert other == ["'-case\\n", "liver, left", "2", "0", "0", "", "", "", "", "", "", "", "no", ""]


def test_what_the_network_expects_stands_beside_the_organs_that_are_there():
    labels = np.array([[[1]]], np.uint8)
    organs = measure(labels, labels, names={1: "liver", 2: "spleen"}, expected_dice={1: 0.9134, 2: None})
    assert [organ.expected_dice for organ in organs] == [0.9134, None]
    _, one, other = csv.reader(io.StringIO(format_statistics([("case", organs)])))
    assert (one[-1], other[-1]) == ("0.913", "")
