"""Plans over several datasets, from fingerprints made by hand."""

import pytest

from autoseg.config.plans import Device, parse_plans
from autoseg.errors import PlanError
from autoseg.planning.explain import explain
from autoseg.planning.multi_dataset.label_mapping import unify_labels
from autoseg.planning.multi_dataset.merge_datasets import join_checks
from autoseg.planning.planner import make_plans

CPU = Device(kind="cpu", memory_gib=8)


@pytest.fixture
def fingerprint(make_check):
    """MRI of 40 x 60 px with kidneys and an ignored value; CT of 240 x 240 px, at 2 mm, that tells left from right."""
    checks = {
        "A": make_check({"kidneys": 3, "liver": 8, "ignore": 9}, num_cases=4, size=(20, 40, 60)),
        "B": make_check(
            ("left kidney", "right kidney", "hepar"), channels=("CT",), spacing=(2.0, 2.0, 2.0), size=(50, 240, 240)
        ),
    }
    return join_checks(checks, unify_labels({name: check.dataset.labels for name, check in checks.items()})).fingerprint


@pytest.fixture
def plans(fingerprint):
    return make_plans(fingerprint, device=CPU)


def test_the_data_part_names_datasets_modalities_and_regions(plans):
    data = plans.data
    assert [(organ.name, organ.value) for organ in data.organs] == [
        ("liver", 1),
        ("left kidney", 2),
        ("right kidney", 3),
    ]
    assert [(one.name, one.organs) for one in data.regions] == [("kidneys", ("left kidney", "right kidney"))]
    assert [(one.name, one.modality, one.ignore_value) for one in data.datasets] == [("A", "mri", 9), ("B", "ct", None)]
    assert [modality.name for modality in data.modalities] == ["mri", "ct"]
    assert data.modality_of("A") == 0 and data.modality_of("B") == 1
    assert all(len(organ.additional_sentences) == 1 for organ in data.organs)
    assert parse_plans(plans.model_dump(mode="json"), source="test") == plans


def test_each_modality_is_normalized_in_its_own_way_and_says_why(plans):
    (mri,), (ct,) = (modality.channels for modality in plans.data.modalities)
    assert (mri.normalization, ct.normalization) == ("zscore", "ct")
    assert ct.mean == 50.0 and plans.reasons["data.additional_modalities.ct.channels.0"].rule.startswith(
        "CT, whose units"
    )
    assert any("Not a CT" in line for line in explain(plans, "data.channels.0.normalization"))


def test_the_grid_is_where_the_shares_of_the_steps_are_and_not_the_cases(make_check):
    """Roots of the roots of 4 and 6: 1.414 and 1.565."""
    checks = {
        "A": make_check(("liver",), num_cases=4, spacing=(1.0, 1.0, 1.0)),
        "B": make_check(("liver",), num_cases=6, channels=("CT",), spacing=(3.0, 3.0, 3.0)),
    }
    joined = join_checks(checks, unify_labels({name: check.dataset.labels for name, check in checks.items()}))
    plans = make_plans(joined.fingerprint, device=CPU)
    assert plans.data.target_spacing_zyx_mm == (3.0, 3.0, 3.0)
    assert "each dataset counts as much as it is seen" in plans.reasons["data.target_spacing_zyx_mm"].rule
    shares = {one.dataset: one.fraction for one in plans.training.dataset_sampling_fractions}
    assert shares == pytest.approx({"A": 0.4747, "B": 0.5253}, abs=1e-3)
    assert plans.reasons["training.dataset_sampling_fractions"].facts["cases"] == {"A": 4, "B": 6}
    assert set(plans.reasons["data.datasets"].facts["labels"]) == {"A", "B"}
    assert set(plans.reasons["data.additional_modalities"].facts["channels"]) == {"A", "B"}


def test_small_scans_have_a_window_of_their_own(plans):
    """At 2 mm A has 20 x 30 px."""
    assert plans.data.target_spacing_zyx_mm == (2.0, 2.0, 2.0)
    small = plans.network.small_windows_px
    assert len(small) == 1 and small[0][0] * small[0][1] < 80 * 80
    assert plans.network.window_of((20, 30)) == small[0]
    assert plans.network.window_of((240, 240)) == (plans.network.window_rows_px, plans.network.window_columns_px)


@pytest.mark.parametrize(
    "settings",
    [
        ("network.refiner_channels=[8,16,24,32,48]",),
        ("network.refiner_channels=[8,16,24,32,48]", "network.refiner_stride=2"),
        ("network.window_rows_px=64", "network.window_columns_px=64"),
        ("network.refiner_channels=[]",),
        ("network.small_windows_px=[]",),
        ("network.small_windows_px=[[64,64]]",),
    ],
)
def test_small_windows_follow_what_a_user_sets(fingerprint, settings):
    network = make_plans(fingerprint, device=CPU, settings=settings).network
    step = network.refiner_stride * 2 ** max(0, len(network.refiner_channels) - 1)
    assert all(side % step == 0 for window in network.windows_px for side in window)
    assert all(
        window[0] * window[1] <= network.window_rows_px * network.window_columns_px for window in network.windows_px
    )


def test_small_windows_that_a_user_sets_and_nothing_fits_are_an_error(fingerprint):
    with pytest.raises(PlanError, match="small_windows_px must be multiples of"):
        make_plans(fingerprint, device=CPU, settings=("network.small_windows_px=[[16,16]]",))


def test_a_user_sets_shares_weights_and_regions_by_name(fingerprint):
    settings = (
        'training.dataset_sampling_fractions=[{"dataset": "A", "fraction": 1}]',
        'training.organ_sampling_weights=[{"organ": "kidneys", "weight": 3}]',
    )
    training = make_plans(fingerprint, device=CPU, settings=settings).training
    assert (
        training.dataset_sampling_fractions[0].fraction == 1 and training.organ_sampling_weights[0].organ == "kidneys"
    )
    for setting, message in (
        (
            'training.dataset_sampling_fractions=[{"dataset": "C", "fraction": 1}]',
            "no dataset of the plan is called 'C'",
        ),
        (
            'training.dataset_sampling_fractions=[{"dataset": "A", "fraction": 0}]',
            "at least one dataset needs a share above 0",
        ),
        ('training.organ_sampling_weights=[{"organ": "kidney", "weight": 3}]', "no organ or region is called 'kidney'"),
        (
            'training.organ_sampling_weights=[{"organ": "liver", "weight": 3}, {"organ": "liver", "weight": 1}]',
            "occurs twice",
        ),
    ):
        with pytest.raises(PlanError, match=message):
            make_plans(fingerprint, device=CPU, settings=(setting,))
