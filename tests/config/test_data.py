import copy

import pytest

from autoseg.config.overrides import apply_settings
from autoseg.config.plans import parse_plans
from autoseg.errors import PlanError


@pytest.fixture
def content(tiny_plans):
    """Organs "organ 0" and "organ 1", the region both; datasets A of MRI and B of CT."""
    content = tiny_plans(2).model_dump(mode="json")
    data = content["data"]
    for organ in data["organs"]:
        organ["additional_sentences"] = [[f"{organ['name']} on CT"]]
    data["modality"] = "mri"
    data["additional_modalities"] = [{"name": "ct", "channels": [{"name": "CT", "normalization": "ct"}]}]
    data["regions"] = [{"name": "both", "organs": ["organ 0", "organ 1"]}]
    data["datasets"] = [
        {"name": "A", "modality": "mri", "labels": [{"value": 1, "name": "all of it", "maps_to": "both"}]},
        {
            "name": "B",
            "modality": "ct",
            "labels": [
                {"value": 4, "name": "first", "maps_to": "organ 0"},
                {"value": 5, "name": "stent", "maps_to": None},
            ],
            "ignore_value": 9,
        },
    ]
    return content


def test_rows_of_text_are_all_organs_for_a_modality_and_then_for_the_next(content):
    data = parse_plans(content, source="test").data
    rows = [sentences[0] for sentences in data.text_rows]
    assert rows == ["the left organ", "the right organ", "organ 0 on CT", "organ 1 on CT"]
    for modality in (0, 1):
        for organ in (0, 1):
            assert rows[data.text_row(organ, modality)] == data.organs[organ].sentences_of(modality)[0]
    assert data.label_names == ("organ 0", "organ 1", "both")
    assert [data.modality_of(name) for name in ("A", "B", None)] == [0, 1, 0]


def change(content, *path):
    """Return a copy of the plan in which a value is another; the last of the path is the value."""
    *keys, last, value = path
    changed = copy.deepcopy(content)
    part = changed
    for key in keys:
        part = part[key]
    part[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("data", "regions", 0, "name", "organ 0"), "two organs share the name 'organ 0'"),
        (
            ("data", "regions", 0, "organs", ["organ 0", "gone"]),
            "the region 'both' unites 'gone', which is not an organ",
        ),
        (("data", "regions", 0, "organs", ["organ 0", "both"]), "unites 'both', which is not an organ of the plan"),
        (("data", "regions", 0, "organs", ["organ 0", "organ 0"]), "the region 'both' unites an organ twice"),
        (("data", "regions", 0, "organs", ["organ 0"]), "data.regions.0.organs: Tuple should have at least 2 items"),
        (("data", "datasets", 1, "name", "A"), "two datasets share the name 'A'"),
        (("data", "datasets", 1, "modality", "pet"), "'B' has the modality 'pet', which the plan lacks"),
        (("data", "datasets", 1, "labels", 0, "maps_to", "gone"), "'B': 'first' means 'gone', which the plan lacks"),
        (("data", "datasets", 1, "labels", 1, "value", 4), "'B': two labels share the value 4"),
        (("data", "datasets", 1, "ignore_value", 4), "'B': two labels share the value 4"),
        (("data", "datasets", 1, "labels", 1, "value", 0), "data.datasets.1.labels.1.value: Input should be greater"),
        (("data", "additional_modalities", 0, "name", "mri"), "two modalities share a name: mri, mri"),
        (("data", "additional_modalities", 0, "channels", []), "data.additional_modalities.0.channels"),
        (
            ("data", "organs", 1, "additional_sentences", []),
            "organ 'organ 1' needs sentences for each of additional_modalities",
        ),
    ],
)
def test_a_data_part_that_contradicts_itself_is_refused(content, path, message):
    with pytest.raises(PlanError) as caught:
        parse_plans(change(content, *path), source="plans.json")
    assert message in str(caught.value)


def test_modalities_need_the_same_number_of_channels(content):
    channels = content["data"]["additional_modalities"][0]["channels"] * 2
    with pytest.raises(PlanError, match="modality 'ct' has 2 channels; expected 1"):
        parse_plans(change(content, "data", "additional_modalities", 0, "channels", channels), source="plans.json")


def test_the_hash_follows_what_labels_mean_and_not_the_words_of_any_modality(content):
    def hash_of(*path):
        return parse_plans(change(content, *path), source="test").data.hash()

    same = parse_plans(content, source="test").data.hash()
    assert hash_of("data", "organs", 1, "additional_sentences", [["Other words."]]) == same
    assert hash_of("data", "datasets", 1, "labels", 0, "maps_to", "organ 1") != same
    assert hash_of("data", "datasets", 1, "ignore_value", 8) != same
    assert hash_of("data", "additional_modalities", 0, "channels", 0, "mean", 3.0) != same


def test_window_of_a_scan_is_the_smallest_that_holds_its_slices_whole(tiny_plans):
    plans = apply_settings(
        tiny_plans(1), ["network.small_windows_px=[[64,32],[32,32],[32,48]]", "network.window_rows_px=96"]
    )
    network = apply_settings(plans, ["network.window_columns_px=96"]).network
    assert network.windows_px == ((32, 32), (32, 48), (64, 32), (96, 96))
    for shape, window in (
        ((1, 1), (32, 32)),
        ((32, 33), (32, 48)),
        ((33, 32), (64, 32)),
        ((33, 33), (96, 96)),
        ((500, 20), (96, 96)),
    ):
        assert network.window_of(shape) == window
