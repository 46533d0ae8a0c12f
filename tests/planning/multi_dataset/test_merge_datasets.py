from dataclasses import replace

import pytest

from autoseg.errors import DatasetError, Problem
from autoseg.planning.multi_dataset.label_mapping import LabelMapping, MappedRegion, unify_labels
from autoseg.planning.multi_dataset.merge_datasets import join_checks


def join(**checks):
    return join_checks(checks, unify_labels({name: check.dataset.labels for name, check in checks.items()}))


def test_join_checks_names_cases_and_patients_by_their_dataset(make_check):
    check = join(A=make_check(("liver",), num_cases=1), B=make_check(("liver",), num_cases=2))
    names = ["A__case_000", "B__case_000", "B__case_001"]
    assert [case.case_id for case in check.fingerprint.cases] == names
    assert [case.patient_id for case in check.fingerprint.cases] == names
    assert [case.dataset for case in check.fingerprint.cases] == ["A", "B", "B"]
    assert [(case.case_id, case.patient_id, case.dataset) for case in check.dataset.cases] == [
        (name, name, name[0]) for name in names
    ]
    assert check.num_cases == 3 and check.fingerprint.dataset_name == "A + B"


def test_join_checks_gives_organs_new_values_and_keeps_what_each_dataset_wrote(make_check):
    check = join(
        A=make_check({"liver": 7, "lien": 9, "ignore": 3}), B=make_check({"liver tumour": 2, "liver": 1, "Spleen": 255})
    )
    fingerprint = check.fingerprint
    assert [(organ.name, organ.value) for organ in fingerprint.organs] == [
        ("liver", 1),
        ("lien", 2),
        ("liver tumour", 3),
    ]
    assert fingerprint.ignore_value is None
    first, second = fingerprint.datasets
    assert (first.ignore_value, second.ignore_value) == (3, None)
    assert [(one.value, one.name, one.maps_to) for one in first.labels] == [
        (7, "liver", "liver with liver tumour"),
        (9, "lien", "lien"),
    ]
    assert [(one.value, one.name, one.maps_to) for one in second.labels] == [
        (1, "liver", "liver"),
        (2, "liver tumour", "liver tumour"),
        (255, "Spleen", "lien"),
    ]
    of_a, of_b = fingerprint.cases[0], fingerprint.cases[-1]
    assert [organ.name for organ in of_a.organs] == ["liver with liver tumour", "lien"]
    assert [organ.name for organ in of_b.organs] == ["liver", "liver tumour", "lien"]
    assert fingerprint.organ_components()["liver"] == [1] * 10, "of A nobody knows"


def test_join_checks_describes_an_organ_as_the_first_dataset_that_does(make_check):
    words = {"Spleen": "Below the diaphragm."}
    check = join(A=make_check(("lien",)), B=make_check(("Spleen",), descriptions=words), C=make_check(("spleen",)))
    (organ,) = check.fingerprint.organs
    assert (organ.name, organ.description) == ("lien", "Below the diaphragm.")


def test_join_checks_puts_labels_of_a_case_together_that_mean_one_organ(make_check):
    """Two kidneys of one piece each are an organ of two, or the second would be taken for a speck of the first."""
    checks = {"A": make_check(("left kidney", "right kidney"), num_cases=3, width_mm=30.0)}
    both = LabelMapping(("kidneys",), (), {"A": {"left kidney": "kidneys", "right kidney": "kidneys"}})
    fingerprint = join_checks(checks, both).fingerprint
    assert fingerprint.organ_components() == {"kidneys": [2, 2, 2]}
    (organ,) = fingerprint.cases[0].organs
    assert (organ.num_voxels, organ.volume_ml) == (2000, 2.0)
    assert organ.width_zyx_mm[0] == pytest.approx(30 * 2**0.5)


def test_join_checks_leaves_out_labels_that_mean_background(make_check):
    checks = {"A": make_check(("liver", "stent")), "B": make_check(("spleen",))}
    labels = {"A": {"liver": "liver", "stent": None}, "B": {"spleen": "spleen"}}
    fingerprint = join_checks(checks, LabelMapping(("liver", "spleen"), (), labels)).fingerprint
    assert [organ.name for organ in fingerprint.cases[0].organs] == ["liver"]
    assert [(one.name, one.maps_to) for one in fingerprint.datasets[0].labels] == [("liver", "liver"), ("stent", None)]


def test_a_dataset_all_of_whose_labels_mean_background_is_told(make_check):
    checks = {"A": make_check(("liver",)), "B": make_check(("stent",))}
    mapping = LabelMapping(("liver",), (), {"A": {"liver": "liver"}, "B": {"stent": None}})
    (problem,) = join_checks(checks, mapping).layout
    assert problem.message.startswith("B: no label of it means an organ") and not problem.is_error


def test_organs_in_regions_alone_have_the_widths_of_these(make_check):
    checks = {"A": make_check(("liver",), width_mm=50.0)}
    mapping = LabelMapping(("x", "y"), (MappedRegion("both", ("x", "y")),), {"A": {"liver": "both"}})
    assert join_checks(checks, mapping).fingerprint.organ_widths_mm("z") == {"both": 50.0}


def test_join_checks_says_whose_problem_it_is(make_check):
    good = make_check(("liver",))
    odd = replace(good, layout=(Problem("", "no names.", is_error=False),), contents=(Problem("case_001", "Empty."),))
    check = join(A=good, B=odd)
    assert check.layout == (Problem("", "B: no names.", is_error=False),)
    assert check.contents == (Problem("B__case_001", "Empty."),)


def test_join_checks_tells_of_a_scan_in_two_datasets_and_keeps_it_in_one_fold(make_check):
    check = join(
        A=make_check(("liver",), num_cases=2, digest="same"),
        B=make_check(("liver",), num_cases=2, digest="other"),
        C=make_check(("liver",), num_cases=1, digest="same"),
    )
    (problem,) = check.contents
    assert problem.case_id == "C__case_000" and "holds the same voxels as A__case_000" in problem.message
    groups = check.fingerprint.patient_groups()
    assert groups["A__case_000"] == groups["C__case_000"] != groups["A__case_001"]
    assert len(set(groups.values())) == 4


def test_join_checks_tells_of_scans_that_are_twice_in_one_dataset_too_but_once(make_check):
    def twice(digest):
        check = make_check(("liver",), num_cases=2)
        cases = tuple(case.model_copy(update={"voxel_digest": digest}) for case in check.fingerprint.cases)
        return replace(check, fingerprint=check.fingerprint.model_copy(update={"cases": cases}))

    (problem,) = join(A=twice("x"), B=twice("x")).contents
    assert problem.case_id == "B__case_000", "within A and within B their own checks report it"


def test_join_checks_refuses_ids_that_are_too_long_together_and_goes_on_without_them(make_check):
    def with_first_case(check, name):
        (first, *others), (files, *rest) = check.fingerprint.cases, check.dataset.cases
        cases = (first.model_copy(update={"case_id": name}), *others)
        return replace(
            check,
            dataset=replace(check.dataset, cases=(replace(files, case_id=name), *rest)),
            fingerprint=check.fingerprint.model_copy(update={"cases": cases}),
        )

    long = "x" * 198
    check = join(A=make_check(("liver",), num_cases=1), B=with_first_case(make_check(("liver",), num_cases=2), long))
    (problem,) = check.layout
    assert problem.case_id == f"B__{long}" and problem.is_error
    assert "its name has 201 bytes together with its dataset's; expected at most 200" in problem.message
    assert [case.case_id for case in check.fingerprint.cases] == ["A__case_000", "B__case_001"]
    with pytest.raises(DatasetError, match=r"no case of B can be used") as caught:
        join(A=make_check(("liver",)), B=with_first_case(make_check(("liver",), num_cases=1), long))
    assert [problem.case_id for problem in caught.value.problems] == [f"B__{long}"]
