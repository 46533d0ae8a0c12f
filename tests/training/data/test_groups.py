import numpy as np
import pytest

from autoseg.config.plans import DatasetPlan, LabelPlan, ModalityPlan, Plans
from autoseg.preprocessing.pipeline import CaseSource
from autoseg.training.data.groups import group_cases
from autoseg.training.data.sampler import SliceSampler


class Cases:
    """A store of cases that are all of organ 1 in slice 0 and of organ 2 in slice 1: case to (dataset, rows)."""

    def __init__(self, **cases):
        self.cases = cases

    def open_image(self, case_id):
        return np.zeros((1, 2, self.cases[case_id][1], 32), np.float32)

    def open_labels(self, case_id):
        return np.broadcast_to(np.array([1, 2], np.uint8)[:, None, None], (2, self.cases[case_id][1], 32))

    def organ_slices(self, case_id):
        return {1: np.array([0]), 2: np.array([1])}

    def source(self, case_id):
        return CaseSource(self.cases[case_id][0])


def make_plans(tiny_plans, **training):
    plans = tiny_plans(2, network={"small_windows_px": [[16, 32]]})
    content = plans.model_dump(mode="json")
    content["training"] |= training
    labels = tuple(LabelPlan(value=k, name=f"o{k}", maps_to=f"organ {k - 1}") for k in (1, 2))
    channels = plans.data.channels
    content["data"]["additional_modalities"] = [ModalityPlan(name="mri", channels=channels).model_dump(mode="json")]
    for organ in content["data"]["organs"]:
        organ["additional_sentences"] = [["On MRI."]]
    content["data"]["datasets"] = [
        DatasetPlan(name=name, modality=modality, labels=labels).model_dump(mode="json")
        for name, modality in (("A", channels[0].name), ("B", "mri"))
    ]
    return Plans.model_validate(content)


CASES = {"a1": ("A", 16), "a2": ("A", 32), "a3": ("A", 30), "b1": ("B", 12)}


def test_group_cases_puts_together_those_of_one_dataset_and_window(tiny_plans):
    groups = group_cases(Cases(**CASES), list(CASES), plans=make_plans(tiny_plans))
    assert [(g.case_ids, g.window_px, g.modality) for g in groups] == [
        (("a1",), (16, 32), 0),
        (("a2", "a3"), (32, 32), 0),
        (("b1",), (16, 32), 1),
    ]
    assert [g.share for g in groups] == pytest.approx([1 / 4, 2 / 4, 1 / 4])


def test_group_cases_shares_steps_out_as_the_plan_says(tiny_plans):
    shares = [{"dataset": "A", "fraction": 0.6}, {"dataset": "B", "fraction": 0.4}]
    plans = make_plans(tiny_plans, dataset_sampling_fractions=shares)
    assert [g.share for g in group_cases(Cases(**CASES), list(CASES), plans=plans)] == pytest.approx([0.2, 0.4, 0.4])
    only_a = group_cases(Cases(**CASES), ["a1", "a2"], plans=plans)
    assert [g.share for g in only_a] == pytest.approx([0.5, 0.5])


def test_a_step_draws_from_one_group_with_its_window_and_text_as_often_as_its_share(tiny_plans):
    shares = [{"dataset": "A", "fraction": 0.2}, {"dataset": "B", "fraction": 0.8}]
    plans = make_plans(tiny_plans, dataset_sampling_fractions=shares, batch_slices=2)
    sampler = SliceSampler(Cases(**CASES), list(CASES), plans=plans, cache_bytes=0)
    batches = [sampler.make_batch(step) for step in range(60)]
    for batch in batches:
        assert len({case_id[0] for case_id in batch.case_ids}) == 1
        is_mri = batch.case_ids[0] == "b1"
        assert batch.organs.tolist() == ([2, 3] if is_mri else [0, 1])
        assert batch.images.shape[-2:] == ((32, 32) if batch.case_ids[0] in ("a2", "a3") else (16, 32))
    assert 0.65 < np.mean([batch.case_ids[0] == "b1" for batch in batches]) < 0.95
    halves = [sampler.make_batch(3, part=part) for part in (slice(0, 1), slice(1, 2))]
    assert halves[0].case_ids + halves[1].case_ids == batches[3].case_ids


def test_organs_are_drawn_by_their_weights(tiny_plans, rng):
    def share_of_the_second(weight):
        plans = make_plans(tiny_plans, organ_sampling_weights=[{"organ": "organ 1", "weight": weight}])
        group = group_cases(Cases(**CASES), ["a2"], plans=plans)[0]
        return np.mean([group.draw_organ_slice(rng)[1] for _ in range(400)])  # the number of the slice tells the organ

    assert share_of_the_second(0.0) == 0
    assert 0.7 < share_of_the_second(4.0) < 0.9
    assert 0.4 < share_of_the_second(1.0) < 0.6
