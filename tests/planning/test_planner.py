import pytest

from autoseg.config.plans import Device, parse_plans
from autoseg.errors import PlanError
from autoseg.planning.organ_texts.organ_sentences import describe_organs
from autoseg.planning.planner import make_plans

CPU = Device(kind="cpu", memory_gib=8)
GPU = Device(kind="cuda", memory_gib=24)
RULED = {
    "data.channels.0",
    "data.organs",
    "data.target_spacing_zyx_mm",
    "data.slice_axis",
    "data.crop_to_nonzero",
    "network.backbone",
    "network.image_size_px",
    "network.window_rows_px",
    "network.window_columns_px",
    "network.small_windows_px",
    "network.feature_channels",
    "network.refiner_channels",
    "network.refiner_stride",
    "network.context_slices",
    "network.memory_slices",
    "network.text",
    "training.batch_slices",
    "training.learning_rate",
    "training.organs_per_step",
    "training.organ_sampling_weights",
    "training.num_folds",
    "training.augmentation.mirror_axes",
    "training.augmentation.run_on",
    "training.refiner_optimizer",
    "inference.mirror_axes",
    "inference.slices_per_batch",
    "inference.component_filter",
}


@pytest.mark.parametrize("device", [CPU, GPU])
def test_make_plans_gives_a_reason_for_every_ruled_value_and_survives_json(make_fingerprint_of, device):
    plans = make_plans(make_fingerprint_of(), device=device)
    assert set(plans.reasons) == RULED
    assert all(reason.rule for reason in plans.reasons.values())
    assert parse_plans(plans.model_dump(mode="json"), source="test") == plans


def test_make_plans_for_coronal_slices_takes_the_window_from_z_and_x(make_fingerprint_of):
    fingerprint = make_fingerprint_of(spacing=(1.0, 4.0, 1.0), size=(100, 12, 60))
    plans = make_plans(fingerprint, device=CPU)
    assert plans.data.slice_axis == "y"
    assert (plans.network.window_rows_px, plans.network.window_columns_px) == (112, 64)


def test_make_plans_measures_the_window_at_target_spacing(make_fingerprint_of):
    fine, coarse = make_fingerprint_of(num_cases=3), make_fingerprint_of(num_cases=1, spacing=(1.0, 2.0, 2.0))
    case = coarse.cases[0].model_copy(update={"case_id": "coarse", "cropped_size_zyx": (40, 60, 50)})
    plans = make_plans(fine.model_copy(update={"cases": (*fine.cases, case)}), device=CPU)
    assert plans.data.target_spacing_zyx_mm == (1.0, 1.0, 1.0)
    assert plans.reasons["network.window_rows_px"].facts["percentile_95_size_px"] == [120.0, 100.0]


def test_make_plans_keeps_names_values_and_the_users_text(make_fingerprint_of):
    fingerprint = make_fingerprint_of(organs=("liver", "spleen"))
    organs = [organ.model_copy(update={"description": "My own words."}) for organ in fingerprint.organs[:1]]
    fingerprint = fingerprint.model_copy(update={"organs": (*organs, fingerprint.organs[1])})
    plans = make_plans(fingerprint, device=CPU)
    assert [(organ.name, organ.value) for organ in plans.data.organs] == [("liver", 1), ("spleen", 2)]
    assert plans.data.organs[0].sentences == ("My own words.",)
    assert len(plans.data.organs[1].sentences) > 2


def test_make_plans_of_a_very_long_own_text_stays_within_the_schema(make_fingerprint_of):
    fingerprint = make_fingerprint_of()
    organ = fingerprint.organs[0].model_copy(update={"description": "It is there. " * 50})
    plans = make_plans(fingerprint.model_copy(update={"organs": (organ,)}), device=CPU)
    assert len(plans.data.organs[0].sentences) == 32


def test_make_plans_of_an_impossible_name_is_a_plan_error(make_fingerprint_of):
    with pytest.raises(PlanError, match="name"):
        make_plans(make_fingerprint_of(organs=("x" * 201,)), device=CPU)


def test_describe_organs_warns_by_name_of_each_unknown_organ(make_fingerprint_of):
    organs, problems = describe_organs(make_fingerprint_of(organs=("liver", "gizmo")))
    assert len(organs) == 2 and organs[1].sentences
    assert [problem.is_error for problem in problems] == [False]
    assert "gizmo" in problems[0].message


def test_describe_organs_warns_of_two_names_of_one_organ(make_fingerprint_of):
    _, (problem,) = describe_organs(make_fingerprint_of(organs=("spleen", "liver", "lien")))
    assert "organs spleen and lien have the same description" in problem.message and not problem.is_error
