import json

import pytest

from autoseg.config.plans import Device
from autoseg.errors import PlanError
from autoseg.planning.planner import make_plans
from autoseg.planning.resolve import RuleInput
from autoseg.planning.rules.choice import Choice

CPU = Device(kind="cpu", memory_gib=8)


def test_a_setting_wins_over_an_overlay_and_both_are_recorded(make_fingerprint_of, tmp_path):
    overlay = tmp_path / "few.json"
    overlay.write_text(json.dumps({"why": "a short run", "training": {"epochs": 3, "batch_slices": 2}}))
    plans = make_plans(make_fingerprint_of(), device=CPU, overlays=[overlay], settings=["training.batch_slices=5"])
    assert (plans.training.epochs, plans.training.batch_slices) == (3, 5)
    assert plans.overrides == ("few.json: a short run", "--set training.batch_slices=5")
    assert plans.reasons["training.epochs"].rule == "Set by few.json, not by the planner."
    reason = plans.reasons["training.batch_slices"]
    assert reason.rule == "Set by --set training.batch_slices=5, not by the planner."
    assert reason.facts["planned"] == 8
    assert "On a CPU 8 slices" in reason.facts["planned_because"]


def test_another_spacing_moves_the_window_and_keeps_its_own_reason(make_fingerprint_of):
    plans = make_plans(make_fingerprint_of(), device=CPU, settings=["data.target_spacing_zyx_mm=[1, 2, 2]"])
    assert (plans.network.window_rows_px, plans.network.window_columns_px) == (64, 64)
    assert plans.reasons["data.target_spacing_zyx_mm"].facts["planned"] == [1.0, 1.0, 1.0]
    assert "95th percentile" in plans.reasons["network.window_rows_px"].rule
    assert plans.overrides == ("--set data.target_spacing_zyx_mm=[1, 2, 2]",)


def test_a_window_that_was_set_stays_and_the_batch_follows_it(make_fingerprint_of):
    plans = make_plans(
        make_fingerprint_of(),
        device=CPU,
        settings=["network.window_rows_px=256", "data.target_spacing_zyx_mm=[1, 2, 2]"],
    )
    assert (plans.network.window_rows_px, plans.network.window_columns_px) == (256, 64)
    assert plans.training.batch_slices == 8  # 256 x 64 is over 96 x 96
    plans = make_plans(
        make_fingerprint_of(), device=CPU, settings=["network.window_rows_px=64", "network.window_columns_px=128"]
    )
    assert plans.training.batch_slices == 16
    assert plans.reasons["network.window_rows_px"].facts["planned"] == 128


def test_an_unknown_field_names_the_nearest(make_fingerprint_of):
    with pytest.raises(PlanError, match=r"network\.memory_slices"):
        make_plans(make_fingerprint_of(), device=CPU, settings=["network.memory_slice=4"])


def test_an_overlay_that_is_no_object_is_a_plan_error(make_fingerprint_of, tmp_path):
    path = tmp_path / "list.json"
    path.write_text("[1]")
    with pytest.raises(PlanError, match="expected an object"):
        make_plans(make_fingerprint_of(), device=CPU, overlays=[path])


def test_the_networks_later_rules_follow_a_backbone_that_was_set(make_fingerprint_of):
    settings = ["network.backbone=tiny", "network.weights=sam2.1_hiera_tiny"]
    plans = make_plans(make_fingerprint_of(), device=CPU, settings=settings)
    assert plans.network.feature_channels == 256 and plans.network.image_size_px >= 128
    assert "SAM2's own width" in plans.reasons["network.feature_channels"].rule
    assert plans.reasons["network.backbone"].facts["planned"] == "nano"
    assert plans.training.learning_rate < make_plans(make_fingerprint_of(), device=CPU).training.learning_rate


def test_the_refiner_follows_a_window_that_was_set_and_settings_have_no_order(make_fingerprint_of):
    for side, stride in ((176, 2), (64, 1)):
        sides = [f"network.window_rows_px={side}", f"network.window_columns_px={side}"]
        plans = make_plans(make_fingerprint_of(), device=CPU, settings=sides)
        assert (plans.network.refiner_stride, len(plans.network.refiner_channels)) == (stride, 4)
    needs_both = ["network.window_rows_px=48", "network.refiner_stride=4", "network.refiner_channels=[16,32,64]"]
    for settings in (needs_both, needs_both[::-1]):
        plans = make_plans(make_fingerprint_of(), device=CPU, settings=settings)
        assert plans.network.refiner_channels == (16, 32, 64)
    with pytest.raises(PlanError, match="at least 32"):
        make_plans(make_fingerprint_of(), device=CPU, settings=[*needs_both, "network.window_columns_px=16"])


def test_later_values_follow_organs_and_batches_that_were_set(make_fingerprint_of):
    gpu = Device(kind="cuda", memory_gib=24)
    plans = make_plans(make_fingerprint_of(), device=gpu, settings=["training.batch_slices=3"])
    assert plans.inference.slices_per_batch == 6


def test_all_errors_of_a_part_are_named_together(make_fingerprint_of):
    settings = ["training.batch_slices=many", "training.epochs=0", "network=3"]
    with pytest.raises(PlanError, match=r"(?s)training\.batch_slices.*training\.epochs"):
        make_plans(make_fingerprint_of(), device=CPU, settings=settings[:2])
    with pytest.raises(PlanError, match="network is a part"):
        make_plans(make_fingerprint_of(), device=CPU, settings=settings)


def half_the_rate(given: RuleInput) -> Choice[float]:
    assert given.values["network.backbone"] == "nano" and given.device == CPU and given.fingerprint.cases
    return Choice(given.planned.value / 2, "Half of autoseg's own.", {"planned": given.planned.value})


def test_a_rule_of_the_caller_replaces_autosegs_and_says_why(make_fingerprint_of):
    fingerprint = make_fingerprint_of()
    rules = {"training.learning_rate": half_the_rate, "training.epochs": lambda given: Choice(7, "A short run.")}
    plans = make_plans(fingerprint, device=CPU, rules=rules)
    assert (plans.training.learning_rate, plans.training.epochs) == (5e-4, 7)
    assert plans.reasons["training.learning_rate"].rule == "Half of autoseg's own."
    assert plans.reasons["training.epochs"].rule == "A short run."
    plans = make_plans(fingerprint, device=CPU, rules=rules, settings=["training.learning_rate=0.1"])
    assert plans.training.learning_rate == 0.1
    assert plans.reasons["training.learning_rate"].facts["planned"] == 5e-4


def test_later_rules_follow_a_rule_of_the_caller(make_fingerprint_of):
    rules = {"network.backbone": lambda given: Choice("tiny", "Large enough.")}
    assert make_plans(make_fingerprint_of(), device=CPU, rules=rules).network.feature_channels == 256


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("training.learning_rat", Choice(1e-3, "A typing error."), "training.learning_rate"),
        ("training.learning_rate", Choice(-1.0, "Not possible."), "training.learning_rate"),
        ("training.learning_rate", 1e-3, "Choice"),
    ],
)
def test_a_rule_without_a_field_or_with_an_impossible_value_is_an_error(make_fingerprint_of, field, value, place):
    with pytest.raises(PlanError, match=place):
        make_plans(make_fingerprint_of(), device=CPU, rules={field: lambda given: value})
