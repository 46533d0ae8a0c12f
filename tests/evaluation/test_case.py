import numpy as np
import pytest

from autoseg.errors import GeometryError
from autoseg.evaluation.case import evaluate_case, missed_case

SPACING = (2.0, 1.0, 1.0)


def labels(**boxes):
    """Make an 8x8x8 map; `_3=(0, 4)` fills rows 0 to 3 of every slice from 2 to 6 with value 3."""
    array = np.zeros((8, 8, 8), dtype=np.uint8)
    for name, (start, stop) in boxes.items():
        array[2:6, start:stop, :] = int(name[1:])
    return array


def evaluate(prediction, reference, **options):
    return evaluate_case(prediction, reference, **{"spacing_zyx_mm": SPACING, "organ_values": (1, 3)} | options)


def test_evaluate_case_two_organs_by_hand():
    metrics = evaluate(labels(_1=(0, 4), _3=(4, 8)), labels(_1=(0, 2), _3=(4, 8)))
    assert list(metrics) == [1, 3]
    assert metrics[1].dice == pytest.approx(2 * 2 / (4 + 2))
    assert metrics[1].iou == pytest.approx(2 / 4)
    assert metrics[1].hd95_mm == pytest.approx(2.0)  # the row at 3 is two rows of 1 mm from the row at 1
    assert metrics[1].prediction_ml == pytest.approx(4 * 4 * 8 * 2 / 1000)
    assert metrics[1].reference_ml == pytest.approx(4 * 2 * 8 * 2 / 1000)
    assert (metrics[3].dice, metrics[3].iou, metrics[3].nsd, metrics[3].hd95_mm) == (1.0, 1.0, 1.0, 0.0)
    assert metrics[3].outcome == "found"


def test_evaluate_case_absent_organ_does_not_count():
    organ = evaluate(labels(_1=(0, 4)), labels(_1=(0, 4)))[3]
    assert (organ.dice, organ.iou, organ.nsd, organ.hd95_mm) == (None, None, None, None)
    assert (organ.prediction_ml, organ.reference_ml, organ.outcome) == (0.0, 0.0, "absent")


def test_evaluate_case_organ_not_found_is_a_miss():
    organ = evaluate(labels(_1=(0, 4)), labels(_1=(0, 4), _3=(4, 8)))[3]
    assert (organ.dice, organ.iou, organ.nsd, organ.hd95_mm) == (0.0, 0.0, 0.0, None)
    assert organ.outcome == "missed"


def test_evaluate_case_invented_organ_is_a_false_positive():
    organ = evaluate(labels(_3=(4, 8)), labels())[3]
    assert (organ.dice, organ.iou, organ.nsd, organ.hd95_mm) == (0.0, 0.0, 0.0, None)
    assert organ.outcome == "false positive"


def test_evaluate_case_without_surface_leaves_distances_out():
    organ = evaluate(labels(_1=(0, 4)), labels(_1=(0, 4)), surface=False)[1]
    assert (organ.dice, organ.nsd, organ.hd95_mm) == (1.0, None, None)


def test_evaluate_case_tolerance_reaches_the_nsd():
    prediction, reference = labels(_1=(0, 4)), labels(_1=(0, 3))
    assert evaluate(prediction, reference, tolerance_mm=0.5)[1].nsd < 1.0
    assert evaluate(prediction, reference, tolerance_mm=1.0)[1].nsd == 1.0


def test_evaluate_case_ignored_voxels_count_nowhere():
    reference = labels(_1=(0, 2), _9=(2, 8))
    ignored = evaluate(labels(_1=(0, 4)), reference, ignore_value=9)[1]
    assert ignored.dice == 1.0
    assert ignored.prediction_ml == ignored.reference_ml
    assert evaluate(labels(_1=(0, 4)), reference)[1].dice == pytest.approx(2 / 3)


def test_evaluate_case_thin_organ_in_a_thick_grid_is_all_boundary():
    # One plane of a volume: unlike in a single-slice scan, its inner voxels have empty neighbors in z.
    prediction, reference = np.zeros((5, 9, 9), np.uint8), np.zeros((5, 9, 9), np.uint8)
    prediction[2, 1:8, 1:8] = reference[2, 1:8, 1:8] = 1
    reference[2, 4, 4] = 0
    organ = evaluate(prediction, reference, organ_values=(1,), tolerance_mm=0.0)[1]
    assert organ.nsd == pytest.approx((48 + 48) / (49 + 48))


def test_evaluate_case_single_slice_uses_the_outline():
    prediction, reference = np.zeros((1, 9, 9), np.uint8), np.zeros((1, 9, 9), np.uint8)
    prediction[0, 1:6, 1:6] = 1
    reference[0, 1:6, 2:7] = 1
    organ = evaluate(prediction, reference, organ_values=(1,))[1]
    assert organ.hd95_mm == pytest.approx(1.0)
    assert organ.nsd == 1.0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
def test_evaluate_case_integer_types_agree(dtype):
    metrics = evaluate(labels(_1=(0, 4)).astype(dtype), labels(_1=(0, 2)).astype(dtype))
    assert metrics[1].dice == pytest.approx(2 / 3)


def test_evaluate_case_high_values_need_no_table_of_all():
    reference = np.zeros((4, 4, 4), dtype=np.int32)
    reference[0] = 2_000_000_000
    reference[1] = 7
    assert evaluate(reference, reference, organ_values=(7,))[7].dice == 1.0


def test_evaluate_case_views_with_negative_strides_agree():
    prediction, reference = labels(_1=(0, 4)), labels(_1=(1, 5))
    assert evaluate(prediction[:, ::-1].T, reference[:, ::-1].T)[1].dice == evaluate(prediction, reference)[1].dice


def test_evaluate_case_shapes_differ_raises_with_both():
    with pytest.raises(GeometryError, match=r"\(8, 8, 8\).*\(8, 8, 7\)"):
        evaluate(labels(), labels()[:, :, :7])


def test_missed_case_misses_what_the_reference_holds():
    metrics = missed_case(labels(_1=(0, 4)), spacing_zyx_mm=SPACING, organ_values=(1, 3))
    assert (metrics[1].dice, metrics[1].outcome) == (0.0, "missed")
    assert metrics[3].outcome == "absent"
