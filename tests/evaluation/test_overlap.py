import numpy as np
import pytest

from autoseg.errors import GeometryError
from autoseg.evaluation.overlap import Overlap, measure_overlap, volume_ml


def test_measure_overlap_row_shifted_by_one_counts_by_hand():
    prediction = np.array([[[1, 1, 1, 0]]], dtype=bool)
    reference = np.array([[[0, 1, 1, 1]]], dtype=bool)
    overlap = measure_overlap(prediction, reference_mask=reference)
    assert overlap == Overlap(prediction_voxels=3, reference_voxels=3, shared_voxels=2)
    assert overlap.dice == pytest.approx(4 / 6)
    assert overlap.iou == pytest.approx(2 / 4)


def test_measure_overlap_identical_masks_are_one():
    mask = np.ones((2, 2, 2), dtype=bool)
    overlap = measure_overlap(mask, reference_mask=mask)
    assert (overlap.dice, overlap.iou) == (1.0, 1.0)


@pytest.mark.parametrize("empty", ["prediction", "reference"])
def test_measure_overlap_one_empty_mask_is_zero(empty):
    masks = {"prediction": np.ones((2, 2, 2), bool), "reference": np.ones((2, 2, 2), bool)}
    masks[empty][:] = False
    overlap = measure_overlap(masks["prediction"], reference_mask=masks["reference"])
    assert (overlap.dice, overlap.iou) == (0.0, 0.0)


def test_measure_overlap_two_empty_masks_do_not_count():
    mask = np.zeros((2, 2, 2), dtype=bool)
    overlap = measure_overlap(mask, reference_mask=mask)
    assert (overlap.dice, overlap.iou) == (None, None)


def test_measure_overlap_shapes_differ_raises_with_both():
    with pytest.raises(GeometryError, match=r"\(1, 2, 3\).*\(3, 2, 1\)"):
        measure_overlap(np.ones((1, 2, 3), bool), reference_mask=np.ones((3, 2, 1), bool))


def test_volume_ml_anisotropic_voxels_by_hand():
    assert volume_ml(50, spacing_zyx_mm=(5.0, 2.0, 2.0)) == pytest.approx(1.0)
