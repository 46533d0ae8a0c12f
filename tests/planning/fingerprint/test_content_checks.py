import numpy as np
import pytest

from autoseg.datasets.dataset import LabelSet, Organ
from autoseg.io.geometry import ImageGeometry
from autoseg.planning.fingerprint import content_checks
from autoseg.planning.fingerprint.case_statistics import measure_intensities
from autoseg.planning.fingerprint.content_checks import check_grids, check_intensities, check_label_values, count_values

LABELS = LabelSet((Organ("liver", 1), Organ("spleen", 4)), ignore_value=255)


def grid(shape=(4, 5, 6), spacing=(3.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)):
    return ImageGeometry.from_spacing(shape, spacing, origin)


def test_check_grids_of_equal_grids_finds_nothing():
    assert check_grids("a", image=grid(), others={"label": grid()}) == []


def test_check_grids_below_a_tenth_of_a_voxel_is_a_warning():
    (problem,) = check_grids("a", image=grid(), others={"label": grid(origin=(0.05, 0.0, 0.0))})
    assert not problem.is_error
    assert "0.05 mm" in problem.message and "label" in problem.message


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (grid(shape=(4, 5, 7)), ("shape_zyx", "(4, 5, 6)", "(4, 5, 7)", "Resample")),
        (grid(spacing=(2.0, 1.0, 1.0)), ("spacing_zyx_mm", "3.0", "2.0", "Resample")),
        (grid(origin=(0.5, 0.0, 0.0)), ("origin", "0.5", "Resample")),
    ],
)
def test_check_grids_that_differ_is_an_error_with_both_values_and_the_remedy(other, words):
    (problem,) = check_grids("a", image=grid(), others={"label": other})
    assert problem.is_error
    assert all(word in problem.message for word in words), problem.message


def test_count_values_counts_over_chunks(monkeypatch):
    monkeypatch.setattr(content_checks, "CHUNK_VOXELS", 5)
    labels = np.array([0, 0, 1, 1, 1, 300, 0, 1], dtype=np.uint16).reshape(2, 2, 2)
    assert count_values(labels) == {0: 3, 1: 4, 300: 1}


def test_count_values_counts_negative_and_huge_values():
    assert count_values(np.array([[[-3, 0, 70000, -3]]], dtype=np.int32)) == {-3: 2, 0: 1, 70000: 1}


def test_check_label_values_accepts_gaps_and_the_ignore_value():
    assert check_label_values("a", counts={0: 9, 1: 2, 255: 3}, labels=LABELS) == []


def test_check_label_values_names_unknown_values_with_their_voxels():
    (problem,) = check_label_values("a", counts={-1: 5, 0: 9, 1: 2, 9: 3}, labels=LABELS)
    assert problem.is_error
    for words in ("-1 (5 voxels)", "9 (3 voxels)", "{0: background, 1: liver, 4: spleen}", "Negative"):
        assert words in problem.message


def test_check_label_values_of_an_empty_map_is_a_note():
    (problem,) = check_label_values("a", counts={0: 100, 255: 3}, labels=LABELS)
    assert not problem.is_error and "empty" in problem.message


@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        ([0.0, 1.0], "0..1"),
        ([0.0, 255.0], "0..255"),
        ([0.0, 3000.0], "1024"),
        ([7.0, 7.0], "constant"),
    ],
)
def test_check_intensities_of_a_strange_ct_is_a_warning(voxels, words):
    (problem,) = check_intensities("a", channel_name="CT", facts=measure_intensities(np.array(voxels)))
    assert not problem.is_error and words in problem.message


def test_check_intensities_of_hounsfield_units_or_of_an_mri_finds_nothing():
    assert check_intensities("a", channel_name="CT", facts=measure_intensities(np.array([-1000.0, 1500.0]))) == []
    assert check_intensities("a", channel_name="T1", facts=measure_intensities(np.array([0.0, 255.0]))) == []
