import json

import pytest

from autoseg.config.overrides import apply_overlay, apply_settings
from autoseg.config.plans import ComponentFilter, Plans, parse_plans, read_plans, write_plans
from autoseg.errors import PlanError


def test_write_plans_read_plans_gives_the_same_object(plans, tmp_path):
    write_plans(plans, tmp_path / "plans.json")
    assert read_plans(tmp_path / "plans.json") == plans


def test_plans_cannot_be_changed_in_place(plans):
    with pytest.raises(ValueError, match="frozen"):
        plans.dataset_name = "other"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
        ({"training": {"batch_slices": 10**9}}, "training.batch_slices"),
        ({"training": {"batch_slices": "many"}}, "training.batch_slices"),
        ({"network": {"image_size_px": 100}}, "network.image_size_px"),
        ({"network": {"interaction_image_encoder": "resnet"}}, "network.interaction_image_encoder"),
        ({"network": {"window_rows_px": 24}}, "network.window_rows_px"),
        ({"network": {"refiner_channels": [3]}}, "network.refiner_channels"),
        ({"data": {"target_spacing_zyx_mm": [1.0, 0.0, 1.0]}}, "data.target_spacing_zyx_mm.1"),
        ({"version": 2}, "version"),
    ],
)
def test_apply_overlay_impossible_value_is_named(plans, change, place):
    with pytest.raises(PlanError, match=place.replace(".", r"\.")):
        apply_overlay(plans, change, source="test")


def test_parse_plans_names_every_fault_at_once(plans):
    content = plans.model_dump(mode="json")
    content["training"]["epochs"] = 0
    del content["network"]["backbone"]
    with pytest.raises(PlanError) as caught:
        parse_plans(content, source="plans.json")
    assert "training.epochs" in str(caught.value)
    assert "network.backbone" in str(caught.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [({"text": {"model": "learned"}}, "'learned' has none"), ({"interaction_levels": 0}, "interaction_levels")],
)
def test_plans_clips_tokens_need_a_clip_and_a_reader(plans, other, message):
    clip = {"interaction_image_encoder": "clip"}
    assert apply_overlay(plans, {"network": clip}, source="test").network.interaction_image_encoder == "clip"
    assert apply_overlay(plans, {"network": other}, source="test").network.interaction_image_encoder == "hiera"
    with pytest.raises(PlanError, match=message):
        apply_overlay(plans, {"network": clip | other}, source="test")


@pytest.mark.parametrize("field", ["name", "value"])
def test_plans_two_organs_alike_are_refused(plans, field):
    content = plans.model_dump(mode="json")
    content["data"]["organs"][1][field] = content["data"]["organs"][0][field]
    with pytest.raises(PlanError, match=f"two organs share the {field}"):
        parse_plans(content, source="plans.json")


@pytest.mark.parametrize(("memory", "batch", "clip", "step"), [(0, 7, 1, 7), (3, 8, 4, 8), (3, 7, 4, 4), (3, 2, 4, 4)])
def test_plans_a_step_takes_whole_clips_where_there_is_a_memory(plans, memory, batch, clip, step):
    changed = apply_settings(
        plans, [f"network.memory_slices={memory}", f"training.batch_slices={batch}", "training.memory_clip_slices=4"]
    )
    assert (changed.memory_clip_slices, changed.slices_per_step) == (clip, step)


def test_plans_cleaned_organs_must_be_organs_and_stand_there_once(plans):
    first = plans.data.organs[0].name
    changed = apply_settings(plans, [f'inference.component_filter=[{{"organ": "{first}", "min_volume_ml": 2}}]'])
    assert changed.inference.component_filter == (ComponentFilter(organ=first, min_volume_ml=2.0),)
    with pytest.raises(PlanError, match=f"no organ is called '{first}x'; did you mean '{first}'"):
        apply_settings(plans, [f'inference.component_filter=[{{"organ": "{first}x"}}]'])
    with pytest.raises(PlanError, match=f"'{first}' occurs twice"):
        apply_settings(plans, [f'inference.component_filter=[{{"organ": "{first}"}}, {{"organ": "{first}"}}]'])


def test_apply_overlay_unknown_name_shows_the_nearest(plans):
    with pytest.raises(PlanError, match=r"Did you mean training\.batch_slices"):
        apply_overlay(plans, {"training": {"batch_slice": 2}}, source="mine.json")


def test_apply_overlay_keeps_the_rest_and_records_why(plans):
    changed = apply_overlay(plans, {"why": "slow disk", "training": {"loss": {"dice": 2.0}}}, source="mine.json")
    assert changed.training.loss.dice == 2.0
    assert changed.training.loss.mask == plans.training.loss.mask
    assert changed.network == plans.network
    assert changed.overrides == ("mine.json: slow disk",)
    assert plans.overrides == ()


@pytest.mark.parametrize(
    ("setting", "part", "field", "value"),
    [
        ("training.epochs=3", "training", "epochs", 3),
        ("network.backbone=tiny", "network", "backbone", "tiny"),
        ("network.injection_stages=[1, 2]", "network", "injection_stages", (1, 2)),
        ("network.weights=a=b.pt", "network", "weights", "a=b.pt"),
    ],
)
def test_apply_settings_takes_json_or_plain_text(plans, setting, part, field, value):
    assert getattr(getattr(apply_settings(plans, [setting]), part), field) == value


def test_apply_settings_later_one_wins(plans):
    assert apply_settings(plans, ["training.epochs=3", "training.epochs=5"]).training.epochs == 5


@pytest.mark.parametrize("setting", ["training.epochs", "training=3", "nothing.there=1"])
def test_apply_settings_without_a_field_is_an_error(plans, setting):
    with pytest.raises(PlanError, match=setting.partition("=")[0].partition(".")[0]):
        apply_settings(plans, [setting])


def test_data_hash_follows_voxels_and_not_descriptions(plans):
    def with_data(**data: object) -> Plans:
        return apply_overlay(plans, {"data": data}, source="test")

    organs = [organ.model_dump() | {"sentences": ["Other words."]} for organ in plans.data.organs]
    assert with_data(organs=json.loads(json.dumps(organs))).data.hash() == plans.data.hash()
    assert with_data(slice_axis="y").data.hash() != plans.data.hash()
    assert with_data(organs=organs[:1]).data.hash() != plans.data.hash()
