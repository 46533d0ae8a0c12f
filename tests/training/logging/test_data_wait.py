import pytest

from autoseg.training.logging import data_wait
from autoseg.training.logging.data_wait import advise, measure_waiting


def test_share_waiting_weighs_records_by_their_time():
    """5 of the first 10 seconds and 4 of the next 20."""
    records = [
        {"step": 2, "seconds": 10.0, "fraction_waiting_for_data": 0.5},
        {"step": 4, "seconds": 30.0, "fraction_waiting_for_data": 0.2},
    ]
    assert measure_waiting(records) == pytest.approx(0.3)


@pytest.mark.parametrize("records", [[], [{"step": 2}], [{"step": 2, "seconds": 0, "fraction_waiting_for_data": 0.5}]])
def test_share_waiting_is_not_known_where_no_record_tells(records):
    assert measure_waiting(records) is None


@pytest.mark.parametrize(("share", "seconds"), [(None, 900), (0.0, 900), (0.2, 900), (0.9, 59)])
def test_a_short_wait_or_training_needs_no_advice(tiny_plans, share, seconds):
    assert advise(share, seconds=seconds, plans=tiny_plans(2), device_type="cuda") is None


@pytest.mark.parametrize(
    ("changes", "device_type", "words", "others"),
    [
        ({}, "cpu", "Other programs may hold the 3 cores", "augmentation"),
        ({}, "cuda", "--set training.augmentation.run_on=device", "disk"),
        ({"training": {"augmentation": {"run_on": "device"}}}, "cuda", "more than the 3 cores", "where=device"),
        ({"network": {"point_prompts": True}}, "cuda", "more than the 3 cores", "where=device"),
    ],
)
def test_a_long_wait_is_told_with_what_would_help(tiny_plans, monkeypatch, changes, device_type, words, others):
    monkeypatch.setattr(data_wait, "find_num_cores", lambda: 3)
    text = advise(0.314, seconds=60, plans=tiny_plans(2, **changes), device_type=device_type)
    assert text.startswith("31% of the time was spent waiting for data.")
    assert words in text and others not in text
