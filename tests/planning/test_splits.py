from collections import Counter
from dataclasses import dataclass

import pytest

from autoseg.planning.splits import make_splits


@dataclass(frozen=True)
class Case:
    case_id: str
    patient_id: str


def cases_of(num, *, per_patient=1):
    return [Case(f"c{number:02d}", f"p{number // per_patient:02d}") for number in range(num)]


def check_folds(splits, cases):
    """Each case validates once, and trains in all other folds."""
    everyone = sorted(case.case_id for case in cases)
    assert sorted(name for fold in splits for name in fold["validation"]) == everyone
    for fold in splits:
        assert sorted(fold["train"] + fold["validation"]) == everyone


def test_folds_share_all_cases_out_evenly():
    cases = cases_of(23)
    splits = make_splits(cases, organs_of_case={}, num_folds=5, seed=0)
    check_folds(splits, cases)
    assert sorted(len(fold["validation"]) for fold in splits) == [4, 4, 5, 5, 5]


def test_cases_of_one_patient_stay_in_one_fold():
    cases = cases_of(20, per_patient=3)
    splits = make_splits(cases, organs_of_case={}, num_folds=4, seed=1)
    check_folds(splits, cases)
    patient_of = {case.case_id: case.patient_id for case in cases}
    folds_of_patient = Counter()
    for fold in splits:
        folds_of_patient.update({patient_of[name] for name in fold["validation"]})
    assert set(folds_of_patient.values()) == {1}


def test_a_rare_organ_is_spread_over_the_folds():
    cases = cases_of(25)
    organs = {case.case_id: ["liver"] + (["gallbladder"] if number < 5 else []) for number, case in enumerate(cases)}
    splits = make_splits(cases, organs_of_case=organs, num_folds=5, seed=3)
    check_folds(splits, cases)
    for fold in splits:
        assert len(fold["validation"]) == 5
        assert sum("gallbladder" in organs[name] for name in fold["validation"]) == 1


def test_the_seed_decides_and_the_order_of_the_cases_does_not():
    cases = cases_of(20)
    one = make_splits(cases, organs_of_case={}, num_folds=5, seed=0)
    assert one == make_splits(cases[::-1], organs_of_case={}, num_folds=5, seed=0)
    assert one != make_splits(cases, organs_of_case={}, num_folds=5, seed=1)


@pytest.mark.parametrize("cases", [cases_of(1), cases_of(3, per_patient=3)])
def test_a_single_patient_trains_without_validation_and_says_so(cases, caplog):
    with caplog.at_level("WARNING", logger="autoseg"):
        splits = make_splits(cases, organs_of_case={}, num_folds=5, seed=0)
    assert splits == [{"train": [case.case_id for case in cases], "validation": []}]
    assert "without validation" in caplog.text


def test_fewer_patients_than_folds_give_fewer_folds():
    cases = cases_of(3)
    splits = make_splits(cases, organs_of_case={}, num_folds=5, seed=0)
    check_folds(splits, cases)
    assert len(splits) == 3


def test_an_organ_is_balanced_even_where_a_large_patient_makes_folds_unequal():
    cases = [Case(f"a{number}", "large") for number in range(3)] + [
        Case(f"b{number}", f"p{number}") for number in range(4)
    ]
    organs = {case.case_id: [case.case_id[0]] for case in cases}
    splits = make_splits(cases, organs_of_case=organs, num_folds=2, seed=0)
    check_folds(splits, cases)
    assert [sum(name.startswith("b") for name in fold["validation"]) for fold in splits] == [2, 2]
