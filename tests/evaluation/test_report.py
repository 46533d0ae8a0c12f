import json

import numpy as np
import pytest

from autoseg.errors import Problem
from autoseg.evaluation.case import OrganMetrics
from autoseg.evaluation.report import CaseResult, Evaluation, complete_names

ABSENT = OrganMetrics(dice=None, iou=None, nsd=None, hd95_mm=None, prediction_ml=0.0, reference_ml=0.0)
MISSED = OrganMetrics(dice=0.0, iou=0.0, nsd=0.0, hd95_mm=None, prediction_ml=0.0, reference_ml=1.0)
INVENTED = OrganMetrics(dice=0.0, iou=0.0, nsd=0.0, hd95_mm=None, prediction_ml=1.0, reference_ml=0.0)


def found(dice, hd95_mm=1.0):
    return OrganMetrics(
        dice=dice, iou=dice / (2 - dice), nsd=dice, hd95_mm=hd95_mm, prediction_ml=1.0, reference_ml=1.0
    )


def example(**options):
    """Liver: 1.0, 0.5, missed, absent. Spleen: 0.8 in the first case, invented in the third."""
    cases = (
        CaseResult("a", {1: found(1.0, 2.0), 2: found(0.8)}),
        CaseResult("b", {1: found(0.5, 4.0), 2: ABSENT}),
        CaseResult("c", {1: MISSED, 2: INVENTED}),
        CaseResult("d", {1: ABSENT}),
    )
    return Evaluation(cases=cases, names={1: "liver", 2: "spleen"}, tolerance_mm=1.0, **options)


def test_organs_means_medians_and_outcomes_by_hand():
    liver, spleen = example().organs
    assert liver.metrics["dice"].mean == pytest.approx(0.5)
    assert liver.metrics["dice"].median == pytest.approx(0.5)
    assert liver.metrics["dice"].num_cases == 3
    assert liver.outcomes == {"found": 2, "missed": 1, "false positive": 0, "absent": 1}
    assert spleen.metrics["dice"].mean == pytest.approx(0.4)
    assert spleen.outcomes == {"found": 1, "missed": 0, "false positive": 1, "absent": 2}


def test_organs_hd95_counts_only_cases_with_both_surfaces():
    liver = example().organs[0].metrics["hd95_mm"]
    assert (liver.mean, liver.num_cases) == (pytest.approx(3.0), 2)


def test_organs_interval_holds_the_mean():
    dice = example().organs[0].metrics["dice"]
    assert 0.0 <= dice.interval.low < dice.mean < dice.interval.high <= 1.0


def test_overall_weighs_organs_equally_and_cases_beside_it():
    evaluation = example()
    assert evaluation.mean_dice == pytest.approx((0.5 + 0.4) / 2)
    dice = evaluation.overall["dice"]
    assert dice.mean_over_cases == pytest.approx((0.9 + 0.5 + 0.0) / 3)
    assert (dice.num_cases, dice.num_organs) == (3, 2)
    assert dice.interval.low < dice.mean < dice.interval.high


def test_overall_is_the_same_each_time():
    assert example().overall == example().overall


def test_case_mean_leaves_absent_organs_out():
    assert example().cases[1].mean("dice") == pytest.approx(0.5)
    assert example().cases[3].mean("dice") is None
    assert CaseResult("e", {}).mean("dice") is None


def test_evaluation_of_absent_organs_alone_has_nulls():
    evaluation = Evaluation(cases=(CaseResult("a", {1: ABSENT}),), names={1: "liver"}, tolerance_mm=1.0)
    assert evaluation.mean_dice is None
    assert evaluation.organs[0].metrics["dice"].interval is None


def test_to_json_is_strict_and_holds_every_number():
    content = json.loads(json.dumps(example().to_json(), allow_nan=False))
    assert content["overall"]["dice"]["mean"] == pytest.approx(0.45)
    assert content["organs"][0]["metrics"]["dice"]["interval"]["low"] < 0.5
    assert [organ["name"] for organ in content["organs"]] == ["liver", "spleen"]
    case = content["cases"][2]
    assert case["case_id"] == "c"
    assert case["organs"]["1"]["hd95_mm"] is None
    assert case["organs"]["2"]["outcome"] == "false positive"
    assert any("does not count" in rule for rule in content["rules"])


def test_to_json_untrusted_names_can_be_written():
    case = CaseResult("scan\udcff\x1b[2J", {1: found(1.0)})
    evaluation = Evaluation(
        cases=(case,),
        names={1: "liver\ud800"},
        tolerance_mm=1.0,
        problems=(Problem("x\n", "y\x07"),),
        predictions_without_reference=("z\udc80",),
    )
    text = json.dumps(evaluation.to_json(), ensure_ascii=False)
    assert "\x1b" not in text
    text.encode("utf-8")  # a lone surrogate would raise


def test_has_errors_only_for_errors():
    assert not example(problems=(Problem("a", "odd", is_error=False),)).has_errors
    assert example(problems=(Problem("a", "bad"),)).has_errors


def test_complete_names_names_what_nobody_named():
    cases = (CaseResult("a", {3: ABSENT, 1: ABSENT}),)
    assert list(complete_names(cases, {1: "liver", 9: "spare"}).items()) == [(1, "liver"), (3, "label 3")]


def test_tables_follow_label_values_not_the_order_of_names():
    cases = (CaseResult("a", {2: found(0.2), 1: found(0.1)}),)
    organs = Evaluation(cases=cases, names={2: "two", 1: "one"}, tolerance_mm=1.0).organs
    assert [(organ.name, organ.metrics["dice"].mean) for organ in organs] == [("one", 0.1), ("two", 0.2)]
    assert np.isfinite(organs[0].metrics["iou"].mean)
