import pytest

from autoseg.config.plans import Device, Reason
from autoseg.errors import PlanError
from autoseg.planning.explain import explain, find_reason
from autoseg.planning.planner import make_plans

CPU = Device(kind="cpu", memory_gib=8)


@pytest.fixture
def plans(make_fingerprint_of):
    return make_plans(make_fingerprint_of(), device=CPU)


def test_explain_shows_value_meaning_limits_rule_and_facts(plans):
    lines = explain(plans, "network.image_size_px")
    assert lines[0] == "network.image_size_px = 64"
    assert lines[1].startswith("  meaning: side of the square")
    assert "at least 32, at most 2048, in steps of 32" in lines[1]
    assert lines[2].startswith("  rule: The nano Hiera")
    assert "  fact: window_px = [128, 112]" in lines


def test_explain_a_part_shows_each_of_its_fields(plans):
    lines = explain(plans, "training")
    assert "training.learning_rate = 0.001" in lines
    assert "training.augmentation.rotation_degrees = 20.0" in lines


def test_explain_a_default_says_so(plans):
    assert "default of every plan" in explain(plans, "training.seed")[-1]


def test_explain_inside_a_list_takes_the_reason_of_the_part_above(plans):
    lines = explain(plans, "data.channels.0.normalization")
    assert lines[0] == "data.channels.0.normalization = zscore"
    assert "(for data.channels.0)" in lines[2]


def test_explain_a_changed_field_names_the_change(make_fingerprint_of):
    plans = make_plans(make_fingerprint_of(), device=CPU, settings=["network.memory_slices=9"])
    lines = explain(plans, "network.memory_slices")
    assert lines[0] == "network.memory_slices = 9"
    assert "  fact: planned = 0" in lines
    assert lines[-1] == "plan changed by: --set network.memory_slices=9"


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("network.backbon", "Did you mean network.backbone?"),
        ("backbone", "Did you mean network.backbone?"),
        ("data.channels.1", "data.channels"),
        ("qqq", "parts are data, network, training and inference"),
        ("reasons", "There is no field reasons"),
    ],
)
def test_explain_an_unknown_field_gives_the_nearest_name(plans, field, hint):
    with pytest.raises(PlanError) as caught:
        explain(plans, field)
    assert hint in str(caught.value)


def test_find_reason_looks_upwards():
    reasons = {"network.text": Reason(rule="a"), "network": Reason(rule="b")}
    assert find_reason(reasons, "network.text.model") == "network.text"
    assert find_reason(reasons, "network.weights") == "network"
    assert find_reason(reasons, "training.seed") is None
