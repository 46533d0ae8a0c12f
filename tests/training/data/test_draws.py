import numpy as np
import pytest

from autoseg.preprocessing.pipeline import CaseSource
from autoseg.training.data.draws import StepDraws
from autoseg.training.data.groups import group_cases


class Cases:
    """Cases of 20 slices of 32 x 32; organ k lies in some of them."""

    def __init__(self, organ_slices):
        self.slices = organ_slices

    def open_labels(self, _case_id):
        return np.zeros((20, 32, 32), np.uint8)

    def organ_slices(self, case_id):
        return {index: np.array(numbers) for index, numbers in self.slices[case_id].items()}

    def source(self, _case_id):
        return CaseSource()


@pytest.fixture
def make_draws(tiny_plans):
    def make(organ_slices, *, slices_per_step=8, num_organs=5, **training):
        plans = tiny_plans(num_organs, training=training)
        groups = group_cases(Cases(organ_slices), list(organ_slices), plans=plans)
        return StepDraws(groups, dict.fromkeys(organ_slices, 20), slices_per_step, plans)

    return make


CASES = {"a": {1: [0, 1, 2], 4: [2, 9]}, "b": {5: range(20)}}


def test_the_slices_of_a_step_are_numbered_and_a_part_is_what_the_whole_has_there(make_draws):
    draws = make_draws(CASES)
    assert list(draws.numbers(3)) == list(range(8))
    assert list(draws.numbers(3, slice(4, 8))) == [4, 5, 6, 7]
    group = draws.group_of(3)
    whole = [draws.place(3, number, group=group)[:2] for number in draws.numbers(3)]
    assert [case for case, _ in whole] == draws.cases_of(3)
    again = [draws.place(3, number, group=group)[:2] for number in draws.numbers(3, slice(4, 8))]
    assert [(case, clip.tolist()) for case, clip in again] == [(case, clip.tolist()) for case, clip in whole[4:]]


def test_a_step_twice_as_large_begins_with_the_same_slices(make_draws):
    """So two ranks see what one with the doubled batch sees."""
    one, two = make_draws(CASES, slices_per_step=4), make_draws(CASES, slices_per_step=8)
    assert two.cases_of(5)[:4] == one.cases_of(5)


def test_organs_in_the_slices_come_first_and_the_rest_is_filled_up(make_draws):
    draws = make_draws(CASES, organs_per_step=4, foreground_oversampling=1.0)
    seen = set()
    for step in range(30):
        group = draws.group_of(step)
        present = set()
        for number in draws.numbers(step):
            case_id, clip, _ = draws.place(step, number, group=group)
            present |= {index - 1 for index, numbers in CASES[case_id].items() if set(numbers) & set(clip.tolist())}
        organs = draws.organs_of(step).tolist()
        assert organs == sorted(set(organs)) and len(organs) == 4
        assert present <= set(organs)
        assert draws.organs_of(step).tolist() == organs  # for another part of the step, in another process
        seen |= set(organs)
    assert seen == {0, 1, 2, 3, 4}  # two are in no slice, and come by turns


def test_organs_of_a_region_that_was_annotated_count_as_present(tiny_plans):
    plans = tiny_plans(
        4,
        data={"regions": [{"name": "both", "organs": ["organ 1", "organ 3"]}]},
        training={"organs_per_step": 2, "foreground_oversampling": 1.0},
    )
    cases = {"a": {5: range(20)}}  # the region's index
    draws = StepDraws(group_cases(Cases(cases), ["a"], plans=plans), {"a": 20}, 4, plans)
    assert all(draws.organs_of(step).tolist() == [1, 3] for step in range(5))
